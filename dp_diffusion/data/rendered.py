"""Draws public images by formulas, of any size, in grey or colour.

A class is a family of `rendered_families`: textures, soft blobs, discs like
cells with and without spots, strokes, slices, tissue. An image depends only on
`source_seed`, split, size, channels and its index, not on the number of images.
The images of each setting are drawn once and cached.

NumPy's elementary functions may differ in the last bit between processors, so
that one pixel in many thousands may differ by one.
"""

from __future__ import annotations

import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import cache
from dp_diffusion.data import registry
from dp_diffusion.data import rendered_colours
from dp_diffusion.data import rendered_families
from dp_diffusion.data import rendered_shapes

IS_RENDERED = True
CLASS_NAMES = tuple(rendered_families.FAMILIES)
GIVEN_CLASS_NAMES = CLASS_NAMES  # Used if a config names no classes.
VERSION = 1  # Increase it when the same seed gives other images.
DEFAULT_NUM_IMAGES = 20_000
DEFAULT_SIZE = 32
DEFAULT_CHANNELS = 3
READS = ('num_images', 'source_seed')
_SPLITS = ('train', 'test')
_TOGETHER = 16  # Images of a class that are drawn together.
_CHUNK = _TOGETHER * len(CLASS_NAMES)


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Draws `config.num_images` images, or reads them from the cache.

  Args:
    config: gives num_images (default 20,000), source_seed, image_size (default
      32), channels (default 3) and cache_dir.
    split: 'train', or 'test' (other random numbers, an eighth as many).

  Returns:
    The images; their classes alternate.

  Raises:
    UsageError: the split is unknown, or the classes are not the families.
  """
  registry.check_split(split, _SPLITS)
  if config.class_names not in ((), CLASS_NAMES):
    raise errors.UsageError(
      f'Expected class_names=({checks.some(config.class_names)}) of'
      f' {config.name!r} to be left out, or its own:'
      f' {",".join(CLASS_NAMES)}.'
    )
  size = config.image_size or DEFAULT_SIZE
  channels = config.channels or DEFAULT_CHANNELS
  num_images = config.num_images or DEFAULT_NUM_IMAGES
  if split == 'test':
    num_images = max(len(CLASS_NAMES), num_images // 8)
  shape = (num_images, size, size, channels)
  seed = (config.source_seed, _SPLITS.index(split))

  def fill(images: np.ndarray) -> dict[str, np.ndarray]:
    _fill(images, seed)
    return {}

  key = cache.key_of(
    version=VERSION, shape=shape, seed=seed, numpy=np.__version__
  )
  try:
    images, _ = cache.mapped(config.cache_dir, f'rendered-{key}', shape, fill)
  except OSError as error:
    console.warn(f'rendered images are not kept: {error}')
    images = np.empty(shape, np.uint8)
    fill(images)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name=config.name, image_shape=shape[1:], class_names=CLASS_NAMES
    ),
    images=images,
    labels=labels(num_images),
  )


def labels(num_images: int) -> np.ndarray:
  """Returns the labels int32[N], which run through the classes in turn.

  >>> labels(22)[-4:]
  array([18, 19,  0,  1], dtype=int32)
  """
  return (np.arange(num_images) % len(CLASS_NAMES)).astype(np.int32)


def render(
  num_images: int, size: int, channels: int, seed: tuple[int, ...]
) -> np.ndarray:
  """Draws the first images of a seed.

  Args:
    num_images: number of images N.
    size: height and width in pixels.
    channels: 1 or 3.
    seed: integers >= 0.

  Returns:
    uint8[N, size, size, channels]. Image i has the class i modulo the number of
    classes, and is the same for every N.
  """
  images = np.empty((num_images, size, size, channels), np.uint8)
  _fill(images, seed)
  return images


def _fill(images: np.ndarray, seed: tuple[int, ...]) -> None:
  starts = range(0, len(images), _CHUNK)
  with console.progress('rendering public images', len(starts)) as advance:
    for number, start in enumerate(starts):
      part = images[start : start + _CHUNK]
      part[:] = _chunk(images.shape[1:], (*seed, number))[: len(part)]
      advance()


def _chunk(shape: tuple[int, ...], seed: tuple[int, ...]) -> np.ndarray:
  """Draws uint8[_CHUNK, H, W, C], running through the classes in turn."""
  size, _, channels = shape
  plane = rendered_shapes.Plane(num_images=_TOGETHER, size=size)
  images = np.empty((_TOGETHER, len(CLASS_NAMES), *shape), np.uint8)
  for label, family in enumerate(rendered_families.FAMILIES.values()):
    rng = np.random.default_rng((*seed, label))
    painter = rendered_colours.Painter(rng, plane, channels)
    family(rng, painter)
    images[:, label] = painter.finish()
  return images.reshape(_CHUNK, *shape)
