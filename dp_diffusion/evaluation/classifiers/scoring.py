"""Accuracies with their intervals: how classifiers do on the same images.

An accuracy says little alone: where most images are of one class, always
answering that class is right on most of them. So each score also holds that
share, the balanced accuracy (the mean over classes), the area under the ROC
curve for two classes, and the confusion matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import stats
from sklearn import metrics

_Z_95 = 1.959963984540054  # Standard normal quantile at 0.975.
_NUM_RESAMPLES = 2000
_MIN_SEEDS = 3  # That have a standard deviation worth showing.
_BOOTSTRAP_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
  """A share of correct predictions with its 95 % interval.

  Attributes:
    value: in [0, 1]; NaN when there is no example.
    low: lower end of the interval; see `interval`.
    high: upper end of the interval.
    num_examples: predictions that were judged.
    num_persons: of whom these examples are, where the interval allows for
      several of one person; 0 where examples count as independent.
  """

  value: float
  low: float
  high: float
  num_examples: int
  num_persons: int = 0

  def to_dict(self) -> dict[str, float | int | None]:
    """JSON form; NaN becomes None."""
    fields = dataclasses.asdict(self)
    return {k: None if math.isnan(v) else v for k, v in fields.items()}

  def is_guessing(self, majority_share: float) -> bool:
    """Whether the interval does not lie above always answering one class.

    Args:
      majority_share: of the commonest class; 1 where there is one class alone,
        and nothing to guess.
    """
    return majority_share < 1 and self.low <= majority_share


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Score:
  """How classifiers that differ by their seed do on the same images.

  Attributes:
    accuracy: mean over the seeds; its interval is that of one classifier with
      the mean accuracy, so it says how far these test images decide.
    of_seeds: accuracy of each seed's classifier.
    std: sample standard deviation over the seeds; NaN for fewer than three,
      whose spread says nothing.
    num_seeds: classifiers.
    per_class: mean accuracy among the examples of each class.
    majority_share: share of the commonest class, which is the accuracy of
      always answering it; NaN without examples.
    balanced_accuracy: mean of `per_class` over the classes that are there
      (scikit-learn's); guessing has 1 / their number.
    auroc: area under the ROC curve, mean over seeds; NaN for other than two
      classes, or where there are no probabilities.
    confusion_matrix: float64[K, K], examples of each class (row) by what they
      were taken for (column), mean over the seeds.
    num_classes_present: classes with examples.
    without_duplicates: accuracy on the images that equal no training image;
      None where all do so.
  """

  accuracy: Accuracy
  of_seeds: tuple[float, ...]
  std: float
  num_seeds: int
  per_class: tuple[Accuracy, ...]
  majority_share: float
  balanced_accuracy: float
  auroc: float
  confusion_matrix: np.ndarray
  num_classes_present: int
  without_duplicates: Accuracy | None = None

  @property
  def is_guessing(self) -> bool:
    """Whether the interval does not lie above always answering one class."""
    return self.accuracy.is_guessing(self.majority_share)

  @property
  def missed_classes(self) -> tuple[int, ...]:
    """Classes with examples, none of which was recognised by any seed."""
    return tuple(
      label for label, found in enumerate(self.per_class) if found.value == 0
    )


def accuracy(
  predicted: np.ndarray, labels: np.ndarray, persons: np.ndarray | None = None
) -> Accuracy:
  """Share of `predicted` int[N] equal to `labels` int[N].

  Args:
    predicted: int[N].
    labels: int[N].
    persons: int[N], who is on each image, where known; see `interval`.
  """
  _check_shapes(predicted, labels)
  return _of_correct(np.asarray(predicted) == np.asarray(labels), persons)


def per_class_accuracy(
  predicted: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  persons: np.ndarray | None = None,
) -> tuple[Accuracy, ...]:
  """Accuracy among the examples of each class (its recall), in label order."""
  _check_shapes(predicted, labels)
  labels = np.asarray(labels)
  correct = np.asarray(predicted) == labels
  return _by_class(correct, labels, num_classes, persons)


def score(
  predicted_per_seed: Sequence[np.ndarray],
  labels: np.ndarray,
  num_classes: int,
  *,
  probs_per_seed: Sequence[np.ndarray] = (),
  persons: np.ndarray | None = None,
  is_duplicate: np.ndarray | None = None,
) -> Score:
  """Judges predictions of one classifier per seed.

  Args:
    predicted_per_seed: int[N] each.
    labels: int[N].
    num_classes: K.
    probs_per_seed: float[N, K] each, for `Score.auroc`; () for none.
    persons: int[N], who is on each image, where known.
    is_duplicate: bool[N], which images equal a training image.
  """
  labels = np.asarray(labels)
  for predicted in predicted_per_seed:
    _check_shapes(predicted, labels)
  correct = np.stack([np.asarray(p) == labels for p in predicted_per_seed])
  values = correct.mean(axis=1) if len(labels) else [math.nan] * len(correct)
  mean = correct.mean(axis=0)
  per_class = _by_class(mean, labels, num_classes, persons)
  present = [found.value for found in per_class if found.num_examples]
  distinct = None
  if is_duplicate is not None and not is_duplicate.all():
    rest = ~is_duplicate
    distinct = _of_correct(mean[rest], _part(persons, rest))
  return Score(
    accuracy=_of_correct(mean, persons),
    of_seeds=tuple(map(float, values)),
    std=float(np.std(values, ddof=1))
    if len(correct) >= _MIN_SEEDS
    else math.nan,
    num_seeds=len(correct),
    per_class=per_class,
    majority_share=majority_share(labels),
    balanced_accuracy=float(np.mean(present)) if present else math.nan,
    auroc=auroc(probs_per_seed, labels),
    confusion_matrix=_confusion_matrix(predicted_per_seed, labels, num_classes),
    num_classes_present=len(present),
    without_duplicates=distinct,
  )


def majority_share(labels: np.ndarray) -> float:
  """Share of the commonest of int[N] labels; NaN for none.

  >>> majority_share(np.array([0, 1, 1, 1]))
  0.75
  """
  if not len(labels):
    return math.nan
  return float(np.bincount(np.asarray(labels)).max() / len(labels))


def auroc(probs_per_seed: Sequence[np.ndarray], labels: np.ndarray) -> float:
  """Area under the ROC curve of two classes, mean over the seeds.

  Args:
    probs_per_seed: float[N, K] each.
    labels: int[N].

  Returns:
    NaN for K other than 2, where a class has no example, or where a seed
    votes (every probability is 0 or 1), so that there is no curve.
  """
  if len(np.unique(labels)) != 2:
    return math.nan
  found = []
  for probs in probs_per_seed:
    if probs.shape[1] != 2 or np.isin(probs, (0, 1)).all():
      return math.nan
    found.append(metrics.roc_auc_score(labels, probs[:, 1]))
  return float(np.mean(found)) if found else math.nan


def interval(
  correct: np.ndarray, persons: np.ndarray | None = None
) -> tuple[float, float]:
  """95 % interval of the mean of `correct`.

  Wilson's where examples are independent. Images of one person are not: with
  `persons`, whole persons are drawn with replacement (the cluster bootstrap,
  2,000 times), and the interval is never narrower than Wilson's, nor than
  Student's t interval with the cluster-robust standard error, which allows for
  how little a few persons say of the spread among them. Where all persons are
  alike, Wilson's for as many trials as there are persons.

  Args:
    correct: float[N] in [0, 1], the share of seeds that were right.
    persons: int[N]; None where they are not known.

  Returns:
    (low, high); (0, 1) for nothing, or for one person, who shows no spread.
  """
  low, high = wilson_interval(float(correct.sum()), len(correct))
  if persons is None or not len(correct):
    return low, high
  _, unit = np.unique(persons, return_inverse=True)
  sums, counts = np.bincount(unit, correct), np.bincount(unit)
  num_persons = len(counts)
  if num_persons == 1:
    return 0.0, 1.0
  ends = wilson_interval(float(correct.mean()) * num_persons, num_persons)
  if np.ptp(sums / counts) > 0:
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    draws = []
    for _ in range(_NUM_RESAMPLES):
      times = np.bincount(
        rng.integers(0, num_persons, num_persons), minlength=num_persons
      )
      draws.append((times @ sums) / (times @ counts))
    half = _student_half_width(sums, counts)
    mean = sums.sum() / counts.sum()
    bootstrap = np.quantile(draws, [0.025, 0.975]).tolist()
    ends = (
      max(0.0, min(bootstrap[0], mean - half)),
      min(1.0, max(bootstrap[1], mean + half)),
    )
  return min(low, ends[0]), max(high, ends[1])


def _student_half_width(sums: np.ndarray, counts: np.ndarray) -> float:
  """Half of the 95 % t interval of a ratio of totals of K persons.

  Args:
    sums: float64[K], what each person adds to the numerator.
    counts: int64[K], and to the denominator.
  """
  num_persons = len(counts)
  rest = sums - sums.sum() / counts.sum() * counts
  scale = num_persons / (num_persons - 1)
  std_error = math.sqrt(scale * float(rest @ rest)) / counts.sum()
  return float(stats.t.ppf(0.975, num_persons - 1)) * std_error


def wilson_interval(
  num_correct: float, num_examples: int, z: float = _Z_95
) -> tuple[float, float]:
  """Score interval of a binomial proportion (Wilson 1927, eq. 4).

  Args:
    num_correct: successes; a mean of several counts is allowed.
    num_examples: trials.
    z: standard normal quantile; the default gives 95 %.

  Returns:
    (low, high) within [0, 1]; (0, 1) without trials.

  >>> [round(end, 3) for end in wilson_interval(90, 100)]
  [0.826, 0.945]
  """
  if not num_examples:
    return 0.0, 1.0
  share = num_correct / num_examples
  scale = 1 + z * z / num_examples
  centre = (share + z * z / (2 * num_examples)) / scale
  half_width = (z / scale) * math.sqrt(
    share * (1 - share) / num_examples + (z / (2 * num_examples)) ** 2
  )
  return min(share, centre - half_width), max(share, centre + half_width)


def _of_correct(correct: np.ndarray, persons: np.ndarray | None) -> Accuracy:
  """Accuracy of float[N] or bool[N], right or not (or a share of seeds)."""
  low, high = interval(correct, persons)
  return Accuracy(
    value=float(correct.mean()) if len(correct) else math.nan,
    low=low,
    high=high,
    num_examples=len(correct),
    num_persons=0 if persons is None else len(np.unique(persons)),
  )


def _by_class(
  correct: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  persons: np.ndarray | None,
) -> tuple[Accuracy, ...]:
  """Accuracy among the examples of each class."""
  masks = (labels == label for label in range(num_classes))
  return tuple(_of_correct(correct[m], _part(persons, m)) for m in masks)


def _part(persons: np.ndarray | None, mask: np.ndarray) -> np.ndarray | None:
  return None if persons is None else np.asarray(persons)[mask]


def _confusion_matrix(
  predicted_per_seed: Sequence[np.ndarray],
  labels: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Mean over the seeds: float64[K, K]."""
  total = np.zeros((num_classes, num_classes))
  for predicted in predicted_per_seed:
    np.add.at(total, (labels, np.asarray(predicted)), 1)
  return total / max(1, len(predicted_per_seed))


def _check_shapes(predicted: np.ndarray, labels: np.ndarray) -> None:
  if np.shape(predicted) != np.shape(labels):
    raise ValueError(
      f'Expected predictions of shape {np.shape(predicted)} to have the'
      f' shape {np.shape(labels)} of the labels.'
    )
