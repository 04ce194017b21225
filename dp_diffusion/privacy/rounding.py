"""Writes bounds with few figures, so that they stay bounds.

An epsilon of 0.73424 printed as 0.7343 holds. Printed as 0.7342 it would
promise more than was computed. What is spent is therefore rounded up, and what
is left is rounded down.

Guarantees:
  * The text of `up` is never below the number, that of `down` never above it,
    and they differ from it by less than one unit of their last figure.
    `rounding_test.py::test_never_below_and_hardly_above`.
"""

from __future__ import annotations

import decimal
import math


def up(bound: float, figures: int = 4) -> str:
  """Returns a bound as text with at most this many significant figures.

  >>> up(9.99901), up(0.73426), up(1.1), up(math.inf)
  ('10', '0.7343', '1.1', 'inf')
  >>> up(1.2345604e-5, 6)
  '1.23457e-05'

  Args:
    bound: an upper bound, >= 0.
    figures: largest number of significant figures.
  """
  return _text(bound, figures, is_up=True)


def down(bound: float, figures: int = 4) -> str:
  """Returns a lower bound as text with at most this many significant figures.

  >>> down(9.99999), down(0.73428), down(1.1)
  ('9.999', '0.7342', '1.1')

  Args:
    bound: a lower bound, >= 0.
    figures: largest number of significant figures.
  """
  return _text(bound, figures, is_up=False)


def _text(bound: float, figures: int, *, is_up: bool) -> str:
  nearest = f'{bound:.{figures}g}'
  is_there = float(nearest) >= bound if is_up else float(nearest) <= bound
  if not math.isfinite(bound) or is_there:
    return nearest
  found = decimal.Decimal(nearest)
  if not is_up:  # A power of ten has a smaller unit below it.
    found = found.next_minus(decimal.Context(prec=figures))
    return f'{float(found):.{figures}g}'
  unit = decimal.Decimal(1).scaleb(found.adjusted() - figures + 1)
  return f'{float(found + unit):.{figures}g}'
