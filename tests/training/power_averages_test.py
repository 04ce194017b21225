"""Averages with a power of time: exponents, combinations, and their oracle."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion.training import named_arrays
from dp_diffusion.training import power_averages
from dp_diffusion.training import state as train_state

LENGTHS = (0.05, 0.1)


@pytest.mark.parametrize('length', [0.01, 0.05, 0.1, 0.25])
def test_length_of_the_density(length):
  """The std of density (g + 1) s^g on [0, 1], by its moments."""
  g = power_averages.exponent(length)
  first, second = (g + 1) / (g + 2), (g + 1) / (g + 3)
  assert np.sqrt(second - first**2) == pytest.approx(length, rel=1e-6)


@pytest.mark.parametrize('length', [0.0, -0.1, 0.3])
def test_impossible_lengths_are_refused(length):
  with pytest.raises(ValueError, match=f'length={length}'):
    power_averages.exponent(length)


def test_a_kept_length_is_itself():
  for i, length in enumerate(LENGTHS):
    found = power_averages.combination(LENGTHS, length)
    np.testing.assert_allclose(found, np.eye(2)[i], atol=1e-9)


def average(values, length):
  """The average of values of steps 1 to T, step by step."""
  gamma, found = power_averages.exponent(length), 0.0
  for t, value in enumerate(values, 1):
    decay = (1 - 1 / t) ** (gamma + 1)
    found = decay * found + (1 - decay) * value
  return found


def test_another_length_is_close_to_its_own_average():
  values = np.cumsum(np.random.default_rng(0).normal(size=2000))
  kept = np.array([average(values, length) for length in LENGTHS])
  for wanted in (0.06, 0.075, 0.09):
    found = power_averages.combination(LENGTHS, wanted) @ kept
    error = abs(found - average(values, wanted))
    assert error < 0.2 * abs(kept[0] - kept[1])


def test_steps_keep_the_averages():
  """Of the weights after each step; the initial ones have no share."""
  optimizer = optax.sgd(0.1)
  state = train_state.create(
    {'w': jnp.ones(3)}, optimizer, num_power_averages=2
  )
  exponents = tuple(power_averages.exponent(length) for length in LENGTHS)
  seen = []
  for step in range(5):
    grads = {'w': jnp.arange(3.0) + step}
    state = train_state.update(state, grads, optimizer, 0.9, exponents)
    seen.append(np.float64(state.params['w']))
  for tree, length in zip(state.power_params, LENGTHS, strict=True):
    np.testing.assert_allclose(tree['w'], average(seen, length), rtol=1e-5)


def test_without_averages_the_state_is_as_before():
  optimizer = optax.adam(0.1)
  state = train_state.create({'w': jnp.ones(3)}, optimizer)
  names = set(named_arrays.flatten(state))
  assert not [name for name in names if 'power' in name]
  more = train_state.create({'w': jnp.ones(3)}, optimizer, num_power_averages=2)
  assert len(set(named_arrays.flatten(more)) - names) == 2
  stepped = train_state.update(state, {'w': jnp.ones(3)}, optimizer, 0.9)
  assert stepped.power_params == ()
