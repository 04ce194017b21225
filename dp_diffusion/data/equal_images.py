"""Finds out whether two sets of decoded images have an image in common.

The images are compared as arrays of one shape, as the networks use them, so
file names and lossless formats do not matter. Images of a single colour are
left out: blank images occur in many sets and say nothing of anybody. Only keyed
hashes of 8 bytes are kept, and no hash leaves this module. For sets of 1.3
million and of 300,000 images, the probability of taking different images for
equal is 2e-8.

Guarantees:
  * A single equal image is found, whatever its place in the sets.
    `tests/data/equal_images_test.py::test_one_equal_image_is_found`.
  * Images of a single colour do not count.
    `tests/data/equal_images_test.py::test_blank_images_do_not_count`.
  * Hashes under another key have nothing in common.
    `tests/data/equal_images_test.py::test_digests_depend_on_the_key`.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

import numpy as np

_DIGEST_BYTES = 8
_BLOCK_BYTES = 1 << 24


def share_one(first: np.ndarray, second: np.ndarray, key: bytes) -> bool:
  """Whether two sets have an image in common.

  Args:
    first: uint8[N, H, W, C]; may be memory-mapped.
    second: uint8[M, H, W, C]; may be memory-mapped.
    key: 32 secret bytes.

  Raises:
    ValueError: the images of the two sets have different shapes.
  """
  if first.shape[1:] != second.shape[1:]:
    raise ValueError(
      f'Expected images of one shape, found {list(first.shape[1:])} and'
      f' {list(second.shape[1:])}.'
    )
  found = np.isin(digests(first, key), digests(second, key))
  return bool(found.any())


def digests(images: np.ndarray, key: bytes) -> np.ndarray:
  """Returns keyed hashes of the images, without those of a single colour.

  Args:
    images: uint8[N, H, W, C].
    key: secret bytes, at most 64.

  Returns:
    uint64[n], n <= N.
  """
  found = bytearray()
  for block in _blocks(images):
    is_blank = (block == block[:, :1, :1]).all(axis=(1, 2, 3))
    for image in block[~is_blank]:
      data = image.tobytes()
      found += hashlib.blake2b(
        data, key=key, digest_size=_DIGEST_BYTES
      ).digest()
  return np.frombuffer(bytes(found), '<u8')


def content_sha256(images: np.ndarray) -> str:
  """Returns the hex SHA-256 of the shape of images and all their pixels."""
  digest = hashlib.sha256(f'uint8 {tuple(images.shape)}'.encode())
  for block in _blocks(images):
    digest.update(block.tobytes())
  return digest.hexdigest()


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
  num_bytes = max(1, int(np.prod(images.shape[1:])))
  size = max(1, _BLOCK_BYTES // num_bytes)
  for start in range(0, len(images), size):
    yield np.ascontiguousarray(images[start : start + size])
