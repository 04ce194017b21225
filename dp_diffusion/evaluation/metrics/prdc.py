"""Improved precision and recall: fidelity and coverage, apart.

Kynkaanniemi et al. 2019 (arXiv 1904.06991): the manifold of a set is the
union of balls about its points, each as large as the distance to its k-th
neighbour. Precision is the share of synthetic images on the manifold of the
real ones, recall the share of real images on that of the synthetic ones.
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
    precision: in [0, 1].
    recall: in [0, 1].
    precision_interval: 95 % interval over samples of the measured images, by
      person where persons are known; the reference counts as fixed.
    recall_interval: the same over samples of the reference.
    num_neighbors: k.
    features: name of the features.
    reference: what the reference images are: dataset and split.
    num_reference: how many there are.
    num_synthetic: how many images are compared with them.
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
    """Everything, JSON-able."""
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
  """Measures precision and recall exactly.

  Args:
    reference: float32[M, F], M > num_neighbors.
    synthetic: float32[N, F], N > num_neighbors.
    features_name: of the features.
    reference_name: dataset and split.
    num_neighbors: k; the paper's 3.
    block_size: rows of a tile of distances.
    reference_radii: `radii` of the reference, where they are known.
    persons: int[M] who is on each image of the reference and int[N] of the
      measured ones, for the intervals; None where not known.
    advance: called after each tile with the points that it completed, 2 N in
      all, and M more without `reference_radii`; what it raises ends the work.

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
  """Which points lie among those of the reference, as precision counts them.

  Args:
    points: float32[N, F].
    reference: float32[M, F].
    reference_radii: float64[M], `radii` of the reference.

  Returns:
    bool[N].
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
  """Distance float64[N] of each of [N, F] to its k-th neighbour among them."""
  found = nearest_neighbors.nearest(
    points, points, num_neighbors, True, block_size, advance
  )
  return found[0][:, -1]
