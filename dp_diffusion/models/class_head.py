"""A linear classifier of pooled activations, which a release may contain.

`baselines.class_head` trains it privately; `evaluation.classifiers.activations`
computes what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np
from scipy import special


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassHead:
  """A linear classifier of pooled features of the network.

  Attributes:
    kernel: float32[F, K].
    bias: float32[K].
  """

  kernel: np.ndarray
  bias: np.ndarray

  def log_probs(self, features: np.ndarray) -> np.ndarray:
    """Returns logs of the probabilities of the classes.

    Args:
      features: float32[N, F].

    Returns:
      float64[N, K].
    """
    logits = features.astype(np.float64) @ self.kernel + self.bias
    return special.log_softmax(logits, axis=1)

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ClassHead:
    """Returns the head of these arrays, by name.

    Raises:
      ValueError: the arrays are no finite kernel and bias of fitting shapes.
    """
    shapes = {name: np.shape(value) for name, value in arrays.items()}
    is_whole = set(shapes) == {'kernel', 'bias'} and all(
      np.issubdtype(a.dtype, np.floating) and np.isfinite(a).all()
      for a in arrays.values()
    )
    if (
      not is_whole
      or len(shapes['kernel']) != 2
      or (shapes['bias'] != shapes['kernel'][1:])
    ):
      raise ValueError(
        f'Expected a class head, a kernel [F, K] and a bias [K], not {shapes}.'
      )
    return cls(**arrays)
