"""Whether two sets of decoded images share one: compared under a key.

What is compared are arrays of one shape, as networks see them, so that neither
file names nor lossless formats matter. An image of a single colour is left
out: a blank one occurs anywhere, and says nothing of anybody. Only hashes of 8
bytes are kept, and none leaves this module; among 1.3 million images and
another 300,000, a pair that differs is taken for equal with a probability of
2e-8.

Guarantees:
  * One equal image is enough, in whatever order and block.
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
  """Whether an image is in both.

  Args:
    first: uint8[N, H, W, C]; may be memory-mapped.
    second: uint8[M, H, W, C].
    key: 32 secret bytes.

  Raises:
    ValueError: images of two shapes, which could never be equal.
  """
  if first.shape[1:] != second.shape[1:]:
    raise ValueError(
      f'Expected images of one shape, found {list(first.shape[1:])} and'
      f' {list(second.shape[1:])}.'
    )
  found = np.isin(digests(first, key), digests(second, key))
  return bool(found.any())


def digests(images: np.ndarray, key: bytes) -> np.ndarray:
  """Keyed hashes of the images that are not of a single colour.

  Args:
    images: uint8[N, H, W, C].
    key: up to 64 bytes.

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
  """Hex SHA-256 of the shape of images and of all pixels in order."""
  digest = hashlib.sha256(f'uint8 {tuple(images.shape)}'.encode())
  for block in _blocks(images):
    digest.update(block.tobytes())
  return digest.hexdigest()


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
  num_bytes = max(1, int(np.prod(images.shape[1:])))
  size = max(1, _BLOCK_BYTES // num_bytes)
  for start in range(0, len(images), size):
    yield np.ascontiguousarray(images[start : start + size])
