"""Gathers the images of a training step.

A record is what the guarantee protects: one image, or all images of one
person. Poisson selection (`privacy.batch_selection`) decides which records a
private step takes; this module reads their images. Public pre-training takes
shuffled batches that depend only on (seed, step), so it can be resumed without
a stored state.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
  """The images of each record.

  Attributes:
    images: int64[N_images], image indices sorted by record.
    starts: int64[N + 1]; record r has images[starts[r]:starts[r + 1]].
  """

  images: np.ndarray
  starts: np.ndarray

  @property
  def num_records(self) -> int:
    """Number of records N."""
    return len(self.starts) - 1

  @property
  def num_images(self) -> np.ndarray:
    """Number of images per record, int64[N], each at least 1."""
    return np.diff(self.starts)


def make_records(source: types.DataSource, unit: str) -> Records:
  """Groups images into records, persons in ascending order.

  Args:
    source: the images.
    unit: 'image' or 'person'.

  Returns:
    One record per image, or per distinct person.

  Raises:
    UsageError: the unit is 'person' and the source knows no persons.
  """
  checks.check_one_of('unit', unit, ('image', 'person'))
  num_images = len(source.labels)
  if unit == 'image':
    return Records(
      images=np.arange(num_images), starts=np.arange(num_images + 1)
    )
  if source.person is None:
    raise errors.UsageError(
      f"Expected data.unit='person' only for a source that knows persons; "
      f'{source.spec.name!r} does not.'
    )
  order = np.argsort(source.person, kind='stable')
  _, counts = np.unique(source.person, return_counts=True)
  starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
  return Records(images=order.astype(np.int64), starts=starts)


def gather(
  source: types.DataSource, indices: np.ndarray
) -> dict[str, np.ndarray]:
  """Reads images by index.

  Args:
    source: the images. A memory-mapped source is read at `indices` only.
    indices: int[...], image indices of any shape.

  Returns:
    {'image': uint8[..., H, W, C], 'label': int32[...]}, copies in memory.
  """
  indices = np.asarray(indices, np.int64)
  # Reading in sorted order is faster on a disk.
  flat, inverse = np.unique(indices, return_inverse=True)
  image = np.asarray(source.images[flat])
  if not np.array_equal(flat, indices):
    image = image[inverse.reshape(indices.shape)]
  return {
    'image': image,
    'label': np.asarray(source.labels)[indices].astype(np.int32),
  }


def draw_images(
  records: Records, indices: np.ndarray, num_draws: int, seed: bytes
) -> np.ndarray:
  """Picks an image of the record for each draw, uniformly.

  The pick depends only on (seed, record, draw), neither on the place in the
  batch nor on the number of draws or of other records.

  Args:
    records: the result of `make_records`.
    indices: int[B], record indices.
    num_draws: number of draws K.
    seed: secret bytes of this step, at least 16.

  Returns:
    int64[B, K], image indices.
  """
  if len(seed) < 16:
    raise ValueError(f'Expected seed of {len(seed)} bytes to be >= 16 bytes.')
  indices = np.asarray(indices, np.int64)
  words = np.empty((len(indices), num_draws), '<u8')
  for row, index in enumerate(indices):
    digest = hashlib.shake_256(seed + int(index).to_bytes(8, 'little'))
    words[row] = np.frombuffer(digest.digest(8 * num_draws), '<u8')
  # The bias of the remainder is below num_images / 2^64.
  picks = words % records.num_images[indices].astype(np.uint64)[:, None]
  return records.images[records.starts[indices][:, None] + picks.astype(int)]


def gather_records(
  source: types.DataSource,
  records: Records,
  indices: np.ndarray,
  num_draws: int,
  seed: bytes,
) -> dict[str, np.ndarray]:
  """Reads one image per (record, draw), see `draw_images`.

  Args:
    source: the images.
    records: the result of `make_records`.
    indices: int[B], record indices.
    num_draws: number of draws K.
    seed: secret bytes of this step, at least 16.

  Returns:
    {'image': uint8[B, K, H, W, C], 'label': int32[B, K]}.
  """
  return gather(source, draw_images(records, indices, num_draws, seed))


def public_indices(
  num_images: int, batch_size: int, seed: int, step: int
) -> np.ndarray:
  """Returns the image indices of one step of public training.

  Each epoch has its own shuffled order, and a batch may span two epochs. Every
  image is therefore used equally often, and a step can be computed without the
  steps before it.

  Args:
    num_images: number of images in the set.
    batch_size: number of images of a step; it may exceed num_images.
    seed: public seed.
    step: number of the step, counted from 0.

  Returns:
    int64[batch_size].
  """
  checks.check_positive('num_images', num_images)
  checks.check_positive('batch_size', batch_size)
  checks.check_non_negative('step', step)
  positions = np.arange(step * batch_size, (step + 1) * batch_size)
  epochs, offsets = positions // num_images, positions % num_images
  out = np.empty(batch_size, np.int64)
  for epoch in np.unique(epochs):
    is_here = epochs == epoch
    out[is_here] = _epoch_order(num_images, seed, int(epoch))[offsets[is_here]]
  return out


@functools.lru_cache(maxsize=2)
def _epoch_order(num_images: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(num_images)


def public_batch(
  source: types.DataSource, batch_size: int, seed: int, step: int
) -> dict[str, np.ndarray]:
  """Reads the batch of one step of public training, see `public_indices`.

  Args:
    source: the images.
    batch_size: number of images of a step.
    seed: public seed.
    step: number of the step, counted from 0.

  Returns:
    {'image': uint8[B, H, W, C], 'label': int32[B]}, copies in memory.
  """
  indices = public_indices(len(source.labels), batch_size, seed, step)
  return gather(source, indices)
