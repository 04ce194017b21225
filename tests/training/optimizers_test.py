"""Optimizers follow their config."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion import leaf_patterns
from dp_diffusion.training import optimizers

GRADS = [
  np.array([1.0, -2.0, 0.5], np.float32),
  np.array([0.1, 3.0, -1.0], np.float32),
]


def run(config, num_steps=10):
  """Parameters after two steps from ones."""
  optimizer = optimizers.make(config, num_steps)
  params = jnp.ones(3)
  state = optimizer.init(params)
  for grad in GRADS:
    updates, state = optimizer.update(jnp.asarray(grad), state, params)
    params = optax.apply_updates(params, updates)
  return np.asarray(params)


def adam(lr, weight_decay=0.0, b1=0.9, b2=0.999, eps=1e-8):
  """Kingma and Ba, arXiv 1412.6980, algorithm 1, in NumPy."""
  params, m, v = np.ones(3), np.zeros(3), np.zeros(3)
  for t, grad in enumerate(GRADS, 1):
    m = b1 * m + (1 - b1) * grad
    v = b2 * v + (1 - b2) * grad**2
    update = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    params = params - lr * (update + weight_decay * params)
  return params


def test_adam():
  config = optimizers.OptimizerConfig(learning_rate=0.1, b2=0.9, eps=1e-3)
  expected = adam(0.1, b2=0.9, eps=1e-3)
  np.testing.assert_allclose(run(config), expected, rtol=1e-5)


def test_adamw():
  config = optimizers.OptimizerConfig(
    name='adamw', learning_rate=0.1, weight_decay=0.2
  )
  np.testing.assert_allclose(run(config), adam(0.1, 0.2), rtol=1e-5)


def test_sgd():
  config = optimizers.OptimizerConfig(
    name='sgd', learning_rate=0.1, momentum=0.5, weight_decay=0.2
  )
  params, trace = np.ones(3), np.zeros(3)
  for grad in GRADS:
    trace = grad + 0.5 * trace
    params = params - 0.1 * (trace + 0.2 * params)
  np.testing.assert_allclose(run(config), params, rtol=1e-5)


def test_max_grad_norm():
  config = optimizers.OptimizerConfig(
    name='sgd', learning_rate=1.0, max_grad_norm=1.0
  )
  moved = np.ones(3) - run(config)
  expected = sum(g / np.linalg.norm(g) for g in GRADS)
  np.testing.assert_allclose(moved, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('schedule', 'halfway', 'end'),
  [('constant', 2.0, 2.0), ('cosine', 1.0, 0.0), ('linear', 1.0, 0.0)],
)
def test_schedules(schedule, halfway, end):
  config = optimizers.OptimizerConfig(
    learning_rate=2.0, warmup_steps=10, schedule=schedule
  )
  rate = optimizers.make_schedule(config, 110)
  np.testing.assert_allclose(
    [rate(step) for step in (0, 5, 10, 60, 110)],
    [0.0, 1.0, 2.0, halfway, end],
    atol=1e-6,
  )


def test_schedule_reaches_the_update():
  config = optimizers.OptimizerConfig(
    name='sgd', learning_rate=1.0, warmup_steps=2
  )
  expected = np.ones(3) - 0.5 * GRADS[1]  # Rates 0 and 1 / 2.
  np.testing.assert_allclose(run(config), expected, rtol=1e-6)


@pytest.mark.parametrize(
  'bad',
  [
    {'name': 'adan'},
    {'schedule': 'cosin'},
    {'learning_rate': 0.0},
    {'learning_rate': float('inf')},
    {'warmup_steps': -1},
    {'eps': 0.0},
    {'b1': 1.0},
    {'b2': -0.1},
    {'momentum': 0.9},
    {'weight_decay': 0.1},
    {'max_grad_norm': 0.0},
    {'noise_floor': 0.2},
  ],
)
def test_bad_config(bad):
  with pytest.raises(ValueError, match=next(iter(bad)).split('_')[0]):
    optimizers.OptimizerConfig(**bad)


def test_warmup_must_end():
  config = optimizers.OptimizerConfig(warmup_steps=10)
  with pytest.raises(ValueError, match='num_steps=10'):
    optimizers.make(config, 10)


SCALES = {'a': 4.0, 'b': 1.0}


def run_scaled(config, scaled):
  """Two equal leaves after two steps, whose gradients arrive scaled."""
  params = {k: jnp.ones(3) for k in SCALES}
  grads = [dict.fromkeys(SCALES, g) for g in GRADS]
  rules = (leaf_patterns.parse('gradient_scales', 'a=4'),)
  optimizer = optimizers.with_scales(optimizers.make(config, 10), rules, scaled)
  state = optimizer.init(params)
  for tree in grads:
    arrived = {k: jnp.asarray(g) * SCALES[k] for k, g in tree.items()}
    updates, state = optimizer.update(arrived, state, params)
    params = optax.apply_updates(params, updates)
  return params


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_scaled_gradients_are_divided_again(name):
  config = optimizers.OptimizerConfig(
    name=name, learning_rate=0.1, weight_decay=0.2
  )
  found = run_scaled(config, 'gradient')
  for leaf in found.values():
    np.testing.assert_allclose(leaf, run(config), rtol=1e-6)


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_scaled_parameters_equal_a_model_of_them(name):
  """Training w' with the gradient of a loss of 4 w'."""
  config = optimizers.OptimizerConfig(
    name=name, learning_rate=0.1, weight_decay=0.2
  )
  found = run_scaled(config, 'parameter')
  optimizer = optimizers.make(config, 10)
  inner = jnp.ones(3) / 4
  state = optimizer.init(inner)
  for grad in GRADS:
    updates, state = optimizer.update(4 * jnp.asarray(grad), state, inner)
    inner = optax.apply_updates(inner, updates)
  np.testing.assert_allclose(found['a'], 4 * inner, rtol=1e-6)
  np.testing.assert_allclose(found['b'], run(config), rtol=1e-6)


def test_what_is_scaled_has_a_name():
  with pytest.raises(ValueError, match="did you mean 'gradient'"):
    optimizers.with_scales(optax.identity(), (), 'gradients')


def adam_bc(grads, lr, phi, floor, b1, b2):
  """Algorithm 1 of arXiv 2312.14334, in NumPy; `floor` is its gamma'."""
  params, m, v = np.ones(3), np.zeros(3), np.zeros(3)
  for t, grad in enumerate(grads, 1):
    m = b1 * m + (1 - b1) * grad
    v = b2 * v + (1 - b2) * grad**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    params = params - lr * m_hat / np.sqrt(np.maximum(v_hat - phi, floor))
  return params


def run_with_noise(config, noise, grads=tuple(GRADS), scale=1.0):
  optimizer = optimizers.make(config, 10, noise)
  params = {'a': jnp.ones(3)}
  state = optimizer.init(params)
  for grad in grads:
    updates, state = optimizer.update(
      {'a': jnp.asarray(grad) * scale}, state, params
    )
    params = optax.apply_updates(params, updates)
  return np.asarray(params['a'])


@pytest.mark.parametrize('std', [0.3, 1.0])
def test_adam_bc_is_that_of_the_paper(std):
  """With some elements at the floor, and some above."""
  config = optimizers.OptimizerConfig(
    name='adam_bc',
    learning_rate=0.1,
    b1=0.8,
    b2=0.9,
    eps=0.01,
    noise_floor=0.2,
  )
  found = run_with_noise(config, optimizers.KnownNoise(std=std))
  phi = std**2
  expected = adam_bc(GRADS, 0.1, phi, 0.2 * phi + 1e-4, 0.8, 0.9)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert not np.allclose(found, run(config_like(config)), rtol=1e-3)


def config_like(config):
  return optimizers.OptimizerConfig(
    learning_rate=config.learning_rate, b1=config.b1, b2=config.b2
  )


def test_adam_bc_without_noise_is_adam():
  config = optimizers.OptimizerConfig(name='adam_bc', learning_rate=0.1)
  found = run_with_noise(config, optimizers.KnownNoise(std=0.0))
  np.testing.assert_allclose(found, run(config_like(config)), rtol=1e-6)


def test_adam_bc_finds_the_moment_of_the_signal():
  """The mean of the squares of noised gradients, less that of the noise."""
  rng = np.random.default_rng(0)
  signal, std = np.array([0.5, -1, 2]), 1.0
  grads = signal + std * rng.normal(size=(4000, 3))
  config = optimizers.OptimizerConfig(
    name='adam_bc', learning_rate=1.0, b1=0.9995, b2=0.9995, noise_floor=1e-3
  )
  optimizer = optimizers.make(config, 10, optimizers.KnownNoise(std=std))
  state = optimizer.init(signal)
  update = jax.jit(optimizer.update)
  for grad in grads:
    updates, state = update(jnp.asarray(grad, jnp.float32), state)
  np.testing.assert_allclose(-updates, np.sign(signal), rtol=0.2)


def test_adam_bc_knows_the_noise_of_a_scaled_leaf():
  """Gradient and noise are divided by 4: so is the std to subtract."""
  config = optimizers.OptimizerConfig(
    name='adam_bc', learning_rate=0.1, b2=0.9, eps=1e-6
  )
  rules = (leaf_patterns.parse('gradient_scales', 'a=4'),)
  found = run_with_noise(
    config, optimizers.KnownNoise(std=1.2, divided_by=rules)
  )
  expected = adam_bc(GRADS, 0.1, 0.3**2, 0.1 * 0.3**2 + 1e-12, 0.9, 0.9)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_adam_bc_needs_to_know_the_noise():
  config = optimizers.OptimizerConfig(name='adam_bc')
  with pytest.raises(ValueError, match='private training only'):
    optimizers.make(config, 10)
  with pytest.raises(ValueError, match="optimizer.name='adam_bc' to be"):
    optimizers.check_public('optimizer', config)
  with pytest.raises(ValueError, match='num_bands=1, not 4'):
    optimizers.check_private('finetune.optimizer', config, 4)


@pytest.mark.parametrize(
  'bad', [{'weight_decay': 0.1}, {'max_grad_norm': 1.0}, {'noise_floor': 0.0}]
)
def test_bad_config_of_adam_bc(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    optimizers.OptimizerConfig(name='adam_bc', **bad)
