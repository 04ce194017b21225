"""The state that a training step changes, with a moving average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flax import struct
from flax import traverse_util
import jax
import jax.numpy as jnp
import optax

from dp_diffusion import types


class TrainState(struct.PyTreeNode):
  """State of a training, the same on every replica.

  Attributes:
    step: int32[], steps done since this phase of training began.
    params: tree of float32, the trained parameters.
    opt_state: state of the optax optimizer.
    ema_params: tree of float32, moving average of `params`.
    frozen_params: tree of parameters that no step changes, disjoint from
      `params`; empty when all are trained.
    power_params: further averages of `params`, see `power_averages`; none by
      default.
  """

  step: types.Array
  params: types.Params
  opt_state: Any
  ema_params: types.Params
  frozen_params: types.Params = struct.field(default_factory=dict)
  power_params: tuple[types.Params, ...] = ()

  @property
  def all_params(self) -> types.Params:
    """Returns trained and frozen parameters in one tree, for the model."""
    return merge(self.params, self.frozen_params)

  @property
  def all_ema_params(self) -> types.Params:
    """Returns moving averages and frozen parameters in one tree."""
    return merge(self.ema_params, self.frozen_params)


def create(
  params: types.Params,
  optimizer: optax.GradientTransformation,
  frozen_params: types.Params | None = None,
  num_power_averages: int = 0,
) -> TrainState:
  """Makes the state before the first step of a phase.

  Args:
    params: initial or pre-trained parameters to train.
    optimizer: the result of `optimizers.make`.
    frozen_params: parameters that the model needs but that are not trained.
    num_power_averages: number of further averages.

  Returns:
    A state that shares no buffer between its trees, so that all can be
    donated.
  """

  def copy(tree: types.PyTree) -> types.PyTree:
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)

  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=copy(params),
    opt_state=optimizer.init(params),
    ema_params=copy(params),
    frozen_params=copy(frozen_params or {}),
    power_params=tuple(copy(params) for _ in range(num_power_averages)),
  )


def partition(
  params: types.Params, is_trained: Callable[[str], bool]
) -> tuple[types.Params, types.Params]:
  """Splits nested dicts into trained and frozen parameters.

  >>> partition({'a': {'w': 1, 'b': 2}, 'c': 3}, lambda path: path != 'a/b')
  ({'a': {'w': 1}, 'c': 3}, {'a': {'b': 2}})

  Args:
    params: nested dicts.
    is_trained: tells from the path of a leaf ('down/0/conv/kernel') whether it
      is trained.

  Returns:
    Two trees without common leaves, for `merge`; empty dicts are left out.
  """
  flat = traverse_util.flatten_dict(params)
  trained = {path for path in flat if is_trained('/'.join(path))}

  def leaves(wanted: Iterable[tuple[str, ...]]) -> types.Params:
    kept: types.Params = {path: flat[path] for path in flat if path in wanted}
    return traverse_util.unflatten_dict(kept)

  return leaves(trained), leaves(set(flat) - trained)


def merge(params: types.Params, frozen_params: types.Params) -> types.Params:
  """Inverts `partition`.

  >>> merge({'a': {'w': 1}, 'c': 3}, {'a': {'b': 2}})
  {'a': {'w': 1, 'b': 2}, 'c': 3}

  Raises:
    ValueError: a leaf is in both trees.
  """
  if not frozen_params:
    return params
  merged = dict(params)
  for name, child in frozen_params.items():
    if name not in merged:
      merged[name] = child
    elif isinstance(child, dict) and isinstance(merged[name], dict):
      merged[name] = merge(merged[name], child)
    else:
      raise ValueError(f'Expected {name!r} to be trained or frozen, not both.')
  return merged


def ema_decay_at(step: types.Array, ema_decay: float) -> types.Array:
  """Returns the decay of the moving average, min(ema_decay, (1+t) / (10+t)).

  A constant decay of 0.9999 over 200 private steps would leave the initial
  weights a share of 98 % in the average.

  Args:
    step: int32[], number t of steps done before this one in this phase.
    ema_decay: final decay in [0, 1).

  Returns:
    float32[].
  """
  t = jnp.asarray(step, jnp.float32)
  return jnp.minimum(ema_decay, (1.0 + t) / (10.0 + t))


def power_decay_at(step: types.Array, gamma: float) -> types.Array:
  """Returns the decay of a power average, (1 - 1/(t+1))^(gamma+1).

  It is 0 at the first step, so the initial weights have no share.

  Args:
    step: int32[], number t of steps done before this one in this phase.
    gamma: exponent of the average (arXiv 2312.02696, eq. 2).

  Returns:
    float32[].
  """
  t = jnp.asarray(step, jnp.float32)
  return jnp.power(t / (t + 1.0), gamma + 1.0)


def update_ema(
  ema_params: types.Params,
  params: types.Params,
  decay: types.Array,
) -> types.Params:
  """Moves the average towards the new weights, leaf by leaf."""
  # Not optax.incremental_update, which rounds otherwise.
  change = optax.tree.sub(params, ema_params)
  return optax.tree.add_scale(ema_params, 1.0 - decay, change)


def check_ema_decay(ema_decay: float) -> None:
  """Raises ValueError unless 0 <= ema_decay < 1."""
  if not 0 <= ema_decay < 1:
    raise ValueError(f'Expected ema_decay={ema_decay!r} to be in [0, 1).')


def update(
  state: TrainState,
  grads: types.PyTree,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  power_exponents: tuple[float, ...] = (),
) -> TrainState:
  """Takes the optimizer's step and updates the averages.

  All of it is post-processing of `grads`.

  Args:
    state: state before the step.
    grads: one array for each trained parameter; noised on the private path.
    optimizer: the result of `optimizers.make`.
    ema_decay: final decay of the moving average, in [0, 1).
    power_exponents: gamma of each of `state.power_params`.

  Returns:
    The state after the step.
  """
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  decay = ema_decay_at(state.step, ema_decay)
  return state.replace(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    ema_params=update_ema(state.ema_params, params, decay),
    power_params=tuple(
      update_ema(average, params, power_decay_at(state.step, gamma))
      for average, gamma in zip(
        state.power_params, power_exponents, strict=True
      )
    ),
  )
