"""Features of DP-MEPF against loops."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import files
from dp_diffusion.baselines import dp_mepf
from dp_diffusion.models import feature_nets


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


@pytest.mark.parametrize(('height', 'width'), [(7, 5), (5, 7), (4, 2), (9, 9)])
def test_no_side_is_longer_than_the_largest_one(height, width):
  """Squares at the lower and right border may be of fewer pixels."""
  config = dp_mepf.DpMepfConfig(net='', max_side=4, second_moment=0.0)
  maps = np.random.default_rng(0).normal(size=(1, height, width, 1))
  maps = maps.astype(np.float32)
  fn = dp_mepf.make_feature_fn(config, lambda images: [maps])
  side = next(n for n in range(1, 10) if max(height, width) <= n * 4)
  small = np.zeros((-(-height // side), -(-width // side)))
  assert max(small.shape) <= 4
  for y in range(height):
    for x in range(width):
      small[y // side, x // side] += maps[0, y, x, 0]
  found = np.asarray(fn(jnp.asarray(maps)))[0]
  np.testing.assert_allclose(
    found, small.ravel() / np.linalg.norm(small), atol=1e-5
  )


@pytest.mark.parametrize('name', ['mnist_lenet5', 'cifar10_resnet56'])
def test_feature_nets_give_bounded_features(name, shared_dir):
  path = shared_dir / 'nets' / f'{name}.npz'
  if not path.exists():
    pytest.skip(f'needs the feature net {path}')
  weights = files.read_npz(path)
  config = dp_mepf.DpMepfConfig(net='x', max_side=4, second_moment=0.5)
  activations = dp_mepf.from_weights(weights)
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
  found = np.asarray(dp_mepf.make_feature_fn(config, activations)(images))
  norms = np.linalg.norm(found.astype(np.float64), axis=1)
  assert found.shape[1] > 1000 and np.all(norms <= 1 + 1e-5)
  assert np.all(norms > 0.9)
  _, net = feature_nets.kind_of(weights)
  last = np.asarray(activations(images)[-1])
  features, _ = net(weights, (images + 1) * 127.5)
  if name == 'mnist_lenet5':
    np.testing.assert_allclose(last, features, atol=1e-6)


@pytest.mark.parametrize(
  'values',
  [
    {'net': '', 'max_side': 0, 'second_moment': 0.5},
    {'net': '', 'max_side': 1, 'second_moment': 1.0},
  ],
)
def test_bad_value_is_refused(values):
  with pytest.raises(ValueError, match='Expected'):
    dp_mepf.DpMepfConfig(**values)
