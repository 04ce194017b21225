"""The sensitive digits of the demonstration: real handwriting, 8x8 pixels.

They are scikit-learn's copy of the UCI "Optical Recognition of Handwritten
Digits" (1,797 images, CC BY 4.0, doi 10.24432/C50P49), without a download.
"""

from __future__ import annotations

import numpy as np
from sklearn import datasets
from sklearn import model_selection

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import registry

CLASS_NAMES = tuple('0123456789')
IMAGE_SIZE = 8
NUM_TEST = 360
MAX_COUNT = 16  # A pixel counts the inked cells of a 4x4 block.
READS = ('split_seed',)
_SPLITS = ('train', 'test')


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads 1,437 training or 360 held-out digits.

  Args:
    config: gives `split_seed`.
    split: 'train' or 'test'.

  Returns:
    uint8[N, 8, 8, 1] images, without persons: the writers are not published.

  Raises:
    UsageError: an unknown split, or a size or classes that are not the data's.
  """
  registry.check_split(split, _SPLITS)
  check_shape(config)
  bunch = datasets.load_digits()
  train, test = model_selection.train_test_split(
    range(len(bunch.target)),
    test_size=NUM_TEST,
    stratify=bunch.target,
    random_state=config.split_seed,
  )
  chosen = np.asarray(train if split == 'train' else test)
  return registry.ArraySource(
    spec=spec(config.name),
    images=counts_to_uint8(bunch.images[chosen])[..., None],
    labels=bunch.target[chosen].astype(np.int32),
  )


def spec(name: str) -> types.DatasetSpec:
  """Returns the public facts, which hold for real and rendered digits."""
  return types.DatasetSpec(
    name=name,
    image_shape=(IMAGE_SIZE, IMAGE_SIZE, 1),
    class_names=CLASS_NAMES,
  )


def check_shape(config: registry.DataConfig) -> None:
  """Raises UsageError if the config has another size or other classes."""
  for field, value, expected in (
    ('image_size', config.image_size, (0, IMAGE_SIZE)),
    ('channels', config.channels, (0, 1)),
    ('class_names', config.class_names, ((), CLASS_NAMES)),
  ):
    if value not in expected:
      raise errors.UsageError(
        f'Expected data.{field}={value!r} to be {expected[1]!r} for '
        f'{config.name!r}.'
      )


def counts_to_uint8(counts: np.ndarray) -> np.ndarray:
  """Maps ink counts in [0, 16] to uint8 in [0, 255], rounding half to even.

  >>> counts_to_uint8(np.array([0, 8, 16]))
  array([  0, 128, 255], dtype=uint8)
  """
  return np.round(counts * (255 / MAX_COUNT)).astype(np.uint8)
