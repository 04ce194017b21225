"""Configs of classifiers, and what a training step does to an image."""

from __future__ import annotations

import math

import jax
import numpy as np
import optax
import pytest

from dp_diffusion.evaluation.classifiers import training


@pytest.mark.parametrize(
  'bad',
  [
    {'name': 'small_cn'},
    {'optimizer': 'adam'},
    {'num_steps': 0},
    {'batch_size': 0},
    {'learning_rate': math.nan},
    {'learning_rate': math.inf},
    {'weight_decay': -1.0},
    {'validation_fraction': 1.0},
    {'label_smoothing': -0.1},
    {'patience': -1},
  ],
)
def test_bad_configs_are_refused(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    training.ClassifierConfig(**bad)


def test_augmentation_crops_and_flips():
  config = training.ClassifierConfig(reflect_pad=1, flip=True)
  image = np.arange(0, 90, 10, dtype=np.uint8).reshape(3, 3, 1)
  padded = np.pad(image[..., 0], 1, mode='reflect')
  possible = {}
  for top in range(3):
    for left in range(3):
      crop = padded[top : top + 3, left : left + 3]
      possible[crop.tobytes()] = possible[crop[:, ::-1].tobytes()] = True
  out = np.asarray(
    training._augment(
      jax.random.key(0), np.broadcast_to(image, (400, 3, 3, 1)), config
    )
  )
  assert out.dtype == np.float32
  out = np.round((out + 1) * 127.5).astype(np.uint8)
  seen = {crop[..., 0].tobytes() for crop in out}
  assert seen == set(possible)


@pytest.mark.parametrize(
  ('warmup_steps', 'num_steps'), [(0, 7), (3, 10), (9, 10), (0, 1), (5, 1)]
)
def test_rate_is_that_of_optax(warmup_steps, num_steps):
  config = training.ClassifierConfig(
    warmup_steps=warmup_steps, num_steps=num_steps, learning_rate=0.3
  )
  warmup_steps = min(warmup_steps, num_steps // 2)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else 0.3, 0.3, warmup_steps, num_steps
  )
  for step in range(1, num_steps + 1):
    found = training.step_numbers(config, step)
    assert found[0] == pytest.approx(float(schedule(step - 1)), abs=1e-7)
    assert found[1:].tolist() == pytest.approx([1e-2, 0.0])


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd'])
def test_step_is_that_of_optax(optimizer):
  config = training.ClassifierConfig(
    name='logistic_regression', optimizer=optimizer, weight_decay=0.3
  )
  numbers = np.array([0.1, 0.3, 0.2], np.float32)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
  labels = rng.integers(3, size=6).astype(np.int32)
  fns = training.compiled(config, 3)
  state = fns.init(jax.random.key(0), images[:1])
  params = jax.tree.map(np.array, state[0]['params'])
  expected = (
    optax.adamw(
      0.1,
      weight_decay=0.3,
      mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree),
    )
    if optimizer == 'adamw'
    else optax.chain(
      optax.trace(0.9, nesterov=True),
      optax.add_decayed_weights(
        0.3, mask=lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)
      ),
      optax.scale(-0.1),
    )
  )

  def loss(params):
    dense = params['Dense_0']
    x = images.reshape(6, -1) / np.float32(127.5) - 1
    logits = x @ dense['kernel'] + dense['bias'][None]
    targets = 0.8 * jax.nn.one_hot(labels, 3) + 0.2 / 3
    return optax.softmax_cross_entropy(logits, targets).mean()

  opt_state = expected.init(params)
  for step in range(1, 4):
    state = fns.step(
      state, jax.random.key(1), np.int32(step), numbers, images, labels
    )
    updates, opt_state = expected.update(
      jax.grad(loss)(params), opt_state, params
    )
    params = optax.apply_updates(params, updates)
  found = state[0]['params']['Dense_0']
  for name, value in params['Dense_0'].items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_grid_of_numbers_is_compiled_once():
  one, other = (
    training.ClassifierConfig(learning_rate=r, num_steps=n)
    for r, n in ((0.1, 5), (0.2, 7))
  )
  assert training.compiled(one, 3) is training.compiled(other, 3)
  cropped = training.ClassifierConfig(reflect_pad=1)
  assert training.compiled(one, 3) is not training.compiled(cropped, 3)


def test_each_kind_has_its_recipe_and_shares_the_rest():
  main = training.ClassifierConfig(num_steps=7, flip=True)
  assert training.of_kind('small_cnn', main) is main
  other = training.of_kind('wrn_16_4', main)
  assert (other.optimizer, other.learning_rate) == ('sgd', 0.1)
  assert (other.num_steps, other.flip) == (7, True)
  assert set(training.RECIPES) == set(training.NAMES)
