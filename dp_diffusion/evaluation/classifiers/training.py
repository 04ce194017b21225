"""The kinds of classifiers, their settings, and a compiled training step."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dp_diffusion import compiling
from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.models import small_cnn
from dp_diffusion.models import wide_resnet

NAMES = (
  'small_cnn',
  'wrn_40_4',
  'wrn_16_4',
  'wrn_16_1',
  'logistic_regression',
  'svm',
)
OPTIMIZERS = ('adamw', 'sgd')
_WIDE_RESNET = {
  'optimizer': 'sgd',
  'learning_rate': 0.1,
  'weight_decay': 5e-3,
  'warmup_steps': 500,
}
_SMALL = {
  'optimizer': 'adamw',
  'learning_rate': 2e-3,
  'weight_decay': 1e-2,
  'warmup_steps': 50,
}
# Usual settings of each kind. Those of wide ResNets are from arXiv 1605.07146,
# section 3, with a cosine in place of its stepwise learning rate. Its weight
# decay of 5e-4 is coupled and acts tenfold under a momentum of 0.9; ours is
# decoupled and therefore ten times as large.
RECIPES: dict[str, dict[str, Any]] = {
  'small_cnn': _SMALL,
  'wrn_40_4': _WIDE_RESNET,
  'wrn_16_4': _WIDE_RESNET,
  'wrn_16_1': _WIDE_RESNET,
  'logistic_regression': _SMALL,
  'svm': {},
}
State = tuple[Any, optax.OptState]  # (flax variables, optimizer state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
  """The kind of a classifier and its hyper-parameters.

  'svm' is a fixed reference, scikit-learn's `SVC(C=10, kernel='rbf',
  gamma='scale')` on pixels in [-1, 1]. It ignores every other field.

  """

  name: str = config_keys.key('small_cnn', 'Which network.', NAMES)
  num_steps: int = config_keys.key(1000, 'Optimizer steps.', '>= 1')
  batch_size: int = config_keys.key(128, 'Images per step.', '>= 1')
  optimizer: str = config_keys.key(
    _SMALL['optimizer'], "'sgd' has Nesterov momentum 0.9.", OPTIMIZERS
  )
  learning_rate: float = config_keys.key(
    _SMALL['learning_rate'],
    'Peak learning rate, after a linear warm-up and before a cosine to zero.',
    '> 0',
  )
  warmup_steps: int = config_keys.key(
    _SMALL['warmup_steps'], 'Steps of the warm-up.', '>= 0'
  )
  weight_decay: float = config_keys.key(
    _SMALL['weight_decay'],
    'Decoupled weight decay per unit of learning rate, of matrices and kernels'
    ' only.',
    '>= 0',
  )
  label_smoothing: float = config_keys.key(
    0.0, 'Probability mass spread over all classes.', '[0, 1)'
  )
  reflect_pad: int = config_keys.key(
    0,
    'Width in pixels of the reflected border for random crops; 0 does not'
    ' crop.',
    '>= 0',
  )
  flip: bool = config_keys.key(False, 'Flip half of the images left to right.')
  validation_fraction: float = config_keys.key(
    0.1,
    'Share of the TRAINING images kept for choosing the best checkpoint; 0'
    ' keeps the last weights.',
    '[0, 1)',
  )
  num_validations: int = config_keys.key(
    10, 'Number of validations, evenly spaced over the training.', '>= 1'
  )
  patience: int = config_keys.key(
    0,
    'Number of validations without improvement after which training stops; 0'
    ' never stops early.',
    '>= 0',
  )

  def __post_init__(self) -> None:
    config_keys.check(self)


def of_kind(name: str, like: ClassifierConfig) -> ClassifierConfig:
  """Returns the config of a kind of classifier with its usual settings.

  Args:
    name: one of `NAMES`.
    like: gives batch size, steps, augmentation and validation. If it already
      has this name it is returned.
  """
  if name == like.name:
    return like
  return dataclasses.replace(like, name=name, **RECIPES[name])


class Fns(NamedTuple):
  """Compiled functions for training one network.

  Attributes:
    init: (key, image uint8[1, H, W, C]) -> (variables, opt_state).
    step: (state, key, step int, numbers, images uint8[B, H, W, C], targets) ->
      state. It donates the state. `step_numbers` returns the numbers. Targets
      are labels int32[B] or probabilities of the classes,
      float32[B, num_classes].
    logits: (variables, images uint8[B, H, W, C]) -> float32[B, num_classes].
    features: (variables, images uint8[B, H, W, C]) -> float32[B, F], the input
      of the last layer.
  """

  init: Callable[..., State]
  step: Callable[..., State]
  logits: Callable[..., jax.Array]
  features: Callable[..., jax.Array]


def compiled(config: ClassifierConfig, num_classes: int) -> Fns:
  """Returns the compiled functions of a config.

  Configs that differ only in the values of `step_numbers`, as in a grid, share
  them.
  """
  return _compiled(
    config.name, config.optimizer, config.reflect_pad, config.flip, num_classes
  )


def step_numbers(config: ClassifierConfig, step: int) -> np.ndarray:
  """Returns the learning rate, weight decay and label smoothing of a step.

  The rate rises linearly from 0 and then falls to 0 along a cosine.

  Args:
    config: config of the classifier.
    step: number of the step, counted from 1.

  Returns:
    float32[3].
  """
  warmup = min(config.warmup_steps, config.num_steps // 2)
  done = step - 1
  if done < warmup:
    factor = done / warmup
  else:
    share = (done - warmup) / (config.num_steps - warmup)
    factor = 0.5 * (1 + math.cos(math.pi * share))
  return np.array(
    [
      factor * config.learning_rate,
      config.weight_decay,
      config.label_smoothing,
    ],
    np.float32,
  )


@functools.lru_cache(maxsize=16)
def _compiled(
  name: str, optimizer: str, reflect_pad: int, flip: bool, num_classes: int
) -> Fns:
  module = _module(name, num_classes)
  direction = (
    optax.scale_by_adam()
    if optimizer == 'adamw'
    else optax.trace(decay=0.9, nesterov=True)
  )
  crop_and_flip = _CropAndFlip(reflect_pad, flip)

  def init(key: jax.Array, image: jax.Array) -> State:
    variables = module.init(key, augment.to_float(image))
    return variables, direction.init(variables['params'])

  def step(
    state: State,
    draw_key: jax.Array,
    step: jax.Array,
    numbers: jax.Array,
    images: jax.Array,
    targets: jax.Array,
  ) -> State:
    variables, opt_state = state
    rate, weight_decay, smoothing = numbers
    batch_stats = {k: v for k, v in variables.items() if k != 'params'}
    x = _augment(jax.random.fold_in(draw_key, step), images, crop_and_flip)

    def loss_fn(params: types.Params) -> tuple[jax.Array, Any]:
      logits, updated = module.apply(
        {'params': params, **batch_stats}, x, train=True, mutable=True
      )
      probabilities = targets
      if targets.ndim == 1:
        probabilities = jax.nn.one_hot(targets, num_classes)
      probabilities = optax.smooth_labels(probabilities, smoothing)
      loss = jnp.mean(optax.softmax_cross_entropy(logits, probabilities))
      return loss, {k: updated[k] for k in batch_stats}

    def move(param: jax.Array, update: jax.Array) -> jax.Array:
      if param.ndim > 1:  # Matrices and kernels.
        update = update + weight_decay * param
      return param - rate * update

    params = variables['params']
    grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = direction.update(grads, opt_state, params)
    params = jax.tree.map(move, params, updates)
    return {'params': params, **batch_stats}, opt_state

  def logits(variables: types.PyTree, images: jax.Array) -> Any:
    return module.apply(variables, augment.to_float(images))

  def features(variables: types.PyTree, images: jax.Array) -> Any:
    _, found = module.apply(
      variables, augment.to_float(images), mutable=('intermediates',)
    )
    return found['intermediates']['features'][0]

  return Fns(
    compiling.jit_for_one_call(init),
    jax.jit(step, donate_argnums=0),
    jax.jit(logits),
    features,
  )


@dataclasses.dataclass(frozen=True)
class _CropAndFlip:
  reflect_pad: int
  flip: bool


class _LogisticRegression(nn.Module):
  """One dense layer over the pixels."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    del train
    x = x.reshape((x.shape[0], -1))
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes)(x)


def _module(name: str, num_classes: int) -> nn.Module:
  match name:
    case 'small_cnn':
      return small_cnn.SmallCNN(num_classes=num_classes)
    case 'wrn_40_4' | 'wrn_16_4' | 'wrn_16_1':
      depth, width = (int(part) for part in name.split('_')[1:])
      return wide_resnet.WideResNet(
        num_classes=num_classes, depth=depth, width=width, norm='batch'
      )
    case 'logistic_regression':
      return _LogisticRegression(num_classes=num_classes)
  raise ValueError(f'{name!r} is not a neural classifier.')


def _augment(
  key: jax.Array, images: jax.Array, config: augment.CropAndFlip
) -> jax.Array:
  """Augments uint8[B, H, W, C] to float32 in [-1, 1], each image by itself."""
  draw = functools.partial(augment.augment, config=config)
  return jax.vmap(draw)(images, jax.random.split(key, len(images)))
