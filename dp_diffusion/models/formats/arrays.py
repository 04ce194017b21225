"""An array of a file that is not read yet, and its layout."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """Shape at once, values when asked for.

  Attributes:
    shape: of the array.
    load: returns float32 of that shape; raises ValueError when the file is
      damaged.
  """

  shape: tuple[int, ...]
  load: Callable[[], np.ndarray]


def changed(
  array: LazyArray, change: Callable[[np.ndarray], np.ndarray]
) -> LazyArray:
  """An array in another layout.

  Args:
    array: of the file.
    change: of its values; a ValueError for another rank leaves it as it is,
      to be named when shapes are compared.

  Returns:
    The array that `change` makes, contiguous.
  """
  try:
    shape = change(np.broadcast_to(np.float32(0), array.shape)).shape
  except ValueError:
    return array
  return LazyArray(shape, lambda: np.ascontiguousarray(change(array.load())))


def kernel(x: np.ndarray) -> np.ndarray:
  """[Cout, Cin, H, W] to [H, W, Cin, Cout]."""
  return x.transpose(2, 3, 1, 0)


def matrix(x: np.ndarray) -> np.ndarray:
  """[out, in] to [in, out]."""
  return x.transpose(1, 0)
