"""Tests of dp_diffusion.data.glyphs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import svm

from dp_diffusion import errors
from dp_diffusion.data import glyphs
from dp_diffusion.data import registry


@pytest.fixture(scope='module')
def cache_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('cache'))


def _load(cache_dir, split='train', num_images=2000, **changes):
  config = registry.DataConfig(
    name='glyphs', num_images=num_images, cache_dir=cache_dir, **changes
  )
  return registry.load(config, split)


def test_images_have_the_form_of_the_scanned_ones(cache_dir):
  source = _load(cache_dir)
  assert source.images.shape == (2000, 8, 8, 1)
  assert source.spec.class_names == tuple('0123456789')
  np.testing.assert_array_equal(np.bincount(source.labels), [200] * 10)
  levels = [round(count * 255 / 16) for count in range(17)]
  assert set(np.unique(source.images)) <= set(levels)
  # The box is 20 of 32 pixels wide and 32 high: ink at top and bottom.
  ink = source.images[..., 0] > 0
  assert np.mean(ink[:, :2].any(axis=(1, 2))) > 0.99
  assert np.mean(ink[:, 6:].any(axis=(1, 2))) > 0.99
  assert np.mean(ink[:, :, [0, 7]]) < 0.1 < np.mean(ink[:, :, 2:6])


def test_a_second_load_reads_the_cache(cache_dir, monkeypatch):
  first = _load(cache_dir)
  monkeypatch.setattr(glyphs, 'render', None)
  again = _load(cache_dir)
  np.testing.assert_array_equal(first.images, again.images)
  np.testing.assert_array_equal(first.labels, again.labels)


def test_images_follow_seed_and_split():
  first, again, other = (
    glyphs.render(100, seed) for seed in ((3, 0), (3, 0), (3, 1))
  )
  np.testing.assert_array_equal(first[0], again[0])
  np.testing.assert_array_equal(first[1], again[1])
  assert not np.array_equal(first[0], other[0])


def test_seeds_do_not_share_a_cache_file(cache_dir):
  first = _load(cache_dir, num_images=50)
  other = _load(cache_dir, num_images=50, source_seed=1)
  assert not np.array_equal(first.images, other.images)


def test_classes_can_be_learned_and_no_image_comes_twice(cache_dir):
  train, test = _load(cache_dir), _load(cache_dir, 'test')
  assert len(test.labels) == 250
  x_train, x_test = (
    source.images.reshape(-1, 64) / 127.5 - 1.0 for source in (train, test)
  )
  classifier = svm.SVC(C=10).fit(x_train, train.labels)
  assert classifier.score(x_test, test.labels) > 0.8
  assert len(np.unique(x_train, axis=0)) > 0.95 * len(x_train)


def test_a_thousand_images_take_at_most_seconds():
  start = time.process_time()
  glyphs.render(1000, (0, 0))
  assert time.process_time() - start < 10


def test_other_sizes_are_refused(cache_dir):
  with pytest.raises(errors.UsageError, match='image_size=28'):
    _load(cache_dir, image_size=28)
