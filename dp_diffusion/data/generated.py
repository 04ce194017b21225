"""Makes up images of any size from a seed, for tests and smoke runs.

An image of class k is a blurred disc with noise; the position, colour and size
of the disc depend on k. A small classifier can tell the classes apart.
"""

from __future__ import annotations

import numpy as np

from dp_diffusion import types
from dp_diffusion.data import registry

IS_RENDERED = True
DEFAULT_NUM_IMAGES = 512
READS = ('num_images', 'source_seed')
_IMAGES_PER_PERSON = 4
_SPLITS = ('train', 'test')


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Makes `config.num_images` images, or a quarter as many for 'test'.

  Args:
    config: gives num_images, source_seed, image_size (default 32), channels
      (default 3) and class_names (default two).
    split: 'train' or 'test'.

  Returns:
    Images with labels and made-up persons, equal for equal configs.
  """
  registry.check_split(split, _SPLITS)
  size = config.image_size or 32
  channels = config.channels or 3
  class_names = config.class_names or ('first', 'second')
  num_images = config.num_images or DEFAULT_NUM_IMAGES
  if split == 'test':
    num_images = max(1, num_images // 4)
  rng = np.random.default_rng([config.source_seed, _SPLITS.index(split)])
  labels = rng.integers(len(class_names), size=num_images, dtype=np.int32)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name=config.name,
      image_shape=(size, size, channels),
      class_names=class_names,
      has_person=True,
    ),
    images=_discs(rng, labels, len(class_names), size, channels),
    labels=labels,
    person=np.arange(num_images, dtype=np.int32) // _IMAGES_PER_PERSON,
  )


def _discs(
  rng: np.random.Generator,
  labels: np.ndarray,
  num_classes: int,
  size: int,
  channels: int,
) -> np.ndarray:
  """Draws uint8[N, size, size, channels]."""
  angle = (2 * np.pi * labels / num_classes)[:, None, None, None]
  grid = np.linspace(-1, 1, size)
  y, x = grid[None, :, None, None], grid[None, None, :, None]
  shift = rng.normal(0, 0.1, size=(2, len(labels), 1, 1, 1))
  distance = np.hypot(
    x - 0.5 * np.cos(angle) - shift[0], y - 0.5 * np.sin(angle) - shift[1]
  )
  hue = np.arange(channels)[None, None, None, :] * (2 * np.pi / 3)
  colour = 0.6 + 0.4 * np.cos(angle - hue)
  ink = colour / (1 + np.exp(12 * (distance - 0.4)))
  noise = rng.normal(0, 0.03, size=(len(labels), size, size, channels))
  return np.clip(np.round(255 * (ink + noise)), 0, 255).astype(np.uint8)
