"""Builds optimizers and learning-rate schedules from a config.

In a private step the optimizer receives noised gradients only, so it does not
affect privacy. Public pre-training uses the same configs.
"""

from __future__ import annotations

import dataclasses

import optax

from dp_diffusion import checks

_NAMES = ('adam', 'adamw', 'sgd')
_SCHEDULES = ('constant', 'cosine', 'linear')


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """An optimizer and its learning-rate schedule.

  Attributes:
    name: 'adam', 'adamw' or 'sgd'.
    learning_rate: peak learning rate, reached after the warm-up.
    warmup_steps: number of steps of a linear rise from 0; 0 for none.
    schedule: course after the warm-up: 'constant', or 'cosine' or 'linear',
      which fall to 0 at the last step.
    b1: decay of Adam's first moment, in [0, 1).
    b2: decay of Adam's second moment, in [0, 1).
    eps: Adam's epsilon. Private gradients are in units of the clip norm, so
      eps need not be changed with that norm.
    weight_decay: decoupled weight decay of 'adamw' and 'sgd', per step and unit
      of learning rate.
    momentum: momentum of 'sgd', in [0, 1).
    max_grad_norm: l2 norm to which the BATCH gradient of public training is
      clipped, or None. It is not part of the privacy guarantee.
  """

  name: str = 'adam'
  learning_rate: float = 1e-3
  warmup_steps: int = 0
  schedule: str = 'constant'
  b1: float = 0.9
  b2: float = 0.999
  eps: float = 1e-8
  weight_decay: float = 0.0
  momentum: float = 0.0
  max_grad_norm: float | None = None

  def __post_init__(self) -> None:
    checks.check_one_of('optimizer name', self.name, _NAMES)
    checks.check_one_of('schedule', self.schedule, _SCHEDULES)
    checks.check_positive('learning_rate', self.learning_rate)
    checks.check_finite('learning_rate', self.learning_rate)
    checks.check_non_negative('warmup_steps', self.warmup_steps)
    checks.check_positive('eps', self.eps)
    checks.check_non_negative('weight_decay', self.weight_decay)
    for name in ('b1', 'b2', 'momentum'):
      value = getattr(self, name)
      if not 0 <= value < 1:
        raise ValueError(f'Expected {name}={value!r} to be in [0, 1).')
    if self.max_grad_norm is not None:
      checks.check_positive('max_grad_norm', self.max_grad_norm)
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
