"""Frequencies and edges of the timestep distribution."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.diffusion import schedules
from dp_diffusion.diffusion import timesteps

NUM_SAMPLES = 20_000
SMALL = schedules.DiffusionProcess(
  num_timesteps=20,
  mixture_boundaries=(0, 3, 12, 20),
  mixture_weights=(0.1, 0.7, 0.2),
)
UNIFORM = schedules.DiffusionProcess(num_timesteps=20)
PAPER = schedules.DiffusionProcess(
  mixture_boundaries=(0, 30, 600, 1000), mixture_weights=(0.015, 0.785, 0.2)
)


@functools.lru_cache
def _draw(config, seed=0):
  keys = jax.random.split(jax.random.key(seed), NUM_SAMPLES)
  draws = jax.jit(jax.vmap(functools.partial(timesteps.sample, config)))(keys)
  assert draws.dtype == np.int32
  return np.asarray(draws)


def _chi_square_p_value(draws, probabilities):
  counts = np.bincount(draws, minlength=len(probabilities))
  assert len(counts) == len(probabilities)
  return stats.chisquare(counts, probabilities * len(draws)).pvalue


@pytest.mark.parametrize('config', [SMALL, UNIFORM], ids=['mixture', 'uniform'])
def test_frequencies_are_the_stated_ones(config):
  p_value = _chi_square_p_value(_draw(config), timesteps.probabilities(config))
  assert p_value > 1e-3


def test_frequencies_of_another_mixture_are_rejected():
  assert _chi_square_p_value(_draw(SMALL), np.full(20, 1 / 20)) < 1e-9
  shifted = np.roll(timesteps.probabilities(SMALL), 1)
  assert _chi_square_p_value(_draw(SMALL), shifted) < 1e-9


def test_paper_mixture_by_interval():
  draws = _draw(PAPER, seed=1)
  counts = np.histogram(draws, bins=(0, 30, 600, 1000))[0]
  assert counts.sum() == NUM_SAMPLES
  expected = NUM_SAMPLES * np.array([0.015, 0.785, 0.2])
  assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_probabilities_step_exactly_at_the_boundaries():
  p = timesteps.probabilities(PAPER)
  assert p.sum() == pytest.approx(1.0, abs=1e-12)
  np.testing.assert_allclose(p[[0, 29]], 0.015 / 30)
  np.testing.assert_allclose(p[[30, 599]], 0.785 / 570)
  np.testing.assert_allclose(p[[600, 999]], 0.2 / 400)


@pytest.mark.parametrize(
  ('weights', 'allowed'),
  [
    ((0.0, 1.0, 0.0), range(3, 12)),
    ((0.5, 0.0, 0.5), [*range(0, 3), *range(12, 20)]),
  ],
)
def test_intervals_are_half_open_and_weight_zero_means_never(weights, allowed):
  config = schedules.DiffusionProcess(
    num_timesteps=20, mixture_boundaries=(0, 3, 12, 20), mixture_weights=weights
  )
  assert set(_draw(config).tolist()) == set(allowed)


def test_keys_decide():
  draws = _draw(PAPER, seed=1)
  assert len(set(draws[:50].tolist())) > 40
  again = _draw.__wrapped__(PAPER, seed=1)
  np.testing.assert_array_equal(draws, again)
