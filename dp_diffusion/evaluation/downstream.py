"""Classifiers trained on one set of images and tested on real ones.

Last stretch of the road: how well does a classifier do on real images when it
has seen nothing but synthetic ones? Here are the classifiers, their accuracy
with an interval, and `HeldOut`, which keeps the real test set closed until
every choice has been made. A choice (early stopping, the best checkpoint) is
made on a validation part of the training images themselves.

Neural classifiers train in a host loop around a jitted step: on a CPU a
convolution inside `lax.scan` is several times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import math
from typing import Any, NamedTuple, Protocol

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special
from sklearn import svm

from dp_diffusion import array_types
from dp_diffusion import console
from dp_diffusion.data import augment
from dp_diffusion.models import small_cnn
from dp_diffusion.models import wide_resnet

NAMES = ('small_cnn', 'wrn_40_4', 'wrn_16_4', 'logistic_regression', 'svm')
OPTIMIZERS = ('adamw', 'sgd')
_PREDICT_BATCH = 500
_Z_95 = 1.959963984540054  # Standard normal quantile at 0.975.
_State = tuple[Any, optax.OptState]  # (flax variables, optimizer state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
  """A classifier and how it is trained.

  `svm` is an outside reference and ignores every other field: scikit-learn's
  `SVC(C=10, kernel='rbf', gamma='scale')` on pixels in [-1, 1].

  Attributes:
    name: one of `NAMES`.
    num_steps: optimizer steps.
    batch_size: images per step.
    optimizer: 'adamw', or 'sgd' (Nesterov momentum 0.9).
    learning_rate: peak; linear warm-up, then a cosine to zero.
    warmup_steps: steps of the warm-up.
    weight_decay: decoupled, of matrices and kernels only, times the rate.
    label_smoothing: in [0, 1).
    reflect_pad: pixels of reflected border for the random crop; 0 = none.
    flip: random left-right flips.
    validation_fraction: part of the TRAINING images kept to pick the best
      checkpoint, in [0, 1); 0 keeps the last weights.
    num_validations: how often the validation part is scored, evenly spaced.
    patience: stop after so many validations without a better one; 0 = never.
  """

  name: str = 'small_cnn'
  num_steps: int = 1000
  batch_size: int = 128
  optimizer: str = 'adamw'
  learning_rate: float = 2e-3
  warmup_steps: int = 50
  weight_decay: float = 1e-2
  label_smoothing: float = 0.0
  reflect_pad: int = 0
  flip: bool = False
  validation_fraction: float = 0.1
  num_validations: int = 10
  patience: int = 0

  def __post_init__(self) -> None:
    array_types.check_one_of('name', self.name, NAMES)
    array_types.check_one_of('optimizer', self.optimizer, OPTIMIZERS)
    for field in ('num_steps', 'batch_size', 'num_validations'):
      array_types.check_at_least(field, getattr(self, field), 1)
    for field in ('warmup_steps', 'reflect_pad', 'patience', 'weight_decay'):
      array_types.check_non_negative(field, getattr(self, field))
    array_types.check_positive('learning_rate', self.learning_rate)
    array_types.check_finite('learning_rate', self.learning_rate)
    for field in ('label_smoothing', 'validation_fraction'):
      if not 0 <= getattr(self, field) < 1:
        raise ValueError(
          f'Expected {field}={getattr(self, field)!r} to be in [0, 1).'
        )


class Classifier(Protocol):
  """Whatever was trained to tell the classes apart."""

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]; rows sum to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble:
  """Mean of the members' probabilities."""

  members: tuple[Classifier, ...]

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]."""
    probs = [m.predict_proba(images) for m in self.members]
    return np.asarray(np.mean(probs, axis=0), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationScore:
  """How a checkpoint does on the validation part of the training images.

  Attributes:
    step: steps taken.
    accuracy: in [0, 1].
    loss: mean cross-entropy in nats.
  """

  step: int
  accuracy: float
  loss: float

  def is_better_than(self, other: ValidationScore) -> bool:
    """Higher accuracy, then lower loss."""
    return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuralClassifier:
  """A trained flax module.

  Attributes:
    variables: its collections, 'params' among them.
    validation: scores in the order they were taken; empty without validation.
    best_step: the step whose weights these are.
    logits_fn: (variables, images uint8[B, H, W, C]) -> float32 logits.
  """

  variables: array_types.PyTree
  validation: tuple[ValidationScore, ...]
  best_step: int
  logits_fn: Callable[..., jax.Array]

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to float32[N, num_classes]."""
    logits = _batched(self.logits_fn, self.variables, images)
    return special.softmax(logits, axis=1).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SvmClassifier:
  """scikit-learn's support vector machine; its vote counts as certain.

  A fitted `SVC` has no probabilities of its own: those of Platt scaling cost
  five more fits and need not agree with its predictions.
  """

  svc: svm.SVC
  num_classes: int

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    """Maps uint8[N, H, W, C] to one-hot float32[N, num_classes]."""
    votes = self.svc.predict(_flat_pixels(images))
    return np.eye(self.num_classes, dtype=np.float32)[votes]


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


class HeldOut:
  """The real test images: closed while choices are made, read once, at the end.

  Nothing is loaded before `open`. Choices go inside `closed()`; opening the
  set in there raises, and so does making choices after it was opened, or
  opening it again.

  >>> held_out = HeldOut(lambda: 'the test set')
  >>> with held_out.closed():
  ...   pass  # Train classifiers, stop early, pick the best one.
  >>> held_out.open()
  'the test set'
  >>> held_out.open()
  Traceback (most recent call last):
  ...
  RuntimeError: The held-out images have been read already; they are read once.
  """

  def __init__(self, read_fn: Callable[[], array_types.DataSource]) -> None:
    """Keeps `read_fn` for later; it is not called here."""
    self._read_fn = read_fn
    self._is_open = False
    self._num_choosing = 0

  @contextlib.contextmanager
  def closed(self) -> Iterator[None]:
    """A block in which choices are made.

    Raises:
      RuntimeError: the held-out images have been read.
    """
    if self._is_open:
      raise RuntimeError(
        'The held-out images have been read; no choice may follow.'
      )
    self._num_choosing += 1
    try:
      yield
    finally:
      self._num_choosing -= 1

  def open(self) -> array_types.DataSource:
    """Reads the images, once.

    Raises:
      RuntimeError: read before, or choices are being made.
    """
    if self._num_choosing:
      raise RuntimeError(
        'The held-out images may not be read while choices are made.'
      )
    if self._is_open:
      raise RuntimeError(
        'The held-out images have been read already; they are read once.'
      )
    self._is_open = True
    return self._read_fn()


def train_classifier(
  config: ClassifierConfig,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seed: int,
  *,
  advance: console.Advance | None = None,
) -> NeuralClassifier | SvmClassifier:
  """Trains one classifier.

  Args:
    config: which one, and how.
    images: uint8[N, H, W, C]; may be memory-mapped.
    labels: int32[N] in [0, num_classes).
    num_classes: how many classes there are, seen in `labels` or not.
    seed: of initial weights, batches, augmentation and validation part.
    advance: called after each step.

  Returns:
    The classifier at its best validation score.

  Raises:
    ValueError: images and labels do not fit together.
  """
  _check_training_set(images, labels, num_classes)
  if config.name == 'svm':
    svc = svm.SVC(C=10, kernel='rbf', gamma='scale')
    svc.fit(_flat_pixels(images), labels)
    return SvmClassifier(svc=svc, num_classes=num_classes)
  return _train_neural(config, images, labels, num_classes, seed, advance)


def train_ensemble(
  config: ClassifierConfig,
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
  """Most probable classes, int32[N], of uint8[N, H, W, C]."""
  return np.argmax(classifier.predict_proba(images), axis=1).astype(np.int32)


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


def _mean_accuracy(runs: Sequence[Accuracy]) -> Accuracy:
  """Mean of accuracies on the same examples."""
  num_examples = runs[0].num_examples
  if not num_examples:
    return runs[0]
  num_correct = sum(round(r.value * num_examples) for r in runs) / len(runs)
  value = num_correct / num_examples
  low, high = wilson_interval(num_correct, num_examples)
  return Accuracy(value=value, low=low, high=high, num_examples=num_examples)


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


class _LogisticRegression(nn.Module):
  """One dense layer over the pixels."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    del train
    return nn.Dense(self.num_classes)(x.reshape((x.shape[0], -1)))


def _module(name: str, num_classes: int) -> nn.Module:
  match name:
    case 'small_cnn':
      return small_cnn.SmallCNN(num_classes=num_classes)
    case 'wrn_40_4' | 'wrn_16_4':
      depth, width = (int(part) for part in name.split('_')[1:])
      return wide_resnet.WideResNet(
        num_classes=num_classes, depth=depth, width=width, norm='batch'
      )
    case 'logistic_regression':
      return _LogisticRegression(num_classes=num_classes)
  raise ValueError(f'{name!r} is not a neural classifier.')


class _Fns(NamedTuple):
  """Compiled parts of the training of one config.

  Attributes:
    init: (key, image uint8[1, H, W, C]) -> (variables, opt_state).
    step: (state, key, step int, images uint8[B, H, W, C], labels int32[B]) ->
      state; donates the state.
    logits: (variables, images uint8[B, H, W, C]) -> float32[B, num_classes].
  """

  init: Callable[..., _State]
  step: Callable[..., _State]
  logits: Callable[..., jax.Array]


@functools.lru_cache(maxsize=16)
def _compiled(config: ClassifierConfig, num_classes: int) -> _Fns:
  """Shared by every seed and every training set of the same config."""
  module = _module(config.name, num_classes)
  optimizer = _optimizer(config)

  def init(key: jax.Array, image: jax.Array) -> _State:
    variables = module.init(key, augment.to_float(image))
    return variables, optimizer.init(variables['params'])

  def step(
    state: _State,
    draw_key: jax.Array,
    step: jax.Array,
    images: jax.Array,
    labels: jax.Array,
  ) -> _State:
    variables, opt_state = state
    batch_stats = {k: v for k, v in variables.items() if k != 'params'}
    x = _augment(jax.random.fold_in(draw_key, step), images, config)

    def loss_fn(params: array_types.Params) -> tuple[jax.Array, Any]:
      logits, updated = module.apply(
        {'params': params, **batch_stats}, x, train=True, mutable=True
      )
      targets = optax.smooth_labels(
        jax.nn.one_hot(labels, num_classes), config.label_smoothing
      )
      loss = jnp.mean(optax.softmax_cross_entropy(logits, targets))
      return loss, {k: updated[k] for k in batch_stats}

    params = variables['params']
    grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return {'params': params, **batch_stats}, opt_state

  def logits(variables: array_types.PyTree, images: jax.Array) -> Any:
    return module.apply(variables, augment.to_float(images))

  return _Fns(jax.jit(init), jax.jit(step, donate_argnums=0), jax.jit(logits))


def _optimizer(config: ClassifierConfig) -> optax.GradientTransformation:
  """Warm-up, cosine to zero; decay of kernels only."""
  warmup_steps = min(config.warmup_steps, config.num_steps // 2)
  rate = optax.warmup_cosine_decay_schedule(
    0.0 if warmup_steps else config.learning_rate,
    config.learning_rate,
    warmup_steps,
    config.num_steps,
  )
  direction = (
    optax.scale_by_adam()
    if config.optimizer == 'adamw'
    else optax.trace(decay=0.9, nesterov=True)
  )
  return optax.chain(
    direction,
    optax.add_decayed_weights(
      config.weight_decay,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    ),
    optax.scale_by_learning_rate(rate),
  )


def _train_neural(
  config: ClassifierConfig,
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  seed: int,
  advance: console.Advance | None,
) -> NeuralClassifier:
  """Host loop; keeps the weights of the best validation score."""
  fns = _compiled(config, num_classes)
  rng = np.random.default_rng(seed)
  train, validation = _split(len(labels), config.validation_fraction, rng)
  val_images, val_labels = images[validation], labels[validation]
  init_key, draw_key = jax.random.split(jax.random.key(seed))
  state = fns.init(init_key, np.asarray(images[:1]))
  batches = _batches(train, config.batch_size, rng)
  scores: list[ValidationScore] = []
  best, best_variables = None, None
  for step in range(1, config.num_steps + 1):
    batch = next(batches)
    state = fns.step(
      state, draw_key, np.int32(step), images[batch], labels[batch]
    )
    if advance:
      advance()
    if len(validation) and _is_validation_step(step, config):
      logits = _batched(fns.logits, state[0], val_images)
      scores.append(_score(step, logits, val_labels))
      if best is None or scores[-1].is_better_than(best):
        best = scores[-1]
        best_variables = jax.tree.map(np.array, state[0])  # Step donates it.
      if _is_out_of_patience(scores, best, config.patience):
        break
  return NeuralClassifier(
    variables=best_variables if best else state[0],
    validation=tuple(scores),
    best_step=best.step if best else config.num_steps,
    logits_fn=fns.logits,
  )


def _is_validation_step(step: int, config: ClassifierConfig) -> bool:
  """Evenly spaced, the last step among them."""
  every = -(-config.num_steps // config.num_validations)
  return step % every == 0 or step == config.num_steps


def _is_out_of_patience(
  scores: Sequence[ValidationScore], best: ValidationScore, patience: int
) -> bool:
  return 0 < patience <= sum(score.step > best.step for score in scores)


def _score(
  step: int, logits: np.ndarray, labels: np.ndarray
) -> ValidationScore:
  """Scores float32[N, num_classes] against int32[N] in float64."""
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
  """Random indices int64[N - V] to train on and int64[V] to validate on."""
  shuffled = rng.permutation(num_examples)
  num_validation = min(
    round(num_examples * validation_fraction), num_examples - 1
  )
  return np.sort(shuffled[num_validation:]), np.sort(shuffled[:num_validation])


def _batches(
  indices: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
  """Endless int64[batch_size], epoch after shuffled epoch."""
  queue = indices[:0]
  while True:
    while len(queue) < batch_size:
      queue = np.concatenate([queue, rng.permutation(indices)])
    yield queue[:batch_size]
    queue = queue[batch_size:]


def _batched(
  logits_fn: Callable[..., jax.Array],
  variables: array_types.PyTree,
  images: np.ndarray,
) -> np.ndarray:
  """Logits float32[N, num_classes] in padded batches of one compiled size."""
  logits = []
  for start in range(0, len(images), _PREDICT_BATCH):
    batch = np.asarray(images[start : start + _PREDICT_BATCH])
    num_padding = _PREDICT_BATCH - len(batch)
    padding = ((0, num_padding), (0, 0), (0, 0), (0, 0))
    out = np.asarray(logits_fn(variables, np.pad(batch, padding)))
    logits.append(out[: len(batch)])
  return np.concatenate(logits)


def _augment(
  key: jax.Array, images: jax.Array, config: ClassifierConfig
) -> jax.Array:
  """uint8[B, H, W, C] to float32 in [-1, 1], each image with its own draw."""
  draw = functools.partial(augment.augment, config=config)
  return jax.vmap(draw)(images, jax.random.split(key, len(images)))


def _flat_pixels(images: np.ndarray) -> np.ndarray:
  """uint8[N, H, W, C] to float64[N, H * W * C] in [-1, 1]."""
  return images.reshape(len(images), -1) / 127.5 - 1.0


def _check_training_set(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
  if images.ndim != 4 or images.dtype != np.uint8:
    raise ValueError(
      f'Expected images {images.dtype}{list(images.shape)} to be'
      ' uint8[N, H, W, C].'
    )
  if not len(images) or labels.shape != images.shape[:1]:
    raise ValueError(
      f'Expected labels of shape {labels.shape} to go with {len(images)}'
      ' images, at least one.'
    )
  if not (0 <= np.min(labels) and np.max(labels) < num_classes):
    raise ValueError(
      f'Expected labels between {np.min(labels)} and {np.max(labels)} to be'
      f' in [0, {num_classes}).'
    )
