"""Writes bounds with few figures, rounded up so that they stay bounds.

An epsilon of 0.73424 printed as 0.7343 holds. Printed as 0.7342 it would
promise more than was computed.

Guarantees:
  * The text is never below the number, and exceeds it by less than one unit of
    its last figure. `rounding_test.py::test_never_below_and_hardly_above`.
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
  nearest = f'{bound:.{figures}g}'
  if not math.isfinite(bound) or float(nearest) >= bound:
    return nearest
  below = decimal.Decimal(nearest)
  unit = decimal.Decimal(1).scaleb(below.adjusted() - figures + 1)
  return f'{float(below + unit):.{figures}g}'
