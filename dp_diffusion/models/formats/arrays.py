"""Arrays of a file whose values are read on demand, and changes of layout."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array whose shape is known and whose values are read on demand.

  Attributes:
    shape: shape of the array.
    load: reads the values, float32 of that shape. It raises ValueError when
      the file is damaged.
  """

  shape: tuple[int, ...]
  load: Callable[[], np.ndarray]


def changed(
  array: LazyArray, change: Callable[[np.ndarray], np.ndarray]
) -> LazyArray:
  """Returns an array in another layout, still to be read on demand.

  Args:
    array: an array of the file.
    change: changes the layout of the values. Where it raises ValueError, for an
      array of another rank, the array is returned as it is; a later comparison
      of shapes then names it.

  Returns:
    The array in the layout that `change` makes, contiguous once read.
  """
  try:
    shape = change(np.broadcast_to(np.float32(0), array.shape)).shape
  except ValueError:
    return array
  return LazyArray(shape, lambda: np.ascontiguousarray(change(array.load())))


def kernel(x: np.ndarray) -> np.ndarray:
  """Transposes a kernel from [Cout, Cin, H, W] to [H, W, Cin, Cout]."""
  return x.transpose(2, 3, 1, 0)


def matrix(x: np.ndarray) -> np.ndarray:
  """Transposes a matrix from [out, in] to [in, out]."""
  return x.transpose(1, 0)
