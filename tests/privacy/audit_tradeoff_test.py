"""Right guesses against the trade-off curve of the mechanism."""

from __future__ import annotations

import json
import math
import pathlib

import dp_accounting
import numpy as np
import pytest
import scipy.stats

from dp_diffusion.privacy import audit
from dp_diffusion.privacy import audit_tradeoff
from tests.privacy import simulated_audit

SIGNIFICANCE = 0.04  # Four fifths of that of the audit.
ORACLES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / 'data' / 'one_run_oracles.json'
  ).read_text()
)['fdp']


def gaussian_inverse(noise):
  """The blow-up inverse of one Gaussian step, in closed form."""

  def inverse(x):
    return scipy.stats.norm.cdf(scipy.stats.norm.ppf(x) - 1 / noise)

  return inverse


@pytest.mark.parametrize('row', ORACLES, ids=str)
def test_equals_jax_privacy_on_its_curve(row):
  """It knows the curve of one Gaussian step only, which is not DP-SGD's."""
  counts = [row[f'num_{name}'] for name in ('canaries', 'guesses', 'correct')]

  def refutes(epsilon):
    noise = dp_accounting.get_sigma_gaussian(epsilon, row['delta'])
    return audit_tradeoff.is_refuted(*counts, gaussian_inverse(noise), 0.05)

  if row['epsilon'] == 0:
    assert not refutes(1e-3)
  else:
    assert refutes(row['epsilon'] - 1e-5)
    assert not refutes(row['epsilon'] + 1e-5)


@pytest.mark.parametrize('noise', [0.5, 1.0, 4.0])
def test_curve_of_a_gaussian(noise):
  """Never above the closed form, and close to it."""
  curve = audit_tradeoff.curve(noise, 1.0, 1)
  for x in (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.999):
    expected = gaussian_inverse(noise)(x)
    found = curve.blow_up_inverse(x)
    assert found <= expected * (1 + 1e-9)
    assert found >= 0.97 * expected - 2e-3 * x


def test_steps_and_selection_shape_the_curve():
  plain, often, seldom = (
    audit_tradeoff.curve(1.0, prob, count).blow_up_inverse(0.01)
    for prob, count in ((0.1, 10), (0.1, 40), (0.02, 10))
  )
  assert often < plain < seldom < 0.01


def test_a_right_mechanism_is_seldom_refuted():
  few = {'num_canaries': '1000', 'expected_batch_size': '60'}
  mechanism = simulated_audit.mechanism(4.0, **few)
  curve = audit_tradeoff.curve(
    mechanism.noise_multiplier, mechanism.sampling_prob, mechanism.num_steps
  )
  rng = np.random.default_rng(0)
  num_refuted = 0
  for _ in range(200):
    seen = simulated_audit.simulate(mechanism, 1000, rng)
    scores = audit.participation_scores(seen.observed, mechanism.sampling_prob)
    guessed = np.argsort(scores)[-100:]
    num_refuted += audit_tradeoff.is_refuted(
      1000,
      100,
      int(seen.is_included[guessed].sum()),
      curve.blow_up_inverse,
      SIGNIFICANCE,
    )
  assert num_refuted <= 10


def guesses(num_correct, num_canaries=1000, num_guesses=100):
  return audit.OneRun(
    num_canaries=num_canaries,
    num_guesses=num_guesses,
    num_correct=num_correct,
    epsilon_lower_bound=0.0,
    ceiling=0.0,
    threshold_in=None,
    threshold_out=None,
  )


def test_more_right_guesses_bound_more():
  mechanism = simulated_audit.mechanism(1.0)
  bounds = [
    audit_tradeoff.bound(mechanism, guesses(count), SIGNIFICANCE)
    for count in (50, 75)
  ]
  nothing, some = (b.epsilon_lower_bound for b in bounds)
  assert nothing == 0 < some < bounds[0].ceiling < math.inf
  assert bounds[0].largest_noise is None
  assert bounds[0].ceiling == bounds[1].ceiling
  # The curve says more than (epsilon, delta), which takes any mechanism.
  old = audit.epsilon_lower_bound(1000, 100, 75, 1e-5, 1 - SIGNIFICANCE)
  assert some > 1.2 * old > 0


def test_a_whole_run_shows_a_quarter_of_its_claim():
  """With the default numbers of canaries, steps and guesses: the median."""
  mechanism = simulated_audit.mechanism(4.0)
  rng = np.random.default_rng(3)
  counts = []
  for _ in range(9):
    seen = simulated_audit.simulate(mechanism, 10_000, rng, drift=0.05)
    scores = audit.participation_scores(seen.observed, mechanism.sampling_prob)
    guessed = np.argsort(scores)[-250:]
    counts.append(int(seen.is_included[guessed].sum()))
  middle = guesses(int(np.median(counts)), 10_000, 250)
  found = audit_tradeoff.bound(mechanism, middle, SIGNIFICANCE)
  assert 1.0 < found.epsilon_lower_bound < 2.0


def test_the_noise_refuted_is_the_least():
  mechanism = simulated_audit.mechanism(1.0)
  found = audit_tradeoff.bound(mechanism, guesses(75), SIGNIFICANCE)

  def refutes(noise):
    curve = audit_tradeoff.curve(
      noise, mechanism.sampling_prob, mechanism.num_steps
    )
    return audit_tradeoff.is_refuted(
      1000, 100, 75, curve.blow_up_inverse, SIGNIFICANCE
    )

  assert refutes(found.largest_noise) and not refutes(
    0.99 * found.largest_noise
  )
