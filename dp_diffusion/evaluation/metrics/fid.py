"""Frechet distance between two sets of features, and the removal of its bias.

FID (Heusel et al. 2017, arXiv 1706.08500) is this distance in the features of
one particular Inception-v3. In other features it is called a Frechet distance,
never FID. The distance depends only on means and covariances, so images can be
processed in blocks: 50,000 of them need one matrix of F x F.

The distance of a finite sample is too large, by about c / N with an unknown
c. FID-infinity (Chong & Forsyth 2020, arXiv 1911.07023) measures it at
several N and extrapolates to 1 / N = 0.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import Any

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.evaluation.metrics import features as features_lib

_ROWS_AT_ONCE = 4096  # 67 MB in float64 at F = 2048.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
  """Mean and scatter of a set of features.

  Attributes:
    num: number of feature vectors N.
    mean: float64[F].
    scatter: float64[F, F], sum over x of (x - mean) (x - mean)^T.
  """

  num: int
  mean: np.ndarray
  scatter: np.ndarray

  @property
  def num_features(self) -> int:
    """Number of features F."""
    return len(self.mean)

  @property
  def covariance(self) -> np.ndarray:
    """The covariance float64[F, F], the scatter divided by N - 1."""
    if self.num < 2:
      raise ValueError(
        f'Expected num={self.num!r} to be >= 2 for a covariance.'
      )
    return self.scatter / (self.num - 1)


def no_moments(num_features: int) -> Moments:
  """Returns the moments of an empty set, a start for `merge`."""
  return Moments(
    num=0,
    mean=np.zeros(num_features),
    scatter=np.zeros((num_features, num_features)),
  )


def moments(features: np.ndarray) -> Moments:
  """Computes the moments of features [N, F] in float64, block by block."""
  starts = range(0, len(features), _ROWS_AT_ONCE)
  blocks = (features[i : i + _ROWS_AT_ONCE] for i in starts)
  return stream_moments(blocks, features.shape[1])


def stream_moments(blocks: Iterable[np.ndarray], num_features: int) -> Moments:
  """Computes the moments of blocks [b, F], keeping a few of them in memory."""
  total = no_moments(num_features)
  waiting: list[np.ndarray] = []
  for block in blocks:
    waiting.append(block)
    # Merging many rows at once saves products of F x F.
    if sum(map(len, waiting)) >= num_features:
      total = merge(total, _block_moments(waiting))
      waiting = []
  return merge(total, _block_moments(waiting)) if waiting else total


def _block_moments(blocks: list[np.ndarray]) -> Moments:
  x = np.concatenate(blocks).astype(np.float64)
  mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
  x -= mean
  return Moments(num=len(x), mean=mean, scatter=x.T @ x)


def merge(a: Moments, b: Moments) -> Moments:
  """Returns the moments of a union (Chan et al. 1983); a set may be empty."""
  num = a.num + b.num
  if not a.num or not b.num:
    return a if a.num else b
  shift = b.mean - a.mean
  scatter = a.scatter + b.scatter
  scatter += np.outer(shift, shift) * (a.num * b.num / num)
  return Moments(num=num, mean=a.mean + shift * (b.num / num), scatter=scatter)


def _without(union: Moments, part: Moments) -> Moments:
  """Inverts `merge`: returns the moments of `union` without `part`."""
  num = union.num - part.num
  shift = part.mean - union.mean
  mean = union.mean - shift * (part.num / num)
  scatter = union.scatter - part.scatter
  scatter -= np.outer(shift, shift) * (union.num * part.num / num)
  return Moments(num=num, mean=mean, scatter=scatter)


def frechet_distance(a: Moments, b: Moments) -> float:
  """Returns the squared Frechet distance of two Gaussians with these moments.

  It is |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The trace of the root
  is computed as the sum of the square roots of the eigenvalues of R C_b R,
  where R = C_a^(1/2). These matrices are symmetric, so the result is real and
  finite even for singular covariances. (Other implementations take the root of
  C_a C_b, and add 1e-6 I where it is not finite.)

  Args:
    a: moments of one set.
    b: moments of the other.

  Returns:
    The distance, >= 0, in squared units of the features.

  Raises:
    ValueError: a set has fewer than two members, or the features differ.
  """
  return _distance(a, symmetric_root(a.covariance), b)


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
  """Returns the root of a symmetric positive semi-definite float64[F, F]."""
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _distance(a: Moments, root_a: np.ndarray, b: Moments) -> float:
  if a.num_features != b.num_features:
    raise ValueError(
      f'Expected features of one kind; got {a.num_features} and'
      f' {b.num_features} of them.'
    )
  covariance = b.covariance
  inner = root_a @ covariance @ root_a
  values = np.linalg.eigvalsh((inner + inner.T) / 2)
  trace_root = np.sqrt(np.maximum(values, 0.0)).sum()
  shift = a.mean - b.mean
  traces = np.trace(a.covariance) + np.trace(covariance)
  return float(max(0.0, shift @ shift + traces - 2 * trace_root))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrechetResult:
  """A Frechet distance, with what is needed to compare it with another.

  Attributes:
    value: the distance between the two samples.
    std_error: standard error of `value` over samples of synthetic images, for
      a fixed reference. See `jackknife_std_error`.
    value_at_infinity: the distance extrapolated to infinitely many synthetic
      images; 0 if the extrapolation is negative.
    features: name of the features.
    is_inception: whether they are the features of FID.
    reference: dataset and split of the reference images.
    num_reference: number of reference images.
    num_synthetic: number of images compared with them.
    curve: (N, distance of N synthetic images), the points of the extrapolation.
  """

  value: float
  std_error: float
  value_at_infinity: float
  features: str
  is_inception: bool
  reference: str
  num_reference: int
  num_synthetic: int
  curve: tuple[tuple[int, float], ...]

  @property
  def name(self) -> str:
    """'FID' for the features of FID, else 'Frechet distance (...)'."""
    if self.is_inception:
      return 'FID'
    return f'Frechet distance ({self.features} features)'

  def to_dict(self) -> dict[str, Any]:
    """Returns all fields and the name as JSON values."""
    return {'name': self.name} | dataclasses.asdict(self)


def check_enough(
  num: int, extractor: features_lib.FeatureExtractor, what: str
) -> None:
  """Refuses a sample so small that its covariance is singular.

  The message does not state `num`, since the number of real images is private.

  Args:
    num: number of images in the sample; more than F are needed.
    extractor: the features.
    what: name of the images in the message, such as 'synthetic images'.

  Raises:
    UsageError: there are too few.
  """
  if num <= extractor.num_features:
    raise errors.UsageError(
      f'Expected more than {extractor.num_features} {what} for a Frechet'
      f' distance in {extractor.name} features: take more images, fewer'
      ' features, or set evaluate.allow_few_images and get a number that is'
      ' far too large.'
    )


def compare(
  extractor: features_lib.FeatureExtractor,
  reference: Moments,
  synthetic: np.ndarray,
  *,
  reference_name: str,
  allow_few: bool = False,
  num_points: int = 15,
  seed: int = 0,
) -> FrechetResult:
  """Measures the Frechet distance of synthetic images from a reference.

  Args:
    extractor: the extractor of the features.
    reference: moments of the reference's features.
    synthetic: float32[N, F], features of the synthetic images.
    reference_name: dataset and split, such as 'CIFAR-10 train'.
    allow_few: whether to skip `check_enough`.
    num_points: number of sample sizes in the extrapolation.
    seed: seed of the order in which images are added to the samples.

  Raises:
    UsageError: there are too few samples.
  """
  if not allow_few:
    check_enough(reference.num, extractor, 'reference images')
    check_enough(len(synthetic), extractor, 'synthetic images')
  root = symmetric_root(reference.covariance)
  curve = sample_size_curve(reference, synthetic, num_points, seed, root=root)
  return FrechetResult(
    value=curve[-1][1],
    std_error=jackknife_std_error(reference, synthetic, seed=seed, root=root),
    value_at_infinity=max(0.0, extrapolate(curve)),
    features=extractor.name,
    is_inception=extractor.is_inception,
    reference=reference_name,
    num_reference=reference.num,
    num_synthetic=len(synthetic),
    curve=curve,
  )


def sample_size_curve(
  reference: Moments,
  synthetic: np.ndarray,
  num_points: int = 15,
  seed: int = 0,
  *,
  root: np.ndarray | None = None,
) -> tuple[tuple[int, float], ...]:
  """Measures the distance of growing samples of the synthetic images.

  The samples are nested: each adds images, in random order, to the one
  before, so that every image is read once. Sizes are evenly spaced from a
  tenth of all images (but more than F, if there are that many) to all.

  Args:
    reference: moments of the reference.
    synthetic: float32[N, F], features of the synthetic images.
    num_points: number of samples, at least 2.
    seed: seed of the random order.
    root: root of the reference's covariance; None computes it.

  Returns:
    (size, distance) by growing size; the last size is N.

  Raises:
    ValueError: there are fewer than 3 images or 2 points.
  """
  checks.check_at_least('num_points', num_points, 2)
  num = len(synthetic)
  checks.check_at_least('len(synthetic)', num, 3)
  first = max(2, num // 10, min(synthetic.shape[1] + 1, num // 2))
  sizes = np.unique(np.linspace(first, num, num_points).astype(int))
  order = np.random.default_rng(seed).permutation(num)
  if root is None:
    root = symmetric_root(reference.covariance)
  total = no_moments(synthetic.shape[1])
  curve = []
  for start, stop in zip([0, *sizes[:-1]], sizes, strict=True):
    for i in range(start, stop, _ROWS_AT_ONCE):
      rows = order[i : min(i + _ROWS_AT_ONCE, stop)]
      total = merge(total, moments(synthetic[rows]))
    curve.append((int(stop), _distance(reference, root, total)))
  return tuple(curve)


def jackknife_std_error(
  reference: Moments,
  synthetic: np.ndarray,
  *,
  num_groups: int = 10,
  seed: int = 0,
  root: np.ndarray | None = None,
) -> float:
  """Estimates the standard error of the distance by a jackknife over groups.

  This is the delete-a-group jackknife (Kott 2001). If d_g is the distance
  without group g of G, the variance is (G - 1) / G sum_g (d_g - mean)^2.

  Args:
    reference: moments of the reference.
    synthetic: float32[N, F], features of the synthetic images.
    num_groups: number of groups G; fewer if there are fewer images.
    seed: seed of the division into groups.
    root: root of the reference's covariance; None computes it.

  Returns:
    The standard error, in units of the distance.

  Raises:
    ValueError: there are fewer than 4 images.
  """
  checks.check_at_least('len(synthetic)', len(synthetic), 4)
  if root is None:
    root = symmetric_root(reference.covariance)
  order = np.random.default_rng(seed).permutation(len(synthetic))
  everything = moments(synthetic)
  values = []
  for rows in np.array_split(order, min(num_groups, len(order) // 2)):
    rest = _without(everything, moments(synthetic[np.sort(rows)]))
    values.append(_distance(reference, root, rest))
  scale = len(values) - 1
  return float(np.sqrt(scale * np.var(values)))


def extrapolate(curve: Iterable[tuple[int, float]]) -> float:
  """Fits distance = d + c / N by least squares and returns d.

  >>> round(extrapolate([(10, 1.2), (20, 1.1), (40, 1.05)]), 6)
  1.0
  """
  sizes, values = np.asarray(tuple(curve), np.float64).T
  return float(np.polyfit(1 / sizes, values, 1)[1])
