"""Sensitive images of ten classes, for stages that are called directly."""

from __future__ import annotations

import numpy as np

from dp_diffusion import types
from dp_diffusion.data import registry

SPEC = types.DatasetSpec(
  name='x',
  image_shape=(8, 8, 1),
  class_names=tuple('0123456789'),
  has_person=True,
)


def make(num: int = 30, seed: int = 0) -> registry.ArraySource:
  """Random images, five of each person; their labels go round.

  Args:
    num: number of images, uint8[num, 8, 8, 1].
    seed: of the images; labels and persons are always the same.
  """
  rng = np.random.default_rng(seed)
  return registry.ArraySource(
    spec=SPEC,
    images=rng.integers(0, 256, (num, 8, 8, 1), dtype=np.uint8),
    labels=np.arange(num, dtype=np.int32) % 10,
    person=np.arange(num, dtype=np.int32) // 5,
  )
