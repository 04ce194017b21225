"""Configs of classifiers, and what a training step does to an image."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from dp_diffusion.evaluation import classifiers


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
    classifiers.ClassifierConfig(**bad)


def test_augmentation_crops_and_flips():
  config = classifiers.ClassifierConfig(reflect_pad=1, flip=True)
  image = np.arange(0, 90, 10, dtype=np.uint8).reshape(3, 3, 1)
  padded = np.pad(image[..., 0], 1, mode='reflect')
  possible = {}
  for top in range(3):
    for left in range(3):
      crop = padded[top : top + 3, left : left + 3]
      possible[crop.tobytes()] = possible[crop[:, ::-1].tobytes()] = True
  out = np.asarray(
    classifiers._augment(
      jax.random.key(0), np.broadcast_to(image, (400, 3, 3, 1)), config
    )
  )
  assert out.dtype == np.float32
  out = np.round((out + 1) * 127.5).astype(np.uint8)
  seen = {crop[..., 0].tobytes() for crop in out}
  assert seen == set(possible)
