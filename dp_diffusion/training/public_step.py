"""One step of training on public images, as a pure function.

`parallel` maps it over devices; with `axis_name=None` it runs on one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dp_diffusion import types
from dp_diffusion.training import state as train_state


def public_step(
  loss_fn: types.LossFn,
  state: train_state.TrainState,
  batch: types.PyTree,
  draw_key: types.Key,
  indices: types.Array,
  *,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  microbatch_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[train_state.TrainState, types.Array]:
  """Takes one step on PUBLIC images, without clip, noise or privacy.

  Args:
    loss_fn: loss of one draw of one example.
    state: state before the step, the same on every replica.
    batch: leaves [B, ...], this device's share of the batch; B is the same on
      every device.
    draw_key: typed key[] of the step.
    indices: int32[B], positions of the examples in the whole batch. The draw
      keys depend on them, and not on the number of devices.
    optimizer: the result of `optimizers.make`.
    ema_decay: final decay of the moving average.
    microbatch_size: examples differentiated at a time, a divisor of B; None
      for all.
    axis_name: axis of the devices, None for one device.

  Returns:
    The state after the step, and float32[], the mean loss over the batch.
  """

  def batch_loss(
    params: types.Params, examples: types.PyTree, keys: Any
  ) -> types.Array:
    all_params = train_state.merge(params, state.frozen_params)
    losses = jax.vmap(loss_fn, in_axes=(None, 0, 0))(all_params, examples, keys)
    return jnp.mean(losses)

  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(draw_key, indices)
  loss_and_grads = _in_microbatches(
    jax.value_and_grad(batch_loss), state.params, batch, keys, microbatch_size
  )
  loss, grads = _pmean(loss_and_grads, axis_name)
  return train_state.update(state, grads, optimizer, ema_decay), loss


def _in_microbatches(
  loss_and_grad: Callable[..., Any],
  params: types.Params,
  batch: types.PyTree,
  keys: types.Key,
  microbatch_size: int | None,
) -> Any:
  """Returns the mean loss over a batch and its gradient, by microbatches."""
  size = microbatch_size or len(keys)
  if len(keys) % size:
    raise ValueError(
      f'Expected microbatch_size={microbatch_size!r} to divide the batch size'
      f' of a device, {len(keys)}.'
    )
  count = len(keys) // size
  if count == 1:
    return loss_and_grad(params, batch, keys)

  def add_part(total: Any, part: Any) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, loss_and_grad(params, *part)), None

  parts = jax.tree.map(
    lambda x: x.reshape((count, size) + x.shape[1:]), (batch, keys)
  )
  start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
  total, _ = jax.lax.scan(add_part, start, parts)
  return jax.tree.map(lambda x: x / count, total)


def _pmean(tree: types.PyTree, axis_name: str | None) -> types.PyTree:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
