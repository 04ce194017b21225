"""What right guesses in one run say, given the mechanism's trade-off curve.

Beside `audit`, whose bound by (epsilon, delta) alone takes the worst mechanism
of that promise. A DP-SGD mechanism has a trade-off curve f of its own, far
better than the worst, so the same guesses refute much more (Mahloujifar, Melis
and Chaudhuri 2024, arXiv 2410.22235): they bound the noise from above, and the
accountant says what such noise costs.

Guarantees:
  * The test is that of the reference, whatever the curve.
    `audit_tradeoff_test.py::test_equals_jax_privacy_on_its_curve`.
  * The curve is never above the mechanism's, so a right one is refuted with
    probability 1 - confidence at most.
    `audit_tradeoff_test.py::test_curve_of_a_gaussian`,
    `audit_tradeoff_test.py::test_a_right_mechanism_is_seldom_refuted`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools

from dp_accounting.pld import privacy_loss_distribution
import numpy as np

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import audit
from dp_diffusion.privacy import mechanism as mechanism_lib

# Where the curve is taken from the privacy profile; between these epsilons it
# lies below the true one.
_EPSILONS = np.concatenate([np.linspace(0, 4, 161), np.linspace(4.25, 40, 144)])
_INTERVAL = 5e-3  # Of the losses; their discretization is from above.
_MIN_NOISE = 0.1  # Less is told from no noise by no audit.
_MAX_RATIO = 64.0  # Of the noise that is looked at over the claimed one.
_NUM_HALVINGS = 9  # To 1e-3 of the noise.


def is_refuted(
  num_canaries: int,
  num_guesses: int,
  num_correct: int,
  blow_up_inverse: Callable[[float], float],
  significance: float,
) -> bool:
  """Whether so many right guesses refute that a mechanism is f-DP.

  Algorithm 3 of arXiv 2410.22235: were v right guesses as likely as the
  significance p, then r >= p v / m of the mass would be in them and h >= p
  (r - v) / m in the others; the trade-off curve carries that down to fewer
  right guesses, step by step, and all of it must fit into guesses / m.

  Args:
    num_canaries: m, each in by a fair coin.
    num_guesses: r <= m, fixed beforehand.
    num_correct: v <= r.
    blow_up_inverse: x -> the smallest probability under one dataset of an
      event that has probability x under its neighbour; f(1 - x) for a
      symmetric trade-off curve f.
    significance: probability of refuting a right one, at most.
  """
  right = significance * num_correct / num_canaries
  wrong = significance * (num_guesses - num_correct) / num_canaries
  for i in range(num_correct - 1, -1, -1):
    more = blow_up_inverse(right)
    if more <= wrong:
      break  # Nor will it ever be.
    right = min(1.0, right + i / (num_guesses - i) * (more - wrong))
    wrong = more
  return right + wrong > num_guesses / num_canaries


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """A trade-off curve, from below, by points of the privacy profile.

  Attributes:
    epsilons: float64[n], >= 0.
    deltas: float64[n], such that the mechanism is (epsilon, delta)-DP for
      both neighbours of each pair.
  """

  epsilons: np.ndarray
  deltas: np.ndarray

  def blow_up_inverse(self, x: float) -> float:
    """See `is_refuted`; x in [0, 1]."""
    one = 1 - self.deltas - np.exp(self.epsilons) * (1 - x)
    other = np.exp(-self.epsilons) * (x - self.deltas)
    return float(max(0.0, one.max(), other.max()))


@functools.lru_cache(maxsize=64)
def curve(noise_multiplier: float, sampling_prob: float, count: int) -> Curve:
  """The curve of `count` Poisson-selected Gaussian steps.

  Args:
    noise_multiplier: std of the noise over the sensitivity.
    sampling_prob: q.
    count: number of steps.
  """
  step = privacy_loss_distribution.from_gaussian_mechanism(
    noise_multiplier,
    sampling_prob=sampling_prob,
    value_discretization_interval=_INTERVAL,
  )
  deltas = step.self_compose(count).get_delta_for_epsilon(_EPSILONS)
  return Curve(_EPSILONS, np.asarray(deltas))


def largest_noise(
  mechanism: mechanism_lib.TrainingMechanism,
  *,
  num_canaries: int,
  num_guesses: int,
  num_correct: int,
  significance: float,
) -> float | None:
  """The least noise multiplier that the guesses refute.

  Args:
    mechanism: its sampling probability and steps are taken as they are; its
      noise is where the search begins.
    num_canaries: m.
    num_guesses: r.
    num_correct: v.
    significance: of the test.

  Returns:
    A noise multiplier, rounded up: with the confidence asked for there is no
    more noise than that. None where no noise is refuted.
  """

  def refutes(noise: float) -> bool:
    found = curve(noise, mechanism.sampling_prob, mechanism.num_steps)
    return is_refuted(
      num_canaries,
      num_guesses,
      num_correct,
      found.blow_up_inverse,
      significance,
    )

  claimed = max(mechanism.noise_multiplier, _MIN_NOISE)
  low = high = claimed
  if refutes(claimed):
    while low > _MIN_NOISE:
      high, low = low, max(low / 2, _MIN_NOISE)
      if not refutes(low):
        break
    else:
      return _MIN_NOISE
  else:
    while not refutes(high):
      low, high = high, 2 * high
      if high > _MAX_RATIO * claimed:
        return None
  for _ in range(_NUM_HALVINGS):
    middle = (low * high) ** 0.5
    low, high = (low, middle) if refutes(middle) else (middle, high)
  return high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound:
  """What a test says of a mechanism.

  Attributes:
    largest_noise: the noise multiplier is at most this; None says nothing.
    epsilon_lower_bound: epsilon is at least what such noise costs; 0 says
      nothing.
    ceiling: the bound if everything had pointed to the canaries.
  """

  largest_noise: float | None
  epsilon_lower_bound: float
  ceiling: float


def bound(
  mechanism: mechanism_lib.TrainingMechanism,
  guesses: audit.OneRun,
  significance: float,
) -> Bound:
  """Bounds the noise and so epsilon from the guesses of one run.

  Args:
    mechanism: as claimed.
    guesses: made beforehand, `audit.one_run`.
    significance: probability of a bound above the truth, at most.
  """
  found, best = (
    largest_noise(
      mechanism,
      num_canaries=guesses.num_canaries,
      num_guesses=guesses.num_guesses,
      num_correct=num_correct,
      significance=significance,
    )
    for num_correct in (guesses.num_correct, guesses.num_guesses)
  )
  return Bound(
    largest_noise=found,
    epsilon_lower_bound=epsilon_at(mechanism, found),
    ceiling=epsilon_at(mechanism, best),
  )


def epsilon_at(
  mechanism: mechanism_lib.TrainingMechanism, noise_multiplier: float | None
) -> float:
  """What the mechanism costs with that noise; 0 without a bound on it."""
  if noise_multiplier is None:
    return 0.0
  less = dataclasses.replace(
    mechanism, noise_multiplier=max(noise_multiplier, _MIN_NOISE)
  )
  return accounting.epsilon([less.dp_event()], mechanism.delta)
