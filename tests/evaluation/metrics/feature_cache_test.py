"""Features come from the files where these are there, and are the same."""

from __future__ import annotations

import mmap
import stat

import numpy as np
import pytest

from dp_diffusion.evaluation.metrics import feature_cache
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.training import processes

SHAPE = (2, 2, 1)


def make_images(num=25):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (num, *SHAPE)).astype(np.uint8)


def extract(images, folder, check=lambda: None):
  extractor = features.pixels(SHAPE)
  return feature_cache.extract(extractor, images, folder, check, chunk_size=10)


def test_features_are_those_of_the_extractor(tmp_path):
  images = make_images()
  expected = features.pixels(SHAPE).extract(images)
  np.testing.assert_array_equal(extract(images, tmp_path), expected)
  assert len(list(tmp_path.iterdir())) == 3
  assert {stat.S_IMODE(f.stat().st_mode) for f in tmp_path.iterdir()} == {0o600}


def test_what_is_there_is_not_computed_again(tmp_path, monkeypatch):
  images = make_images()
  expected = extract(images, tmp_path)
  monkeypatch.setattr(features.NetExtractor, 'extract', None)
  np.testing.assert_array_equal(extract(images, tmp_path), expected)
  images[24] ^= 1  # The last chunk is another one.
  with pytest.raises(TypeError):
    extract(images, tmp_path)


def test_features_of_another_network_are_computed_anew(tmp_path):
  """Their number may be the same; the name tells the weights apart."""
  images = make_images()
  pixels = features.pixels(SHAPE)
  other = features.NetExtractor(
    name='another',
    num_features=4,
    apply_fn=lambda params, x: params * pixels.apply_fn((), x),
    params=np.float32(3),
  )
  first = extract(images, tmp_path)
  found = feature_cache.extract(other, images, tmp_path, chunk_size=10)
  np.testing.assert_allclose(found, 3 * first, rtol=1e-6)
  assert len(list(tmp_path.iterdir())) == 6


def test_finished_chunks_are_kept(tmp_path):
  checks = []

  def check():
    checks.append(1)
    if len(checks) == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    extract(make_images(), tmp_path, check)
  assert len(list(tmp_path.iterdir())) == 1
  extract(make_images(), tmp_path, check)
  assert len(checks) == 4


def test_processes_divide_the_chunks_of_all_sets(tmp_path, monkeypatch):
  sets = [make_images(25), make_images(12) ^ 1]
  expected = [extract(images, tmp_path / 'alone') for images in sets]
  num_kept = []
  for index in (1, 0):
    share = processes.Share(index, 2)
    feature_cache.extract_share(
      features.pixels(SHAPE), sets, tmp_path / 'all', share, chunk_size=10
    )
    num_kept.append(len(list((tmp_path / 'all').iterdir())))
  assert num_kept == [2, 5]
  monkeypatch.setattr(features.NetExtractor, 'extract', None)
  for images, alone in zip(sets, expected):
    np.testing.assert_array_equal(extract(images, tmp_path / 'all'), alone)


def test_other_features_have_files_of_their_own(tmp_path):
  images = make_images(10)
  extract(images, tmp_path)
  mean = features.NetExtractor(
    name='mean',
    num_features=1,
    apply_fn=lambda params, x: x.reshape(len(x), -1)[:, :1] + params,
    params=np.float32([[1]]),
  )
  feature_cache.extract(mean, images, tmp_path)
  assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize('kind', ['kept', 'not kept'])
def test_features_are_on_the_disk_and_not_in_memory(kind, tmp_path):
  images = make_images()
  if kind == 'kept':
    found = extract(images, tmp_path / 'x')
  else:
    room = feature_cache.on_disk((25, 4), tmp_path / 'x')
    found = features.pixels(SHAPE).extract(images, room)
  owner = found
  while isinstance(owner, np.ndarray):
    owner = owner.base
  assert isinstance(owner, mmap.mmap)
  assert len(list((tmp_path / 'x').iterdir())) == (3 if kind == 'kept' else 0)
  np.testing.assert_array_equal(found, features.pixels(SHAPE).extract(images))


def test_no_features_need_no_file(tmp_path):
  assert feature_cache.on_disk((0, 3), tmp_path).shape == (0, 3)
  assert feature_cache.on_disk((2, 3), 'gs://bucket/x').shape == (2, 3)


@pytest.mark.parametrize('max_bytes', [0, 10**9])
def test_rows_are_the_same_in_memory_and_on_the_disk(tmp_path, max_bytes):
  images = np.arange(96, dtype=np.uint8).reshape(6, 4, 4, 1)
  rows = np.array([1, 4, 5])
  found = feature_cache.rows_of(images, rows, tmp_path, max_bytes)
  np.testing.assert_array_equal(found, images[rows])
  assert not list(tmp_path.iterdir())
