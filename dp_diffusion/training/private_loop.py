"""Host loop of private training, with resume.

It joins selection, keys, the pmapped step, the ledger and checkpoints, and
knows nothing of models or datasets. Every process runs the same loop.

Guarantees:
  * A run that was killed and resumed ends with the bits of one that was not.
    `tests/training/private_loop_test.py::test_resumed_equals_uninterrupted`,
    `tests/stages/crash_test.py::test_killed_and_resumed_equals_uninterrupted`.
  * The ledger in a checkpoint counts the steps in its weights.
    `private_loop_test.py::test_ledger_is_in_step_with_the_weights`.
  * A step past the budget is never begun.
    `private_loop_test.py::test_no_step_past_the_budget`.
  * Un-noised statistics go to `record_stats` and nowhere else; the progress
    shows numbers of the plan.
    `tests/stages/leak_test.py::test_the_terminal_says_the_same`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

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
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state

Stop = Callable[[], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateSteps:
  """What a private step is made of.

  Attributes:
    selector: says which records take part.
    streams: all secret randomness.
    gather: (record indices int[n], step) -> leaves [n, ...] on the host.
    microbatch_size: records per device at a time.
    zeros: compiled, see `parallel.DataParallel.pmap_zeros`.
    accumulate: compiled, see `pmap_accumulate`.
    apply: compiled, see `pmap_apply`.
    private_stats: compiled, see `pmap_private_stats`.
    past_noise: (params, step) -> further arguments of `apply`: the noise of
      earlier steps, where that of this one depends on it.
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
    steps: its parts.
    devices: where it runs.
    state: on devices; donated.
    step: its number, from 0.

  Returns:
    The state after it, and its un-noised statistics, both on devices.
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
    # The batch was prepared while the device computed. A CPU goes no further
    # ahead: there, a call that waits holds its temporary memory already.
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
  """One microbatch as `accumulate` takes it, after state and total."""
  batch = steps.gather(slots.indices.reshape(-1), step)
  batch = jax.tree.map(
    lambda x: x.reshape(slots.indices.shape + x.shape[1:]), batch
  )
  return (
    devices.shard(batch),
    draw_key,
    devices.shard(slots.indices),
    devices.shard(slots.is_padding),
  )


def compile_private_step(
  steps: PrivateSteps,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  step: int,
) -> None:
  """Compiles all that `private_step` calls; no record enters a computation.

  What cannot be traced, compiled or read ends the run here, before the journal
  says that a step was begun. The calls that follow find what was compiled.

  Args:
    steps: its parts.
    devices: where it runs.
    state: on devices; kept.
    step: number of the next step.
  """
  draw_key = steps.streams.draw_key(step)
  shape = (devices.num_devices, steps.microbatch_size)
  padding = batch_selection.Slots(
    indices=np.zeros(shape, np.int32), is_padding=np.ones(shape, np.bool_)
  )
  total = steps.zeros(state.params)
  accumulate: Any = steps.accumulate
  accumulate.lower(
    state.params,
    state.frozen_params,
    total,
    *_on_devices(steps, devices, padding, draw_key, step),
  ).compile()
  private_stats: Any = steps.private_stats
  private_stats.lower(total).compile()
  apply: Any = steps.apply
  past = steps.past_noise(state.params, step)
  apply.lower(state, total, steps.streams.noise_keys(step), *past).compile()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateRun:
  """Where a private run keeps what it must not forget.

  Attributes:
    checkpoints: steps with state, ledger and `meta`.
    journal: private JSON file, written before steps are begun: every step
      that may have been run, and with which randomness.
    meta: facts stored in each checkpoint, to be compared at a resume; its
      'run_id' and the generator are what the randomness of a step depends on.
    num_steps: of the mechanism.
    checkpoint_every_steps: steps between checkpoints.
    record_stats: writes un-noised statistics to private/; (step, stats).
  """

  checkpoints: checkpoint.Checkpointer
  journal: epath.Path
  meta: Mapping[str, Any]
  num_steps: int
  checkpoint_every_steps: int
  record_stats: Callable[[int, Any], None]


def train_private(
  steps: PrivateSteps,
  run: PrivateRun,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  ledger: ledger_lib.Ledger,
  start_step: int,
  stop: Stop,
) -> tuple[train_state.TrainState, ledger_lib.Ledger, int]:
  """Trains until the mechanism's last step, or until told to stop.

  Args:
    steps: what a step is made of.
    run: what it keeps.
    devices: where it runs.
    state: on the host, after `start_step` steps.
    ledger: that holds those steps.
    start_step: steps done.
    stop: asked at every step boundary, by all processes together.

  Returns:
    State (host), ledger and steps done; all of it is in a checkpoint.

  Raises:
    UsageError: a step would spend more than the budget; a full disk.
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
        run.checkpoints.save(
          step, devices.unreplicate(replicas), ledger.to_json(), run.meta
        )
      advance()
      if is_stopped:
        break
  return devices.unreplicate(replicas), ledger, step


def _journal(
  run: PrivateRun, devices: parallel_lib.DataParallel
) -> contextlib.AbstractContextManager[journal_lib.Journal | None]:
  """The journal, on the process that writes."""
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
