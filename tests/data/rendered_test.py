"""Tests of dp_diffusion.data.rendered."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data import rendered

_NUM_CLASSES = len(rendered.CLASS_NAMES)


def _load(tmp_path, split='train', **changes):
  values = {'num_images': 400, 'image_size': 12, 'channels': 1, **changes}
  config = registry.DataConfig(
    name='rendered', cache_dir=str(tmp_path), **values
  )
  return registry.load(config, split)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('size', [8, 33])
def test_any_size_in_grey_and_colour(size, channels):
  images = rendered.render(_NUM_CLASSES, size, channels, (0, 0))
  assert images.shape == (_NUM_CLASSES, size, size, channels)
  assert images.dtype == np.uint8
  assert images.min() < 16 and images.max() > 239  # The whole range.
  assert images.std(axis=(1, 2, 3)).min() > 1  # Each shows something.


def test_large_images_as_well(monkeypatch):
  monkeypatch.setattr(rendered, '_TOGETHER', 1)
  monkeypatch.setattr(rendered, '_CHUNK', _NUM_CLASSES)
  images = rendered.render(_NUM_CLASSES, 128, 3, (0, 0))
  assert images.std(axis=(1, 2, 3)).min() > 1


def test_classes_take_turns(tmp_path):
  source = _load(tmp_path)
  assert source.spec.class_names == rendered.CLASS_NAMES
  counts = np.bincount(source.labels, minlength=_NUM_CLASSES)
  np.testing.assert_array_equal(counts, [400 // _NUM_CLASSES] * _NUM_CLASSES)
  np.testing.assert_array_equal(
    source.labels[:_NUM_CLASSES], np.arange(_NUM_CLASSES)
  )


def test_an_image_depends_on_its_place_not_on_the_number():
  many = rendered.render(700, 8, 1, (3, 0))
  np.testing.assert_array_equal(many[:50], rendered.render(50, 8, 1, (3, 0)))
  again = rendered.render(700, 8, 1, (3, 0))
  np.testing.assert_array_equal(many, again)


def test_seeds_and_splits_give_other_images(tmp_path):
  first, other = _load(tmp_path), _load(tmp_path, source_seed=1)
  held_out = _load(tmp_path, 'test')
  assert len(held_out.labels) == 50
  for images in (other.images[:50], held_out.images):
    equal = (first.images[:50] == images).all(axis=(1, 2, 3))
    assert not equal.any()


def test_no_image_comes_twice():
  images = rendered.render(2000, 8, 1, (0, 0)).reshape(2000, -1)
  assert len(np.unique(images, axis=0)) == 2000


def test_a_second_load_reads_the_cache(tmp_path, monkeypatch):
  first = _load(tmp_path)
  monkeypatch.setattr(rendered, '_fill', None)
  np.testing.assert_array_equal(first.images, _load(tmp_path).images)


def test_without_a_cache_folder_they_are_drawn_in_memory(tmp_path):
  (tmp_path / 'file').write_text('')
  source = _load(tmp_path / 'file' / 'cache')
  np.testing.assert_array_equal(source.images, _load(tmp_path).images)


def test_colour_has_hues_and_grey_images_too():
  images = rendered.render(640, 8, 3, (0, 0)).astype(int)
  spread = (images.max(axis=3) - images.min(axis=3)).max(axis=(1, 2))
  # Grey ones differ by the noise of the channels alone.
  assert 0.5 < np.mean(spread > 60) < 0.95
  assert np.mean(spread < 50) > 0.05


def test_classes_can_be_learned():
  # By means and spreads of a few frequencies: what a network would find.
  images = rendered.render(2400, 16, 1, (0, 0))[..., 0] / 255
  waves = np.abs(np.fft.rfft2(images - images.mean(axis=(1, 2), keepdims=True)))
  features = np.log(waves.reshape(len(waves), -1) + 0.1)
  labels = rendered.labels(len(images))
  train, test = features[:2000], features[2000:]
  means = np.stack([train[labels[:2000] == k].mean(0) for k in range(20)])
  gaps = np.sum((test[:, None] - means[None]) ** 2, axis=2)
  assert np.mean(gaps.argmin(axis=1) == labels[2000:]) > 4 / _NUM_CLASSES


def test_other_classes_are_refused(tmp_path):
  with pytest.raises(errors.UsageError, match=r'class_names=\(a\).*clouds,'):
    _load(tmp_path, class_names=('a',))


def test_an_unknown_split_is_refused(tmp_path):
  with pytest.raises(errors.UsageError, match='validation'):
    _load(tmp_path, 'validation')
