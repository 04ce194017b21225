"""Trains classifiers on one set of images, to be tested on real ones.

The aim is to measure how well a classifier does on real images when it was
trained on synthetic images alone. Every choice (early stopping, the best
checkpoint) is made on a validation part of the training images; `read_once`
makes sure that the real test images are not read before.

Neural classifiers are trained by a loop on the host around a jitted step, since
a convolution inside `lax.scan` is several times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from scipy import special
from sklearn import dummy
from sklearn import svm

from dp_diffusion import checks
from dp_diffusion import compiling
from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.evaluation.classifiers import training

_PREDICT_BATCH = 500


class Classifier(Protocol):
  """A trained classifier of any kind."""

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]; rows sum to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
  """Several classifiers whose predicted probabilities are averaged."""

  members: tuple[Classifier, ...]

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]."""
    probs = [m.predict_proba(images) for m in self.members]
    return np.asarray(np.mean(probs, axis=0), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationScore:
  """Score of a checkpoint on the validation part of the training images.

  Attributes:
    step: number of training steps before the checkpoint.
    accuracy: share of correct predictions, in [0, 1].
    loss: mean cross-entropy in nats.
  """

  step: int
  accuracy: float
  loss: float

  def is_better_than(self, other: ValidationScore) -> bool:
    """Whether the accuracy is higher, or equal and the loss is lower."""
    return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralClassifier:
  """A trained flax module.

  Attributes:
    variables: the collections of the module, among them 'params'.
    validation: scores in the order of training; empty without validation.
    best_step: training step from which the weights are.
    fns: compiled functions of the module.
  """

  variables: types.PyTree
  validation: tuple[ValidationScore, ...]
  best_step: int
  fns: training.Fns

  @property
  def validation_accuracy(self) -> float:
    """Accuracy of these weights on the validation part; NaN without one."""
    taken = {score.step: score.accuracy for score in self.validation}
    return taken.get(self.best_step, math.nan)

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]."""
    logits = _batched(self.fns.logits, self.variables, images)
    return special.softmax(logits, axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvmClassifier:
  """A support vector machine of scikit-learn, with probabilities 0 and 1.

  A fitted `SVC` predicts classes, not probabilities. Platt scaling would give
  some, at the cost of five more fits, and they may contradict the predictions.
  """

  svc: svm.SVC | dummy.DummyClassifier
  num_classes: int

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to one-hot float32[N, num_classes]."""
    votes = self.svc.predict(_flat_pixels(images))
    return np.eye(self.num_classes, dtype=np.float32)[votes]


def train_classifier(
  config: training.ClassifierConfig,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seed: int,
  *,
  probabilities: np.ndarray | None = None,
  advance: console.Advance | None = None,
) -> NeuralClassifier | SvmClassifier:
  """Trains one classifier.

  Args:
    config: the kind of classifier and its hyper-parameters.
    images: uint8[N, H, W, C]; may be memory-mapped.
    labels: int32[N] in [0, num_classes).
    num_classes: number of classes, including any that `labels` lacks.
    seed: seed of initial weights, batches, augmentation and validation part.
    probabilities: float32[N, num_classes], soft labels that a network learns
      instead of `labels`, by which it is still validated; None for none. An SVM
      ignores them.
    advance: called after each step.

  Returns:
    The classifier with the weights of its best validation score.

  Raises:
    ValueError: images, labels or probabilities have a wrong shape, dtype or
      range.
  """
  _check_training_set(images, labels, num_classes)
  if config.name == 'svm':
    svc = svm.SVC(C=10, kernel='rbf', gamma='scale')
    if len(np.unique(labels)) == 1:  # An SVC refuses a single class.
      svc = dummy.DummyClassifier(strategy='most_frequent')
    svc.fit(_flat_pixels(images), labels)
    return SvmClassifier(svc=svc, num_classes=num_classes)
  targets = labels.astype(np.int32)
  if probabilities is not None:
    _check_probabilities(probabilities, len(labels), num_classes)
    targets = probabilities
  data = _Data(images, labels, targets)
  return _train_neural(config, data, num_classes, seed, advance)


def train_ensemble(
  config: training.ClassifierConfig,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seeds: Sequence[int],
  *,
  advance: console.Advance | None = None,
) -> Ensemble:
  """Trains one classifier per seed; see `train_classifier`."""
  return Ensemble(
    members=tuple(
      train_classifier(
        config, images, labels, num_classes, seed, advance=advance
      )
      for seed in seeds
    )
  )


def predictions(classifier: Classifier, images: np.ndarray) -> np.ndarray:
  """Returns the most probable classes, int32[N], of uint8[N, H, W, C]."""
  return np.argmax(classifier.predict_proba(images), axis=1).astype(np.int32)


class _Data(NamedTuple):
  """Training images, with labels to validate by and targets to learn."""

  images: np.ndarray
  labels: np.ndarray
  targets: np.ndarray  # The labels, or float32[N, num_classes].


def _train_neural(
  config: training.ClassifierConfig,
  data: _Data,
  num_classes: int,
  seed: int,
  advance: console.Advance | None,
) -> NeuralClassifier:
  """Trains in a loop on the host; keeps the best weights by validation."""
  fns = training.compiled(config, num_classes)
  rng = np.random.default_rng(seed)
  train, validation = _split(len(data.labels), config.validation_fraction, rng)
  val_images, val_labels = data.images[validation], data.labels[validation]
  init_key, draw_key = jax.random.split(jax.random.key(seed))
  with compiling.beside(*_compile_calls(fns, config, data)):
    state = fns.init(init_key, np.asarray(data.images[:1]))
  batches = _batches(train, config.batch_size, rng)
  scores: list[ValidationScore] = []
  best, best_variables = None, None
  for step in range(1, config.num_steps + 1):
    batch = next(batches)
    state = fns.step(
      state,
      draw_key,
      np.int32(step),
      training.step_numbers(config, step),
      data.images[batch],
      data.targets[batch],
    )
    if advance:
      advance()
    if len(validation) and _is_validation_step(step, config):
      logits = _batched(fns.logits, state[0], val_images)
      scores.append(_score(step, logits, val_labels))
      if best is None or scores[-1].is_better_than(best):
        best = scores[-1]
        # A copy, because the next step donates the state.
        best_variables = jax.tree.map(np.array, state[0])
      if _is_out_of_patience(scores, best, config.patience):
        break
  return NeuralClassifier(
    variables=best_variables if best else state[0],
    validation=tuple(scores),
    best_step=best.step if best else config.num_steps,
    fns=fns,
  )


def _compile_calls(
  fns: training.Fns,
  config: training.ClassifierConfig,
  data: _Data,
) -> tuple[Callable[[], None], ...]:
  """Returns calls that compile what the loop calls."""
  numbers = jax.eval_shape(lambda: training.step_numbers(config, 1))
  images, targets = (
    jax.ShapeDtypeStruct((config.batch_size, *array.shape[1:]), array.dtype)
    for array in (data.images, data.targets)
  )
  return (
    lambda: _compile_step(fns, numbers, images, targets),
    lambda: _compile_logits(fns, data.images.shape[1:]),
  )


@functools.lru_cache(maxsize=16)
def _compile_step(
  fns: training.Fns,
  numbers: jax.ShapeDtypeStruct,
  images: jax.ShapeDtypeStruct,
  targets: jax.ShapeDtypeStruct,
) -> None:
  step: Any = fns.step
  step.lower(
    _state_shapes(fns, images.shape[1:]),
    jax.random.key(0),
    np.int32(0),
    numbers,
    images,
    targets,
  ).compile()


@functools.lru_cache(maxsize=16)
def _compile_logits(fns: training.Fns, image_shape: tuple[int, ...]) -> None:
  logits: Any = fns.logits
  variables, _ = _state_shapes(fns, image_shape)
  images = jax.ShapeDtypeStruct((_PREDICT_BATCH, *image_shape), np.uint8)
  logits.lower(variables, images).compile()


def _state_shapes(
  fns: training.Fns, image_shape: tuple[int, ...]
) -> training.State:
  image = jax.ShapeDtypeStruct((1, *image_shape), np.uint8)
  state: training.State = jax.eval_shape(fns.init, jax.random.key(0), image)
  return state


def _is_validation_step(step: int, config: training.ClassifierConfig) -> bool:
  """Whether to validate after a step: evenly spaced, and after the last."""
  every = -(-config.num_steps // config.num_validations)
  return step % every == 0 or step == config.num_steps


def _is_out_of_patience(
  scores: Sequence[ValidationScore], best: ValidationScore, patience: int
) -> bool:
  return 0 < patience <= sum(score.step > best.step for score in scores)


def _score(
  step: int, logits: np.ndarray, labels: np.ndarray
) -> ValidationScore:
  """Scores logits float32[N, num_classes] by labels int32[N], in float64."""
  logits = logits.astype(np.float64)
  true_logits = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  losses = special.logsumexp(logits, axis=1) - true_logits
  return ValidationScore(
    step=step,
    accuracy=float(np.mean(np.argmax(logits, axis=1) == labels)),
    loss=float(np.mean(losses)),
  )


def _split(
  num_examples: int, validation_fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Splits indices at random: int64[N - V] to train, int64[V] to validate."""
  shuffled = rng.permutation(num_examples)
  num_validation = min(
    round(num_examples * validation_fraction), num_examples - 1
  )
  return np.sort(shuffled[num_validation:]), np.sort(shuffled[:num_validation])


def _batches(
  indices: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
  """Yields batches int64[batch_size] forever, shuffled anew in each epoch."""
  queue = indices[:0]
  while True:
    while len(queue) < batch_size:
      queue = np.concatenate([queue, rng.permutation(indices)])
    yield queue[:batch_size]
    queue = queue[batch_size:]


def _batched(
  logits_fn: Callable[..., jax.Array],
  variables: types.PyTree,
  images: np.ndarray,
) -> np.ndarray:
  """Computes logits float32[N, num_classes] in batches padded to one size."""
  logits = []
  for start in range(0, len(images), _PREDICT_BATCH):
    batch = np.asarray(images[start : start + _PREDICT_BATCH])
    num_padding = _PREDICT_BATCH - len(batch)
    padding = ((0, num_padding), (0, 0), (0, 0), (0, 0))
    out = np.asarray(logits_fn(variables, np.pad(batch, padding)))
    logits.append(out[: len(batch)])
  return np.concatenate(logits)


def _flat_pixels(images: np.ndarray) -> np.ndarray:
  """Converts uint8[N, H, W, C] to float64[N, H * W * C] in [-1, 1]."""
  return images.reshape(len(images), -1) / 127.5 - 1.0


def _check_training_set(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
  if images.ndim != 4 or images.dtype != np.uint8:
    raise ValueError(
      f'Expected images {checks.array_type(images.dtype, images.shape)} to be'
      ' uint8[N, H, W, C].'
    )
  if not len(images) or labels.shape != images.shape[:1]:
    raise ValueError(
      'Expected one label for each image, and at least one image.'
    )
  if not (0 <= np.min(labels) and np.max(labels) < num_classes):
    raise ValueError(f'Expected labels to be in [0, {num_classes}).')


def _check_probabilities(
  probabilities: np.ndarray, num_images: int, num_classes: int
) -> None:
  found = checks.array_type(probabilities.dtype, probabilities.shape)
  expected = f'float32[{num_images}, {num_classes}]'
  if probabilities.dtype != np.float32 or probabilities.shape != (
    num_images,
    num_classes,
  ):
    raise ValueError(f'Expected probabilities {found} to be {expected}.')
