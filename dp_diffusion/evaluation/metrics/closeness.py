"""Are training images nearest to synthetic ones more often than by chance?

If it did not matter which real images were trained on, which of them are so
would be a random choice. Where persons are held out, and not images, it is a
choice of persons: images of one of them are near one another, and to take each
for a choice of its own would find copying where there is none.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import special
from scipy import stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloserToTrain:
  """Which real image is nearest: one trained on, or one held out?

  Attributes:
    fraction: share of synthetic images whose nearest real image is a training
      image; a tie counts half.
    expected: that share if it did not matter which were trained on.
    z: (fraction - expected) in standard deviations over permutations of
      which real images, or persons, were trained on.
    p_value: one-sided, of a fraction as large or larger, from z.
    binomial_p_value: the same if synthetic images had neighbours of their
      own; too small where they share them. Ties are left out.
  """

  fraction: float
  expected: float
  z: float
  p_value: float
  binomial_p_value: float


def closer_to_train(
  to_train: np.ndarray,
  to_held_out: np.ndarray,
  nearest_train: np.ndarray,
  nearest_held_out: np.ndarray,
  train_units: np.ndarray,
  held_out_units: np.ndarray,
) -> CloserToTrain:
  """Tests whether training images are nearest more often than by chance.

  Let w_j be how many synthetic images have an image of unit j as their nearest
  (among both sets; ties halved). Under the null hypothesis the labels
  'trained on' are a random choice of T of the T + M units, so the sum of w_j
  over those trained on has mean S T / (T + M) and the variance of sampling
  without replacement.

  Args:
    to_train: float64[N], distance to the nearest training image.
    to_held_out: float64[N], to the nearest held-out image.
    nearest_train: int64[N], which training image.
    nearest_held_out: int64[N], which held-out image.
    train_units: int[number of training images], the unit of each that was
      trained on or held out as a whole: itself, or a person. T differ.
    held_out_units: int[number of held-out images], of which M differ; numbers
      of the two sets have nothing to do with one another.
  """
  train_share = np.where(to_train == to_held_out, 0.5, to_train < to_held_out)
  of_train = _by_unit(nearest_train, train_share, train_units)
  of_held_out = _by_unit(nearest_held_out, 1 - train_share, held_out_units)
  total = len(of_train) + len(of_held_out)
  expected = len(of_train) / total
  weights = np.concatenate([of_train, of_held_out])
  variance = expected * len(of_held_out) * weights.var(ddof=1)
  found = train_share.sum() - len(train_share) * expected
  z = float(found / np.sqrt(variance)) if variance > 0 else 0.0
  decided = train_share != 0.5
  wins, decisions = int(train_share[decided].sum()), int(decided.sum())
  binomial = stats.binom.sf(wins - 1, decisions, expected) if decisions else 1.0
  return CloserToTrain(
    fraction=float(train_share.mean()),
    expected=expected,
    z=z,
    p_value=float(special.ndtr(-z)),
    binomial_p_value=float(binomial),
  )


def _by_unit(
  nearest: np.ndarray, share: np.ndarray, units: np.ndarray
) -> np.ndarray:
  """How many synthetic images are nearest to each unit: float64[units]."""
  of_images = np.bincount(nearest, share, len(units))
  return np.bincount(np.unique(units, return_inverse=True)[1], of_images)
