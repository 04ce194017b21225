"""Begins a private training, or continues it from its last checkpoint.

Fine-tuning and the DP classifier use both functions, the audit the second one.

Guarantees:
  * A resume continues with the ledger and the randomness of its checkpoint,
    and refuses another mechanism, training, dataset or secret.
    `tests/stages/finetune_test.py::test_a_resume_continues_its_ledger`,
    `tests/stages/baseline_test.py::test_classifier_resumes_under_its_ledger`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from etils import epath

from dp_diffusion import errors
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from dp_diffusion.training import journal
from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from dp_diffusion.training import state as train_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumedRun:
  """A private training at the step where it continues.

  Attributes:
    run: the files of the run; it records no statistics.
    streams: all secret randomness of the run.
    state: state after `start_step` steps, on the host.
    ledger: ledger of these steps, and of lost steps that are run again.
    start_step: number of steps done; 0 for a new run.
  """

  run: private_loop.PrivateRun
  streams: key_streams.KeyStreams
  state: train_state.TrainState
  ledger: ledger_lib.Ledger
  start_step: int


def begin(
  private_dir: epath.Path,
  secret: key_streams.Secret,
  facts: Mapping[str, Any],
  state: train_state.TrainState,
  ledger: ledger_lib.Ledger,
  *,
  num_steps: int,
  checkpoint_every_steps: int,
) -> ResumedRun:
  """Restores the last checkpoint that is whole, if there is one.

  Args:
    private_dir: folder of the checkpoints and the journal.
    secret: secret of the run.
    facts: result of `fingerprint.make`; compared with those of the checkpoint.
    state: state before the first step.
    ledger: ledger before the first step.
    num_steps: number of steps of the mechanism.
    checkpoint_every_steps: steps between checkpoints.

  Raises:
    UsageError: the checkpoint belongs to another run.
  """
  checkpoints = checkpoint.Checkpointer(
    private_dir / 'checkpoints', is_private=True
  )
  start_step = 0
  meta: Mapping[str, Any] = {
    'facts': facts,
    'run_id': fingerprint.run_id(secret, facts),
  }
  restored = checkpoints.restore(state)
  if restored:
    fingerprint.check_same(restored.meta['facts'], facts)
    start_step, state, meta = restored.step, restored.state, restored.meta
    ledger = ledger_lib.Ledger.from_json(restored.ledger)
  streams = key_streams.KeyStreams(secret=secret, run_id=meta['run_id'])
  run = private_loop.PrivateRun(
    checkpoints=checkpoints,
    journal=private_dir / workdirs.JOURNAL,
    meta=meta,
    num_steps=num_steps,
    checkpoint_every_steps=checkpoint_every_steps,
    record_stats=lambda step, stats: None,
  )
  return ResumedRun(
    run=run,
    streams=streams,
    state=state,
    ledger=journal.charge_lost_steps(
      run.journal, run.meta['run_id'], ledger, start_step
    ),
    start_step=start_step,
  )


def finish(
  begun: ResumedRun,
  steps: private_loop.PrivateSteps,
  devices: parallel.DataParallel,
  stop: interrupts.Stop,
  record_stats: Callable[[int, Any], None] | None = None,
) -> tuple[train_state.TrainState, ledger_lib.Ledger]:
  """Takes the remaining steps.

  Args:
    begun: result of `begin`.
    steps: the parts of a step.
    devices: the devices of the run.
    stop: called after every step; tells whether to stop.
    record_stats: writes un-noised statistics to private/; None records none.

  Returns:
    The state after all steps, on the host, and the ledger to publish.

  Raises:
    Interrupted: the user asked to stop, here or on another process; a
      checkpoint is saved.
  """
  run = begun.run
  if record_stats:
    run = dataclasses.replace(run, record_stats=record_stats)
  state, ledger, step = private_loop.train_private(
    steps, run, devices, begun.state, begun.ledger, begun.start_step, stop
  )
  if step < run.num_steps:
    stop.raise_if_asked()
    raise errors.Interrupted('Stopped by another process.')
  return state, ledger
