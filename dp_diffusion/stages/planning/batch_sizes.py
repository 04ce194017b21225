"""Decides how many examples each stage of a run puts on a device at a time.

It compiles the step of a stage and asks `training/microbatch.py` how many
examples fit. It reads no data.
"""

from __future__ import annotations

import math

import jax

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.stages.run import assembly
from dp_diffusion.training import microbatch
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state

_WHERE_THE_COMPILER_IS_SILENT = 16


def private_size(
  config: config_lib.Config,
  state: train_state.TrainState,
  devices: parallel.DataParallel,
) -> int:
  """Returns the number of records per device at a time in fine-tuning.

  It is the same on all processes.

  Args:
    config: gives the number; 0 chooses one.
    state: arrays or their shapes, without a device axis.
    devices: the devices of the run.

  Raises:
    UsageError: not even one record fits in memory.
  """
  if config.finetune.microbatch_size:
    return config.finetune.microbatch_size

  def choose() -> int:
    need = microbatch.measure(
      private_compile_fn(config, microbatch.shapes_of(state)),
      microbatch.resident_bytes(state),
    )
    available = microbatch.device_bytes(devices.devices[0])
    return fitting_private_size(
      config, need, devices.num_global_devices, available
    )

  size = processes.smallest(processes.together(choose))
  console.say(f'finetune: {size} records per device at a time')
  return size


def public_size(
  config: config_lib.Config, devices: parallel.DataParallel
) -> int | None:
  """Returns images per device at a time in pre-training.

  The number divides the share of a device. None stands for the whole share, as
  always on a CPU.
  """
  share = config.pretrain.batch_size // devices.num_global_devices
  if devices.is_cpu or share < 1:
    return None

  def choose() -> int:
    need = microbatch.measure(public_compile_fn(config))
    available = microbatch.device_bytes(devices.devices[0])
    return fitting_public_size(
      config, need, devices.num_global_devices, available
    )

  size = processes.smallest(processes.together(choose))
  return None if size == share else size


def fitting_private_size(
  config: config_lib.Config,
  need: microbatch.MemoryUse | None,
  num_devices: int,
  available_bytes: int,
) -> int:
  """Returns the records at a time in fine-tuning, if the config leaves it open.

  Args:
    config: config of the run.
    need: memory of a microbatch; None if the compiler gives no figures.
    num_devices: devices of all processes.
    available_bytes: memory of a device.

  Raises:
    UsageError: not even one record fits in memory.
  """
  share = -(-config.privacy.expected_batch_size // num_devices)
  if need is None:
    return min(share, _WHERE_THE_COMPILER_IS_SILENT)
  return microbatch.quickest_that_fits(need, share, available_bytes)


def fitting_public_size(
  config: config_lib.Config,
  need: microbatch.MemoryUse | None,
  num_devices: int,
  available_bytes: int,
) -> int:
  """Returns the images per device at a time in pre-training.

  Args:
    config: config of the run.
    need: memory of a step; None if the compiler gives no figures.
    num_devices: devices of all processes.
    available_bytes: memory of a device.

  Raises:
    UsageError: not even one image fits in memory.
  """
  share = max(1, config.pretrain.batch_size // num_devices)
  if need is None or need.total_bytes(share) <= available_bytes:
    return share
  size = microbatch.largest_that_fits(need, share, available_bytes)
  return math.gcd(share, size)  # The largest power of two that divides both.


def private_compile_fn(
  config: config_lib.Config, state: train_state.TrainState
) -> microbatch.CompileFn:
  """Returns a function that compiles a microbatch of fine-tuning."""
  has_draw_axis = config.data.unit == 'person'
  loss_fn = assembly.finetune_loss_fn(config)
  grad_config = assembly.grad_config(
    config.finetune,
    config.privacy.l2_clip_norm,
    batch_has_draw_axis=has_draw_axis,
  )
  draws = (config.finetune.augmult,) if has_draw_axis else ()
  return microbatch.private_compile_fn(
    loss_fn, grad_config, state, _example(config.data, draws)
  )


def public_compile_fn(config: config_lib.Config) -> microbatch.CompileFn:
  """Returns a function that compiles a step of pre-training."""
  data = config.pretrain.data
  loss_fn = assembly.pretrain_loss_fn(config)
  optimizer = optimizers.make(
    config.pretrain.optimizer, config.pretrain.num_steps
  )
  return microbatch.public_compile_fn(
    loss_fn, public_state(config), _example(data, ()), optimizer
  )


def public_state(config: config_lib.Config) -> train_state.TrainState:
  """Returns the shapes of the state of pre-training."""
  optimizer = optimizers.make(
    config.pretrain.optimizer, config.pretrain.num_steps
  )
  return _state(config, config.pretrain.data, optimizer)


def public_batch(config: config_lib.Config) -> types.PyTree:
  """Returns the shapes of a batch of pre-training, [B, ...]."""
  return _example(config.pretrain.data, (config.pretrain.batch_size,))


def private_state(
  config: config_lib.Config, num_steps: int | None = None
) -> train_state.TrainState:
  """Returns the shapes of the state of fine-tuning, with all leaves trained.

  Args:
    config: config of the run.
    num_steps: number of private steps; None where it is not known, since it
      changes no shape.

  Raises:
    ValueError: the warm-up is not shorter than the number of steps.
  """
  if num_steps is None:
    num_steps = config.finetune.optimizer.warmup_steps + 1
  optimizer = optimizers.make(
    config.finetune.optimizer,
    num_steps,
    optimizers.KnownNoise(std=1.0),  # It changes no shape.
  )
  num_averages = len(config.finetune.power_averages)
  return _state(config, config.data, optimizer, num_averages)


def _state(
  config: config_lib.Config,
  data: registry.DataConfig,
  optimizer: object,
  num_averages: int = 0,
) -> train_state.TrainState:
  return jax.eval_shape(
    lambda params: train_state.create(
      params, optimizer, num_power_averages=num_averages
    ),
    assembly.param_shapes(config, data),
  )


def _example(data: registry.DataConfig, lead: tuple[int, ...]) -> types.PyTree:
  shape = (*lead, *data.image_shape)
  return {
    'image': jax.ShapeDtypeStruct(shape, 'uint8'),
    'label': jax.ShapeDtypeStruct(lead, 'int32'),
  }
