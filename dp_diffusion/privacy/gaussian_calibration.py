"""Calibrates the noise of ONE noised statistic to a promised epsilon.

It serves mechanisms that read the sensitive records once, such as the mean
embeddings of `baselines`, or a stated number of times with equal noise. The
result is a `GaussianMechanism`, whose event is the one that was calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import dp_accounting

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise_search
from dp_diffusion.privacy import strict_json


def calibrate(
  epsilon: float,
  delta: float,
  *,
  l2_sensitivity: float,
  purpose: str,
  count: int = 1,
  spent: Sequence[dp_accounting.DpEvent] = (),
) -> mechanism_lib.GaussianMechanism:
  """Returns the smallest noise, to 5 figures, for the promised epsilon.

  Guarantees:
    * Never above the promised epsilon, and the next smaller noise would be:
      `gaussian_calibration_test.py::test_is_tight`.
    * All releases of the statistic are included:
      `gaussian_calibration_test.py::test_all_releases_count`.
    * Events spent before are included:
      `gaussian_calibration_test.py::test_spent_events_count`.

  Args:
    epsilon: the promised total; infinity adds no noise.
    delta: delta of the guarantee.
    l2_sensitivity: largest l2 change of the statistic when one record is added
      or removed.
    purpose: name of the statistic, one line for the statement.
    count: how many times it is released; each may depend on those before.
    spent: events on the same records from before.

  Returns:
    The mechanism.

  Raises:
    ValueError: no noise keeps the promised epsilon.
  """
  epsilon = strict_json.real('epsilon', epsilon, positive=True, finite=False)
  noise: float | None = 0.0
  if math.isfinite(epsilon):
    problem = _Problem(tuple(spent), strict_json.probability('delta', delta))
    noise = noise_search.smallest_noise(
      problem, count, epsilon, accounting.SEARCH
    )
  if noise is None:
    raise ValueError(
      f'Expected epsilon={epsilon!r} at delta={delta!r} to be within reach of'
      f' a noise_multiplier <= {noise_search.MAX_NOISE:g}, beside what was'
      ' spent before; raise either.'
    )
  return mechanism_lib.GaussianMechanism(
    noise_multiplier=noise,
    l2_sensitivity=l2_sensitivity,
    purpose=purpose,
    count=count,
  )


@dataclasses.dataclass(frozen=True)
class _Problem:
  """A `noise_search.Problem` of the events spent and one Gaussian event."""

  spent: tuple[dp_accounting.DpEvent, ...]
  delta: float

  def excess(
    self, noise: float, steps: int, target: float, accountant: str
  ) -> float:
    """Returns log(epsilon / target), limited to [-5, 5]."""
    one = dp_accounting.GaussianDpEvent(noise)
    events = (*self.spent, dp_accounting.SelfComposedDpEvent(one, steps))
    ratio = accounting.epsilon(events, self.delta, accountant) / target
    return math.log(min(max(ratio, math.exp(-5)), math.exp(5)))
