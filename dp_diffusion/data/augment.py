"""Augments the image of one draw, from uint8 to float32 in [-1, 1].

The augmentation runs on the device inside the loss of a draw, so each of the K
draws of an example has its own crop and flip. Every random choice is made from
the key.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types


class CropAndFlip(Protocol):
  """The fields that `augment` reads of a config of data or of a classifier."""

  @property
  def reflect_pad(self) -> int:
    """Width in pixels of the border for random crops; 0 does not crop."""

  @property
  def flip(self) -> bool:
    """Whether an image is flipped left to right with probability 1/2."""


def augment(
  image: types.Array, key: types.Key, config: CropAndFlip
) -> types.Array:
  """Pads the image by reflection, crops it at random and flips it at random.

  Args:
    image: uint8[H, W, C] in [0, 255], or float32[H, W, C] in [-1, 1].
    key: typed PRNG key, consumed; the result depends on nothing else.
    config: gives `reflect_pad` (pixels) and `flip`.

  Returns:
    float32[H, W, C] in [-1, 1].

  Raises:
    ValueError: the padding is not smaller than the image.
  """
  crop_key, flip_key = jax.random.split(key)
  if config.reflect_pad:
    image = _random_crop(image, crop_key, config.reflect_pad)
  if config.flip:
    is_flipped = jax.random.bernoulli(flip_key)
    image = jnp.where(is_flipped, image[:, ::-1], image)
  return to_float(image)


def to_float(image: types.Array) -> types.Array:
  """Maps uint8 in [0, 255] to float32 in [-1, 1]; floats stay as they are."""
  image = jnp.asarray(image)
  if image.dtype == jnp.uint8:
    return image.astype(jnp.float32) / 127.5 - 1.0
  return image.astype(jnp.float32)


def to_uint8(image: types.Array) -> np.ndarray:
  """Maps floats in [-1, 1] to uint8, clipped and rounded, on the host.

  >>> to_uint8(np.array([-1.0, 0.0, 2.0]))
  array([  0, 128, 255], dtype=uint8)
  """
  levels = (np.asarray(image, np.float32) + 1) * 127.5
  return np.round(np.clip(levels, 0, 255)).astype(np.uint8)


def _random_crop(image: types.Array, key: types.Key, pad: int) -> types.Array:
  height, width, channels = image.shape
  if pad >= min(height, width):
    raise ValueError(
      f'Expected reflect_pad={pad} to be < {min(height, width)}, the side '
      'of the image.'
    )
  padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
  top, left = jax.random.randint(key, (2,), 0, 2 * pad + 1)
  return jax.lax.dynamic_slice(
    padded, (top, left, 0), (height, width, channels)
  )
