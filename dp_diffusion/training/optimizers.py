"""Builds optimizers and learning-rate schedules from a config.

In a private step the optimizer receives noised gradients only, so it does not
affect privacy. Public pre-training uses the same configs.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dp_diffusion import checks
from dp_diffusion import config_keys
from dp_diffusion import leaf_patterns
from dp_diffusion import types

_NAMES = ('adam', 'adam_bc', 'adamw', 'sgd')
BIAS_CORRECTED = 'adam_bc'
_NOISE_FLOOR = 0.1
_SCHEDULES = ('constant', 'cosine', 'linear')
# What the scale of a leaf is a scale of, see `with_scales`.
SCALED = ('gradient', 'parameter')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """An optimizer and its learning-rate schedule."""

  name: str = config_keys.key(
    'adam',
    "Which optimizer. 'adam_bc', of private training only, subtracts the known"
    " variance of the noise from Adam's second moment (arXiv 2312.14334).",
    _NAMES,
  )
  learning_rate: float = config_keys.key(
    1e-3,
    'Peak learning rate, reached after the warm-up, in update units.',
    '> 0',
  )
  warmup_steps: int = config_keys.key(
    0, 'Number of steps of a linear rise from 0; 0 for none.', '>= 0'
  )
  schedule: str = config_keys.key(
    'constant',
    "Course after the warm-up; 'cosine' and 'linear' fall to 0 at the last"
    ' step.',
    _SCHEDULES,
  )
  b1: float = config_keys.key(0.9, "Decay of Adam's first moment.", '[0, 1)')
  b2: float = config_keys.key(0.999, "Decay of Adam's second moment.", '[0, 1)')
  eps: float = config_keys.key(
    1e-8,
    "Adam's epsilon. Private gradients are in units of the clip norm, so eps"
    ' need not be changed with that norm.',
    '> 0',
  )
  weight_decay: float = config_keys.key(
    0.0,
    "Decoupled weight decay of 'adamw' and 'sgd', per step and unit of learning"
    ' rate.',
    '>= 0',
  )
  momentum: float = config_keys.key(0.0, "Momentum of 'sgd'.", '[0, 1)')
  noise_floor: float = config_keys.key(
    _NOISE_FLOOR,
    "Smallest second moment of 'adam_bc' after the subtraction, in units of the"
    " variance of the noise; eps^2 is added to it. The paper's gamma' is their"
    ' sum.',
    '> 0',
    is_later=True,
  )
  max_grad_norm: float | None = config_keys.key(
    None,
    'l2 norm to which the BATCH gradient of public training is clipped. It is'
    ' not part of the privacy guarantee.',
    '> 0, or inf',
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.weight_decay and self.name in ('adam', BIAS_CORRECTED):
      raise ValueError(
        f'Expected weight_decay={self.weight_decay!r} to be 0 for {self.name};'
        ' use adamw.'
      )
    if self.max_grad_norm is not None and self.name == BIAS_CORRECTED:
      raise ValueError(
        f'Expected max_grad_norm={self.max_grad_norm!r} to be none for'
        f' {self.name}, which knows the noise of gradients that are not'
        ' clipped again.'
      )
    if self.noise_floor != _NOISE_FLOOR and self.name != BIAS_CORRECTED:
      raise ValueError(
        f'Expected noise_floor={self.noise_floor!r} to be {_NOISE_FLOOR} for'
        f' {self.name}; it is of {BIAS_CORRECTED}.'
      )
    if self.momentum and self.name != 'sgd':
      raise ValueError(
        f'Expected momentum={self.momentum!r} to be 0 for {self.name}; it is'
        ' of sgd.'
      )


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
  """Returns the learning rate by step: the warm-up, then the schedule.

  Args:
    config: the learning rate, its warm-up and its schedule.
    num_steps: number of steps of the training, including the warm-up.

  Raises:
    ValueError: the warm-up is not shorter than the training.
  """
  checks.check_at_least('num_steps', num_steps, 1)
  if config.warmup_steps >= num_steps:
    raise ValueError(
      f'Expected warmup_steps={config.warmup_steps!r} to be <'
      f' num_steps={num_steps!r}.'
    )
  fall_steps = num_steps - config.warmup_steps
  if config.schedule == 'cosine':
    fall = optax.cosine_decay_schedule(config.learning_rate, fall_steps)
  elif config.schedule == 'linear':
    fall = optax.linear_schedule(config.learning_rate, 0.0, fall_steps)
  else:
    fall = optax.constant_schedule(config.learning_rate)
  if not config.warmup_steps:
    return fall
  rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
  return optax.join_schedules([rise, fall], [config.warmup_steps])


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownNoise:
  """The noise in the gradients that an optimizer receives.

  Attributes:
    std: std of the noise of an element, that of the sum divided by the expected
      batch size.
    divided_by: constants by which gradient and noise of some leaves are divided
      before the optimizer.
  """

  std: float
  divided_by: tuple[leaf_patterns.Rule, ...] = ()

  def variances(self, grads: types.PyTree) -> types.PyTree:
    """Returns the variance of the noise in each leaf, floats."""
    scales = leaf_patterns.values(
      'gradient_scales', grads, self.divided_by, 1.0
    )
    return jax.tree.map(lambda s: (self.std / s) ** 2, scales)


def make(
  config: OptimizerConfig, num_steps: int, noise: KnownNoise | None = None
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Args:
    config: the optimizer and its schedule.
    num_steps: number of steps of the training, for the schedule.
    noise: the noise of private gradients, for 'adam_bc'; None for others.

  Raises:
    ValueError: 'adam_bc' is asked for and the noise is not given.
  """
  schedule = make_schedule(config, num_steps)
  parts = []
  if config.max_grad_norm is not None:
    parts.append(optax.clip_by_global_norm(config.max_grad_norm))
  if config.name == 'sgd':
    if config.momentum:
      parts.append(optax.trace(decay=config.momentum))
  elif config.name == BIAS_CORRECTED:
    parts.append(scale_by_adam_bc(config, noise))
  else:
    parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay))
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def check_public(name: str, config: OptimizerConfig) -> None:
  """Raises ValueError if an optimizer of public gradients expects noise."""
  if config.name == BIAS_CORRECTED:
    raise ValueError(
      f'Expected {name}.name={config.name!r} to be an optimizer of gradients'
      " without noise, such as 'adam'."
    )


def check_private(name: str, config: OptimizerConfig, num_bands: int) -> None:
  """Raises ValueError if an optimizer does not suit the noise of the steps."""
  if config.name == BIAS_CORRECTED and num_bands > 1:
    raise ValueError(
      f'Expected {name}.name={config.name!r} only with privacy.num_bands=1, not'
      f' {num_bands}: the variance of correlated noise differs by step.'
    )


def scale_by_adam_bc(
  config: OptimizerConfig, noise: KnownNoise | None
) -> optax.GradientTransformation:
  """Returns DP-AdamBC (arXiv 2312.14334, algorithm 1) without learning rate.

  Noise of variance Phi = (std of the sum / expected batch size)^2 adds Phi to
  the second moment v of a gradient, and so makes Adam divide all elements by
  about the same number. With the bias-corrected moments m and v of Adam, the
  update is

    m / sqrt(max(v - Phi, gamma')).

  It uses the noised gradients and public constants only.

  Deviation: gamma' is noise_floor Phi + eps^2. A floor in units of Phi means
  the same at each epsilon, batch size and scale of a leaf. Without noise the
  update is that of Adam, up to eps.

  Args:
    config: gives b1, b2, eps and noise_floor.
    noise: the noise of the gradients.

  Raises:
    ValueError: the noise is not given.
  """
  if noise is None:
    raise ValueError(
      f'Expected optimizer.name={config.name!r} in private training only, where'
      ' the noise is known.'
    )
  adam = optax.scale_by_adam(config.b1, config.b2, config.eps)

  def update(
    grads: types.PyTree, state: Any, params: types.Params | None = None
  ) -> tuple[types.PyTree, Any]:
    del params
    _, state = adam.update(grads, state)
    mean = optax.tree.bias_correction(state.mu, config.b1, state.count)
    square = optax.tree.bias_correction(state.nu, config.b2, state.count)

    def direction(m: types.Array, v: types.Array, phi: float) -> types.Array:
      floor = config.noise_floor * phi + config.eps**2
      return m / jnp.sqrt(jnp.maximum(v - phi, floor))

    updates = jax.tree.map(direction, mean, square, noise.variances(grads))
    return updates, state

  return optax.GradientTransformation(adam.init, update)


def with_scales(
  optimizer: optax.GradientTransformation,
  rules: Sequence[leaf_patterns.Rule],
  scaled: str,
) -> optax.GradientTransformation:
  """Returns an optimizer that receives the gradients that `clipping` scaled.

  The gradient g of a leaf arrives as s g, with noise of the same std in each
  leaf. There are two ways to go on:

    * 'gradient': s g is divided by s. The optimizer sees the gradient of the
      leaf, with 1 / s of the noise (arXiv 2507.01129). The updates of Adam,
      which do not depend on the length of gradients, keep their length.
    * 'parameter': the leaf w is written as s w', and the optimizer trains w',
      of which s g is the gradient. Its update of w' is multiplied by s, so
      the learning rate of the leaf is s times as large under Adam, s^2 times
      under SGD.

  Args:
    optimizer: the result of `make`.
    rules: the scales of `clipping.GradConfig.gradient_scales`.
    scaled: 'gradient' or 'parameter'.
  """
  checks.check_one_of('scaled_quantity', scaled, SCALED)
  if not rules:
    return optimizer

  def update(
    grads: types.PyTree, state: Any, params: types.Params | None = None
  ) -> tuple[types.PyTree, Any]:
    scales = leaf_patterns.values('gradient_scales', grads, rules, 1.0)
    if scaled == 'gradient':
      return optimizer.update(_divide(grads, scales), state, params)
    inner = None if params is None else _divide(params, scales)
    updates, state = optimizer.update(grads, state, inner)
    return jax.tree.map(lambda u, s: u * s, updates, scales), state

  return optax.GradientTransformation(optimizer.init, update)


def _divide(tree: types.PyTree, scales: types.PyTree) -> types.PyTree:
  return jax.tree.map(lambda x, s: x / s, tree, scales)
