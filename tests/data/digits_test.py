"""Tests of dp_diffusion.data.digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets
from sklearn import model_selection

from dp_diffusion import errors
from dp_diffusion.data import digits
from dp_diffusion.data import registry


def _load(split, seed=0):
  config = registry.DataConfig(name='digits', split_seed=seed)
  return registry.load(config, split)


@pytest.mark.parametrize('seed', [0, 7])
def test_splits_are_those_of_train_test_split(seed):
  bunch = datasets.load_digits()
  train, test = model_selection.train_test_split(
    range(1797), test_size=360, stratify=bunch.target, random_state=seed
  )
  for split, indices in (('train', train), ('test', test)):
    source = _load(split, seed)
    np.testing.assert_array_equal(source.labels, bunch.target[indices])
    expected = np.array(
      [[round(v * 255 / 16) for v in image.flat] for image in bunch.images]
    )[indices]
    np.testing.assert_array_equal(source.images.reshape(-1, 64), expected)
    assert source.images.shape == (len(indices), 8, 8, 1)
  assert len(test) == 360


def test_splits_depend_on_the_seed():
  assert not np.array_equal(_load('test', 0).labels, _load('test', 1).labels)


def test_spec_names_the_ten_classes():
  spec = _load('test').spec
  assert spec.class_names == tuple('0123456789')
  assert spec.image_shape == (8, 8, 1)
  assert not spec.has_person


@pytest.mark.parametrize(
  'bad', [{'image_size': 28}, {'channels': 3}, {'class_names': ('a',)}]
)
def test_other_shapes_are_refused(bad):
  config = registry.DataConfig(name='digits', **bad)
  with pytest.raises(errors.UsageError, match='Expected data.'):
    digits.load(config, 'train')


def test_unknown_split_lists_the_known_ones():
  with pytest.raises(errors.UsageError, match="'test', 'train'"):
    _load('validation')
