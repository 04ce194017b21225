"""The one-run bound: closed forms, its reference code, and what it misses."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from dp_diffusion.privacy import audit

CONFIG = audit.AuditConfig(
  epsilon=1.0,
  delta=1e-5,
  num_steps=50,
  expected_batch_size=60,
  num_filler=1000,
  num_canaries=1000,
  num_image_canaries=1000,
  num_guesses_in=100,
  num_guesses_out=0,
  confidence=0.95,
)


def reference_p_value(m, r, v, eps, delta):
  """Appendix D of arXiv 2305.08846, term by term."""
  q = 1 / (1 + math.exp(-eps))
  beta = scipy.stats.binom.sf(v - 1, r, q)
  alpha = total = 0.0
  for i in range(1, v + 1):
    total += scipy.stats.binom.pmf(v - i, r, q)
    alpha = max(alpha, total / i)
  return min(beta + alpha * delta * 2 * m, 1.0)


@hypothesis.given(
  num_guesses=st.integers(0, 60),
  missed=st.integers(0, 60),
  epsilon=st.floats(0, 8),
  delta=st.sampled_from([0.0, 1e-9, 1e-5, 1e-3]),
)
def test_p_value_is_that_of_the_reference(num_guesses, missed, epsilon, delta):
  num_correct = max(0, num_guesses - missed)
  found = audit.p_value(100, num_guesses, num_correct, epsilon, delta)
  expected = reference_p_value(100, num_guesses, num_correct, epsilon, delta)
  assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize('num_guesses', [10, 100, 1000])
def test_all_correct_has_a_closed_form(num_guesses):
  """Accuracy q of randomized response with q^r = 5 %."""
  bound = audit.epsilon_lower_bound(1000, num_guesses, num_guesses, 0.0, 0.95)
  accuracy = 0.05 ** (1 / num_guesses)
  assert bound == pytest.approx(math.log(accuracy / (1 - accuracy)), rel=1e-5)
  # What the papers quote: ln(r / ln(1 / p)), about ln(r / 3).
  assert bound == pytest.approx(math.log(num_guesses / 2.996), abs=0.2)


# Numbers of another implementation; the file names it and how it was called.
ORACLES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / 'data' / 'one_run_oracles.json'
  ).read_text()
)


@pytest.mark.parametrize('row', ORACLES['bounds'], ids=str)
def test_bound_is_that_of_jax_privacy(row):
  bound = audit.epsilon_lower_bound(
    row['num_canaries'],
    row['num_guesses'],
    row['num_correct'],
    row['delta'],
    0.95,
  )
  assert bound == pytest.approx(row['epsilon'], abs=2e-6)


@pytest.mark.parametrize('row', ORACLES['p_values'], ids=str)
def test_p_value_is_that_of_jax_privacy(row):
  arguments = {k: v for k, v in row.items() if k != 'p_value'}
  assert audit.p_value(**arguments) == pytest.approx(row['p_value'], rel=1e-9)


@pytest.mark.parametrize('row', ORACLES['scores'], ids=str)
def test_guesses_from_scores_are_those_of_jax_privacy(row):
  """From scores and coins to the bound, at a threshold fixed beforehand."""
  rng = np.random.default_rng(row['seed'])
  is_included = rng.random(1000) < 0.5
  scores = rng.normal(size=1000) + row['shift'] * is_included
  result = audit.one_run(
    scores,
    is_included,
    num_guesses_in=row['num_guesses'],
    num_guesses_out=0,
    delta=row['delta'],
    confidence=0.95,
  )
  assert result.epsilon_lower_bound == pytest.approx(row['epsilon'], abs=2e-6)


def test_no_guess_and_no_luck_bound_nothing():
  assert audit.epsilon_lower_bound(100, 0, 0, 1e-5, 0.95) == 0
  assert audit.epsilon_lower_bound(100, 50, 0, 1e-5, 0.95) == 0
  assert audit.epsilon_lower_bound(100, 50, 25, 1e-5, 0.95) == 0


@hypothesis.given(
  num_guesses=st.integers(1, 200),
  missed=st.integers(0, 200),
  confidence=st.floats(0.6, 0.999),
)
def test_bound_is_monotone_and_below_its_ceiling(
  num_guesses, missed, confidence
):
  num_correct = max(0, num_guesses - missed)

  def bound(correct=num_correct, delta=1e-6, level=confidence):
    return audit.epsilon_lower_bound(200, num_guesses, correct, delta, level)

  assert bound() <= bound(num_guesses)
  assert bound() <= bound(min(num_guesses, num_correct + 1)) + 1e-9
  assert bound(delta=1e-4) <= bound() + 1e-9
  assert bound(level=0.9999) <= bound() + 1e-9


@pytest.mark.parametrize('epsilon', [0.5, 2.0])
def test_randomized_response_is_bounded_with_confidence(epsilon):
  """Guesses right with e^eps / (1 + e^eps): at most 5 % of bounds too high."""
  rng = np.random.default_rng(0)
  accuracy = 1 / (1 + math.exp(-epsilon))
  correct = rng.binomial(200, accuracy, size=2000)
  bounds = {
    v: audit.epsilon_lower_bound(200, 200, v, 0.0, 0.95) for v in set(correct)
  }
  share = np.mean([bounds[v] > epsilon for v in correct])
  assert 0.01 < share <= 0.06
  # And it is not far below: the method is tight here.
  assert np.median([bounds[v] for v in correct]) > 0.4 * epsilon


@pytest.mark.parametrize(
  'arguments',
  [
    (10, 11, 5, 1.0, 0.0),
    (10, 5, 6, 1.0, 0.0),
    (10, 5, -1, 1.0, 0.0),
    (10, 5, 5, -1.0, 0.0),
    (10, 5, 5, 1.0, 2.0),
  ],
)
def test_impossible_counts_are_refused(arguments):
  with pytest.raises(ValueError, match='Expected'):
    audit.p_value(*arguments)


def test_highest_are_guessed_in_and_lowest_out():
  scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
  is_included = np.array([True, False, False, True, True])
  result = audit.one_run(
    scores,
    is_included,
    num_guesses_in=2,
    num_guesses_out=2,
    delta=0.0,
    confidence=0.95,
  )
  # In: 5.0 right, 4.0 wrong. Out: 1.0 right, 2.0 wrong.
  assert (result.num_canaries, result.num_guesses) == (5, 4)
  assert result.num_correct == 2
  assert result.threshold_in == 4.0 and result.threshold_out == 2.0


@pytest.mark.parametrize('is_in', [True, False])
def test_guesses_of_one_kind_alone_are_right_or_wrong_alone(is_in):
  """None of the other kind is counted."""
  result = audit.one_run(
    np.array([5.0, 1.0, 4.0, 2.0, 3.0]),
    np.array([True, False, False, True, True]),
    num_guesses_in=2 if is_in else 0,
    num_guesses_out=0 if is_in else 2,
    delta=0.0,
    confidence=0.95,
  )
  assert (result.num_guesses, result.num_correct) == (2, 1)
  assert (result.threshold_in, result.threshold_out) == (
    (4.0, None) if is_in else (None, 2.0)
  )


def test_scores_that_are_no_numbers_are_refused():
  with pytest.raises(ValueError, match='finite'):
    audit.one_run(
      np.array([0.0, math.nan]),
      np.array([True, False]),
      num_guesses_in=1,
      num_guesses_out=0,
      delta=0.0,
      confidence=0.95,
    )


def test_coins_are_fair_and_follow_the_seed():
  coins = audit.coins(b'a' * 32, 100_000)
  assert coins.dtype == np.bool_ and coins.shape == (100_000,)
  assert scipy.stats.binomtest(int(coins.sum()), len(coins)).pvalue > 1e-3
  pairs = int(np.sum(coins[1:] == coins[:-1]))
  assert scipy.stats.binomtest(pairs, len(coins) - 1).pvalue > 1e-3
  assert np.array_equal(coins[:77], audit.coins(b'a' * 32, 77))
  assert not np.array_equal(coins, audit.coins(b'b' * 32, 100_000))
  with pytest.raises(ValueError, match='seed'):
    audit.coins(b'short', 10)


def observe(seed, *, noise, size=1.0, num_canaries=1000):
  """What an attacker sees of canaries of norm `size` under Poisson sampling."""
  rng = np.random.default_rng(seed)
  is_included = rng.random(num_canaries) < 0.5
  takes_part = rng.random((50, num_canaries)) < 0.02
  seen = size * (takes_part & is_included)
  filler = 0.5 * rng.normal(size=num_canaries)  # What all steps have in common.
  return seen + filler + noise * rng.normal(size=seen.shape), is_included


NOISE = 1.0504  # Of (1, 1e-5)-DP over 50 steps at q = 0.02.


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize(
  ('noise', 'size', 'is_caught'),
  [(1, 1, False), (1 / 3, 1, True), (0, 1, True), (1, 10, True)],
)
def test_scores_have_the_power_to_catch_faults(seed, noise, size, is_caught):
  observed, is_included = observe(seed, noise=noise * NOISE, size=size)
  result = audit.one_run(
    audit.participation_scores(observed, 0.02),
    is_included,
    num_guesses_in=100,
    num_guesses_out=0,
    delta=1e-5,
    confidence=0.95,
  )
  assert (result.epsilon_lower_bound > 1) == is_caught
  assert result.epsilon_lower_bound <= result.ceiling


def test_scores_need_no_common_offset_or_scale():
  observed, _ = observe(0, noise=NOISE)
  scores = audit.participation_scores(observed, 0.02)
  moved = audit.participation_scores(observed + 700.0, 0.02)
  np.testing.assert_allclose(scores, moved, atol=1e-6)
  assert audit.noise_scale(observed) == pytest.approx(NOISE, rel=0.03)


@pytest.mark.parametrize('num_steps', [2, 4, 10, 50])
def test_scale_of_the_noise_does_not_depend_on_the_number_of_steps(num_steps):
  rng = np.random.default_rng(0)
  baseline = 10 * rng.normal(size=(1, 100_000 // num_steps))
  noise = NOISE * rng.normal(size=(num_steps, 100_000 // num_steps))
  scale = audit.noise_scale(baseline + noise)
  assert scale == pytest.approx(NOISE, rel=0.02)


def test_baselines_are_medians_where_others_add_much():
  rng = np.random.default_rng(0)
  others = np.arange(0.0, 1000.0)
  noise = NOISE * rng.normal(size=(20, 1000))
  medians = np.median(others + noise, axis=0)
  np.testing.assert_allclose(audit.baseline(others + noise), medians, atol=1e-3)


@pytest.mark.parametrize('spread', [0.0, 0.2])
def test_baselines_are_nearer_than_medians(spread):
  """Where what others add is little beside the noise of a median."""
  rng = np.random.default_rng(0)
  others = 3.0 + spread * rng.normal(size=2000)
  others[:5] += 10.0  # A few directions to which the others add much.
  observed = others + NOISE * rng.normal(size=(20, 2000))
  found = audit.baseline(observed) - others
  medians = np.median(observed, axis=0) - others
  assert np.mean(found[5:] ** 2) < 0.7 * np.mean(medians[5:] ** 2)
  # Never more than one std of a median's noise from it.
  limit = 1.1 * NOISE * math.sqrt(math.pi / 2 / 20)
  assert np.max(np.abs(found - medians)) < limit


def test_score_is_the_log_likelihood_ratio():
  """Against a naive sum over steps of ln p(y | in) / p(y | out)."""
  observed, _ = observe(0, noise=NOISE, num_canaries=20)
  scale = audit.noise_scale(observed)
  y = observed - audit.baseline(observed)
  q = 0.02
  out = scipy.stats.norm.logpdf(y, 0, scale)
  both = (1 - q) * np.exp(out) + q * scipy.stats.norm.pdf(y, 1, scale)
  np.testing.assert_allclose(
    audit.participation_scores(observed, q),
    np.sum(np.log(both) - out, axis=0),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'epsilon': 0.0}, 'audit.epsilon'),
    ({'epsilon': math.inf}, 'audit.epsilon'),
    ({'num_canaries': 0}, 'audit.num_canaries'),
    ({'num_filler': -1}, 'audit.num_filler'),
    ({'num_image_canaries': -1}, 'audit.num_image_canaries'),
    ({'num_steps': 3}, 'audit.num_steps'),
    ({'num_guesses_in': 1001}, 'guesses'),
    ({'num_guesses_in': 0}, 'guesses'),
    ({'num_guesses_out': -1}, 'audit.num_guesses_out'),
    ({'confidence': 1.0}, 'audit.confidence'),
    ({'confidence': 0.4}, 'audit.confidence'),
    ({'expected_batch_size': 751}, 'audit.expected_batch_size'),
    # Five guesses can bound no epsilon above 0.2.
    ({'num_guesses_in': 5}, 'could never'),
  ],
)
def test_bad_config_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(CONFIG, **changes)


def test_config_says_how_many_records_there_may_be():
  assert CONFIG.num_examples == 3000
  assert CONFIG.num_guesses == 100
