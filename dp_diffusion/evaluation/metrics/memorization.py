"""Tests whether the generator copies its training images.

Two tests use the distances from synthetic images to the nearest training image
and to the nearest held-out image, in pixels or in features:

  * Are synthetic images nearer to the training images than new real images
    are? `c_t` is the Mann-Whitney z-score of Meehan et al. 2020 (arXiv
    2004.05675). Copies make it less than -3. Low contrast and blur do so too,
    because they bring images nearer to all others, so a low value is only a
    hint. A value far above 0 means that the images do not look like real ones
    yet; it does not prove privacy.
  * Are synthetic images nearer to training than to held-out images? Without
    copying, the real image nearest to a synthetic one would be a training image
    as often as the share of training images among the real ones. `closeness`
    tests this by permutation, which allows for synthetic images that share a
    neighbour and for several images of one person. (A binomial test, which
    allows for neither, is reported beside it.) The test does not detect a few
    copies among many images. `num_copies` counts the exact copies, also those
    that equal a held-out image too: a model is most likely to memorise images
    that occur twice.

Both tests require that training and held-out images come from one distribution;
a test hospital of its own does not qualify. `pairs` holds the closest pairs, to
be looked at. Everything here is computed from training images: keep it private.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import special
from scipy import stats

from dp_diffusion import checks
from dp_diffusion.evaluation.metrics import closeness
from dp_diffusion.evaluation.metrics import duplicates
from dp_diffusion.evaluation.metrics import nearest_neighbors

Persons = tuple[np.ndarray, np.ndarray]
COPYING_Z = 3.0
_MIN_TRAIN = 2  # Each training image needs another as its neighbour.
_MIN_HALVED = 2  # Fewer held-out images cannot be halved.
MIN_IN_CELL = 20  # Images of each set that a normal approximation needs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A synthetic image and the training image nearest to it.

  Attributes:
    synthetic: index of the synthetic image.
    train: index of the training image.
    distance: distance between the two.
    held_out_distance: distance from the synthetic image to the nearest
      held-out image.
  """

  synthetic: int
  train: int
  distance: float
  held_out_distance: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MemorizationResult:
  """Results of the tests for copies.

  Attributes:
    space: space of the distances, such as 'pixels'.
    c_t: z-score of the distances of synthetic images to the training images
      against those of held-out images. It is far below 0 if there are copies,
      or images of low contrast.
    c_t_p_value: one-sided p-value, for a score as low or lower.
    c_t_by_class: (label, score within the class) for classes with at least
      `MIN_IN_CELL` images in both sets, since copying may concern one class
      only. Empty if no labels were given.
    closer_to_train: result of `closeness.closer_to_train`.
    authenticity: share of synthetic images whose distance to the nearest
      training image is larger than the distance of that training image to its
      own nearest training image (Alaa et al. 2022, arXiv 2102.08921).
    equal_to_train: indices of the synthetic images at distance 0 from a
      training image.
    num_shared_blanks: how many of these have a single colour and also equal a
      held-out image; a model may draw them without copying.
    train_distances: float64[N], from synthetic to nearest training image.
    held_out_distances: float64[N], from synthetic to nearest held-out image.
    reference_distances: float64[M], from held-out to nearest training image.
    pairs: the closest pairs, with each training image at most once.
    num_train: number of training images searched.
    num_held_out: number M of held-out images searched.
  """

  space: str
  c_t: float
  c_t_p_value: float
  c_t_by_class: tuple[tuple[int, float], ...]
  closer_to_train: closeness.CloserToTrain
  authenticity: float
  equal_to_train: tuple[int, ...]
  num_shared_blanks: int
  train_distances: np.ndarray
  held_out_distances: np.ndarray
  reference_distances: np.ndarray
  pairs: tuple[Pair, ...]
  num_train: int
  num_held_out: int

  @property
  def is_copying(self) -> bool:
    """Whether there are copies, or `closer_to_train` is above 3 std."""
    return self.num_copies > 0 or self.closer_to_train.z > COPYING_Z

  @property
  def num_exact(self) -> int:
    """Number of synthetic images that equal a training image."""
    return len(self.equal_to_train)

  @property
  def num_copies(self) -> int:
    """`num_exact` without the images of `num_shared_blanks`."""
    return self.num_exact - self.num_shared_blanks

  @property
  def num_held_out_equal_training(self) -> int:
    """Number of held-out images that equal a training image."""
    return int((self.reference_distances == 0).sum())

  @property
  def is_near_everything(self) -> bool:
    """Whether `c_t` is low without copying, as for low contrast or blur."""
    return self.c_t < -COPYING_Z and not self.is_copying and not self.num_exact

  def to_dict(self) -> dict[str, Any]:
    """Returns a summary as JSON values.

    It holds quantiles of the distances, and no pairs.
    """
    levels = (0.0, 0.01, 0.1, 0.5, 0.9)
    quantiles = {
      name: dict(
        zip(map(str, levels), np.quantile(values, levels).tolist(), strict=True)
      )
      for name, values in (
        ('synthetic_to_train', self.train_distances),
        ('synthetic_to_held_out', self.held_out_distances),
        ('held_out_to_train', self.reference_distances),
      )
    }
    return {
      'space': self.space,
      'is_copying': self.is_copying,
      'c_t': self.c_t,
      'c_t_p_value': self.c_t_p_value,
      'c_t_by_class': [list(cell) for cell in self.c_t_by_class],
      'closer_to_train': dataclasses.asdict(self.closer_to_train),
      'authenticity': self.authenticity,
      'num_exact': self.num_exact,
      'num_copies': self.num_copies,
      'num_shared_blanks': self.num_shared_blanks,
      'equal_to_train': list(self.equal_to_train),
      'num_held_out_equal_training': self.num_held_out_equal_training,
      'num_synthetic': len(self.train_distances),
      'num_train': self.num_train,
      'num_held_out': self.num_held_out,
      'distance_quantiles': quantiles,
    }


def reason_for_none(num_synthetic: int, num_train: int, num_held: int) -> str:
  """Returns why copies cannot be looked for at all; '' if they can.

  >>> reason_for_none(60, 100, 1)
  ''
  """
  found = (
    ('synthetic', num_synthetic, 1),
    ('training', num_train, _MIN_TRAIN),
    ('held-out', num_held, 1),
  )
  few = [f'{name} images: {n}' for name, n, least in found if n < least]
  if not few:
    return ''
  return f'Copies were not looked for: too few images ({", ".join(few)}).'


def compare(
  synthetic: np.ndarray,
  train: np.ndarray,
  held_out: np.ndarray,
  *,
  space: str,
  synthetic_labels: np.ndarray | None = None,
  held_out_labels: np.ndarray | None = None,
  persons: Persons | None = None,
  num_pairs: int = 16,
  advance: nearest_neighbors.Advance = lambda _: None,
) -> MemorizationResult:
  """Tests synthetic images for copies of training images.

  Args:
    synthetic: [N, ...], uint8 images or float32 features.
    train: [T, ...], images or features that the model was fine-tuned on.
    held_out: [M, ...], of the same distribution and not trained on.
    space: name of the space of the distances, such as 'pixels'.
    synthetic_labels: int[N], for `c_t_by_class`; None leaves that empty.
    held_out_labels: int[M]; None if `synthetic_labels` is None.
    persons: the person on each image of `train` and of `held_out`, if whole
      persons were held out; None if images were.
    num_pairs: number of closest pairs to keep.
    advance: called repeatedly with the number of queries done since, which add
      up to `num_queries`; an exception that it raises ends the search.

  Raises:
    ValueError: a set is empty, there is only one training image, or labels
      are given for one set only.
  """
  for name, points, least in (
    ('synthetic', synthetic, 1),
    ('train', train, _MIN_TRAIN),
    ('held_out', held_out, 1),
  ):
    checks.check_at_least(f'len({name})', len(points), least)
  if (synthetic_labels is None) != (held_out_labels is None):
    raise ValueError('Expected labels of both sides or of neither.')
  to_train, nearest_train = _first(synthetic, train, advance)
  to_held_out, nearest_held_out = _first(synthetic, held_out, advance)
  reference, _ = _first(held_out, train, advance)
  c_t = mann_whitney_z(to_train, reference)
  equal = np.flatnonzero(to_train == 0)
  return MemorizationResult(
    space=space,
    c_t=c_t,
    c_t_p_value=float(special.ndtr(c_t)),
    c_t_by_class=()
    if synthetic_labels is None or held_out_labels is None
    else z_by_cell(to_train, synthetic_labels, reference, held_out_labels),
    closer_to_train=closeness.closer_to_train(
      to_train,
      to_held_out,
      nearest_train,
      nearest_held_out,
      *(persons or (np.arange(len(train)), np.arange(len(held_out)))),
    ),
    authenticity=_authenticity(train, to_train, nearest_train, advance),
    equal_to_train=tuple(equal.tolist()),
    num_shared_blanks=int(
      (duplicates.is_blank(synthetic[equal]) & (to_held_out[equal] == 0)).sum()
    ),
    train_distances=to_train,
    held_out_distances=to_held_out,
    reference_distances=reference,
    pairs=_closest_pairs(to_train, to_held_out, nearest_train, num_pairs),
    num_train=len(train),
    num_held_out=len(held_out),
  )


def num_queries(num_synthetic: int, num_held_out: int) -> int:
  """Returns the number of nearest neighbours that `compare` searches."""
  return 3 * num_synthetic + num_held_out


def num_real_queries(num_held_out: int, persons: Persons | None = None) -> int:
  """Returns the number of neighbours that `compare_real` searches (seed 0)."""
  if num_held_out < _MIN_HALVED:
    return 0
  stand_ins, rest = _halves(num_held_out, persons, seed=0)
  return num_queries(len(stand_ins), len(rest))


def compare_real(
  train: np.ndarray,
  held_out: np.ndarray,
  *,
  space: str,
  persons: Persons | None = None,
  seed: int = 0,
  advance: nearest_neighbors.Advance = lambda _: None,
) -> MemorizationResult | None:
  """Runs the tests on real images, to show their results without copying.

  Args:
    train: [T, ...], images or features.
    held_out: [M, ...]. A random half of the images, or of the persons, takes
      the place of the synthetic images; the other half stays held out.
    space: name of the space of the distances.
    persons: see `compare`.
    seed: seed of the division into halves.
    advance: see `compare`; the queries add up to `num_real_queries`.

  Returns:
    The results, or None if there is a single held-out image.
  """
  if len(held_out) < _MIN_HALVED:
    return None
  stand_ins, rest = _halves(len(held_out), persons, seed)
  return compare(
    held_out[stand_ins],
    train,
    held_out[rest],
    space=space,
    persons=persons and (persons[0], persons[1][rest]),
    advance=advance,
  )


def _halves(
  num_held_out: int, persons: Persons | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the indices of images of a random half of persons, and the rest."""
  _, unit = np.unique(
    persons[1] if persons else np.arange(num_held_out), return_inverse=True
  )
  if unit.max() == 0:  # The images of a single person are divided.
    unit = np.arange(num_held_out)
  order = np.random.default_rng(seed).permutation(unit.max() + 1)
  first, _ = np.array_split(order, 2)
  is_first = np.isin(unit, first)
  return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def mann_whitney_z(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the z-score of the Mann-Whitney U statistic, corrected for ties.

  Args:
    x: float[n].
    y: float[m].

  Returns:
    The z-score: negative if x tends to be smaller than y, 0 if all values are
    equal.

  >>> round(mann_whitney_z(np.array([1, 2, 3]), np.array([4, 5, 6])), 4)
  -1.964
  """
  n, m = len(x), len(y)
  ranks = stats.rankdata(np.concatenate([x, y]))
  u = ranks[:n].sum() - n * (n + 1) / 2
  _, counts = np.unique(ranks, return_counts=True)
  total = n + m
  ties = (counts.astype(np.float64) ** 3 - counts).sum()
  variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
  if variance <= 0:
    return 0.0
  return float((u - n * m / 2) / np.sqrt(variance))


def z_by_cell(
  x: np.ndarray, x_cells: np.ndarray, y: np.ndarray, y_cells: np.ndarray
) -> tuple[tuple[int, float], ...]:
  """Computes `mann_whitney_z` within each cell, such as a class.

  Args:
    x: float[n].
    x_cells: int[n], the cell of each value of x.
    y: float[m].
    y_cells: int[m], the cell of each value of y.

  Returns:
    (cell, z) in the order of cells, for each cell with at least `MIN_IN_CELL`
    values of both x and y.
  """
  scores = []
  for cell in np.intersect1d(x_cells, y_cells):
    a, b = x[x_cells == cell], y[y_cells == cell]
    if min(len(a), len(b)) >= MIN_IN_CELL:
      scores.append((int(cell), mann_whitney_z(a, b)))
  return tuple(scores)


def _first(
  queries: np.ndarray,
  references: np.ndarray,
  advance: nearest_neighbors.Advance,
) -> tuple[np.ndarray, ...]:
  """Returns distance float64[N] and index int64[N] of the nearest reference."""
  found = nearest_neighbors.nearest(queries, references, advance=advance)
  return found[0][:, 0], found[1][:, 0]


def _authenticity(
  train: np.ndarray,
  to_train: np.ndarray,
  nearest_train: np.ndarray,
  advance: nearest_neighbors.Advance,
) -> float:
  """Computes `MemorizationResult.authenticity`.

  The number of training images that are nearest to a synthetic one is private,
  and a log may keep what `advance` is told. `advance` is therefore told the
  total at the end, which does not depend on that number.
  """
  used, place = np.unique(nearest_train, return_inverse=True)
  # The nearest training image of a training image is itself, so the second one
  # gives the radius. (It is 0 for an image that occurs twice.)
  radius = nearest_neighbors.nearest(
    train[used], train, 2, advance=lambda _: advance(0)
  )[0][:, 1]
  advance(len(to_train))
  return float((to_train > radius[place]).mean())


def _closest_pairs(
  to_train: np.ndarray,
  to_held_out: np.ndarray,
  nearest_train: np.ndarray,
  num_pairs: int,
) -> tuple[Pair, ...]:
  pairs: dict[int, Pair] = {}
  for i in np.argsort(to_train, kind='stable'):
    if len(pairs) >= num_pairs:
      break
    train = int(nearest_train[i])
    if train not in pairs:
      pairs[train] = Pair(
        synthetic=int(i),
        train=train,
        distance=float(to_train[i]),
        held_out_distance=float(to_held_out[i]),
      )
  return tuple(pairs.values())
