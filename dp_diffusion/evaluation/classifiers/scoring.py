"""Scores predictions of classifiers: accuracies with intervals, and more.

An accuracy alone says little: where most images are of one class, a classifier
that always answers this class is right on most of them. Each score therefore
also holds the share of the commonest class, the balanced accuracy (the mean
over classes), the area under the ROC curve for two classes, and the confusion
matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import stats
from sklearn import metrics

Z_95 = 1.959963984540054  # Standard normal quantile at 0.975.
_NUM_RESAMPLES = 2000
_MIN_SEEDS = 3  # Fewer seeds have no meaningful standard deviation.
_BOOTSTRAP_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
  """A share of correct predictions with its 95 % interval.

  Attributes:
    value: in [0, 1]; NaN when there is no example.
    low: lower end of the interval; see `interval`.
    high: upper end of the interval.
    num_examples: number of predictions.
    num_persons: number of persons on these examples, if the interval allows
      for several examples of one person; 0 if examples count as independent.
  """

  value: float
  low: float
  high: float
  num_examples: int
  num_persons: int = 0

  def to_dict(self) -> dict[str, float | int | None]:
    """Returns the fields as JSON values; NaN becomes None."""
    fields = dataclasses.asdict(self)
    return {k: None if math.isnan(v) else v for k, v in fields.items()}

  def is_guessing(self, majority_share: float) -> bool:
    """Whether the accuracy may be no better than always answering one class.

    This is so if the interval does not lie above `majority_share`.

    Args:
      majority_share: share of the commonest class; 1 if there is only one class
        (the result is then False).
    """
    return majority_share < 1 and self.low <= majority_share


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Score:
  """Scores on the same images of classifiers that differ only by their seed.

  Attributes:
    accuracy: mean over the seeds. Its interval is that of one classifier with
      the mean accuracy: it covers the choice of test images, not of seeds.
    of_seeds: accuracy of each seed's classifier.
    std: sample standard deviation over the seeds; NaN for fewer than three
      seeds, too few to estimate it.
    num_seeds: number of classifiers.
    per_class: mean accuracy on the examples of each class.
    majority_share: share of the commonest class, which is the accuracy of
      always answering it; NaN without examples.
    balanced_accuracy: mean of `per_class` over the classes that have examples,
      as scikit-learn defines it; guessing reaches 1 / number of these classes.
    auroc: area under the ROC curve, mean over seeds; NaN unless there are two
      classes and the classifiers give probabilities.
    confusion_matrix: float64[K, K] for K classes, number of examples by true
      class (row) and predicted class (column), mean over the seeds.
    num_classes_present: number of classes that have examples.
    without_duplicates: accuracy on the test images that equal no training
      image; None if duplicates are unknown or no image is left.
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
    """Whether the accuracy may be no better than always answering one class."""
    return self.accuracy.is_guessing(self.majority_share)

  @property
  def missed_classes(self) -> tuple[int, ...]:
    """Classes of whose examples no seed's classifier recognised any."""
    return tuple(
      label for label, found in enumerate(self.per_class) if found.value == 0
    )


def accuracy(
  predicted: np.ndarray, labels: np.ndarray, persons: np.ndarray | None = None
) -> Accuracy:
  """Returns the share of correct predictions and its interval.

  Args:
    predicted: int[N], predicted classes.
    labels: int[N], true classes.
    persons: int[N], the person on each image; None if unknown. See `interval`.
  """
  _check_shapes(predicted, labels)
  return _of_correct(np.asarray(predicted) == np.asarray(labels), persons)


def per_class_accuracy(
  predicted: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  persons: np.ndarray | None = None,
) -> tuple[Accuracy, ...]:
  """Returns the accuracy on the examples of each class (its recall).

  Args:
    predicted: int[N], predicted classes.
    labels: int[N], true classes.
    num_classes: number of classes.
    persons: int[N], the person on each image; None if unknown.

  Returns:
    One accuracy per class, in label order.
  """
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
  """Scores the predictions of classifiers that differ only by their seed.

  Args:
    predicted_per_seed: int[N] of each seed, predicted classes.
    labels: int[N], true classes.
    num_classes: number of classes K.
    probs_per_seed: float[N, K] of each seed, for `Score.auroc`; () if there are
      no probabilities.
    persons: int[N], the person on each image; None if unknown.
    is_duplicate: bool[N], whether the image equals a training image; None if
      unknown.
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
  """Returns the share of the commonest label among int[N]; NaN if N = 0.

  >>> majority_share(np.array([0, 1, 1, 1]))
  0.75
  """
  if not len(labels):
    return math.nan
  return float(np.bincount(np.asarray(labels)).max() / len(labels))


def auroc(probs_per_seed: Sequence[np.ndarray], labels: np.ndarray) -> float:
  """Returns the area under the ROC curve of two classes, mean over the seeds.

  Args:
    probs_per_seed: float[N, K] of each seed, probabilities of K classes.
    labels: int[N], true classes.

  Returns:
    The area in [0, 1]. NaN if K is not 2, if a class has no example, or if a
    seed's probabilities are all 0 or 1, since there is no curve then.
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
  """Returns the 95 % interval of the mean of `correct`.

  For independent examples it is Wilson's interval. Images of one person are not
  independent. With `persons`, whole persons are drawn with replacement (the
  cluster bootstrap, 2,000 times), and the interval is widened where needed to
  cover Wilson's and Student's t interval with the cluster-robust standard
  error; the latter allows for a small number of persons. If all persons have
  the same mean, the result is Wilson's interval for as many trials as persons.

  Args:
    correct: float[N] in [0, 1], the share of seeds that were right.
    persons: int[N], the person on each image; None if unknown.

  Returns:
    (low, high); (0, 1) without examples, or if all are of one person.
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
  """Returns half the width of the 95 % t interval of a ratio of two totals.

  Args:
    sums: float64[K], what each of K persons adds to the numerator.
    counts: int64[K], what each person adds to the denominator.
  """
  num_persons = len(counts)
  rest = sums - sums.sum() / counts.sum() * counts
  scale = num_persons / (num_persons - 1)
  std_error = math.sqrt(scale * float(rest @ rest)) / counts.sum()
  return float(stats.t.ppf(0.975, num_persons - 1)) * std_error


def wilson_interval(
  num_correct: float, num_examples: int, z: float = Z_95
) -> tuple[float, float]:
  """Returns the score interval of a binomial proportion (Wilson 1927, eq. 4).

  Args:
    num_correct: number of successes; it may be a mean of several counts.
    num_examples: number of trials.
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
  """Returns the mean of `correct` with its interval.

  Args:
    correct: bool[N], or float[N] in [0, 1], the share of seeds that were right.
    persons: int[N], the person on each image; None if unknown.
  """
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
  """Returns the accuracy on the examples of each class."""
  masks = (labels == label for label in range(num_classes))
  return tuple(_of_correct(correct[m], _part(persons, m)) for m in masks)


def _part(persons: np.ndarray | None, mask: np.ndarray) -> np.ndarray | None:
  return None if persons is None else np.asarray(persons)[mask]


def _confusion_matrix(
  predicted_per_seed: Sequence[np.ndarray],
  labels: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Returns the confusion matrix float64[K, K], mean over the seeds."""
  total = np.zeros((num_classes, num_classes))
  for predicted in predicted_per_seed:
    np.add.at(total, (labels, np.asarray(predicted)), 1)
  return total / max(1, len(predicted_per_seed))


def _check_shapes(predicted: np.ndarray, labels: np.ndarray) -> None:
  if np.shape(predicted) != np.shape(labels):
    raise ValueError('Expected predictions to have the shape of the labels.')
