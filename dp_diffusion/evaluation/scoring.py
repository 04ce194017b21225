"""Accuracies with their intervals: how classifiers do on the same images."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

_Z_95 = 1.959963984540054  # Standard normal quantile at 0.975.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
  """A share of correct predictions with its Wilson 95 % interval.

  Attributes:
    value: in [0, 1]; NaN when there is no example.
    low: lower end of the interval.
    high: upper end of the interval.
    num_examples: predictions that were judged.
  """

  value: float
  low: float
  high: float
  num_examples: int

  def to_dict(self) -> dict[str, float | int | None]:
    """JSON form; NaN becomes None."""
    fields = dataclasses.asdict(self)
    return {k: None if math.isnan(v) else v for k, v in fields.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """How classifiers that differ by their seed do on the same images.

  Attributes:
    accuracy: mean over the seeds; its interval is that of one classifier with
      the mean accuracy, so it says how far these test images decide.
    std: sample standard deviation over the seeds; NaN for one seed.
    num_seeds: classifiers.
    per_class: mean accuracy among the examples of each class.
  """

  accuracy: Accuracy
  std: float
  num_seeds: int
  per_class: tuple[Accuracy, ...]


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> Accuracy:
  """Share of `predicted` int[N] equal to `labels` int[N]."""
  if np.shape(predicted) != np.shape(labels):
    raise ValueError(
      f'Expected predictions of shape {np.shape(predicted)} to have the'
      f' shape {np.shape(labels)} of the labels.'
    )
  num_correct = int(np.sum(np.asarray(predicted) == np.asarray(labels)))
  num_examples = len(labels)
  low, high = wilson_interval(num_correct, num_examples)
  value = num_correct / num_examples if num_examples else math.nan
  return Accuracy(value=value, low=low, high=high, num_examples=num_examples)


def per_class_accuracy(
  predicted: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[Accuracy, ...]:
  """Accuracy among the examples of each class (its recall), in label order."""
  predicted, labels = np.asarray(predicted), np.asarray(labels)
  return tuple(
    accuracy(predicted[labels == c], labels[labels == c])
    for c in range(num_classes)
  )


def score(
  predicted_per_seed: Sequence[np.ndarray],
  labels: np.ndarray,
  num_classes: int,
) -> Score:
  """Judges int[N] predictions of one classifier per seed against int[N]."""
  runs = [accuracy(predicted, labels) for predicted in predicted_per_seed]
  classes = [
    per_class_accuracy(predicted, labels, num_classes)
    for predicted in predicted_per_seed
  ]
  std = np.std([run.value for run in runs], ddof=1) if runs[1:] else math.nan
  return Score(
    accuracy=_mean_accuracy(runs),
    std=float(std),
    num_seeds=len(runs),
    per_class=tuple(_mean_accuracy(per_seed) for per_seed in zip(*classes)),
  )


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


def _mean_accuracy(runs: Sequence[Accuracy]) -> Accuracy:
  """Mean of accuracies on the same examples."""
  num_examples = runs[0].num_examples
  if not num_examples:
    return runs[0]
  num_correct = sum(round(r.value * num_examples) for r in runs) / len(runs)
  value = num_correct / num_examples
  low, high = wilson_interval(num_correct, num_examples)
  return Accuracy(value=value, low=low, high=high, num_examples=num_examples)
