"""Kernel Inception distance: an unbiased distance with a standard error.

KID (Binkowski et al. 2018, arXiv 1801.01401) is the squared maximum mean
discrepancy under the kernel (x.y / F + 1)^3. Its estimate is unbiased for any
number of samples, and may be negative. In features other than FID's it is a
kernel distance, never called KID.

The subsets here share no image, so that their estimates are independent and
the standard error is that of their mean. (Others draw subsets that overlap;
the spread of these says less than it seems to.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dp_diffusion import errors
from dp_diffusion.evaluation.metrics import features as features_lib

MAX_SUBSET_SIZE = 1000
MIN_SUBSETS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelResult:
  """A kernel distance.

  Attributes:
    value: mean over the subsets; unbiased.
    std_error: standard error of that mean.
    num_subsets: how many subsets of each side.
    subset_size: images in each.
    features: name of the features.
    is_inception: whether they are FID's.
    reference: what the reference images are: dataset and split.
    num_reference: how many there are.
    num_synthetic: how many images are compared with them.
  """

  value: float
  std_error: float
  num_subsets: int
  subset_size: int
  features: str
  is_inception: bool
  reference: str
  num_reference: int
  num_synthetic: int

  @property
  def name(self) -> str:
    """'KID' for the features of FID, and for no others."""
    if self.is_inception:
      return 'KID'
    return f'kernel distance ({self.features} features)'

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able, with the name."""
    return {'name': self.name} | dataclasses.asdict(self)


def compare(
  extractor: features_lib.FeatureExtractor,
  reference: np.ndarray,
  synthetic: np.ndarray,
  *,
  reference_name: str,
  seed: int = 0,
) -> KernelResult:
  """Measures the kernel distance of synthetic images from a reference.

  Args:
    extractor: what the features were extracted with.
    reference: float32[M, F].
    synthetic: float32[N, F].
    reference_name: dataset and split.
    seed: of the partition into subsets.

  Returns:
    The mean over as many disjoint subsets of 1,000 as the smaller side has;
    of a tenth of it where there are fewer than 10,000.

  Raises:
    UsageError: a side has fewer than 20 images.
  """
  smaller = min(len(reference), len(synthetic))
  if smaller < 2 * MIN_SUBSETS:
    raise errors.UsageError(
      f'Expected at least {2 * MIN_SUBSETS} images on each side for a kernel'
      " distance; evaluate.features='' leaves distances out."
    )
  size = min(MAX_SUBSET_SIZE, smaller // MIN_SUBSETS)
  num_subsets = smaller // size
  rng = np.random.default_rng(seed)
  picked = [
    rng.permutation(len(x))[: num_subsets * size].reshape(num_subsets, size)
    for x in (reference, synthetic)
  ]
  values = [
    squared_mmd(reference[np.sort(i)], synthetic[np.sort(j)])
    for i, j in zip(*picked, strict=True)
  ]
  return KernelResult(
    value=float(np.mean(values)),
    std_error=float(np.std(values, ddof=1) / np.sqrt(num_subsets)),
    num_subsets=num_subsets,
    subset_size=size,
    features=extractor.name,
    is_inception=extractor.is_inception,
    reference=reference_name,
    num_reference=len(reference),
    num_synthetic=len(synthetic),
  )


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
  """Unbiased estimate of the squared MMD (Gretton et al. 2012, eq. 3).

  Args:
    x: [m, F] with m >= 2.
    y: [n, F] with n >= 2.

  Returns:
    mean of k(x_i, x_j) and of k(y_i, y_j) over i != j, less twice the mean
    of k(x_i, y_j).
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  within = _mean_off_diagonal(x) + _mean_off_diagonal(y)
  return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_off_diagonal(x: np.ndarray) -> float:
  kernel = _kernel(x, x)
  return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
