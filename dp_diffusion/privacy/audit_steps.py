"""Audits the noise of every step, given which canaries were selected.

The auditor owns the secret, so it knows which canary was selected at which
step. Each pair of a step and a canary is then one trial of the Gaussian
mechanism without selection: the noised sum at the canary's coordinate is
N(0, s^2) without it and N(1, s^2) with it, in units of the sensitivity. A
threshold that was fixed beforehand misses some trials with the canary, and
raises false alarms in some without. Upper bounds of both rates (Clopper and
Pearson) give a lower bound of mu = 1 / s,

  mu >= Phi^-1(1 - misses) - Phi^-1(false alarms)      (arXiv 1905.02383, eq. 6)

The accountant computes the epsilon of noise of at most 1 / mu. With hundreds of
trials with the canary and many thousands without, the bound is close to the
truth. But the amplification by selection is taken from the accountant and not
measured. `audit_tradeoff` does not use the known selection, and finds less.

Guarantees:
  * A right mechanism is refuted with probability 1 - confidence at most,
    whatever the other records add to a canary's coordinate.
    `audit_steps_test.py::test_a_right_mechanism_is_seldom_refuted`.
  * Noise of 0.9 times its std is detected with the default numbers.
    `audit_steps_test.py::test_a_tenth_less_noise_is_found`.
  * The rates are bounded as Clopper and Pearson do.
    `audit_steps_test.py::test_mu_of_counts`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.stats

from dp_diffusion.privacy import audit

# Threshold in units of what a canary adds. At its mean the rate of misses is
# 1/2, which gives the best bound of mu.
THRESHOLD = 1.0
# Share of the significance for misses; false alarms have far more trials.
_SHARE_OF_MISSES = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """Counts of the trials of all steps and canaries, and the bound.

  Attributes:
    num_with: number of trials in which the canary was selected.
    num_missed: number of these below the threshold.
    num_without: number of trials in which the canary was not selected.
    num_false: number of these above the threshold.
    mu: lower bound of sensitivity divided by noise; 0 says nothing.
  """

  num_with: int
  num_missed: int
  num_without: int
  num_false: int
  mu: float

  @property
  def largest_noise(self) -> float | None:
    """Upper bound of the noise multiplier, or None."""
    return 1 / self.mu if self.mu > 0 else None

  def ceiling(self, significance: float) -> float | None:
    """Returns the smallest upper bound of the noise for this many trials."""
    mu = mu_lower_bound(self.num_with, 0, self.num_without, 0, significance)
    return 1 / mu if mu > 0 else None

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON values."""
    return dataclasses.asdict(self)


def bound(
  observed: np.ndarray, is_selected: np.ndarray, significance: float
) -> Steps:
  """Counts misses and false alarms at `THRESHOLD`, and bounds mu.

  The contribution of the other records to a canary's coordinate is subtracted:
  the `audit.baseline` of the observation without the canary's own contribution.

  Args:
    observed: float[T, m], inner product of the noised sum of step t with the
      direction of canary i, divided by the sensitivity of the sum.
    is_selected: bool[T, m], whether canary i was selected at step t; False for
      canaries that are not in the dataset.
    significance: largest probability of a bound above the truth.
  """
  seen = np.asarray(observed, np.float64)
  seen = seen - audit.baseline(seen - is_selected)
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
  """Returns a lower bound of mu from the counts; 0 if they say nothing.

  >>> round(mu_lower_bound(1000, 500, 100_000, 15_866, 0.05), 2)
  0.92

  Args:
    num_with: number of trials with the canary.
    num_missed: number of these below the threshold.
    num_without: number of trials without the canary.
    num_false: number of these above the threshold.
    significance: significance of both bounds together.
  """
  misses = _upper(num_missed, num_with, _SHARE_OF_MISSES * significance)
  false = _upper(num_false, num_without, (1 - _SHARE_OF_MISSES) * significance)
  if misses >= 1 or false >= 1:
    return 0.0
  mu = scipy.stats.norm.isf(misses) - scipy.stats.norm.ppf(false)
  return max(0.0, float(mu))


def _upper(count: int, total: int, significance: float) -> float:
  """Returns Clopper and Pearson's upper bound of a rate."""
  if count >= total:
    return 1.0
  return float(scipy.stats.beta.isf(significance, count + 1, total - count))
