"""Tests of dp_diffusion.data.generated."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion.data import registry


def _load(split='train', **changes):
  config = registry.DataConfig(
    name='generated', num_images=200, image_size=16, **changes
  )
  return registry.load(config, split)


@pytest.mark.parametrize('channels', [1, 3])
def test_shapes_follow_the_config(channels):
  source = _load(channels=channels, class_names=('a', 'b', 'c'))
  assert source.images.shape == (200, 16, 16, channels)
  assert set(source.labels) == {0, 1, 2}
  assert source.spec.has_person
  assert np.all(np.bincount(source.person) == 4)


def test_equal_seeds_give_equal_images_and_others_do_not():
  first, again = _load(), _load()
  np.testing.assert_array_equal(first.images, again.images)
  assert not np.array_equal(first.images, _load(source_seed=1).images)
  assert not np.array_equal(first.images[:50], _load('test').images)


def test_classes_can_be_told_apart():
  train, test = _load(), _load('test')
  means = np.stack(
    [train.images[train.labels == k].mean(axis=0) for k in range(2)]
  )
  gaps = test.images[:, None] - means[None]
  nearest = np.argmin(np.sum(gaps**2, axis=(2, 3, 4)), axis=1)
  assert np.mean(nearest == test.labels) > 0.95
