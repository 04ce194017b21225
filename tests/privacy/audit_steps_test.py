"""A bound on the noise from steps whose selection is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats

from dp_diffusion.privacy import audit
from dp_diffusion.privacy import audit_steps
from dp_diffusion.privacy import audit_tradeoff
from tests.privacy import simulated_audit

NUM_CANARIES = 10_000  # Of the default config.
SIGNIFICANCE = 0.01  # A fifth of that of the audit.


@pytest.mark.parametrize('claim', [1.0, 4.0])
def test_a_right_mechanism_is_seldom_refuted(claim):
  few = {'num_canaries': '1000', 'expected_batch_size': '60'}
  mechanism = simulated_audit.mechanism(claim, **few)
  rng = np.random.default_rng(0)
  num_refuted = 0
  for _ in range(200):
    seen = simulated_audit.simulate(mechanism, 1000, rng, drift=3.0)
    found = audit_steps.bound(seen.observed, seen.is_selected, SIGNIFICANCE)
    num_refuted += found.mu > 1 / mechanism.noise_multiplier
  assert num_refuted <= 10


@pytest.mark.parametrize(
  ('claim', 'at_least', 'typical'), [(1.0, 0.6, 0.72), (4.0, 3.2, 3.5)]
)
def test_nearly_all_that_is_there_is_found(claim, at_least, typical):
  """With the default numbers of canaries and steps."""
  mechanism = simulated_audit.mechanism(claim)
  rng = np.random.default_rng(1)
  bounds = []
  for _ in range(12):
    seen = simulated_audit.simulate(mechanism, NUM_CANARIES, rng, drift=1.0)
    found = audit_steps.bound(seen.observed, seen.is_selected, SIGNIFICANCE)
    bounds.append(found.mu)
  worst, middle = (
    audit_tradeoff.epsilon_at(mechanism, 1 / mu)
    for mu in (min(bounds), np.median(bounds))
  )
  assert at_least < worst and typical < middle < claim


@pytest.mark.parametrize('claim', [1.0, 4.0])
def test_a_tenth_less_noise_is_found(claim):
  mechanism = simulated_audit.mechanism(claim)
  rng = np.random.default_rng(2)
  num_found = 0
  for _ in range(12):
    seen = simulated_audit.simulate(mechanism, NUM_CANARIES, rng, 0.9)
    found = audit_steps.bound(seen.observed, seen.is_selected, SIGNIFICANCE)
    num_found += found.mu > 1 / mechanism.noise_multiplier
  assert num_found >= 11


def test_counts_are_those_of_a_loop():
  rng = np.random.default_rng(0)
  is_selected = rng.random((6, 40)) < 0.3
  observed = is_selected + 0.6 * rng.normal(size=(6, 40))
  found = audit_steps.bound(observed, is_selected, SIGNIFICANCE)
  missed = false = 0
  middles = audit.baseline(observed - is_selected)
  for i in range(40):
    middle = middles[i]
    for t in range(6):
      is_above = observed[t, i] - middle > 1
      missed += is_selected[t, i] and not is_above
      false += is_above and not is_selected[t, i]
  assert (found.num_missed, found.num_false) == (missed, false)
  assert found.num_with == is_selected.sum()
  assert found.num_with + found.num_without == 240
  shifted = audit_steps.bound(observed + 5, is_selected, SIGNIFICANCE)
  assert dataclasses.replace(shifted) == found


@pytest.mark.parametrize(
  ('num_with', 'num_missed', 'num_without', 'num_false'),
  [(500, 250, 9500, 1600), (300, 0, 9700, 0), (20, 19, 1000, 30)],
)
def test_mu_of_counts(num_with, num_missed, num_without, num_false):
  """By the intervals of `scipy.stats.binomtest`."""
  rates = [
    scipy.stats.binomtest(count, total, alternative='less')
    .proportion_ci(1 - share * SIGNIFICANCE, method='exact')
    .high
    for count, total, share in (
      (num_missed, num_with, 0.9),
      (num_false, num_without, 0.1),
    )
  ]
  expected = scipy.stats.norm.ppf(1 - rates[0]) - scipy.stats.norm.ppf(rates[1])
  found = audit_steps.mu_lower_bound(
    num_with, num_missed, num_without, num_false, SIGNIFICANCE
  )
  assert found == pytest.approx(max(0, expected), rel=1e-6)


@pytest.mark.parametrize('counts', [(0, 0, 10, 0), (9, 9, 10, 0), (9, 0, 9, 9)])
def test_nothing_seen_bounds_nothing(counts):
  assert audit_steps.mu_lower_bound(*counts, SIGNIFICANCE) == 0
