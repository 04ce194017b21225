"""An array of a file that is not read yet."""

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
