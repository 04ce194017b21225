"""Checks of values with errors of one line. It imports no other module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import difflib
import math

_NUM_NAMED = 5


def some(names: Sequence[str]) -> str:
  """Joins the first names of a list that may be long, for a message.

  How many others there are is not said: they may be sensitive images.

  >>> some(['a', 'b', 'c', 'd', 'e', 'f', 'g'])
  'a, b, c, d, e and more'
  """
  shown = [n if n.isprintable() else ascii(n) for n in names[:_NUM_NAMED]]
  return ', '.join(shown) + (' and more' if len(names) > _NUM_NAMED else '')


def array_type(dtype: object, shape: Sequence[int]) -> str:
  """Names the type of an array for a message, without its length.

  The first axis may be that of sensitive images, whose number is not said.

  >>> array_type('uint8', (137, 8, 8, 3)), array_type('int32', ())
  ('uint8[N, 8, 8, 3]', 'int32[]')
  """
  sides = ', '.join(['N', *map(str, shape[1:])][: len(shape)])
  return f'{dtype}[{sides}]'


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
