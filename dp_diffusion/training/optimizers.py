"""Builds optimizers and learning-rate schedules from a config.

In a private step the optimizer receives noised gradients only, so it does not
affect privacy. Public pre-training uses the same configs.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import optax

from dp_diffusion import checks
from dp_diffusion import config_keys
from dp_diffusion import leaf_patterns
from dp_diffusion import types

_NAMES = ('adam', 'adamw', 'sgd')
_SCHEDULES = ('constant', 'cosine', 'linear')
# What the scale of a leaf is a scale of, see `with_scales`.
SCALED = ('gradient', 'parameter')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """An optimizer and its learning-rate schedule."""

  name: str = config_keys.key('adam', 'Which optimizer.', _NAMES)
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
  max_grad_norm: float | None = config_keys.key(
    None,
    'l2 norm to which the BATCH gradient of public training is clipped. It is'
    ' not part of the privacy guarantee.',
    '> 0, or inf',
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.weight_decay and self.name == 'adam':
      raise ValueError(
        f'Expected weight_decay={self.weight_decay!r} to be 0 for adam; use'
        ' adamw.'
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


def make(
  config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Args:
    config: the optimizer and its schedule.
    num_steps: number of steps of the training, for the schedule.
  """
  schedule = make_schedule(config, num_steps)
  parts = []
  if config.max_grad_norm is not None:
    parts.append(optax.clip_by_global_norm(config.max_grad_norm))
  if config.name == 'sgd':
    if config.momentum:
      parts.append(optax.trace(decay=config.momentum))
  else:
    parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay))
  return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


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
