"""Features of DP-MERF and DP-MEPF against loops, and the generator."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import files
from dp_diffusion.baselines import dp_mepf
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator
from dp_diffusion.models import feature_nets
from dp_diffusion.training import optimizers

SHAPE = (4, 4, 1)
MERF = dp_merf.DpMerfConfig(num_features=4000, length_scale=0.7)


def some_images(num=3, shape=SHAPE, seed=0):
  rng = np.random.default_rng(seed)
  return rng.uniform(-1, 1, (num, *shape)).astype(np.float32)


def test_random_features_are_of_norm_1_and_approximate_the_kernel():
  images = some_images()
  fn = dp_merf.make_feature_fn(MERF, SHAPE, jax.random.key(0))
  found = np.asarray(fn(images), np.float64)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
  scale = MERF.length_scale * 4  # The root of 16 pixels.
  for i in range(3):
    for j in range(3):
      distance = np.linalg.norm(images[i] - images[j])
      kernel = np.exp(-(distance**2) / (2 * scale**2))
      assert found[i] @ found[j] == pytest.approx(kernel, abs=0.06)


@pytest.mark.parametrize('second', [0.0, 0.3])
def test_moments_are_those_of_a_loop(second):
  config = dp_mepf.DpMepfConfig(net='', max_side=2, second_moment=second)
  rng = np.random.default_rng(0)
  maps = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
  flat = rng.normal(size=(2, 5)).astype(np.float32)
  fn = dp_mepf.make_feature_fn(config, lambda images: [maps, flat])
  found = np.asarray(fn(jnp.asarray(maps)))
  for i in range(2):
    small = np.zeros((2, 2, 3))
    for y in range(4):
      for x in range(4):
        small[y // 2, x // 2] += maps[i, y, x] / 4
    layers = [small.ravel(), flat[i].astype(np.float64)]
    expected = [
      ((1 - second) / 2) ** 0.5 * a / np.linalg.norm(a) for a in layers
    ]
    if second:
      squares = [a**2 for a in layers]
      expected += [(second / 2) ** 0.5 * a / np.linalg.norm(a) for a in squares]
    np.testing.assert_allclose(found[i], np.concatenate(expected), atol=1e-5)
    assert np.linalg.norm(found[i]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize('name', ['mnist_lenet5', 'cifar10_resnet56'])
def test_feature_nets_give_bounded_features(name, shared_dir):
  path = shared_dir / 'nets' / f'{name}.npz'
  if not path.exists():
    pytest.skip(f'needs the feature net {path}')
  weights = files.read_npz(path)
  config = dp_mepf.DpMepfConfig(net='x', max_side=4, second_moment=0.5)
  activations = dp_mepf.from_weights(weights)
  images = some_images(2, (8, 8, 1))
  found = np.asarray(dp_mepf.make_feature_fn(config, activations)(images))
  norms = np.linalg.norm(found.astype(np.float64), axis=1)
  assert found.shape[1] > 1000 and np.all(norms <= 1 + 1e-5)
  assert np.all(norms > 0.9)
  _, net = feature_nets.kind_of(weights)
  last = np.asarray(activations(images)[-1])
  features, _ = net(weights, (images + 1) * 127.5)
  if name == 'mnist_lenet5':
    np.testing.assert_allclose(last, features, atol=1e-6)


def test_generator_moves_towards_its_target():
  """Two classes with opposite grey values."""
  module = generator.Generator(image_shape=(5, 6, 1), num_classes=2, channels=8)
  config = generator.GeneratorConfig(
    latent_dim=2,
    channels=8,
    num_steps=120,
    batch_size=8,
    optimizer=optimizers.OptimizerConfig(learning_rate=1e-2),
  )
  fn = dp_merf.make_feature_fn(
    dp_merf.DpMerfConfig(num_features=100, length_scale=1.0),
    (5, 6, 1),
    jax.random.key(0),
  )
  grey = np.ones((2, 5, 6, 1), np.float32) * np.float32([[[[-0.8]]], [[[0.8]]]])
  target = 0.5 * np.asarray(fn(grey))
  labels = np.int32([0, 1] * 4)
  params = generator.train(
    config, module, fn, target, labels, jax.random.key(1)
  )
  images = generator.sample(
    module, params, 2, np.int32([1, 0, 1]), jax.random.key(2), batch_size=2
  )
  assert images.shape == (3, 5, 6, 1) and images.dtype == np.uint8
  assert images[1].mean() < 70 and min(images[[0, 2]].mean((1, 2, 3))) > 185
  alone = generator.sample(
    module, params, 2, np.int32([1]), jax.random.key(2), batch_size=2
  )
  np.testing.assert_array_equal(alone[0], images[0])


@pytest.mark.parametrize(
  ('kind', 'values'),
  [
    (dp_merf.DpMerfConfig, {'num_features': 3, 'length_scale': 1.0}),
    (dp_merf.DpMerfConfig, {'num_features': 4, 'length_scale': 0.0}),
    (
      dp_mepf.DpMepfConfig,
      {'net': '', 'max_side': 0, 'second_moment': 0.5},
    ),
    (
      dp_mepf.DpMepfConfig,
      {'net': '', 'max_side': 1, 'second_moment': 1.0},
    ),
  ],
)
def test_bad_value_is_refused(kind, values):
  with pytest.raises(ValueError, match='Expected'):
    kind(**values)
