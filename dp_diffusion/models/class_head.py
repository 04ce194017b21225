"""A linear classifier of features of images, which a release may contain.

`baselines.class_head` trains it privately;
`evaluation.classifiers.head_features` computes what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np
from scipy import special

_NAMES = ({'kernel', 'bias'}, {'kernel', 'bias', 'scattering_kernel'})


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassHead:
  """A linear classifier of activations and, perhaps, scattering coefficients.

  Attributes:
    kernel: float32[A, K], of the activations.
    bias: float32[K].
    scattering_kernel: float32[S, K], of the scattering coefficients; None if
      they are not read.
  """

  kernel: np.ndarray
  bias: np.ndarray
  scattering_kernel: np.ndarray | None = None

  def log_probs(self, features: np.ndarray) -> np.ndarray:
    """Returns logs of the probabilities of the classes.

    Args:
      features: float32[N, A + S], or [N, A] without scattering coefficients.

    Returns:
      float64[N, K].
    """
    kernel = self.kernel
    if self.scattering_kernel is not None:
      kernel = np.concatenate([kernel, self.scattering_kernel])
    logits = features.astype(np.float64) @ kernel + self.bias
    return special.log_softmax(logits, axis=1)

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns the arrays by name."""
    named = {
      'kernel': self.kernel,
      'bias': self.bias,
      'scattering_kernel': self.scattering_kernel,
    }
    return {name: array for name, array in named.items() if array is not None}

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ClassHead:
    """Returns the head of these arrays, by name.

    Raises:
      ValueError: the arrays are no finite kernels and bias of fitting shapes.
    """
    shapes = {name: np.shape(value) for name, value in arrays.items()}
    is_whole = set(shapes) in _NAMES and all(
      np.issubdtype(a.dtype, np.floating) and np.isfinite(a).all()
      for a in arrays.values()
    )
    if not is_whole or any(
      len(shape) != 2 or shape[1:] != shapes['bias']
      for name, shape in shapes.items()
      if name != 'bias'
    ):
      raise ValueError(
        'Expected a class head, a kernel [A, K], a bias [K] and at most a'
        f' scattering_kernel [S, K], not {shapes}.'
      )
    return cls(**arrays)
