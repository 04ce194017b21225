"""State shares no buffers; the moving average warms up."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion.training import state as train_state

PARAMS = {
  'down': {'0': {'kernel': 1.0, 'bias': 2.0}, '1': {'kernel': 3.0}},
  'out': 4.0,
}


def test_create_shares_no_buffer():
  params = {'w': jnp.ones(3)}
  state = train_state.create(params, optax.sgd(0.1))
  buffers = [
    x.unsafe_buffer_pointer()
    for x in (params['w'], state.params['w'], state.ema_params['w'])
  ]
  assert len(set(buffers)) == 3
  assert state.step == 0
  assert state.frozen_params == {}


@pytest.mark.parametrize('frozen', ['out', 'down/0/bias', 'down', '', 'none'])
def test_partition_and_merge_are_inverse(frozen):
  trained, rest = train_state.partition(
    PARAMS, lambda path: not path.startswith(frozen)
  )
  num_leaves = [len(jax.tree.leaves(t)) for t in (trained, rest, PARAMS)]
  assert num_leaves[0] + num_leaves[1] == num_leaves[2]
  assert train_state.merge(trained, rest) == PARAMS
  assert train_state.merge(rest, trained) == PARAMS


def test_merge_refuses_a_leaf_in_both():
  with pytest.raises(ValueError, match="'out'"):
    train_state.merge(PARAMS, {'out': 1.0})


def test_all_params_hold_the_frozen_ones():
  trained, frozen = train_state.partition(PARAMS, lambda path: path != 'out')
  state = train_state.create(trained, optax.sgd(0.1), frozen)
  state = state.replace(ema_params=jax.tree.map(jnp.zeros_like, state.params))
  assert state.all_params == PARAMS
  assert state.all_ema_params['out'] == 4.0
  assert state.all_ema_params['down']['1']['kernel'] == 0.0


def test_ema_decay_warms_up():
  def decay(step):
    return float(train_state.ema_decay_at(jnp.int32(step), 0.9999))

  np.testing.assert_allclose(
    [decay(0), decay(1), decay(200)], [0.1, 2 / 11, 201 / 210], rtol=1e-6
  )
  np.testing.assert_allclose(decay(10**6), 0.9999, rtol=1e-6)


def test_few_steps_forget_the_first_weights():
  kept = 1.0
  for step in range(200):
    kept *= float(train_state.ema_decay_at(jnp.int32(step), 0.9999))
  assert kept < 1e-6  # A constant decay would keep 98 %.


@hypothesis.given(
  old=st.floats(-10, 10), new=st.floats(-10, 10), decay=st.floats(0, 1)
)
def test_ema_is_a_weighted_mean(old, new, decay):
  actual = train_state.update_ema(
    {'w': jnp.float32(old)}, {'w': jnp.float32(new)}, jnp.float32(decay)
  )
  expected = decay * old + (1 - decay) * new
  np.testing.assert_allclose(actual['w'], expected, atol=1e-5)


def test_a_step_moves_the_weights_and_then_their_averages():
  optimizer = optax.sgd(0.5)
  first = np.array([1.0, 2.0], np.float32)
  state = train_state.create({'w': first}, optimizer, num_power_averages=1)
  weights = average = power = first
  for step in range(4):
    grad = np.array([step + 1.0, -1.0], np.float32)
    state = train_state.update(state, {'w': grad}, optimizer, 0.15, (2.0,))
    weights = weights - 0.5 * grad
    decay = min(0.15, (1 + step) / (10 + step))
    average = decay * average + (1 - decay) * weights
    share = (step / (step + 1)) ** 3
    power = share * power + (1 - share) * weights
    np.testing.assert_allclose(state.params['w'], weights, rtol=1e-6)
    np.testing.assert_allclose(state.ema_params['w'], average, rtol=1e-6)
    np.testing.assert_allclose(state.power_params[0]['w'], power, rtol=1e-6)
    assert state.step == step + 1
