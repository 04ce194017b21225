"""Measures a lower bound on epsilon from one training run.

The accountant gives an upper bound on epsilon, an audit a lower bound. Canaries
are included in the dataset by fair coins. An attacker guesses, from the outputs
of the training, which canaries were included. Too many correct guesses refute
the claimed epsilon (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846). A
bound below the claim proves nothing; a bound above it proves a fault.

Guarantees:
  * The bound is that of theorem 5.2, as its reference code computes it.
    `audit_test.py::test_p_value_is_that_of_the_reference`,
    `audit_test.py::test_bound_is_that_of_jax_privacy`,
    `audit_test.py::test_guesses_from_scores_are_those_of_jax_privacy`.
  * It exceeds the truth with probability 1 - confidence at most.
    `audit_test.py::test_randomized_response_is_bounded_with_confidence`.
  * The number of guesses is fixed beforehand, not chosen by the result.
    `audit_test.py::test_highest_are_guessed_in_and_lowest_out`.
  * An audit that could not fail whatever the fault is refused.
    `audit_test.py::test_bad_config_is_refused`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import scipy.stats

from dp_diffusion import checks
from dp_diffusion import config_keys

_SEED_BYTES = 32
_MIN_STEPS = 4  # With fewer steps a canary's median is not a baseline,
_MAX_SAMPLING_PROB = 0.25  # nor with a larger sampling probability.
# Ratio of std to median absolute deviation of a normal distribution.
_MAD_TO_STD = 1.0 / scipy.stats.norm.ppf(0.75)
_MIN_SCALE = 1e-6
_NUM_HALVINGS = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
  """Settings of an audit, a training on public images and canaries."""

  epsilon: float = config_keys.key(
    1.0, 'The claim to be tested; the noise is calibrated to it.', '> 0'
  )
  delta: float = config_keys.key(1e-5, 'Delta of the claim.', '(0, 1)')
  num_steps: int = config_keys.key(
    20, 'Number of private steps.', f'>= {_MIN_STEPS}'
  )
  expected_batch_size: int = config_keys.key(
    240,
    'Expected records per step if all canaries are included; at most a quarter'
    ' of the records.',
    '>= 1',
  )
  num_filler: int = config_keys.key(
    1000,
    'Largest number of public images, which are always included.',
    '>= 0',
  )
  num_canaries: int = config_keys.key(
    10_000,
    'Number m of gradient canaries, each included by a fair coin.',
    '>= 1',
  )
  num_image_canaries: int = config_keys.key(
    1000,
    'Number of canaries that are noise images, included by fair coins, for the'
    ' attack on the model alone; 0 for none.',
    '>= 0',
  )
  num_guesses_in: int = config_keys.key(
    250,
    'Number of canaries with the highest scores that are guessed to be'
    ' included.',
    '>= 0',
  )
  num_guesses_out: int = config_keys.key(
    0,
    'Number of canaries with the lowest scores that are guessed to be omitted.'
    ' Low scores tell little if records are seldom selected.',
    '>= 0',
  )
  confidence: float = config_keys.key(
    0.95, 'Confidence of the lower bound on epsilon.', '[0.5, 1)'
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'audit.')
    most = int(_MAX_SAMPLING_PROB * self.num_examples)
    if self.expected_batch_size > most:
      raise ValueError(
        f'Expected audit.expected_batch_size={self.expected_batch_size} to be'
        f' in [1, {most}], a quarter of the {self.num_examples} records.'
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
    """Number N of records if every canary is included."""
    return self.num_filler + self.num_canaries + self.num_image_canaries

  @property
  def num_guesses(self) -> int:
    """Number r of all guesses."""
    return self.num_guesses_in + self.num_guesses_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneRun:
  """Result of an audit of one run.

  Attributes:
    num_canaries: number m of canaries.
    num_guesses: number r of guesses, fixed beforehand.
    num_correct: number v of correct guesses.
    epsilon_lower_bound: lower bound on epsilon at the configured confidence; 0
      says nothing.
    ceiling: the bound that would follow if every guess were correct.
    threshold_in: lowest score of a canary guessed to be included; None if there
      is no such guess.
    threshold_out: highest score of a canary guessed to be omitted, or None.
  """

  num_canaries: int
  num_guesses: int
  num_correct: int
  epsilon_lower_bound: float
  ceiling: float
  threshold_in: float | None
  threshold_out: float | None

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON values."""
    return dataclasses.asdict(self)


def coins(seed: bytes, num_canaries: int) -> np.ndarray:
  """Draws a fair coin for each canary, whether it is included in the dataset.

  Args:
    seed: 32 secret bytes, `key_streams.KeyStreams.seed_bytes`.
    num_canaries: number m of canaries.

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
  """Returns the largest probability of so many correct guesses under the claim.

  For an (epsilon, delta)-DP mechanism it is, by theorem 5.2 of arXiv
  2305.08846 with W ~ Binomial(r, e^eps / (1 + e^eps)),
  P[W >= v] + 2 m delta max_i P[v > W >= v - i] / i.

  Args:
    num_canaries: number m of canaries.
    num_guesses: number r <= m of guesses.
    num_correct: number v <= r of correct guesses.
    epsilon: epsilon of the claim, >= 0.
    delta: delta of the claim, in [0, 1].

  Raises:
    ValueError: the counts, epsilon or delta are impossible.
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
  """Returns the largest epsilon that so many correct guesses refute.

  Args:
    num_canaries: number m of canaries.
    num_guesses: number r of guesses.
    num_correct: number v of correct guesses.
    delta: delta of the claim.
    confidence: with 0.95 the bound is wrong for at most one run in twenty.

  Returns:
    Epsilon, rounded down; 0 if none is refuted.
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


@functools.lru_cache(maxsize=64)  # Each config that is built asks.
def ceiling(
  num_canaries: int, num_guesses: int, delta: float, confidence: float
) -> float:
  """Returns the bound if every guess is correct, the most an audit can show.

  It is about ln(r / ln(1 / (1 - confidence))), or ln(r / 3) at 95 %.

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
    scores: float[m], computed without the coins; a canary with a higher score
      is more likely included.
    is_included: bool[m], the coins.
    num_guesses_in: number of highest scores that are guessed to be included.
    num_guesses_out: number of lowest scores that are guessed to be omitted.
    delta: delta of the claim.
    confidence: confidence of the bound.

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
  """Estimates the std of the noise, robustly against the few canary signals.

  The estimate uses differences of successive steps, in which the mean
  contribution of the other records cancels.

  Args:
    observed: float[T, m], T >= 2, as in `participation_scores`.
  """
  deviation = np.abs(np.diff(np.asarray(observed, np.float64), axis=0))
  scale = _MAD_TO_STD * float(np.median(deviation)) / np.sqrt(2)
  return max(_MIN_SCALE, scale)


def participation_scores(
  observed: np.ndarray, sampling_prob: float
) -> np.ndarray:
  """Returns log-likelihood ratios of "included" to "omitted", over all steps.

  An included canary adds 1 to the steps that select it, so each step is a
  mixture and the ratio is sum_t ln(1 - q + q exp((y_t - 1/2) / s^2)). Here y is
  the observation minus its `baseline`, and the std s is measured
  (`noise_scale`), so that the attack also works on a mechanism whose noise is
  not as claimed.

  Args:
    observed: float[T, m], inner product of the noised sum of step t with the
      direction of canary i, divided by the sensitivity of the sum.
    sampling_prob: probability q that a record is selected.

  Returns:
    float64[m].
  """
  observed = np.asarray(observed, np.float64)
  shift = observed - baseline(observed) - 0.5
  log_ratios = np.logaddexp(
    np.log1p(-sampling_prob),
    np.log(sampling_prob) + shift / noise_scale(observed) ** 2,
  )
  return np.sum(log_ratios, axis=0)


def baseline(observed: np.ndarray) -> np.ndarray:
  """What the other records add to each canary's direction, at every step.

  The median over steps; but a median of few steps is noise itself, so it is
  drawn to that of all canaries, by as much as noise makes medians differ (an
  empirical Bayes estimate) and by one std of it at most: the few directions to
  which others add much keep theirs (Efron and Morris 1972's limited
  translation).

  Args:
    observed: float[T, m], as for `participation_scores`.

  Returns:
    float64[m].
  """
  observed = np.asarray(observed, np.float64)
  medians = np.median(observed, axis=0)
  excess = medians - np.median(medians)
  spread = _MAD_TO_STD * float(np.median(np.abs(excess)))
  by_noise = noise_scale(observed) * (np.pi / 2 / len(observed)) ** 0.5
  share = min(1.0, (by_noise / max(spread, _MIN_SCALE)) ** 2)
  return medians - np.clip(share * excess, -by_noise, by_noise)
