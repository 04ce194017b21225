"""Which images equal others to the bit, as decoded at the size of the run.

Real datasets hold images twice. A held-out image that was also trained on is
no test, and a synthetic image that equals a training image is a copy wherever
else that image lies.
"""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

import numpy as np

_ROWS_AT_ONCE = 1024


def equal_to_any(images: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Which images equal one of the others.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    others: uint8[M, H, W, C], likewise.

  Returns:
    bool[N].

  >>> a = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
  >>> equal_to_any(a, a[1:2])
  array([False,  True, False])
  """
  known = set(digests(others, np.arange(len(others))))
  all_rows = np.arange(len(images))
  found = [digest in known for digest in digests(images, all_rows)]
  return np.array(found, bool)


def is_blank(points: np.ndarray) -> np.ndarray:
  """Which images have one colour alone.

  Args:
    points: [N, H, W, C], or [N, F] features.

  Returns:
    bool[N].
  """
  if not len(points):
    return np.zeros(0, bool)
  channels = points.shape[-1] if points.ndim > 2 else 1
  flat = points.reshape(len(points), -1, channels)
  return (flat == flat[:, :1]).all(axis=(1, 2))


def digests(images: np.ndarray, rows: np.ndarray) -> Iterator[bytes]:
  """SHA-256 of each image's content, in blocks.

  Args:
    images: uint8[N, H, W, C]; may be memory-mapped.
    rows: int64[n], which of them.

  Yields:
    32 bytes per row.
  """
  for start in range(0, len(rows), _ROWS_AT_ONCE):
    for image in np.asarray(images[rows[start : start + _ROWS_AT_ONCE]]):
      content = np.ascontiguousarray(image)
      yield hashlib.sha256(content.data).digest()
