"""Host loops of public and private training, with resume.

They join selection, keys, the pmapped step, the ledger and checkpoints, and
know nothing of models or datasets. Every process runs the same loop.

Guarantees:
  * A run that was killed and resumed ends with the bits of one that was not.
    `tests/training/loop_test.py::test_resumed_equals_uninterrupted`,
    `tests/stages/crash_test.py::test_killed_and_resumed_equals_uninterrupted`.
  * The ledger in a checkpoint counts the steps in its weights.
    `loop_test.py::test_ledger_is_in_step_with_the_weights`.
  * Steps that are run again with other randomness are charged again, and
    once; the charge survives a kill and the loss of a checkpoint.
    `loop_test.py::test_changed_randomness_charges_replayed_steps`,
    `loop_test.py::test_charge_outlives_the_checkpoint_that_held_it`,
    `loop_test.py::test_another_run_charges_the_steps_of_the_one_before`.
  * A step past the budget is never begun.
    `loop_test.py::test_no_step_past_the_budget`.
  * Un-noised statistics go to `record_stats` and nowhere else; the progress
    shows numbers of the plan.
    `tests/stages/leak_test.py::test_the_terminal_says_the_same`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from dp_diffusion import array_types
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import files
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.training import checkpoint
from dp_diffusion.training import parallel as parallel_lib
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
  """

  selector: batch_selection.PoissonSelector
  streams: key_streams.KeyStreams
  gather: Callable[[np.ndarray, int], array_types.PyTree]
  microbatch_size: int
  zeros: Callable[..., Any]
  accumulate: Callable[..., Any]
  apply: Callable[..., Any]
  private_stats: Callable[..., Any]


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
    batch = steps.gather(slots.indices.reshape(-1), step)
    batch = jax.tree.map(
      lambda x: x.reshape(slots.indices.shape + x.shape[1:]),  # noqa: B023
      batch,
    )
    arguments = (
      devices.shard(batch),
      draw_key,
      devices.shard(slots.indices),
      devices.shard(slots.is_padding),
    )
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
  return steps.apply(state, total, steps.streams.noise_keys(step)), stats


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


def charge_lost_steps(
  run: PrivateRun, ledger: ledger_lib.Ledger, start_step: int
) -> ledger_lib.Ledger:
  """Charges steps that were begun and are run again with other randomness.

  Run again with the same keys and the same random number generator, a step
  gives the same bits, and nothing of it had left `private/`: it costs
  nothing. With another generator, or as another run (without a checkpoint a
  changed dataset or mechanism begins one), the earlier noise is another draw.

  The journal holds all steps that were ever begun. Those of this path, and
  those that are repeated alike from here on, are counted as steps; the
  rest is what the ledger has to hold as replayed, now or from an earlier call.

  Args:
    run: has the journal.
    ledger: of the checkpoint that the run continues from.
    start_step: steps in that checkpoint.

  Returns:
    The ledger, charged if need be.
  """
  journal = _read_journal(run)
  num_begun = sum(
    end - first for spans in journal.values() for first, end in spans
  )
  num_repeated = sum(
    end - start_step
    for first, end in journal.get(_randomness(run), ())
    if first <= start_step < end
  )
  num_charged = sum(
    entry.num_replayed_steps
    for entry in ledger.entries[-1:]
    if isinstance(entry, ledger_lib.DpSgdEntry)
  )
  num_lost = num_begun - start_step - num_repeated - num_charged
  if num_lost <= 0:
    return ledger
  console.warn(
    f'the randomness of the run has changed: {num_lost} steps that were begun'
    ' before are charged again'
  )
  return ledger.charge_replayed(num_lost)


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
  pending: list[tuple[int, Any]] = []
  step = start_step
  saved_step = start_step
  with console.progress(
    'private training, step', run.num_steps, start_step, is_private=True
  ) as advance:
    while step < run.num_steps:
      if step == saved_step:
        _begin(run, devices, step)
      replicas, stats = private_step(steps, devices, replicas, step)
      pending.append((step, stats))
      _stay_one_step_ahead(pending)
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
        saved_step = step
      advance()
      if is_stopped:
        break
  return devices.unreplicate(replicas), ledger, step


def _begin(
  run: PrivateRun, devices: parallel_lib.DataParallel, step: int
) -> None:
  """Writes the steps that come before the next checkpoint; forgets none."""
  if not devices.is_main:
    return
  every = run.checkpoint_every_steps
  next_save = min(run.num_steps, (step // every + 1) * every)
  journal = _read_journal(run)
  current = _randomness(run)
  spans: list[list[int]] = []
  for first, end in sorted([*journal.get(current, ()), [step, next_save]]):
    if spans and first <= spans[-1][1]:
      spans[-1][1] = max(spans[-1][1], end)
    else:
      spans.append([first, end])
  journal = {**journal, current: spans}
  files.write_json(run.journal, {'begun_steps': journal}, mode=0o600)


def _randomness(run: PrivateRun) -> str:
  """Steps begun under the same name repeat the same bits."""
  return f'{run.meta["run_id"]} {key_streams.rng_test_vector()}'


def _read_journal(run: PrivateRun) -> dict[str, list[list[int]]]:
  """Spans [first, end) of steps begun, by their randomness."""
  if not run.journal.exists():
    return {}
  return files.read_json(run.journal)['begun_steps']


def _flush(
  run: PrivateRun,
  devices: parallel_lib.DataParallel,
  pending: list[tuple[int, Any]],
) -> None:
  if devices.is_main:
    for step, stats in pending:
      run.record_stats(step, devices.unreplicate(stats))
  pending.clear()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicRun:
  """A public training and what it keeps.

  Attributes:
    step: compiled, see `parallel.DataParallel.pmap_public_step`.
    batch: step -> leaves [B, ...] on the host, the global batch.
    batch_size: B, a multiple of the number of devices.
    key: typed key[] of the whole training.
    checkpoints: steps with the state.
    meta: facts stored in each checkpoint.
    num_steps: in all.
    checkpoint_every_steps: steps between checkpoints.
    record_loss: writes (step, mean loss); the images are public.
  """

  step: Callable[..., Any]
  batch: Callable[[int], array_types.PyTree]
  batch_size: int
  key: array_types.Key
  checkpoints: checkpoint.Checkpointer
  meta: Mapping[str, Any]
  num_steps: int
  checkpoint_every_steps: int
  record_loss: Callable[[int, float], None]


def train_public(
  run: PublicRun,
  devices: parallel_lib.DataParallel,
  state: train_state.TrainState,
  start_step: int,
  stop: Stop,
) -> tuple[train_state.TrainState, int]:
  """Trains on public images until the last step, or until told to stop.

  Args:
    run: what to run and what it keeps.
    devices: where it runs.
    state: on the host, after `start_step` steps.
    start_step: steps done.
    stop: asked at every step boundary, by all processes together.

  Returns:
    State (host) and steps done; both are in a checkpoint.

  Raises:
    UsageError: the batch cannot be shared out among the devices.
  """
  shape = _device_shape(run.batch_size, devices)
  places = np.arange(run.batch_size, dtype=np.int32)
  mine = places.reshape(devices.process_count, *shape)[devices.process_index]
  indices = devices.shard(mine)
  replicas = devices.replicate(state)
  losses: list[tuple[int, Any]] = []
  step = start_step
  with console.progress(
    'public pre-training, step', run.num_steps, start_step
  ) as advance:
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
      _stay_one_step_ahead(losses)
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
        run.checkpoints.save(step, devices.unreplicate(replicas), {}, run.meta)
      advance()
      if is_stopped:
        break
  return devices.unreplicate(replicas), step


def _stay_one_step_ahead(results: list[tuple[int, Any]]) -> None:
  if len(results) > 1:
    jax.block_until_ready(results[-2][1])


def _device_shape(
  batch_size: int, devices: parallel_lib.DataParallel
) -> tuple[int, int]:
  """(D, images per device) of this process."""
  if batch_size % devices.num_global_devices:
    raise array_types.UsageError(
      f'Expected pretrain.batch_size={batch_size} to be a multiple of the'
      f' {devices.num_global_devices} devices.'
    )
  return devices.num_devices, batch_size // devices.num_global_devices
