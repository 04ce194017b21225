"""The two functions of a private step, both pure.

A private step calls `accumulate` for each microbatch (without a collective),
then `apply` once:

  vmap(grad) -> clip -> mask -> sum over microbatches      `accumulate`
  -> psum over devices -> noise ONCE, the same on each replica
  -> / expected batch size, a constant -> optax -> EMA      `apply`

The privacy proof depends on this order; do not change it. `parallel` maps the
functions over devices; with `axis_name=None` they run on one device.

Guarantees:
  * The noise in an update has the std of the mechanism, whatever the number
    of devices and processes.
    `private_step_test.py::test_noise_std_of_an_update`,
    `parallel_test.py::test_noise_std_on_devices`,
    `parallel_test.py::test_noise_std_on_two_processes`.
  * The noised sum is divided by the expected batch size, a constant, and an
    empty batch is a step of pure noise.
    `private_step_test.py::test_divides_by_the_expected_batch_size`,
    `private_step_test.py::test_empty_batch_is_a_step_of_pure_noise`.
  * Optimizer and EMA depend on the noised gradient only.
    `private_step_test.py::test_ema_follows_the_noised_step`.
  * The result of `apply` contains no private statistic.
    `private_step_test.py::test_apply_returns_no_statistics`.
  * Replicas stay equal to the bit.
    `parallel_test.py::test_replicas_are_identical`.
  * The gradient of an example depends on its record index, not on its slot.
    `private_step_test.py::test_slot_does_not_matter`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

from flax import struct
import jax
import optax

from dp_diffusion import checks
from dp_diffusion import types
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import correlated_noise
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise
from dp_diffusion.training import state as train_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApplyConfig:
  """The numbers of the mechanism that `apply` uses.

  Attributes:
    noise_multiplier: std of the noise on the sum, divided by the sensitivity
      of the sum; 0 adds no noise (and gives no privacy).
    expected_batch_size: expected number of records over all devices, the
      constant by which the sum is divided.
    ema_decay: final decay of the moving average, in [0, 1).
    noise_strategy: coefficients of `correlated_noise`; (1,) for noise that is
      independent in each step.
    power_exponents: exponents of further averages, see `power_averages`.
  """

  noise_multiplier: float
  expected_batch_size: int
  ema_decay: float
  noise_strategy: tuple[float, ...] = (1.0,)
  power_exponents: tuple[float, ...] = ()

  def __post_init__(self) -> None:
    checks.check_non_negative('noise_multiplier', self.noise_multiplier)
    checks.check_finite('noise_multiplier', self.noise_multiplier)
    grid_limits.check_noise('noise_multiplier', self.noise_multiplier)
    checks.check_positive('expected_batch_size', self.expected_batch_size)
    train_state.check_ema_decay(self.ema_decay)


class Microbatch(struct.PyTreeNode):
  """Records that go through the network of one device at a time.

  Attributes:
    examples: the records at `indices`, leaves [B, ...] (or [B, K, ...]).
    indices: int32[B], record indices.
    is_padding: bool[B], whether the row is padding and must not count.
  """

  examples: types.PyTree
  indices: Any
  is_padding: Any


def accumulate(
  loss_fn: types.LossFn,
  params: types.Params,
  frozen_params: types.Params,
  total: clipping.ClippedSum,
  batch: Microbatch,
  draw_key: types.Key,
  *,
  config: clipping.GradConfig,
) -> clipping.ClippedSum:
  """Adds the clipped gradients of one microbatch to the sum of its device.

  It uses no collective.

  Args:
    loss_fn: loss of one draw of one example; it receives trained and frozen
      parameters in one tree.
    params: trained parameters.
    frozen_params: parameters without gradient; {} for none.
    total: sum over the earlier microbatches of this device, at first
      `clipping.zeros`.
    batch: records of this device.
    draw_key: typed key[] of the step, `key_streams.KeyStreams.draw_key`.
    config: number of draws and clip norm.

  Returns:
    The sum including this microbatch.
  """

  def full_loss(
    params: types.Params,
    example: types.Example,
    draw_key: types.Key,
  ) -> types.Array:
    all_params = train_state.merge(params, frozen_params)
    return loss_fn(all_params, example, draw_key)

  return total + clipping.clipped_grad_sum(
    full_loss,
    params,
    batch.examples,
    key_streams.draw_keys(draw_key, batch.indices, config.num_draws),
    batch.is_padding,
    config=config,
  )


def apply(
  state: train_state.TrainState,
  total: clipping.ClippedSum,
  noise_keys: types.Key,
  past_noise: types.Array | None = None,
  *,
  optimizer: optax.GradientTransformation,
  config: ApplyConfig,
  axis_name: str | None = None,
) -> train_state.TrainState:
  """Sums over devices, adds the noise once, and takes the step.

  Args:
    state: state before the step, the same on every replica.
    total: this device's sum, zero if it had no example.
    noise_keys: typed keys[4] of the step, the same on every replica.
    past_noise: float32[b - 1, size], state of `correlated_noise` before the
      step; None if the noise is independent.
    optimizer: the result of `optimizers.make`.
    config: the numbers of the mechanism.
    axis_name: axis of the devices, None for one device.

  Returns:
    The state after the step, the same on every replica. It depends on
    examples only through the noised sum.
  """
  exact = fixed_point.psum(total.exact, axis_name)
  noised_sum = noise.add_noise(
    exact,
    noise_keys,
    noise_std(config.noise_multiplier, total.l2_sensitivity),
    _correlate(past_noise, config),
  )
  grads = jax.tree.map(lambda x: x / config.expected_batch_size, noised_sum)
  return train_state.update(
    state, grads, optimizer, config.ema_decay, config.power_exponents
  )


def _correlate(
  past: types.Array | None, config: ApplyConfig
) -> Callable[[types.Array], types.Array] | None:
  if (past is None) != (len(config.noise_strategy) == 1):
    raise ValueError(
      'Expected past_noise where noise_strategy has several coefficients, and'
      ' there alone.'
    )
  if past is None:
    return None
  return functools.partial(
    correlated_noise.correlate, past=past, strategy=config.noise_strategy
  )


def noise_std(noise_multiplier: float, l2_sensitivity: float) -> float:
  """Returns the std of the noise on the SUM of clipped gradients.

  >>> noise_std(2.0, 0.5)
  1.0

  Raises:
    ValueError: noise is asked for without a clip, so its std is infinite.
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
  """Returns un-noised statistics of the step, summed over devices.

  No other function returns them. They may be written to `private/` only, and
  not to the terminal.
  """
  return _psum(total.stats, axis_name)


def _psum(tree: types.PyTree, axis_name: str | None) -> types.PyTree:
  return tree if axis_name is None else jax.lax.psum(tree, axis_name)
