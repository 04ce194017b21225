"""The loop of private training on the host, with resume.

It combines selection, keys, the pmapped step, the ledger and checkpoints, and
does not depend on models or datasets. Every process runs the same loop.

Guarantees:
  * A killed and resumed run ends with the same bits as an uninterrupted one.
    `tests/training/private_loop_test.py::test_resumed_equals_uninterrupted`,
    `tests/stages/crash_test.py::test_killed_and_resumed_equals_uninterrupted`.
  * The ledger of a checkpoint counts the steps that its weights have seen.
    `private_loop_test.py::test_ledger_is_in_step_with_the_weights`.
  * A step past the budget is never begun.
    `private_loop_test.py::test_no_step_past_the_budget`.
  * Un-noised statistics go to `record_stats` only; the progress bar shows
    numbers that the plan already states.
    `tests/stages/leak_test.py::test_the_terminal_says_the_same`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent import futures
import contextlib
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from dp_diffusion import compiling
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import types
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.training import checkpoint
from dp_diffusion.training import journal as journal_lib
from dp_diffusion.training import parallel as parallel_lib
from dp_diffusion.training import past_noise
from dp_diffusion.training import private_step as private_step_lib
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateSteps:
  """The parts of a private step.

  Attributes:
    selector: selects the records of each step.
    streams: all secret randomness of the run.
    gather: (record indices int[n], step) -> leaves [n, ...] on the host.
    microbatch_size: records per device at a time.
    zeros: result of `parallel.DataParallel.pmap_zeros`.
    accumulate: result of `pmap_accumulate`.
    apply: result of `pmap_apply`.
    private_stats: result of `pmap_private_stats`.
    past_noise: (params, step) -> further arguments of `apply`, the past noise
      if the noise is correlated.
  """

  selector: batch_selection.PoissonSelector
  streams: key_streams.KeyStreams
  gather: Callable[[np.ndarray, int], types.PyTree]
  microbatch_size: int
  zeros: Callable[..., Any]
  accumulate: Callable[..., Any]
  apply: Callable[..., Any]
  private_stats: Callable[..., Any]
  past_noise: Callable[..., tuple[types.Array, ...]] = past_noise.none


def private_step(
  steps: PrivateSteps,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  step: int,
) -> tuple[train_state.TrainState, Any]:
  """Takes one private step.

  Args:
    steps: the parts of a step.
    devices: the devices of the run.
    state: state before the step, on devices; it is donated.
    step: number of the step, from 0.

  Returns:
    The state after the step and the un-noised statistics of the step, both on
    devices.
  """
  selected = steps.selector.select(step)
  draw_key = steps.streams.draw_key(step)
  total = steps.zeros(state.params)
  for slots in batch_selection.microbatches(
    selected,
    steps.microbatch_size,
    devices.num_devices,
    devices.process_index,
    devices.process_count,
  ):
    arguments = _on_devices(steps, devices, slots, draw_key, step)
    # The batch was prepared while the device computed. On a CPU the loop waits
    # here, since a queued call already holds its temporary memory.
    if devices.is_cpu:
      jax.block_until_ready(total)
    total = steps.accumulate(
      state.params,
      state.frozen_params,
      total,
      *arguments,
    )
  stats = steps.private_stats(total)
  noise_keys = steps.streams.noise_keys(step)
  past = steps.past_noise(state.params, step)
  return steps.apply(state, total, noise_keys, *past), stats


def _on_devices(
  steps: PrivateSteps,
  devices: parallel_lib.DataParallel,
  slots: batch_selection.Slots,
  draw_key: types.Key,
  step: int,
) -> tuple[Any, ...]:
  """Returns the arguments of `accumulate` for a microbatch, after the total."""
  batch = steps.gather(slots.indices.reshape(-1), step)
  batch = jax.tree.map(
    lambda x: x.reshape(slots.indices.shape + x.shape[1:]), batch
  )
  microbatch = private_step_lib.Microbatch(
    examples=batch, indices=slots.indices, is_padding=slots.is_padding
  )
  return devices.shard(microbatch), draw_key


def compile_private_step(
  steps: PrivateSteps,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  step: int,
) -> None:
  """Compiles all functions that `private_step` calls, without running them.

  An error in tracing, compiling or reading then ends the run before the journal
  says that a step was begun. Later calls use the compiled functions.

  Args:
    steps: the parts of a step.
    devices: the devices of the run.
    state: state on devices; it is not donated.
    step: number of the next step.
  """
  draw_key = steps.streams.draw_key(step)
  shape = (devices.num_devices, steps.microbatch_size)
  padding = batch_selection.Slots(
    indices=np.zeros(shape, np.int32), is_padding=np.ones(shape, np.bool_)
  )
  total = steps.zeros(state.params)
  accumulate: Any = steps.accumulate
  private_stats: Any = steps.private_stats
  apply: Any = steps.apply
  past = steps.past_noise(state.params, step)
  lowered = (
    accumulate.lower(
      state.params,
      state.frozen_params,
      total,
      *_on_devices(steps, devices, padding, draw_key, step),
    ),
    apply.lower(state, total, steps.streams.noise_keys(step), *past),
    private_stats.lower(total),
  )
  num_threads = len(lowered) if compiling.is_on_threads() else 1
  with futures.ThreadPoolExecutor(num_threads) as pool:
    list(pool.map(lambda program: program.compile(), lowered))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateRun:
  """The files of a private run, and its length.

  Attributes:
    checkpoints: saves and restores state, ledger and `meta`.
    journal: path of the journal (`journal.Journal`), a private JSON file.
    meta: facts stored in each checkpoint, to be compared at a resume. The
      randomness of a step depends on its 'run_id' and on the random number
      generator.
    num_steps: number of steps of the mechanism.
    checkpoint_every_steps: steps between checkpoints.
    record_stats: (step, statistics) -> None; writes un-noised statistics to
      private/.
    after_checkpoint: (step, state on the host) -> None; called by process 0
      when a checkpoint is saved. What it makes of the state stays in private/.
  """

  checkpoints: checkpoint.Checkpointer
  journal: epath.Path
  meta: Mapping[str, Any]
  num_steps: int
  checkpoint_every_steps: int
  record_stats: Callable[[int, Any], None]
  after_checkpoint: Callable[[int, train_state.TrainState], None] = (
    lambda step, state: None
  )


def train_private(
  steps: PrivateSteps,
  run: PrivateRun,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  ledger: ledger_lib.Ledger,
  start_step: int,
  stop: Callable[[], bool],
) -> tuple[train_state.TrainState, ledger_lib.Ledger, int]:
  """Trains until the mechanism's last step, or until told to stop.

  Args:
    steps: the parts of a step.
    run: the files of the run, and its length.
    devices: the devices of the run.
    state: state on the host after `start_step` steps.
    ledger: the ledger, which holds those steps.
    start_step: number of steps already done.
    stop: called between steps by all processes together; tells whether to stop.

  Returns:
    State on the host, ledger and number of steps done. All of it is in a
    checkpoint.

  Raises:
    UsageError: a step would exceed the budget, or the disk is full.
  """
  ledger.check_can_spend(run.num_steps - start_step)
  replicas = devices.replicate(state)
  if start_step < run.num_steps:
    compile_private_step(steps, devices, replicas, start_step)
  pending: list[tuple[int, Any]] = []
  step = start_step
  with (
    console.progress(
      'private training, step', run.num_steps, start_step, is_private=True
    ) as advance,
    _journal(run, devices) as journal,
  ):
    while step < run.num_steps:
      if journal:
        journal.begin(step)
      replicas, stats = private_step(steps, devices, replicas, step)
      pending.append((step, stats))
      parallel_lib.wait_for_last_but_one(pending)
      ledger = ledger.with_steps(1)
      step += 1
      crash_points.reach('mid_step')
      is_stopped = processes.any_process(stop())
      if (
        step % run.checkpoint_every_steps == 0
        or step == run.num_steps
        or is_stopped
      ):
        _flush(run, devices, pending)
        saved = devices.unreplicate(replicas)
        run.checkpoints.save(step, saved, ledger.to_json(), run.meta)
        if devices.is_main:
          run.after_checkpoint(step, saved)
      advance()
      if is_stopped:
        break
  return devices.unreplicate(replicas), ledger, step


def _journal(
  run: PrivateRun, devices: parallel_lib.DataParallel
) -> contextlib.AbstractContextManager[journal_lib.Journal | None]:
  """Returns the journal on process 0, and nothing on the others."""
  if not devices.is_main:
    return contextlib.nullcontext()
  return journal_lib.Journal(
    run.journal,
    run.meta['run_id'],
    num_steps=run.num_steps,
    checkpoint_every_steps=run.checkpoint_every_steps,
    num_processes=devices.process_count,
  )


def _flush(
  run: PrivateRun,
  devices: parallel_lib.DataParallel,
  pending: list[tuple[int, Any]],
) -> None:
  if devices.is_main:
    for step, stats in pending:
      run.record_stats(step, devices.unreplicate(stats))
  pending.clear()
