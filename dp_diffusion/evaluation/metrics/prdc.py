"""Improved precision and recall, which measure fidelity and coverage.

In Kynkaanniemi et al. 2019 (arXiv 1904.06991), the manifold of a set is the
union of balls around its points; the radius of a ball is the distance to the
k-th neighbour of the point. Precision is the share of synthetic images on the
manifold of the real ones, recall the share of real images on that of the
synthetic ones.

Both depend on the number of images, so compare them at equal numbers only.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import nearest_neighbors

Persons = tuple[np.ndarray | None, np.ndarray | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
  """Improved precision and recall.

  Attributes:
    precision: share of synthetic images on the real manifold, in [0, 1].
    recall: share of real images on the synthetic manifold, in [0, 1].
    precision_interval: 95 % interval over samples of the measured images, or
      of persons if they are known, for a fixed reference.
    recall_interval: 95 % interval over samples of the reference.
    num_neighbors: k.
    features: name of the features.
    reference: dataset and split of the reference images.
    num_reference: number of reference images.
    num_synthetic: number of images compared with them.
  """

  precision: float
  recall: float
  precision_interval: tuple[float, float]
  recall_interval: tuple[float, float]
  num_neighbors: int
  features: str
  reference: str
  num_reference: int
  num_synthetic: int

  def to_dict(self) -> dict[str, Any]:
    """Returns all fields as JSON values."""
    return dataclasses.asdict(self)


def compare(
  reference: np.ndarray,
  synthetic: np.ndarray,
  *,
  features_name: str,
  reference_name: str,
  num_neighbors: int = 3,
  block_size: int = nearest_neighbors.BLOCK_SIZE,
  reference_radii: np.ndarray | None = None,
  persons: Persons = (None, None),
  advance: nearest_neighbors.Advance = lambda _: None,
) -> PrecisionRecall:
  """Measures precision and recall with exact distances.

  Args:
    reference: float32[M, F], M > num_neighbors.
    synthetic: float32[N, F], N > num_neighbors.
    features_name: name of the features.
    reference_name: dataset and split of the reference.
    num_neighbors: k; the authors use 3.
    block_size: rows of a tile of distances.
    reference_radii: `radii` of the reference; None computes them.
    persons: int[M] and int[N], the person on each reference image and on each
      measured image, for the intervals; None if unknown.
    advance: called after each tile with the number of points that it completed,
      2 N in total, and M more without `reference_radii`; an exception that it
      raises ends the work.

  Raises:
    ValueError: there are too few images for k.
  """
  if reference_radii is None:
    reference_radii = radii(reference, num_neighbors, block_size, advance)
  synthetic_radii = radii(synthetic, num_neighbors, block_size, advance)
  is_precise = np.zeros(len(synthetic), bool)
  is_recalled = np.zeros(len(reference), bool)
  tiles = nearest_neighbors.squared_tiles(synthetic, reference, block_size)
  for rows, columns, tile in tiles:
    tile = np.sqrt(tile, out=tile)
    within = tile <= reference_radii[columns][None, :]
    is_precise[rows] |= within.any(axis=1)
    within = tile <= synthetic_radii[rows][:, None]
    is_recalled[columns] |= within.any(axis=0)
    advance((rows.stop - rows.start) * (columns.stop == len(reference)))
  return PrecisionRecall(
    precision=float(is_precise.mean()),
    recall=float(is_recalled.mean()),
    precision_interval=scoring.interval(is_precise, persons[1]),
    recall_interval=scoring.interval(is_recalled, persons[0]),
    num_neighbors=num_neighbors,
    features=features_name,
    reference=reference_name,
    num_reference=len(reference),
    num_synthetic=len(synthetic),
  )


def is_on_manifold(
  points: np.ndarray, reference: np.ndarray, reference_radii: np.ndarray
) -> np.ndarray:
  """Finds the points that lie on the manifold of the reference.

  Args:
    points: float32[N, F].
    reference: float32[M, F].
    reference_radii: float64[M], `radii` of the reference.

  Returns:
    bool[N], whether the point is on the manifold.
  """
  found = np.zeros(len(points), bool)
  tiles = nearest_neighbors.squared_tiles(points, reference)
  for rows, columns, tile in tiles:
    within = np.sqrt(tile) <= reference_radii[columns][None, :]
    found[rows] |= within.any(axis=1)
  return found


def radii(
  points: np.ndarray,
  num_neighbors: int = 3,
  block_size: int = nearest_neighbors.BLOCK_SIZE,
  advance: nearest_neighbors.Advance = lambda _: None,
) -> np.ndarray:
  """Returns the distance of each point to its k-th neighbour.

  Args:
    points: float32[N, F].
    num_neighbors: k.
    block_size: rows of a tile of distances.
    advance: called after each tile with the number of points that it completed.

  Returns:
    float64[N].
  """
  found = nearest_neighbors.nearest(
    points, points, num_neighbors, True, block_size, advance
  )
  return found[0][:, -1]
