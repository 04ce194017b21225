"""Tests whether synthetic images lie nearer to training than to held-out ones.

If the model did not copy, it would not matter which real images were trained
on, and that choice would be a random one. Where whole persons were held out it
is a random choice of persons: the images of a person are close to one another,
and a test that treats each image as its own choice would report copying where
there is none.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import special
from scipy import stats


@dataclasses.dataclass(frozen=True, kw_only=True)
class CloserToTrain:
  """How often the real image nearest to a synthetic one is a training image.

  Attributes:
    fraction: share of synthetic images whose nearest real image is a training
      image; a tie counts half.
    expected: expected share if the model copied nothing.
    z: (fraction - expected) in standard deviations over permutations of
      which real images, or persons, were trained on.
    p_value: one-sided p-value of z, for a fraction as large or larger.
    binomial_p_value: p-value of a binomial test, which assumes that no two
      synthetic images share their nearest real image; otherwise it is too
      small. Ties are left out.
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

  A unit is what was trained on or held out as a whole: an image or a person.
  Let w_j be the number of synthetic images whose nearest real image is of unit
  j; a tie between the two sets counts half. Under the null hypothesis, the T
  units trained on are a random choice from all T + M units. The sum of w_j over
  them then has mean S T / (T + M), where S is the sum of all w_j, and the
  variance of sampling without replacement.

  Args:
    to_train: float64[N], distance of each synthetic image to the nearest
      training image.
    to_held_out: float64[N], distance to the nearest held-out image.
    nearest_train: int64[N], index of the nearest training image.
    nearest_held_out: int64[N], index of the nearest held-out image.
    train_units: int[number of training images], the unit of each; there are T
      different ones.
    held_out_units: int[number of held-out images], the unit of each; there are
      M different ones. They are never the same units as in `train_units`, even
      if the numbers are equal.
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
  """Returns how many synthetic images are nearest to each unit.

  Args:
    nearest: int64[N], index of the image nearest to each synthetic image.
    share: float64[N], how much each synthetic image counts.
    units: int[number of images], the unit of each image.

  Returns:
    float64[number of units].
  """
  of_images = np.bincount(nearest, share, len(units))
  return np.bincount(np.unique(units, return_inverse=True)[1], of_images)
