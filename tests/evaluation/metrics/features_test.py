"""Batches, padding, devices, and which features may be called FID's."""

from __future__ import annotations

import hashlib
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.models import inception_weights
from dp_diffusion.training import parallel


def make_images(num, shape=(4, 4, 1), seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (num, *shape)).astype(np.uint8)


def halves(params, images):
  """Two features: scaled means of the upper and of the lower half."""
  x = images.astype(jnp.float32)
  upper, lower = x[:, :2].mean((1, 2, 3)), x[:, 2:].mean((1, 2, 3))
  return params * jnp.stack([upper, lower], axis=-1)


def expected_halves(images):
  x = images.astype(np.float64)
  return 2 * np.stack([x[:, :2].mean((1, 2, 3)), x[:, 2:].mean((1, 2, 3))], 1)


def make_extractor(**kwargs):
  given = {
    'name': 'halves',
    'num_features': 2,
    'apply_fn': halves,
    'params': np.float32([[2]]),
  }
  return features.NetExtractor(**(given | kwargs))


@pytest.mark.parametrize('num', [1, 7, 8, 9])
def test_the_last_batch_is_padded_and_cut(num):
  images = make_images(num)
  found = make_extractor(batch_size=8).extract(images)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected_halves(images), rtol=1e-6)


def test_the_number_of_images_is_not_said(capsys):
  make_extractor(batch_size=1).extract(make_images(57))
  said = capsys.readouterr().out
  assert 'percent: 100/100' in said and '57/' not in said


def test_no_images_give_no_features():
  assert make_extractor().extract(make_images(0)).shape == (0, 2)


def test_one_shape_is_compiled():
  shapes = []

  def bind(apply_fn, params):
    def run(images):
      shapes.append(images.shape)
      return np.asarray(apply_fn(params, jnp.asarray(images)))

    return run

  extractor = make_extractor(batch_size=4, bind_fn=bind)
  extractor.extract(make_images(10))
  extractor.extract(make_images(3))
  assert set(shapes) == {(4, 4, 4, 1)}


def test_eight_devices_equal_one():
  images = make_images(21)
  bind = features.parallel_bind(parallel.DataParallel())
  found = make_extractor(batch_size=16, bind_fn=bind).extract(images)
  np.testing.assert_array_equal(found, make_extractor().extract(images))


def test_blocks_hold_one_batch_at_a_time():
  images = make_images(64, (32, 32, 3))
  extractor = features.pixels((32, 32, 3))
  extractor = features.NetExtractor(
    name='pixels',
    num_features=3072,
    apply_fn=extractor.apply_fn,
    params=(),
    batch_size=8,
  )
  list(extractor.blocks(images[:8]))  # Compiles.
  tracemalloc.start()
  for block in extractor.blocks(images):
    assert block.shape == (8, 3072)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 64 * 3072 * 4 / 2  # Half of all features.


def test_bad_images_are_refused():
  with pytest.raises(ValueError, match='uint8'):
    make_extractor().extract(np.zeros((2, 4, 4, 1), np.float32))
  with pytest.raises(ValueError, match=r'\[N, 4, 4\]'):
    make_extractor().extract(np.zeros((2, 4, 4), np.uint8))


def test_features_that_are_not_finite_are_refused():
  extractor = make_extractor(params=np.float32([[np.nan]]), batch_size=4)
  with pytest.raises(ValueError, match='images 0 to 3'):
    extractor.extract(make_images(5))


@pytest.mark.parametrize('name', ['FID features', 'inception-like'])
def test_no_other_network_may_suggest_fid(name):
  with pytest.raises(ValueError, match='not to suggest FID'):
    make_extractor(name=name)
  assert not make_extractor().is_inception


def test_inception_needs_the_known_weights(tmp_path):
  path = tmp_path / inception_weights.FILE_NAME
  path.write_bytes(b'other weights')
  with pytest.raises(errors.UsageError, match='sha256'):
    features.inception(str(path))


def test_inception_is_inception(tmp_path, monkeypatch):
  path = tmp_path / inception_weights.FILE_NAME
  path.write_bytes(b'')
  digest = hashlib.sha256(b'').hexdigest()
  monkeypatch.setattr(inception_weights, 'FILE_SHA256', digest)
  monkeypatch.setattr(inception_weights, 'read_params', lambda data: {})
  extractor = features.inception(str(path))
  assert extractor.is_inception
  assert (extractor.name, extractor.num_features) == ('Inception-v3', 2048)


def test_pixels():
  images = make_images(3)
  found = features.pixels((4, 4, 1)).extract(images)
  np.testing.assert_allclose(found, images.reshape(3, 16) / 255, rtol=1e-6)


def test_from_npz_says_what_is_wrong(tmp_path):
  with pytest.raises(errors.UsageError, match='no such file'):
    features.from_npz(tmp_path / 'none.npz')
  np.savez(tmp_path / 'other.npz', a=np.zeros(1))
  with pytest.raises(errors.UsageError, match=r'other\.npz.*LeNet-5'):
    features.from_npz(tmp_path / 'other.npz')


def test_from_npz_reads_the_shared_networks(shared_dir):
  lenet = features.from_npz(shared_dir / 'nets' / 'mnist_lenet5.npz')
  assert (lenet.name, lenet.num_features) == ('lenet5', 84)
  found = lenet.extract(make_images(3, (28, 28, 1)))
  assert found.shape == (3, 84)
  assert np.abs(found).max() <= 1
  resnet = features.from_npz(shared_dir / 'nets' / 'cifar10_resnet56.npz')
  assert (resnet.name, resnet.num_features) == ('resnet56', 64)
