"""Reads JSON and numbers strictly.

A ledger decides how much may still be spent, so it is read strictly. An
unknown, missing or repeated key, a NaN, a wrong type or a number out of range
is an error of one line and is never replaced by a default.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
import operator
from typing import Any

_INTEGER_LIMIT = 1 << 53  # Integers below it are exact as float64 too.


def loads(text: str | bytes) -> Any:
  """Parses JSON; refuses NaN, infinity, overflow and repeated keys.

  >>> loads('{"delta": NaN}')
  Traceback (most recent call last):
  ...
  ValueError: Expected JSON without NaN.

  Args:
    text: UTF-8 bytes or str.

  Returns:
    Dicts, lists, str, int, finite float, bool and None.

  Raises:
    ValueError: one line that says what is wrong.
  """
  try:
    return json.loads(
      text,
      object_pairs_hook=_without_repeats,
      parse_constant=_no_constant,
      parse_float=_finite,
      parse_int=_integer,
    )
  except json.JSONDecodeError as e:
    raise ValueError(f'Expected JSON, found an error: {e}.') from e
  except UnicodeDecodeError as e:
    raise ValueError('Expected JSON in UTF-8.') from e
  except RecursionError as e:
    raise ValueError('Expected JSON that is less deeply nested.') from e


def dumps(value: Any) -> str:
  """Returns JSON with sorted keys and without spaces or NaN.

  Equal values give equal texts.
  """
  return json.dumps(
    value, sort_keys=True, separators=(',', ':'), allow_nan=False
  )


def fields(name: str, value: Any, expected: Sequence[str]) -> dict[str, Any]:
  """Returns `value` if it is an object with exactly the expected keys.

  Args:
    name: name of the object, for the message.
    value: parsed JSON.
    expected: the keys.

  Raises:
    ValueError: the value is no object, or a key is missing or unknown.
  """
  if not isinstance(value, dict):
    raise ValueError(f'Expected {name} to be an object, not {_short(value)}.')
  missing = sorted(set(expected) - set(value))
  unknown = sorted(set(value) - set(expected))
  if missing or unknown:
    raise ValueError(
      f'Expected {name} to have exactly the keys {sorted(expected)};'
      f' missing: {missing}, unknown: {_short(unknown)}.'
    )
  return value


def items(name: str, value: Any) -> list[Any]:
  """Returns `value` if it is a list, else raises ValueError."""
  if not isinstance(value, list):
    raise ValueError(f'Expected {name} to be a list, not {_short(value)}.')
  return value


def integer(name: str, value: Any, *, minimum: int) -> int:
  """Returns a Python int; refuses bool, float, str and values out of range.

  >>> integer('num_steps', 2.0, minimum=1)
  Traceback (most recent call last):
  ...
  ValueError: Expected num_steps=2.0 to be an integer.
  """
  try:
    result = operator.index(value)
  except TypeError:
    result = None
  if result is None or isinstance(value, bool):
    raise ValueError(f'Expected {name}={_short(value)} to be an integer.')
  if not minimum <= result < _INTEGER_LIMIT:
    raise ValueError(
      f'Expected {name}={_short(value)} to be >= {minimum} and < 2**53.'
    )
  return result


def real(
  name: str,
  value: Any,
  *,
  positive: bool = False,
  finite: bool = True,
) -> float:
  """Returns a Python float >= 0; refuses NaN, bool and str.

  Args:
    name: name of the value, for the message.
    value: int or float of Python or NumPy.
    positive: whether 0 is refused.
    finite: whether infinity is refused.

  Raises:
    ValueError: the value is refused; one line says why.
  """
  try:
    if isinstance(value, (bool, str, bytes)):
      raise TypeError
    result = float(value)
  except (TypeError, ValueError, OverflowError):
    raise ValueError(
      f'Expected {name}={_short(value)} to be a number.'
    ) from None
  low_enough = result > 0 if positive else result >= 0
  if not low_enough or (finite and math.isinf(result)):
    wanted = '> 0' if positive else '>= 0'
    wanted += ' and finite' if finite else ''
    raise ValueError(f'Expected {name}={result!r} to be {wanted}.')
  return result + 0.0  # -0.0 becomes 0.0.


def probability(name: str, value: Any) -> float:
  """Returns a Python float inside (0, 1), else raises ValueError."""
  result = real(name, value, finite=False)
  if not 0 < result < 1:
    raise ValueError(f'Expected {name}={result!r} to be in (0, 1).')
  return result


def boolean(name: str, value: Any) -> bool:
  """Returns a bool, else raises ValueError."""
  if not isinstance(value, bool):
    raise ValueError(f'Expected {name}={_short(value)} to be true or false.')
  return value


def line(name: str, value: Any) -> str:
  """Returns a str of one line, else raises ValueError."""
  if not isinstance(value, str) or not value.isprintable():
    raise ValueError(f'Expected {name}={_short(value)} to be a line of text.')
  return value


def _short(value: Any) -> str:
  """Shows a value in one line of at most 80 characters."""
  text = repr(value)
  return text if len(text) <= 80 else text[:77] + '...'


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  result = dict(pairs)
  if len(result) != len(pairs):
    raise ValueError('Expected JSON without repeated keys.')
  return result


def _no_constant(name: str) -> Any:
  raise ValueError(f'Expected JSON without {name}.')


def _finite(text: str) -> float:
  value = float(text)
  if math.isinf(value):
    raise ValueError(f'Expected JSON numbers to be finite, found {text[:40]}.')
  return value


def _integer(text: str) -> int:
  if len(text) > 300:
    raise ValueError(f'Expected JSON integers to be short, found {text[:40]}.')
  return int(text)
