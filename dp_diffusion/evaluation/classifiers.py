"""Which classifiers there are, and one compiled step of training them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from dp_diffusion import array_types
from dp_diffusion.data import augment
from dp_diffusion.models import small_cnn
from dp_diffusion.models import wide_resnet

NAMES = ('small_cnn', 'wrn_40_4', 'wrn_16_4', 'logistic_regression', 'svm')
OPTIMIZERS = ('adamw', 'sgd')
State = tuple[Any, optax.OptState]  # (flax variables, optimizer state)


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


class Fns(NamedTuple):
  """Compiled parts of the training of one config.

  Attributes:
    init: (key, image uint8[1, H, W, C]) -> (variables, opt_state).
    step: (state, key, step int, images uint8[B, H, W, C], labels int32[B]) ->
      state; donates the state.
    logits: (variables, images uint8[B, H, W, C]) -> float32[B, num_classes].
  """

  init: Callable[..., State]
  step: Callable[..., State]
  logits: Callable[..., jax.Array]


@functools.lru_cache(maxsize=16)
def compiled(config: ClassifierConfig, num_classes: int) -> Fns:
  """Shared by every seed and every training set of the same config."""
  module = _module(config.name, num_classes)
  optimizer = _optimizer(config)

  def init(key: jax.Array, image: jax.Array) -> State:
    variables = module.init(key, augment.to_float(image))
    return variables, optimizer.init(variables['params'])

  def step(
    state: State,
    draw_key: jax.Array,
    step: jax.Array,
    images: jax.Array,
    labels: jax.Array,
  ) -> State:
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

  return Fns(jax.jit(init), jax.jit(step, donate_argnums=0), jax.jit(logits))


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


def _augment(
  key: jax.Array, images: jax.Array, config: ClassifierConfig
) -> jax.Array:
  """uint8[B, H, W, C] to float32 in [-1, 1], each image with its own draw."""
  draw = functools.partial(augment.augment, config=config)
  return jax.vmap(draw)(images, jax.random.split(key, len(images)))
