"""The two halves of a private step, and the public step, as pure functions.

A private step is `accumulate` for each microbatch (no collective), then
`apply` once:

  vmap(grad) -> clip -> mask -> sum over microbatches      `accumulate`
  -> psum over devices -> noise ONCE, the same on each replica
  -> / expected batch size, a constant -> optax -> EMA      `apply`

That order is what the privacy proof is about; keep it. `parallel` maps these
functions over devices; with `axis_name=None` they run on one.

Guarantees:
  * The noise in an update has the std of the mechanism, whatever the number
    of devices and processes.
    `step_test.py::test_noise_std_of_an_update`,
    `parallel_test.py::test_noise_std_on_devices`,
    `parallel_test.py::test_noise_std_on_two_processes`.
  * The noised sum is divided by the expected batch size, a constant, and an
    empty batch is a step of pure noise.
    `step_test.py::test_divides_by_the_expected_batch_size`,
    `step_test.py::test_empty_batch_is_a_step_of_pure_noise`.
  * Optimizer and EMA see the noised gradient only.
    `step_test.py::test_ema_follows_the_noised_step`.
  * No private statistic is in what `apply` returns.
    `step_test.py::test_apply_returns_no_statistics`.
  * Replicas stay equal to the bit.
    `parallel_test.py::test_replicas_are_identical`.
  * One example's term depends on its record index, not on its slot.
    `step_test.py::test_slot_does_not_matter`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dp_diffusion import array_types
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise
from dp_diffusion.training import state as train_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradConfig:
  """How per-example gradients are made and clipped.

  Attributes:
    l2_clip_norm: C, bound of the l2 norm of an example's gradient.
    num_draws: K, draws averaged in an example's gradient (augmult).
    rescale_to_unit_norm: whether the sum is divided by C.
    draw_chunk_size: draws differentiated at a time, or None for all.
    batch_has_draw_axis: whether batch leaves are [B, K, ...].
    gradient_axes: from the shape of a parameter to the order of its axes in
      which its gradients are held one by one; None for the parameter's own.
      Norms and sums do not depend on it, the time they take does.
  """

  l2_clip_norm: float
  num_draws: int = 1
  rescale_to_unit_norm: bool = True
  draw_chunk_size: int | None = None
  batch_has_draw_axis: bool = False
  gradient_axes: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None

  def __post_init__(self) -> None:
    clipping.sum_sensitivity(self.l2_clip_norm, self.rescale_to_unit_norm)
    array_types.check_at_least('num_draws', self.num_draws, 1)
    if self.draw_chunk_size is not None and (
      self.draw_chunk_size < 1 or self.num_draws % self.draw_chunk_size
    ):
      raise ValueError(
        f'Expected draw_chunk_size={self.draw_chunk_size!r} to divide'
        f' num_draws={self.num_draws!r}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyConfig:
  """What the mechanism fixes about `apply`.

  Attributes:
    noise_multiplier: std of the noise on the sum over its sensitivity; 0 adds
      none (not private).
    expected_batch_size: B, over all devices; the constant divisor.
    ema_decay: final decay of the moving average, in [0, 1).
  """

  noise_multiplier: float
  expected_batch_size: int
  ema_decay: float

  def __post_init__(self) -> None:
    array_types.check_non_negative('noise_multiplier', self.noise_multiplier)
    array_types.check_finite('noise_multiplier', self.noise_multiplier)
    array_types.check_positive('expected_batch_size', self.expected_batch_size)
    check_ema_decay(self.ema_decay)


def check_ema_decay(ema_decay: float) -> None:
  """Raises ValueError unless 0 <= ema_decay < 1."""
  if not 0 <= ema_decay < 1:
    raise ValueError(f'Expected ema_decay={ema_decay!r} to be in [0, 1).')


def zeros(
  params: array_types.Params, config: GradConfig
) -> clipping.ClippedSum:
  """The sum that accumulation starts from."""
  return clipping.zeros(
    params,
    l2_clip_norm=config.l2_clip_norm,
    rescale_to_unit_norm=config.rescale_to_unit_norm,
  )


def accumulate(
  loss_fn: array_types.LossFn,
  params: array_types.Params,
  frozen_params: array_types.Params,
  total: clipping.ClippedSum,
  batch: array_types.PyTree,
  draw_key: array_types.Key,
  indices: array_types.Array,
  is_padding: array_types.Array,
  *,
  config: GradConfig,
) -> clipping.ClippedSum:
  """Adds one microbatch of one device to its sum. No collective.

  Args:
    loss_fn: loss of one draw of one example; gets trained and frozen
      parameters together.
    params: trained parameters.
    frozen_params: parameters without gradient; {} for none.
    total: sum over the earlier microbatches of this device; `zeros` at first.
    batch: leaves [B, ...] (or [B, K, ...]): the records at `indices`.
    draw_key: typed key[] of the step, `key_streams.KeyStreams.draw_key`.
    indices: int32[B], record indices.
    is_padding: bool[B].
    config: draws and clip.
  """

  def full_loss(
    params: array_types.Params,
    example: array_types.Example,
    draw_key: array_types.Key,
  ) -> array_types.Array:
    all_params = train_state.merge(_move_back(params, axes), frozen_params)
    return loss_fn(all_params, example, draw_key)

  axes = _gradient_axes(params, config)
  clipped = clipping.clipped_grad_sum(
    full_loss,
    jax.tree.map(jnp.transpose, params, axes),
    batch,
    key_streams.draw_keys(draw_key, indices, config.num_draws),
    is_padding,
    l2_clip_norm=config.l2_clip_norm,
    rescale_to_unit_norm=config.rescale_to_unit_norm,
    draw_chunk_size=config.draw_chunk_size,
    batch_has_draw_axis=config.batch_has_draw_axis,
  )
  return total + clipped.replace(grad_sum=_move_back(clipped.grad_sum, axes))


def _gradient_axes(
  params: array_types.Params, config: GradConfig
) -> array_types.PyTree:
  """`config.gradient_axes` of each parameter."""
  axes_of = config.gradient_axes or (lambda shape: tuple(range(len(shape))))
  return jax.tree.map(lambda x: axes_of(x.shape), params)


def _move_back(
  moved: array_types.PyTree, axes: array_types.PyTree
) -> array_types.PyTree:
  """The inverse of `jnp.transpose`, leaf by leaf."""
  return jax.tree.map(
    lambda x, order: jnp.moveaxis(x, range(len(order)), order), moved, axes
  )


def apply(
  state: train_state.TrainState,
  total: clipping.ClippedSum,
  noise_keys: array_types.Key,
  *,
  optimizer: optax.GradientTransformation,
  config: ApplyConfig,
  axis_name: str | None = None,
) -> train_state.TrainState:
  """Sums over devices, adds the noise once, and takes the step.

  Args:
    state: the same on every replica.
    total: this device's sum; zero where it had no example.
    noise_keys: typed keys[4] of the step, the same on every replica.
    optimizer: what `optimizers.make` built.
    config: what the mechanism fixes.
    axis_name: axis of the devices, None for one device.

  Returns:
    The state after the step, the same on every replica. It depends on
    examples only through the noised sum.
  """
  grad_sum = _psum(total.grad_sum, axis_name)
  noised_sum = noise.add_noise(
    grad_sum,
    noise_keys,
    noise_std(config.noise_multiplier, total.l2_sensitivity),
  )
  grads = jax.tree.map(lambda x: x / config.expected_batch_size, noised_sum)
  return _update(state, grads, optimizer, config.ema_decay)


def noise_std(noise_multiplier: float, l2_sensitivity: float) -> float:
  """Std of the noise on the SUM of clipped gradients.

  >>> noise_std(2.0, 0.5)
  1.0

  Raises:
    ValueError: there is noise, but no clip that it could hide.
  """
  if noise_multiplier == 0:
    return 0.0
  if not math.isfinite(l2_sensitivity):
    raise ValueError(
      f'Expected l2_sensitivity={l2_sensitivity!r} to be finite when'
      f' noise_multiplier={noise_multiplier!r}.'
    )
  return noise_multiplier * l2_sensitivity


def private_stats(
  total: clipping.ClippedSum, axis_name: str | None = None
) -> clipping.GradStats:
  """Un-noised statistics of the step, summed over devices.

  The only way out for them. What it returns may be written to `private/` and
  nowhere else; the terminal is not private.
  """
  return _psum(total.stats, axis_name)


def public_step(
  loss_fn: array_types.LossFn,
  state: train_state.TrainState,
  batch: array_types.PyTree,
  draw_key: array_types.Key,
  indices: array_types.Array,
  *,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
  microbatch_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[train_state.TrainState, array_types.Array]:
  """One step on PUBLIC images: no clip, no noise, no privacy.

  Args:
    loss_fn: loss of one draw of one example.
    state: the same on every replica.
    batch: leaves [B, ...], this device's share; as large on every device.
    draw_key: typed key[] of the step.
    indices: int32[B], places of the examples in the global batch: they choose
      the draw keys, so that the device count does not.
    optimizer: what `optimizers.make` built.
    ema_decay: final decay of the moving average.
    microbatch_size: examples differentiated at a time, a divisor of B; None
      for all.
    axis_name: axis of the devices, None for one device.

  Returns:
    The state after the step, and float32[], the mean loss over the batch.
  """

  def batch_loss(
    params: array_types.Params, examples: array_types.PyTree, keys: Any
  ) -> array_types.Array:
    all_params = train_state.merge(params, state.frozen_params)
    losses = jax.vmap(loss_fn, in_axes=(None, 0, 0))(all_params, examples, keys)
    return jnp.mean(losses)

  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(draw_key, indices)
  loss_and_grads = _in_microbatches(
    jax.value_and_grad(batch_loss), state.params, batch, keys, microbatch_size
  )
  loss, grads = _pmean(loss_and_grads, axis_name)
  return _update(state, grads, optimizer, ema_decay), loss


def _in_microbatches(
  loss_and_grad: Callable[..., Any],
  params: array_types.Params,
  batch: array_types.PyTree,
  keys: array_types.Key,
  microbatch_size: int | None,
) -> Any:
  """Mean loss and its gradient over a batch, in microbatches if asked."""
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


def _update(
  state: train_state.TrainState,
  grads: array_types.PyTree,
  optimizer: optax.GradientTransformation,
  ema_decay: float,
) -> train_state.TrainState:
  """Optimizer and moving average: post-processing of `grads`."""
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  decay = train_state.ema_decay_at(state.step, ema_decay)
  return state.replace(
    step=state.step + 1,
    params=params,
    opt_state=opt_state,
    ema_params=train_state.update_ema(state.ema_params, params, decay),
  )


def _psum(
  tree: array_types.PyTree, axis_name: str | None
) -> array_types.PyTree:
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def _pmean(
  tree: array_types.PyTree, axis_name: str | None
) -> array_types.PyTree:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
