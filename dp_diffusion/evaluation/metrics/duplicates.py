"""Finds images that are equal to the bit, decoded at the size of the run.

Real datasets contain some images twice. A held-out image that was also trained
on does not test anything. A synthetic image that equals a training image is a
copy, even if a held-out image equals it too.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

import numpy as np

_ROWS_AT_ONCE = 1024


def equal_to_any(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Finds the images that equal one of the others.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    others: uint8[M, H, W, C]; may be memory-mapped.

  Returns:
    bool[N], whether the image equals one of `others`.

  >>> a = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
  >>> equal_to_any(a, a[1:2])
  array([False,  True, False])
  """
  known = set(digests(others, np.arange(len(others))))
  all_rows = np.arange(len(images))
  found = [digest in known for digest in digests(images, all_rows)]
  return np.array(found, bool)


def is_blank(points: np.ndarray) -> np.ndarray:
  """Finds the images that have a single colour.

  Args:
    points: images [N, H, W, C], or features [N, F].

  Returns:
    bool[N], whether all pixels, or all features, of the row are equal.
  """
  if not len(points):
    return np.zeros(0, bool)
  channels = points.shape[-1] if points.ndim > 2 else 1
  flat = points.reshape(len(points), -1, channels)
  return (flat == flat[:, :1]).all(axis=(1, 2))


def digests(images: np.ndarray, rows: np.ndarray) -> Iterator[bytes]:
  """Computes the SHA-256 of the content of some images, reading in blocks.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    rows: int64[n], indices of the images to read.

  Yields:
    32 bytes for each of `rows`, in order.
  """
  for start in range(0, len(rows), _ROWS_AT_ONCE):
    for image in np.asarray(images[rows[start : start + _ROWS_AT_ONCE]]):
      content = np.ascontiguousarray(image)
      yield hashlib.sha256(content.data).digest()
