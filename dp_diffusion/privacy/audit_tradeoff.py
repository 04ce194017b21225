"""Bounds epsilon from the guesses of one run and the trade-off curve.

The bound of `audit` holds for every (epsilon, delta)-DP mechanism, even the
worst one. The trade-off curve f of DP-SGD is far better than the worst, so with
it the same guesses refute much more (Mahloujifar, Melis and Chaudhuri 2024,
arXiv 2410.22235). They give an upper bound of the noise, and the accountant
computes the epsilon of that noise.

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

# Epsilons at which the curve equals that of the privacy profile; between them
# it lies below the true curve.
_EPSILONS = np.concatenate([np.linspace(0, 4, 161), np.linspace(4.25, 40, 144)])
_INTERVAL = 5e-3  # Interval of the losses, which are rounded up.
_MIN_NOISE = 0.1  # No audit can tell less noise from none.
_MAX_RATIO = 64.0  # Largest noise of the search, divided by the claimed one.
_NUM_HALVINGS = 9  # They give a precision of 1e-3 of the noise.


def is_refuted(
  num_canaries: int,
  num_guesses: int,
  num_correct: int,
  blow_up_inverse: Callable[[float], float],
  significance: float,
) -> bool:
  """Whether so many correct guesses refute that a mechanism is f-DP.

  This is algorithm 3 of arXiv 2410.22235. If v correct guesses had at least the
  probability p, the significance, then correct guesses would have a mass of at
  least p v / m, and the others at least p (r - v) / m. The trade-off curve
  bounds the masses for fewer correct guesses step by step, and their total must
  not exceed r / m.

  Args:
    num_canaries: number m of canaries, each included by a fair coin.
    num_guesses: number r <= m of guesses, fixed beforehand.
    num_correct: number v <= r of correct guesses.
    blow_up_inverse: maps x to the smallest probability under one dataset of an
      event that has probability x under its neighbour; it is f(1 - x) for a
      symmetric trade-off curve f.
    significance: largest probability of refuting a true claim.
  """
  right = significance * num_correct / num_canaries
  wrong = significance * (num_guesses - num_correct) / num_canaries
  for i in range(num_correct - 1, -1, -1):
    more = blow_up_inverse(right)
    if more <= wrong:
      break  # Fewer correct guesses cannot change the result.
    right = min(1.0, right + i / (num_guesses - i) * (more - wrong))
    wrong = more
  return right + wrong > num_guesses / num_canaries


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
  """A lower bound of a trade-off curve, from points of the privacy profile.

  Attributes:
    epsilons: float64[n], >= 0.
    deltas: float64[n], such that the mechanism is (epsilon, delta)-DP for
      both neighbours of each pair.
  """

  epsilons: np.ndarray
  deltas: np.ndarray

  def blow_up_inverse(self, x: float) -> float:
    """Returns the value for x in [0, 1], see `is_refuted`."""
    one = 1 - self.deltas - np.exp(self.epsilons) * (1 - x)
    other = np.exp(-self.epsilons) * (x - self.deltas)
    return float(max(0.0, one.max(), other.max()))


@functools.lru_cache(maxsize=64)
def curve(noise_multiplier: float, sampling_prob: float, count: int) -> Curve:
  """Returns the curve of `count` Gaussian steps with Poisson selection.

  Args:
    noise_multiplier: std of the noise divided by the sensitivity.
    sampling_prob: probability q that a record is selected.
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
  """Returns the smallest noise multiplier that the guesses refute.

  Args:
    mechanism: gives the sampling probability and the number of steps, and the
      noise at which the search starts.
    num_canaries: number m of canaries.
    num_guesses: number r of guesses.
    num_correct: number v of correct guesses.
    significance: significance of the test.

  Returns:
    An upper bound of the noise multiplier, rounded up; None if no noise is
    refuted.
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
  """Result of a test of a mechanism.

  Attributes:
    largest_noise: upper bound of the noise multiplier; None says nothing.
    epsilon_lower_bound: epsilon of that noise, a lower bound of epsilon; 0 says
      nothing.
    ceiling: the bound that would follow if every guess were correct.
  """

  largest_noise: float | None
  epsilon_lower_bound: float
  ceiling: float


def bound(
  mechanism: mechanism_lib.TrainingMechanism,
  guesses: audit.OneRun,
  significance: float,
) -> Bound:
  """Bounds the noise, and from it epsilon, by the guesses of one run.

  Args:
    mechanism: the claimed mechanism.
    guesses: result of `audit.one_run`.
    significance: largest probability of a bound above the truth.
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
  """Returns epsilon of the mechanism with that noise; 0 if it is None."""
  if noise_multiplier is None:
    return 0.0
  less = dataclasses.replace(
    mechanism, noise_multiplier=max(noise_multiplier, _MIN_NOISE)
  )
  return accounting.epsilon([less.dp_event()], mechanism.delta)
