"""Finds the least noise, or the most steps, that keep a promised epsilon.

Epsilon falls with the noise and rises with the number of steps. Both are
therefore the zero of a monotone function. The search uses few evaluations,
since each may take a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Protocol

from dp_diffusion import errors

MIN_NOISE = 1e-3  # For less noise epsilon counts as infinite.
MAX_NOISE = 1e5
_MAX_STEPS = 1_000_000_000
_SIGNIFICANT = 5  # Significant figures of a calibrated noise multiplier.


class Problem(Protocol):
  """Epsilon as a function of noise and number of steps."""

  def excess(
    self, noise: float, steps: int, target: float, accountant: str
  ) -> float:
    """Returns log(epsilon / target), positive if the promise is broken."""


def smallest_noise(
  problem: Problem, steps: int, target: float, accountants: Sequence[str]
) -> float | None:
  """Returns the smallest noise multiplier that keeps the promise.

  It has _SIGNIFICANT figures.

  Args:
    problem: epsilon as a function of noise and steps.
    steps: number of steps.
    target: promised epsilon.
    accountants: names of accountants. The last one decides; the result of each
      is the start for the next.

  Returns:
    The noise multiplier, or None if none up to MAX_NOISE suffices.
  """
  near, found = 1.0, None
  for accountant in accountants:

    def excess(noise: float, accountant: str = accountant) -> float:
      return problem.excess(noise, steps, target, accountant)

    if found is None:  # No earlier accountant has given a start.
      near = _decade(excess)
    found = _first_noise(excess, near)
    near = found or near
  return found


def _decade(excess: Callable[[float], float]) -> float:
  """Returns a power of 2 near the noise where `excess` becomes negative."""
  noise = 1.0
  while noise < MAX_NOISE and excess(noise) > 0:
    noise *= 2
  while noise > MIN_NOISE and excess(noise) <= 0:
    noise /= 2
  return noise


def _first_noise(excess: Callable[[float], float], near: float) -> float | None:
  """Returns the smallest noise multiplier without excess, or None."""
  exponent = math.floor(math.log10(near)) - _SIGNIFICANT + 1

  def from_units(units: int) -> float:  # A unit is one of the last digit.
    return float(f'{units}e{exponent}')

  def in_units(units: int) -> float:
    return excess(from_units(units))

  low = high = math.ceil(near / 10.0**exponent)
  at_near = in_units(high)
  stride = max(2, round(high * min(abs(at_near), 0.5)))
  while in_units(high) > 0:
    low, high, stride = high, high + stride, 2 * stride
    if from_units(high) > 2 * MAX_NOISE:
      return None
  while low == high or in_units(low) <= 0:
    if low <= 1:
      return from_units(high)
    low, high, stride = max(1, low - stride), low, 2 * stride
  return from_units(crossing(in_units, low, high)[1])


def most_steps(
  problem: Problem, noise: float, target: float, search: Sequence[str]
) -> int:
  """Returns the largest number of steps that keeps the promise.

  Raises:
    ValueError: not even one step keeps it.
  """
  found = 0
  for accountant in search:

    def excess(steps: int, accountant: str = accountant) -> float:
      if steps < 1:
        return -1.0  # No steps cost nothing.
      return problem.excess(noise, steps, target, accountant)

    low = high = max(1, found)
    stride = max(1, found // 8)
    while excess(low) > 0:
      low, high, stride = max(0, low - stride), low, 2 * stride
    while low == high or excess(high) <= 0:
      low, high, stride = high, high + stride, 2 * stride
      if high > 2 * _MAX_STEPS:
        raise errors.UsageError(
          f'Expected noise_multiplier={noise!r} to be lower: more than'
          f' {_MAX_STEPS} steps keep within epsilon={target!r}.'
        )
    found, _ = crossing(excess, low, high)
  if found == 0:
    raise errors.UsageError(
      f'Expected epsilon={target!r} to pay for one step at noise_multiplier='
      f'{noise!r}; raise either.'
    )
  return found


def crossing(
  fn: Callable[[int], float], low: int, high: int
) -> tuple[int, int]:
  """Returns a and a + 1, between which a monotone function changes sign.

  It uses the Illinois variant of false position on integers, and bisection if
  that is slow.

  >>> crossing(lambda n: n**2 - 50, 0, 100)
  (7, 8)

  Args:
    fn: its values at low and high differ in `> 0`.
    low: integer.
    high: integer above low.
  """
  at_low, at_high = fn(low), fn(high)
  is_low_positive = at_low > 0
  assert low < high and is_low_positive != (at_high > 0)
  weight_low, weight_high = at_low, at_high
  for trial in range(200):
    if high - low == 1:
      break
    middle = (low + high) // 2
    if trial < 12 and weight_low != weight_high:
      share = weight_low / (weight_low - weight_high)
      middle = low + round((high - low) * share)
      middle = min(max(middle, low + 1), high - 1)
    value = fn(middle)
    if (value > 0) == is_low_positive:
      low, weight_low, weight_high = middle, value, weight_high / 2
    else:
      high, weight_high, weight_low = middle, value, weight_low / 2
  return low, high
