"""Kernel Inception distance: an unbiased distance with a standard error.

KID (Binkowski et al. 2018, arXiv 1801.01401) is the squared maximum mean
discrepancy under the kernel (x.y / F + 1)^3. Its estimate is unbiased for any
number of samples, and may be negative. In features other than FID's it is
called a kernel distance, never KID.

The distance is averaged over subsets of the images. The subsets are disjoint,
so their estimates are independent and give the standard error of the mean.
(Other implementations draw overlapping subsets, which makes the error look
smaller than it is.)
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
    value: mean over the subsets, an unbiased estimate.
    std_error: standard error of that mean.
    num_subsets: number of subsets of each set of images.
    subset_size: images in each subset.
    features: name of the features.
    is_inception: whether they are the features of FID.
    reference: dataset and split of the reference images.
    num_reference: number of reference images.
    num_synthetic: number of images compared with them.
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
    """'KID' for the features of FID, else 'kernel distance (...)'."""
    if self.is_inception:
      return 'KID'
    return f'kernel distance ({self.features} features)'

  def to_dict(self) -> dict[str, Any]:
    """Returns all fields and the name as JSON values."""
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
    extractor: the extractor of the features.
    reference: float32[M, F], features of the reference images.
    synthetic: float32[N, F], features of the synthetic images.
    reference_name: dataset and split of the reference.
    seed: seed of the division into subsets.

  Returns:
    The mean over disjoint subsets of 1,000 images, as many as the smaller set
    allows. If that has fewer than 10,000 images, a subset is a tenth of it.

  Raises:
    UsageError: a set has fewer than 20 images.
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
  """Returns the unbiased estimate of the squared MMD (Gretton 2012, eq. 3).

  Args:
    x: float[m, F] with m >= 2.
    y: float[n, F] with n >= 2.

  Returns:
    The mean of k(x_i, x_j) over i != j, plus that of k(y_i, y_j) over i != j,
    minus twice the mean of k(x_i, y_j).
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  within = _mean_off_diagonal(x) + _mean_off_diagonal(y)
  return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_off_diagonal(x: np.ndarray) -> float:
  kernel = _kernel(x, x)
  return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
