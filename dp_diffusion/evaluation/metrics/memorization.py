"""Does the generator copy its training images, or generalise?

Two questions are asked of the distances from synthetic images to the nearest
training and the nearest held-out image; pixels or any features will do.

  * Are synthetic images nearer to the training images than fresh real images
    are? `c_t` is the Mann-Whitney z-score of Meehan et al. 2020 (arXiv
    2004.05675). Copies bring it below -3, but so do low contrast and blur,
    which bring images nearer to all others: it is a hint. Far above 0 means
    that the images are not yet like real ones, and is no proof of privacy.
  * Are synthetic images nearer to training than to held-out images? If it did
    not matter which real images were trained on, the nearest real image of a
    synthetic one would be a training image as often as these are frequent.
    `closeness` tests that by permutation of the labels, which allows for many
    synthetic images having the same neighbour (a binomial test does not, and
    is given beside it), and for several images of one person. A few copies
    among many images do not show there; `num_copies` counts the exact ones,
    whether or not a held-out image equals them too: images that the data hold
    twice are the first that a model learns by heart.

Both hold only if training and held-out images come from one distribution: a
test hospital of its own will not do. A copy also stands among the `pairs`. All
of this reads training images: keep it private.
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
_MIN_TRAIN = 2  # A training image has a nearest neighbour.
_MIN_HALVED = 2  # Held-out images that have halves.
MIN_IN_CELL = 20  # Images on each side for a normal approximation.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """A synthetic image and the training image nearest to it.

  Attributes:
    synthetic: index of the synthetic image.
    train: index of the training image.
    distance: between the two.
    held_out_distance: from the synthetic image to the nearest held-out one.
  """

  synthetic: int
  train: int
  distance: float
  held_out_distance: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MemorizationResult:
  """What the distances say.

  Attributes:
    space: what the distances are measured in, such as 'pixels'.
    c_t: z-score of synthetic against held-out distances to the training
      images; far below 0 where there are copies, or images of low contrast.
    c_t_p_value: one-sided, of a score as low or lower.
    c_t_by_class: (label, score within the class), for classes with
      `MIN_IN_CELL` images on both sides; copying may be of one class only.
      Empty when no labels were given.
    closer_to_train: see there.
    authenticity: share of synthetic images that are further from their
      nearest training image than that one is from its own nearest (Alaa et
      al. 2022, arXiv 2102.08921).
    equal_to_train: indices of the synthetic images at distance 0 from a
      training image.
    num_shared_blanks: how many of these have one value alone and equal a
      held-out image, too: whoever draws nothing draws them.
    train_distances: float64[N], synthetic to nearest training image.
    held_out_distances: float64[N], synthetic to nearest held-out image.
    reference_distances: float64[M], held-out to nearest training image.
    pairs: the closest pairs, no training image twice.
    num_train: training images searched.
    num_held_out: M, held-out images searched.
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
    """Whether some are copies, or training images nearer, at 3 std."""
    return self.num_copies > 0 or self.closer_to_train.z > COPYING_Z

  @property
  def num_exact(self) -> int:
    """Synthetic images that equal a training image."""
    return len(self.equal_to_train)

  @property
  def num_copies(self) -> int:
    """Equal to a training image, but for blanks that are held out as well."""
    return self.num_exact - self.num_shared_blanks

  @property
  def num_held_out_equal_training(self) -> int:
    """Held-out images that equal a training image."""
    return int((self.reference_distances == 0).sum())

  @property
  def is_near_everything(self) -> bool:
    """Whether only `c_t` is low, as low contrast and blur make it too."""
    return self.c_t < -COPYING_Z and not self.is_copying and not self.num_exact

  def to_dict(self) -> dict[str, Any]:
    """JSON-able summary: quantiles in place of the distances, no pairs."""
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
  """Why copies cannot be looked for at all; '' where they can.

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
    train: [T, ...], what the model was fine-tuned on.
    held_out: [M, ...], of the same distribution, not trained on.
    space: what the distances are measured in.
    synthetic_labels: int[N], for `c_t_by_class`; None for none.
    held_out_labels: int[M].
    persons: who is on which image of `train` and of `held_out`, where persons
      were held out and not images; None for one image each.
    num_pairs: how many of the closest pairs to keep.
    advance: called now and then with the queries done since, which add up to
      `num_queries`; what it raises ends the search.

  Raises:
    ValueError: a set is empty, there is but one training image, or labels
      are given for one side only.
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
  """Nearest neighbours that `compare` asks for."""
  return 3 * num_synthetic + num_held_out


def num_real_queries(num_held_out: int, persons: Persons | None = None) -> int:
  """Nearest neighbours that `compare_real` asks for, with seed 0."""
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
  """The same tests of real images, for what they say without any copying.

  Args:
    train: [T, ...].
    held_out: [M, ...]. A random half (of the persons) stands in for the
      synthetic images, the rest stays held out.
    space: what the distances are measured in.
    persons: as of `compare`.
    seed: of the halves.
    advance: as of `compare`; adds up to `num_real_queries`.

  Returns:
    None for a single held-out image, which has no halves.
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
  """Indices of a random half of the persons' images, and of the others'."""
  _, unit = np.unique(
    persons[1] if persons else np.arange(num_held_out), return_inverse=True
  )
  if unit.max() == 0:  # One person cannot be divided: their images are.
    unit = np.arange(num_held_out)
  order = np.random.default_rng(seed).permutation(unit.max() + 1)
  first, _ = np.array_split(order, 2)
  is_first = np.isin(unit, first)
  return np.flatnonzero(is_first), np.flatnonzero(~is_first)


def mann_whitney_z(x: np.ndarray, y: np.ndarray) -> float:
  """z-score of the Mann-Whitney U statistic, corrected for ties.

  Args:
    x: [n].
    y: [m].

  Returns:
    Negative where x tends to be smaller than y; 0 where all are equal.

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
  """`mann_whitney_z` within each cell of the space, such as a class.

  Args:
    x: [n].
    x_cells: int[n], the cell of each.
    y: [m].
    y_cells: int[m].

  Returns:
    (cell, z) for each cell with `MIN_IN_CELL` on both sides, by cell.
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
  """The nearest alone: float64[N], int64[N]."""
  found = nearest_neighbors.nearest(queries, references, advance=advance)
  return found[0][:, 0], found[1][:, 0]


def _authenticity(
  train: np.ndarray,
  to_train: np.ndarray,
  nearest_train: np.ndarray,
  advance: nearest_neighbors.Advance,
) -> float:
  """Share of synthetic images outside the ball of their nearest neighbour.

  How many training images are nearest to some synthetic one is not told to
  `advance`, which a log may keep: it hears of all queries at the end.
  """
  used, place = np.unique(nearest_train, return_inverse=True)
  # The nearest of a training image is itself; the second is asked for. (A
  # copy within the training set gives 0, and nothing is nearer than that.)
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
