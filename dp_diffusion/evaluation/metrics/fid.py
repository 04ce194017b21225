"""Frechet distance between two sets of features, and its bias removed.

FID (Heusel et al. 2017, arXiv 1706.08500) is this distance in the features of
one Inception-v3; in any other features it is a Frechet distance and nothing
here lets it be called FID. A mean and a covariance are all it needs, so
images stream through: 50,000 of them need one matrix of F x F.

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
    num: N, how many.
    mean: float64[F].
    scatter: float64[F, F], sum of (x - mean) (x - mean)^T.
  """

  num: int
  mean: np.ndarray
  scatter: np.ndarray

  @property
  def num_features(self) -> int:
    """F."""
    return len(self.mean)

  @property
  def covariance(self) -> np.ndarray:
    """float64[F, F], divided by N - 1."""
    if self.num < 2:
      raise ValueError(
        f'Expected num={self.num!r} to be >= 2 for a covariance.'
      )
    return self.scatter / (self.num - 1)


def no_moments(num_features: int) -> Moments:
  """The moments of nothing, to which others are merged."""
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
  """Computes the moments of blocks [b, F], of which a few are kept at once."""
  total = no_moments(num_features)
  waiting: list[np.ndarray] = []
  for block in blocks:
    waiting.append(block)
    if sum(map(len, waiting)) >= num_features:  # Fewer products of F x F.
      total = merge(total, _block_moments(waiting))
      waiting = []
  return merge(total, _block_moments(waiting)) if waiting else total


def _block_moments(blocks: list[np.ndarray]) -> Moments:
  x = np.concatenate(blocks).astype(np.float64)
  mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
  x -= mean
  return Moments(num=len(x), mean=mean, scatter=x.T @ x)


def merge(a: Moments, b: Moments) -> Moments:
  """Moments of the union (Chan et al. 1983), of which one may be empty."""
  num = a.num + b.num
  if not a.num or not b.num:
    return a if a.num else b
  shift = b.mean - a.mean
  scatter = a.scatter + b.scatter
  scatter += np.outer(shift, shift) * (a.num * b.num / num)
  return Moments(num=num, mean=a.mean + shift * (b.num / num), scatter=scatter)


def _without(union: Moments, part: Moments) -> Moments:
  """Undoes `merge`: the moments of what is left."""
  num = union.num - part.num
  shift = part.mean - union.mean
  mean = union.mean - shift * (part.num / num)
  scatter = union.scatter - part.scatter
  scatter -= np.outer(shift, shift) * (union.num * part.num / num)
  return Moments(num=num, mean=mean, scatter=scatter)


def frechet_distance(a: Moments, b: Moments) -> float:
  """Squared Frechet distance of the Gaussians with these moments.

  |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with the trace of the
  root as the sum of the roots of the eigenvalues of R C_b R, R = C_a^(1/2).
  These matrices are symmetric, so the result is real and finite, also for
  singular covariances. (Implementations that take the root of C_a C_b itself
  add 1e-6 I when it comes out non-finite; here there is no such case.)

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
  """Root of a symmetric positive semi-definite float64[F, F]."""
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
  """A Frechet distance with all that it takes to compare it with another.

  Attributes:
    value: the distance between the two samples.
    std_error: of `value`, over samples of synthetic images; the reference
      counts as fixed. See `jackknife_std_error`.
    value_at_infinity: extrapolated to infinitely many synthetic images; 0
      where the line falls below, as no distance does.
    features: name of the features.
    is_inception: whether they are FID's.
    reference: what the reference images are: dataset and split.
    num_reference: how many there are.
    num_synthetic: how many images are compared with them.
    curve: (N, distance of N of the synthetic images), what was extrapolated.
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
    """'FID' for the features of FID, and for no others."""
    if self.is_inception:
      return 'FID'
    return f'Frechet distance ({self.features} features)'

  def to_dict(self) -> dict[str, Any]:
    """Everything, JSON-able, with the name."""
    return {'name': self.name} | dataclasses.asdict(self)


def check_enough(
  num: int, extractor: features_lib.FeatureExtractor, what: str
) -> None:
  """Refuses a sample of which the covariance is singular.

  How many there are is not said: the number of real ones is no public fact.

  Args:
    num: images in the sample; more than F are needed.
    extractor: the features.
    what: 'synthetic images' or the like, for the message.

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
    extractor: what the features were extracted with.
    reference: moments of the reference's features.
    synthetic: float32[N, F], features of the synthetic images.
    reference_name: dataset and split, such as 'CIFAR-10 train'.
    allow_few: whether to go on with too few samples; see `check_enough`.
    num_points: sample sizes that the extrapolation uses.
    seed: of the order in which images join these samples.

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
  tenth of all images (but more than F where there are as many) to all.

  Args:
    reference: moments of the reference.
    synthetic: float32[N, F].
    num_points: how many samples, at least 2.
    seed: of the order.
    root: of the reference's covariance, where it is known.

  Returns:
    (size, distance) by growing size; the last is that of all N.

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
  """Standard error of the distance, by leaving out a group at a time.

  The delete-a-group jackknife (Kott 2001): with d_g the distance without
  group g, the variance is (G - 1) / G sum (d_g - mean)^2.

  Args:
    reference: moments of the reference.
    synthetic: float32[N, F].
    num_groups: G; fewer where there are fewer images.
    seed: of the groups.
    root: of the reference's covariance, where it is known.

  Returns:
    In units of the distance.

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
