"""What every step says of its noise, where who took part is known.

Beside `audit`: the auditor owns the secret, so it knows which canary was
selected at which step. A step and a canary are then one trial of the Gaussian
mechanism without selection: the noised sum at the canary's coordinate is
N(0, s^2) without it and N(1, s^2) with it, in units of the sensitivity. A
threshold that was fixed beforehand misses some of those with it and raises
false alarms in others; both rates, bounded by Clopper and Pearson, bound
mu = 1 / s from below by

  mu >= Phi^-1(1 - misses) - Phi^-1(false alarms)      (arXiv 1905.02383, eq. 6)

The accountant says what noise of at most 1 / mu costs. There are hundreds of
trials with the canary and many thousands without, so this finds nearly all
that is there; but the amplification by selection is the accountant's, not
measured. `audit_tradeoff` assumes none of it and finds less.

Guarantees:
  * A right mechanism is refuted with probability 1 - confidence at most,
    whatever the other records add to a canary's coordinate.
    `audit_steps_test.py::test_a_right_mechanism_is_seldom_refuted`.
  * Noise of 0.9 times its std is found with the default numbers.
    `audit_steps_test.py::test_a_tenth_less_noise_is_found`.
  * The rates are bounded as Clopper and Pearson do.
    `audit_steps_test.py::test_mu_of_counts`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.stats

# Between what is seen without the canary and with it, in units of what it
# adds: at its mean the rate of misses, 1/2, bounds mu best.
THRESHOLD = 1.0
# Of the significance. False alarms are counted in far more trials.
_SHARE_OF_MISSES = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """What the trials of all steps and canaries prove.

  Attributes:
    num_with: trials in which the canary was selected.
    num_missed: of them, those below the threshold.
    num_without: trials in which it was not.
    num_false: of them, those above the threshold.
    mu: lower bound of sensitivity over noise; 0 says nothing.
  """

  num_with: int
  num_missed: int
  num_without: int
  num_false: int
  mu: float

  @property
  def largest_noise(self) -> float | None:
    """Upper bound of the noise multiplier; None for none."""
    return 1 / self.mu if self.mu > 0 else None

  def ceiling(self, significance: float) -> float | None:
    """The smallest upper bound of the noise that so many trials can show."""
    mu = mu_lower_bound(self.num_with, 0, self.num_without, 0, significance)
    return 1 / mu if mu > 0 else None

  def to_dict(self) -> dict[str, Any]:
    """Plain JSON values."""
    return dataclasses.asdict(self)


def bound(
  observed: np.ndarray, is_selected: np.ndarray, significance: float
) -> Steps:
  """Counts misses and false alarms at `THRESHOLD`, and bounds mu.

  What the other records add to a canary's coordinate is taken away: the median
  over steps of what is seen, less what the canary adds.

  Args:
    observed: float[T, m], inner product of the noised sum of step t with the
      direction of canary i, over the sensitivity of the sum.
    is_selected: bool[T, m], whether canary i was selected at step t; never
      where it is not in the dataset.
    significance: probability of a bound above the truth, at most.
  """
  seen = np.asarray(observed, np.float64)
  seen = seen - np.median(seen - is_selected, axis=0, keepdims=True)
  is_above = seen > THRESHOLD
  num_with = int(is_selected.sum())
  num_missed = int((is_selected & ~is_above).sum())
  num_without = int(is_selected.size) - num_with
  num_false = int((~is_selected & is_above).sum())
  return Steps(
    num_with=num_with,
    num_missed=num_missed,
    num_without=num_without,
    num_false=num_false,
    mu=mu_lower_bound(
      num_with, num_missed, num_without, num_false, significance
    ),
  )


def mu_lower_bound(
  num_with: int,
  num_missed: int,
  num_without: int,
  num_false: int,
  significance: float,
) -> float:
  """Lower bound of mu from the counts; 0 where they say nothing.

  >>> round(mu_lower_bound(1000, 500, 100_000, 15_866, 0.05), 2)
  0.92

  Args:
    num_with: trials with the canary.
    num_missed: of them, below the threshold.
    num_without: trials without it.
    num_false: of them, above the threshold.
    significance: of both bounds together.
  """
  misses = _upper(num_missed, num_with, _SHARE_OF_MISSES * significance)
  false = _upper(num_false, num_without, (1 - _SHARE_OF_MISSES) * significance)
  if misses >= 1 or false >= 1:
    return 0.0
  mu = scipy.stats.norm.isf(misses) - scipy.stats.norm.ppf(false)
  return max(0.0, float(mu))


def _upper(count: int, total: int, significance: float) -> float:
  """Clopper and Pearson's upper bound of a rate."""
  if count >= total:
    return 1.0
  return float(scipy.stats.beta.isf(significance, count + 1, total - count))
