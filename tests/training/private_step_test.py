"""One step is: sum, noise once, divide by a constant, optimizer, EMA."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise
from dp_diffusion.training import optimizers
from dp_diffusion.training import private_step
from dp_diffusion.training import public_step
from dp_diffusion.training import state as train_state

STREAMS = key_streams.KeyStreams(
  secret=key_streams.Secret.insecure(0), run_id='step'
)
SIZE = 20_000
GRAD = clipping.GradConfig(l2_clip_norm=0.5, num_draws=2)
LEARNING_RATE = 0.25


def loss_fn(params, example, draw_key):
  """Quadratic; the key itself is the noise (quick to compile)."""
  target = jax.random.key_data(draw_key).astype(jnp.float32) / 2.0**32
  error = params['w'] * params['scale'] - example['x'] - target
  return jnp.sum(jnp.square(error))


def make_batch(num_examples=6):
  rng = np.random.default_rng(0)
  return {'x': rng.normal(size=(num_examples, 2)).astype(np.float32)}


TRAINED = {'w': np.array([0.3, -0.2], np.float32)}
FROZEN = {'scale': np.array([1.0, 2.0], np.float32)}


@functools.cache
def accumulate_fn(config=GRAD):
  return jax.jit(
    functools.partial(private_step.accumulate, loss_fn, config=config)
  )


def accumulate(batch, indices, is_padding, total=None, params=TRAINED):
  if total is None:
    total = clipping.zeros(params, GRAD)
  return accumulate_fn()(
    params,
    FROZEN,
    total,
    private_step.Microbatch(
      examples=batch,
      indices=jnp.asarray(indices, jnp.int32),
      is_padding=jnp.asarray(is_padding, bool),
    ),
    STREAMS.draw_key(0),
  )


def assert_close(actual, expected):
  actual, expected = (
    (total.grad_sum, total.stats) for total in (actual, expected)
  )
  check = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(check, actual, expected)


def make_total(grad_sum, l2_sensitivity=1.0):
  total = clipping.zeros(grad_sum, GRAD)
  unit = fixed_point.unit_of(l2_sensitivity)
  exact = fixed_point.from_units(
    jax.tree.map(lambda x: x / unit, grad_sum), unit
  )
  return total.replace(exact=exact, l2_sensitivity=l2_sensitivity)


def make_config(**changes):
  defaults = {
    'noise_multiplier': 2.0,
    'expected_batch_size': 50,
    'ema_decay': 0.99,
  }
  return private_step.ApplyConfig(**(defaults | changes))


@functools.cache
def apply_fn(config):
  optimizer = optax.sgd(LEARNING_RATE)
  return jax.jit(
    functools.partial(private_step.apply, optimizer=optimizer, config=config)
  )


def apply(grad_sum, step_index=0, l2_sensitivity=1.0, **changes):
  """State after one step of SGD from zero; `grad_sum` a tree of arrays."""
  params = jax.tree.map(jnp.zeros_like, grad_sum)
  state = train_state.create(params, optax.sgd(LEARNING_RATE))
  return apply_fn(make_config(**changes))(
    state,
    make_total(grad_sum, l2_sensitivity),
    STREAMS.noise_keys(step_index),
  )


@pytest.mark.parametrize('sensitivity', [1.0, 0.1])
def test_noise_std_of_an_update(sensitivity, std_is_accepted):
  state = apply({'w': jnp.zeros(SIZE)}, l2_sensitivity=sensitivity)
  update = np.asarray(state.params['w']) / LEARNING_RATE
  std = 2.0 * sensitivity / 50
  assert std_is_accepted(update, std)
  assert not std_is_accepted(update, 0.9 * std)
  assert not std_is_accepted(update, 1.1 * std)


def test_std_takes_the_sensitivity_of_a_real_sum():
  """No number between clip and noise is passed by hand."""
  for rescale, expected in ((True, 1.0), (False, 0.5)):
    config = clipping.GradConfig(l2_clip_norm=0.5, rescale_to_unit_norm=rescale)
    total = clipping.zeros(TRAINED, config)
    assert private_step.noise_std(3.0, total.l2_sensitivity) == 3.0 * expected


def test_empty_batch_is_a_step_of_pure_noise():
  zeros = {'w': jnp.zeros(SIZE)}
  state = apply(zeros)
  pure = noise.add_noise(make_total(zeros).exact, STREAMS.noise_keys(0), 2.0)[
    'w'
  ]
  np.testing.assert_allclose(
    state.params['w'], -LEARNING_RATE * np.asarray(pure) / 50, atol=1e-7
  )
  assert np.std(state.params['w']) > 0
  assert state.step == 1


def test_divides_by_the_expected_batch_size():
  """7 examples came, 50 were expected."""
  grad_sum = {'w': jnp.full(3, 7.0)}
  state = apply(grad_sum, noise_multiplier=0.0)
  expected = np.full(3, -LEARNING_RATE * 7 / 50)
  np.testing.assert_allclose(state.params['w'], expected, rtol=1e-6)


def test_realised_batch_size_does_not_matter():
  grad_sum = {'w': jnp.ones(3)}
  few = make_total(grad_sum)
  stats = few.stats.replace(num_examples=jnp.int32(9), loss_sum=jnp.float32(7))
  many = few.replace(stats=stats)
  state = train_state.create(grad_sum, optax.sgd(LEARNING_RATE))
  run = apply_fn(make_config())
  one = run(state, few, STREAMS.noise_keys(0))
  two = run(state, many, STREAMS.noise_keys(0))
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_apply_returns_no_statistics():
  """What it returns has no leaf that a statistic could be in."""
  params = {'w': jnp.ones(3)}
  before = train_state.create(params, optax.sgd(LEARNING_RATE))
  after = apply(params)
  assert isinstance(after, train_state.TrainState)
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)


def test_noise_is_new_at_each_step():
  zeros = {'w': jnp.zeros(SIZE)}
  first = np.asarray(apply(zeros, step_index=0).params['w'])
  second = np.asarray(apply(zeros, step_index=1).params['w'])
  assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(SIZE)


def test_ema_follows_the_noised_step():
  state = apply({'w': jnp.full(SIZE, 5.0)})
  params = np.asarray(state.params['w'])
  # Decay at t = 0 is 1 / 10; the average began at 0.
  np.testing.assert_allclose(state.ema_params['w'], 0.9 * params, rtol=1e-5)
  assert np.std(state.ema_params['w']) > 1e-3


@pytest.mark.parametrize('name', ['adam', 'sgd'])
def test_optimizer_state_is_of_the_noised_gradient(name, std_is_accepted):
  """Moments without noise would leave with the weights of later steps."""
  momentum = 0.9 if name == 'sgd' else 0.0
  optimizer = optimizers.make(
    optimizers.OptimizerConfig(name=name, momentum=momentum), 10
  )
  zeros = {'w': jnp.zeros(SIZE)}
  state = private_step.apply(
    train_state.create(zeros, optimizer),
    make_total(zeros),
    STREAMS.noise_keys(0),
    optimizer=optimizer,
    config=make_config(),
  )
  found = [
    np.asarray(x)
    for x in jax.tree.leaves(state.opt_state)
    if np.shape(x) == (SIZE,)
  ]
  std = 2.0 / 50
  if name == 'adam':
    first, second = found
    assert std_is_accepted(10 * first, std)  # 1 - b1 of it.
    assert std_is_accepted(np.sqrt(1000 * second), std)  # 1 - b2.
  else:
    assert std_is_accepted(found[0], std)


def test_ema_decay_ends_at_the_given_one():
  state = apply({'w': jnp.full(3, 5.0)}, ema_decay=0.05)
  params = np.asarray(state.params['w'])
  np.testing.assert_allclose(state.ema_params['w'], 0.95 * params, rtol=1e-5)


def test_noise_enters_once_after_the_sum_over_devices(std_is_accepted):
  """Four devices, by vmap: noise on each would have twice the std."""
  config = make_config()
  optimizer = optax.sgd(LEARNING_RATE)
  state = train_state.create({'w': jnp.zeros(SIZE)}, optimizer)
  totals = jax.jit(jax.vmap(lambda x: make_total({'w': jnp.full(SIZE, x)})))(
    jnp.arange(4.0)
  )
  run = functools.partial(
    private_step.apply, optimizer=optimizer, config=config, axis_name='devices'
  )
  mapped = jax.vmap(run, in_axes=(None, 0, None), axis_name='devices')
  states = jax.jit(mapped)(state, totals, STREAMS.noise_keys(0))
  updates = -np.asarray(states.params['w']) / LEARNING_RATE * 50
  for update in updates:
    np.testing.assert_array_equal(update, updates[0])
  mean = 0.0 + 1 + 2 + 3
  assert std_is_accepted(updates[0] - mean, 2.0)
  assert not std_is_accepted(updates[0] - mean, 0.9 * 2.0)
  assert not std_is_accepted(updates[0] - mean, 1.1 * 2.0)


def test_noise_needs_a_finite_sensitivity():
  assert private_step.noise_std(0.0, float('inf')) == 0.0
  with pytest.raises(ValueError, match='l2_sensitivity=inf'):
    private_step.noise_std(1.0, float('inf'))


def one_clipped_sum(batch):
  keys = key_streams.draw_keys(
    STREAMS.draw_key(0), jnp.arange(6, dtype=jnp.int32), 2
  )
  return clipping.clipped_grad_sum(
    lambda params, *rest: loss_fn(params | FROZEN, *rest),
    jax.tree.map(jnp.asarray, TRAINED),
    batch,
    keys,
    jnp.zeros(6, bool),
    config=GRAD,
  )


def test_accumulate_equals_one_clipped_sum():
  batch = make_batch()
  total = None
  for start in (0, 3):
    rows = slice(start, start + 3)
    part = {'x': batch['x'][rows]}
    total = accumulate(part, np.arange(6)[rows], [False] * 3, total)
  expected = jax.jit(one_clipped_sum)(batch)
  assert_close(total, expected)
  assert total.l2_sensitivity == 1.0


def cube_loss(params, example, draw_key):
  """Its gradient tells every place of a [3, 3, 3, 3] leaf from the others."""
  del draw_key
  places = jnp.arange(81.0).reshape(3, 3, 3, 3)
  return jnp.sum(jnp.sin(places + params['cube']) * example['x'][0])


def test_order_of_axes_does_not_matter():
  """Gradients held in another order are clipped and summed as they were."""
  params = {'cube': make_batch(54)['x'][:, 0].repeat(2)[:81].reshape((3,) * 4)}
  totals = []
  for axes in (None, lambda shape: (1, 2, 0, 3)[: len(shape)]):
    config = dataclasses.replace(GRAD, gradient_axes=axes)
    fn = functools.partial(private_step.accumulate, cube_loss, config=config)
    totals.append(
      jax.jit(fn)(
        params,
        {},
        clipping.zeros(params, config),
        private_step.Microbatch(
          examples=make_batch(),
          indices=jnp.arange(6, dtype=jnp.int32),
          is_padding=jnp.zeros(6, bool),
        ),
        STREAMS.draw_key(0),
      )
    )
  assert 0 < totals[0].stats.num_clipped
  assert_close(*totals)


def test_slot_does_not_matter():
  """The same records in other slots, among padding, give the same sum."""
  batch = make_batch()
  whole = accumulate(batch, np.arange(6), [False] * 6)
  slots = np.array([4, 0, 0, 2, 5, 0, 1, 3])
  is_padding = np.array([0, 1, 0, 0, 0, 1, 0, 0], bool)
  moved = accumulate({'x': batch['x'][slots]}, slots, is_padding)
  assert_close(moved, whole)
  # A draw key by slot would not see that the records moved.
  other = accumulate(batch, np.arange(6)[::-1].copy(), [False] * 6)
  assert np.abs(other.grad_sum['w'] - whole.grad_sum['w']).max() > 1e-3


def test_frozen_parameters_have_no_gradient():
  total = accumulate(make_batch(), np.arange(6), [False] * 6)
  assert set(total.grad_sum) == {'w'}


def test_private_stats_are_summed_over_devices():
  totals = jax.vmap(
    lambda n: clipping.zeros(TRAINED, GRAD).replace(
      stats=clipping.GradStats(
        loss_sum=n,
        norm_sum=2 * n,
        num_clipped=n,
        num_non_finite=n,
        num_examples=n,
      )
    )
  )(jnp.arange(3))
  run = functools.partial(private_step.private_stats, axis_name='devices')
  stats = jax.vmap(run, axis_name='devices')(totals)
  assert stats.num_examples.tolist() == [3, 3, 3]
  assert stats.norm_sum.tolist() == [6, 6, 6]
  alone = private_step.private_stats(clipping.zeros(TRAINED, GRAD))
  assert alone.num_examples == 0


def public(axis_name=None, microbatch_size=None):
  return functools.partial(
    public_step.public_step,
    loss_fn,
    optimizer=optax.sgd(LEARNING_RATE),
    ema_decay=0.9,
    microbatch_size=microbatch_size,
    axis_name=axis_name,
  )


def public_oracle(batch):
  """One step of SGD on the mean loss, example by example."""
  losses, grads = [], []
  loss_and_grad = jax.jit(
    jax.value_and_grad(
      lambda params, x, key: loss_fn(params | FROZEN, {'x': x}, key)
    )
  )
  for index, x in enumerate(batch['x']):
    key = jax.random.fold_in(STREAMS.draw_key(0), index)
    loss, grad = loss_and_grad(TRAINED, x, key)
    losses.append(loss)
    grads.append(grad['w'])
  return TRAINED['w'] - LEARNING_RATE * np.mean(grads, axis=0), np.mean(losses)


@pytest.mark.parametrize('microbatch_size', [None, 2])
def test_public_step_equals_a_loop(microbatch_size):
  batch = make_batch()
  state = train_state.create(TRAINED, optax.sgd(LEARNING_RATE), FROZEN)
  indices = jnp.arange(6, dtype=jnp.int32)
  after, loss = jax.jit(public(microbatch_size=microbatch_size))(
    state, batch, STREAMS.draw_key(0), indices
  )
  params, expected_loss = public_oracle(batch)
  np.testing.assert_allclose(after.params['w'], params, rtol=1e-5)
  np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
  expected_ema = 0.1 * TRAINED['w'] + 0.9 * params
  np.testing.assert_allclose(after.ema_params['w'], expected_ema, rtol=1e-5)
  np.testing.assert_array_equal(after.frozen_params['scale'], FROZEN['scale'])


def test_public_step_averages_over_devices():
  batch = make_batch()
  state = train_state.create(TRAINED, optax.sgd(LEARNING_RATE), FROZEN)
  mapped = jax.vmap(
    public('devices'), in_axes=(None, 0, None, 0), axis_name='devices'
  )
  after, loss = jax.jit(mapped)(
    state,
    {'x': batch['x'].reshape(3, 2, 2)},
    STREAMS.draw_key(0),
    jnp.arange(6, dtype=jnp.int32).reshape(3, 2),
  )
  params, expected_loss = public_oracle(batch)
  np.testing.assert_allclose(after.params['w'][2], params, rtol=1e-5)
  np.testing.assert_allclose(loss, np.full(3, expected_loss), rtol=1e-5)


def test_public_microbatch_must_divide_the_batch():
  state = train_state.create(TRAINED, optax.sgd(LEARNING_RATE), FROZEN)
  with pytest.raises(ValueError, match='microbatch_size=4'):
    public(microbatch_size=4)(
      state,
      make_batch(),
      STREAMS.draw_key(0),
      jnp.arange(6, dtype=jnp.int32),
    )


@pytest.mark.parametrize(
  ('make', 'bad'),
  [
    (make_config, {'noise_multiplier': -1.0}),
    (make_config, {'noise_multiplier': float('nan')}),
    (make_config, {'noise_multiplier': 3e5}),
    (make_config, {'expected_batch_size': 0}),
    (make_config, {'ema_decay': 1.0}),
  ],
)
def test_bad_config(make, bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    make(**bad)
