"""The loop of training on public images on the host, with resume.

It combines batches, keys, the pmapped step and checkpoints, and does not depend
on models or datasets. Every process runs the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.training import checkpoint
from dp_diffusion.training import parallel as parallel_lib
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicRun:
  """The parts of a public training.

  Attributes:
    step: result of `parallel.DataParallel.pmap_public_step`.
    batch: step -> leaves [B, ...] on the host, the batch of all processes.
    batch_size: B, a multiple of the number of devices.
    key: typed key[] of the whole training.
    checkpoints: saves and restores the state.
    meta: facts stored in each checkpoint.
    num_steps: number of steps of the training.
    checkpoint_every_steps: steps between checkpoints.
    record_loss: (step, mean loss) -> None; the images are public.
    after_checkpoint: (step, state on the host) -> None; called by process 0
      when a checkpoint is saved.
    title: what the progress bar counts.
  """

  step: Callable[..., Any]
  batch: Callable[[int], types.PyTree]
  batch_size: int
  key: types.Key
  checkpoints: checkpoint.Checkpointer
  meta: Mapping[str, Any]
  num_steps: int
  checkpoint_every_steps: int
  record_loss: Callable[[int, float], None]
  after_checkpoint: Callable[[int, train_state.TrainState], None] = (
    lambda step, state: None
  )
  title: str = 'public pre-training, step'


def train_public(
  run: PublicRun,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  start_step: int,
  stop: Callable[[], bool],
) -> tuple[train_state.TrainState, int]:
  """Trains on public images until the last step, or until told to stop.

  Args:
    run: the parts of the training.
    devices: the devices of the run.
    state: state on the host after `start_step` steps.
    start_step: number of steps already done.
    stop: called between steps by all processes together; tells whether to stop.

  Returns:
    State on the host and number of steps done; both are in a checkpoint.

  Raises:
    UsageError: the batch cannot be divided among the devices.
  """
  shape = _device_shape(run.batch_size, devices)
  places = np.arange(run.batch_size, dtype=np.int32)
  mine = places.reshape(devices.process_count, *shape)[devices.process_index]
  indices = devices.shard(mine)
  replicas = devices.replicate(state)
  losses: list[tuple[int, Any]] = []
  step = start_step
  with console.progress(run.title, run.num_steps, start_step) as advance:
    while step < run.num_steps:
      batch = run.batch(step)
      batch = jax.tree.map(lambda x: x[mine], batch)
      replicas, loss = run.step(
        replicas,
        devices.shard(batch),
        jax.random.fold_in(run.key, step),
        indices,
      )
      losses.append((step, loss))
      parallel_lib.wait_for_last_but_one(losses)
      step += 1
      is_stopped = processes.any_process(stop())
      if (
        step % run.checkpoint_every_steps == 0
        or step == run.num_steps
        or is_stopped
      ):
        for number, value in losses:
          run.record_loss(number, float(devices.unreplicate(value)))
        losses.clear()
        saved = devices.unreplicate(replicas)
        run.checkpoints.save(step, saved, {}, run.meta)
        if devices.is_main:
          run.after_checkpoint(step, saved)
      advance()
      if is_stopped:
        break
  return devices.unreplicate(replicas), step


def compile_public_step(
  step: Callable[..., Any],
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  batch: types.PyTree,
  key: types.Key,
) -> None:
  """Compiles the step from shapes, so that it can be done before data are read.

  `train_public` then uses the compiled step.

  Args:
    step: result of `parallel.DataParallel.pmap_public_step`.
    devices: the devices of the run, of one process.
    state: shapes of the state, without a device axis.
    batch: shapes of the leaves [B, ...] of a batch.
    key: typed key[] of the training.

  Raises:
    UsageError: the batch cannot be divided among the devices.
  """
  (batch_size,) = {x.shape[0] for x in jax.tree.leaves(batch)}
  _, share = _device_shape(batch_size, devices)

  def of_device(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((share, *x.shape[1:]), x.dtype)

  lowered: Any = step
  lowered.lower(
    devices.replica_shapes(state),
    devices.replica_shapes(jax.tree.map(of_device, batch)),
    key,
    devices.replica_shapes(jax.ShapeDtypeStruct((share,), np.int32)),
  ).compile()


def _device_shape(
  batch_size: int, devices: parallel_lib.DataParallel
) -> tuple[int, int]:
  """Returns (D, images per device) of this process."""
  if batch_size % devices.num_global_devices:
    raise errors.UsageError(
      f'Expected pretrain.batch_size={batch_size} to be a multiple of the'
      f' {devices.num_global_devices} devices.'
    )
  return devices.num_devices, batch_size // devices.num_global_devices
