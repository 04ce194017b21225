"""A lower bound on epsilon, measured on one training run.

The accountant says what epsilon is at most, an audit what it is at least.
Canaries are put into the dataset by fair coins, an attacker guesses from what
training lets out which are in, and guesses that are too good refute the claim
(Steinke, Nasr and Jagielski 2023, arXiv 2305.08846). A bound below the claim
proves nothing; one above it proves a fault.

Guarantees:
  * The bound is that of theorem 5.2, as its reference code computes it.
    `audit_test.py::test_p_value_is_that_of_the_reference`,
    `audit_test.py::test_bound_is_that_of_jax_privacy`,
    `audit_test.py::test_guesses_from_scores_are_those_of_jax_privacy`.
  * It exceeds the truth with probability 1 - confidence at most.
    `audit_test.py::test_randomized_response_is_bounded_with_confidence`.
  * The number of guesses is fixed beforehand, not chosen to please.
    `audit_test.py::test_highest_are_guessed_in_and_lowest_out`.
  * An audit that no fault could fail cannot be configured.
    `audit_test.py::test_bad_config_is_refused`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import scipy.stats

from dp_diffusion import checks

_SEED_BYTES = 32
_MIN_STEPS = 4  # Below, a canary's median is no baseline.
_MAX_SAMPLING_PROB = 0.25  # Above, neither.
_MAD_TO_STD = 1.0 / scipy.stats.norm.ppf(0.75)  # Of a normal distribution.
_MIN_SCALE = 1e-6
_NUM_HALVINGS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
  """A job of its own: public images and canaries, under a claim of its own.

  Attributes:
    epsilon: the claim that is tested; the noise is calibrated to it.
    delta: of the claim.
    num_steps: private steps of the job.
    expected_batch_size: records per step, were all canaries in; at most a
      quarter of the records.
    num_filler: public images that are in the dataset for certain, at most.
    num_canaries: m, gradient canaries, each in the dataset by a fair coin.
    num_image_canaries: images of noise, by fair coins too, for the attack on
      the model alone; 0 for none.
    num_guesses_in: canaries of the highest scores, guessed to be in.
    num_guesses_out: canaries of the lowest scores, guessed to be out. A low
      score says little where a record is seldom selected.
    confidence: of the bound, in [0.5, 1).
  """

  epsilon: float
  delta: float
  num_steps: int
  expected_batch_size: int
  num_filler: int
  num_canaries: int
  num_image_canaries: int
  num_guesses_in: int
  num_guesses_out: int
  confidence: float

  def __post_init__(self) -> None:
    checks.check_positive('audit.epsilon', self.epsilon)
    checks.check_finite('audit.epsilon', self.epsilon)
    checks.check_open_unit_interval('audit.delta', self.delta)
    checks.check_at_least('audit.num_steps', self.num_steps, _MIN_STEPS)
    checks.check_at_least('audit.num_canaries', self.num_canaries, 1)
    for name in (
      'num_filler',
      'num_image_canaries',
      'num_guesses_in',
      'num_guesses_out',
    ):
      checks.check_non_negative(f'audit.{name}', getattr(self, name))
    most = int(_MAX_SAMPLING_PROB * self.num_examples)
    if not 1 <= self.expected_batch_size <= most:
      raise ValueError(
        f'Expected audit.expected_batch_size={self.expected_batch_size} to be'
        f' in [1, {most}], a quarter of the {self.num_examples} records.'
      )
    if not 0.5 <= self.confidence < 1:
      raise ValueError(
        f'Expected audit.confidence={self.confidence!r} to be in [0.5, 1).'
      )
    if not 1 <= self.num_guesses <= self.num_canaries:
      raise ValueError(
        f'Expected {self.num_guesses} guesses to be in'
        f' [1, audit.num_canaries={self.num_canaries}].'
      )
    best = ceiling(
      self.num_canaries, self.num_guesses, self.delta, self.confidence
    )
    if best <= self.epsilon:
      raise ValueError(
        f'Expected audit.epsilon={self.epsilon} to be < {best:.3g}, the most'
        f' that {self.num_guesses} guesses can bound: this audit could never'
        ' fail; ask for more guesses.'
      )

  @property
  def num_examples(self) -> int:
    """N, records if every coin came up."""
    return self.num_filler + self.num_canaries + self.num_image_canaries

  @property
  def num_guesses(self) -> int:
    """r, guesses in and out."""
    return self.num_guesses_in + self.num_guesses_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneRun:
  """What one run proves.

  Attributes:
    num_canaries: m, each in the dataset by a fair coin.
    num_guesses: r, fixed beforehand; of the others nothing is said.
    num_correct: v, right guesses.
    epsilon_lower_bound: epsilon is at least this, at the confidence asked
      for; 0 says nothing.
    ceiling: the bound if every guess had been right.
    threshold_in: lowest score that was guessed to be in; None without guess.
    threshold_out: highest score that was guessed to be out.
  """

  num_canaries: int
  num_guesses: int
  num_correct: int
  epsilon_lower_bound: float
  ceiling: float
  threshold_in: float | None
  threshold_out: float | None

  def to_dict(self) -> dict[str, Any]:
    """Plain JSON values."""
    return dataclasses.asdict(self)


def coins(seed: bytes, num_canaries: int) -> np.ndarray:
  """A fair coin for each canary: whether it is in the dataset.

  Args:
    seed: 32 secret bytes, `key_streams.KeyStreams.seed_bytes`.
    num_canaries: m.

  Returns:
    bool[m]. The first coins do not depend on m.
  """
  checks.check_at_least('len(seed)', len(seed), _SEED_BYTES)
  digest = hashlib.shake_256(seed).digest(-(-num_canaries // 8))
  bits = np.unpackbits(np.frombuffer(digest, np.uint8))
  return bits[:num_canaries].astype(np.bool_)


def p_value(
  num_canaries: int,
  num_guesses: int,
  num_correct: int,
  epsilon: float,
  delta: float,
) -> float:
  """How likely so many right guesses are under (epsilon, delta)-DP, at most.

  Theorem 5.2 of arXiv 2305.08846, with W ~ Binomial(r, e^eps / (1 + e^eps)):
  P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.

  Args:
    num_canaries: m.
    num_guesses: r <= m.
    num_correct: v <= r.
    epsilon: of the claim, >= 0.
    delta: of the claim, in [0, 1].

  Raises:
    ValueError: the counts are impossible, or the claim is none.
  """
  if not 0 <= num_correct <= num_guesses <= num_canaries:
    raise ValueError(
      f'Expected 0 <= num_correct={num_correct} <= num_guesses={num_guesses}'
      f' <= num_canaries={num_canaries}.'
    )
  checks.check_non_negative('epsilon', epsilon)
  if not 0 <= delta <= 1:
    raise ValueError(f'Expected delta={delta!r} to be in [0, 1].')
  accuracy = 1.0 / (1.0 + np.exp(-epsilon))
  tail = scipy.stats.binom.sf(num_correct - 1, num_guesses, accuracy)
  fewer = np.arange(num_correct - 1, -1, -1)
  below = np.cumsum(scipy.stats.binom.pmf(fewer, num_guesses, accuracy))
  alpha = np.max(below / np.arange(1, num_correct + 1), initial=0.0)
  return float(min(tail + 2 * num_canaries * delta * alpha, 1.0))


def epsilon_lower_bound(
  num_canaries: int,
  num_guesses: int,
  num_correct: int,
  delta: float,
  confidence: float,
) -> float:
  """The largest epsilon that so many right guesses refute; 0 for none.

  Args:
    num_canaries: m.
    num_guesses: r.
    num_correct: v.
    delta: of the claim.
    confidence: 0.95 is wrong for one run in twenty, at most.

  Returns:
    Epsilon, rounded down.
  """

  def is_refuted(epsilon: float) -> bool:
    found = p_value(num_canaries, num_guesses, num_correct, epsilon, delta)
    return found < 1 - confidence

  if not is_refuted(0.0):
    return 0.0
  low, high = 0.0, 1.0
  while is_refuted(high):
    low, high = high, 2 * high
  for _ in range(_NUM_HALVINGS):
    middle = (low + high) / 2
    low, high = (middle, high) if is_refuted(middle) else (low, middle)
  return low


def ceiling(
  num_canaries: int, num_guesses: int, delta: float, confidence: float
) -> float:
  """The bound if every guess is right: no audit of this size finds more.

  About ln(r / ln(1 / (1 - confidence))), or ln(r / 3) at 95 %.

  >>> round(ceiling(1000, 1000, 0.0, 0.95), 2)
  5.81
  """
  return epsilon_lower_bound(
    num_canaries, num_guesses, num_guesses, delta, confidence
  )


def one_run(
  scores: np.ndarray,
  is_included: np.ndarray,
  *,
  num_guesses_in: int,
  num_guesses_out: int,
  delta: float,
  confidence: float,
) -> OneRun:
  """Guesses the coins from the scores, and bounds epsilon.

  Args:
    scores: float[m], the higher the likelier in; computed without the coins.
    is_included: bool[m], the coins.
    num_guesses_in: highest scores, guessed in.
    num_guesses_out: lowest scores, guessed out.
    delta: of the claim.
    confidence: of the bound.

  Raises:
    ValueError: a score is not finite, or there are more guesses than canaries.
  """
  if not np.all(np.isfinite(scores)):
    raise ValueError('Expected every score of a canary to be finite.')
  num_guesses = num_guesses_in + num_guesses_out
  checks.check_at_least('num_canaries', len(scores), num_guesses)
  order = np.argsort(scores, kind='stable')
  lowest = order[:num_guesses_out]
  highest = order[len(order) - num_guesses_in :]
  num_correct = int(np.sum(is_included[highest]) + np.sum(~is_included[lowest]))
  counts = (len(scores), num_guesses)
  return OneRun(
    num_canaries=len(scores),
    num_guesses=num_guesses,
    num_correct=num_correct,
    epsilon_lower_bound=epsilon_lower_bound(
      *counts, num_correct, delta, confidence
    ),
    ceiling=ceiling(*counts, delta, confidence),
    threshold_in=float(scores[highest[0]]) if num_guesses_in else None,
    threshold_out=float(scores[lowest[-1]]) if num_guesses_out else None,
  )


def noise_scale(observed: np.ndarray) -> float:
  """Std of the noise, from what is seen: robust against the few signals.

  From the differences of following steps: what the other records add to a
  canary's direction is gone with no median of few steps to be taken.

  Args:
    observed: float[T, m], T >= 2, as for `participation_scores`.
  """
  deviation = np.abs(np.diff(np.asarray(observed, np.float64), axis=0))
  scale = _MAD_TO_STD * float(np.median(deviation)) / np.sqrt(2)
  return max(_MIN_SCALE, scale)


def participation_scores(
  observed: np.ndarray, sampling_prob: float
) -> np.ndarray:
  """Log-likelihood ratios of "in" against "out", summed over steps.

  An included canary adds 1 to the steps that select it, so a step of it is a
  mixture: sum_t ln(1 - q + q exp((y_t - 1/2) / s^2)). From y a canary's median
  over steps is taken (what the other records add to its direction) and s is
  measured (`noise_scale`), so that the attack also works on a mechanism that
  is not what it claims to be.

  Args:
    observed: float[T, m], inner product of the noised sum of step t with the
      direction of canary i, over the sensitivity of the sum.
    sampling_prob: q, probability that a record is selected.

  Returns:
    float64[m].
  """
  shift = (_without_baseline(observed) - 0.5) / noise_scale(observed) ** 2
  log_ratios = np.logaddexp(
    np.log1p(-sampling_prob), np.log(sampling_prob) + shift
  )
  return np.sum(log_ratios, axis=0)


def _without_baseline(observed: np.ndarray) -> np.ndarray:
  observed = np.asarray(observed, np.float64)
  return observed - np.median(observed, axis=0, keepdims=True)
