"""Checks of values with errors of one line. It imports no other module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import difflib
import math

_NUM_NAMED = 5


def some(names: Sequence[str]) -> str:
  """Joins the first names of a list that may be long, for a message.

  >>> some(['a', 'b', 'c', 'd', 'e', 'f', 'g'])
  'a, b, c, d, e and 2 more'
  """
  shown = [n if n.isprintable() else ascii(n) for n in names[:_NUM_NAMED]]
  rest = len(names) - _NUM_NAMED
  return ', '.join(shown) + (f' and {rest} more' if rest > 0 else '')


def check_positive(name: str, value: float) -> None:
  """Raises ValueError unless value > 0 (NaN fails)."""
  if not value > 0:
    raise ValueError(f'Expected {name}={value!r} to be > 0.')


def check_non_negative(name: str, value: float) -> None:
  """Raises ValueError unless value >= 0 (NaN fails)."""
  if not value >= 0:
    raise ValueError(f'Expected {name}={value!r} to be >= 0.')


def check_finite(name: str, value: float) -> None:
  """Raises ValueError unless value is a finite number."""
  if not math.isfinite(value):
    raise ValueError(f'Expected {name}={value!r} to be finite.')


def check_open_unit_interval(name: str, value: float) -> None:
  """Raises ValueError unless 0 < value < 1."""
  if not 0 < value < 1:
    raise ValueError(f'Expected {name}={value!r} to be in (0, 1).')


def check_at_least(name: str, value: float, minimum: float) -> None:
  """Raises ValueError unless value >= minimum."""
  if not value >= minimum:
    raise ValueError(f'Expected {name}={value!r} to be >= {minimum!r}.')


def check_one_of(name: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError, listing the known values, unless `value` is one.

  >>> check_one_of('sampler', 'dimm', ('ddim', 'ancestral'))
  Traceback (most recent call last):
  ...
  ValueError: Expected sampler='dimm' to be one of 'ancestral', 'ddim'; \
did you mean 'ddim'?
  """
  known = sorted(known)
  if value not in known:
    near = difflib.get_close_matches(str(value), known, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else '.'
    listed = ', '.join(repr(k) for k in known)
    raise ValueError(f'Expected {name}={value!r} to be one of {listed}{hint}')
