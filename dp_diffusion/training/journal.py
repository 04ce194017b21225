"""A journal of the steps that may have been run, and the charge for lost ones.

The journal is a private JSON file that is written before steps are begun. It
holds spans of steps by the randomness (run and random number generator) with
which they were begun.

Guarantees:
  * Steps that are run again with other randomness are charged once more; the
    charge survives a kill and the loss of a checkpoint.
    `private_loop_test.py::test_changed_randomness_charges_replayed_steps`,
    `private_loop_test.py::test_charge_outlives_the_checkpoint_that_held_it`,
    `private_loop_test.py::test_another_run_charges_the_steps_of_the_one_before`.
  * A failure before the first program of a step has started (tracing,
    compiling, reading) charges nothing; a later failure charges the steps up
    to that one, and no others.
    `private_loop_test.py::test_what_does_not_compile_is_not_charged`,
    `private_loop_test.py::test_a_failure_charges_the_steps_that_ran`.
"""

from __future__ import annotations

import contextlib

from etils import epath

from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib


class Journal:
  """Writes which steps may have run, before they do.

  Each write covers the steps up to the next checkpoint. After an error or a
  stop, the steps that were not begun are removed again. After a kill, all of
  them count as begun.
  """

  def __init__(
    self,
    path: epath.Path,
    run_id: str,
    *,
    num_steps: int,
    checkpoint_every_steps: int,
    num_processes: int,
  ) -> None:
    """Stores the arguments; `begin` writes.

    Args:
      path: the journal, whose earlier content is kept.
      run_id: identifies the run. Together with `key_streams.rng_test_vector` it
        determines the randomness of a step.
      num_steps: number of steps of the mechanism.
      checkpoint_every_steps: steps between checkpoints.
      num_processes: number of processes of the job. If there are several, no
        step is removed again, since the devices of another process may have
        begun one step more than those of this one.
    """
    self._path, self._run_id = path, run_id
    self._num_steps, self._every = num_steps, checkpoint_every_steps
    self._is_alone = num_processes == 1
    self._before: dict[str, list[list[int]]] = {}
    self._first = self._begun = self._written = 0

  def __enter__(self) -> Journal:
    """Returns itself."""
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    """Removes the steps that were not begun."""
    is_orderly = kind is None or issubclass(kind, Exception)
    if is_orderly and self._is_alone and self._begun < self._written:
      with contextlib.suppress(OSError):  # On an error all of them count.
        self._write(self._begun)

  def begin(self, step: int) -> None:
    """Enters a step; must be called before any program of the step starts."""
    if step >= self._written:
      self._before, self._first = _read(self._path), step
      self._written = min(
        self._num_steps, (step // self._every + 1) * self._every
      )
      self._write(self._written)
    self._begun = step + 1

  def _write(self, end: int) -> None:
    """Writes the earlier content and the steps from the first to `end`."""
    current = _randomness(self._run_id)
    spans: list[list[int]] = []
    now = [self._first, end]
    for start, stop in sorted([*self._before.get(current, ()), now]):
      if spans and start <= spans[-1][1]:
        spans[-1][1] = max(spans[-1][1], stop)
      else:
        spans.append([start, stop])
    journal = {**self._before, current: spans}
    files.write_json(self._path, {'begun_steps': journal}, mode=0o600)


def charge_lost_steps(
  path: epath.Path, run_id: str, ledger: ledger_lib.Ledger, start_step: int
) -> ledger_lib.Ledger:
  """Charges steps that were begun and are run again with other randomness.

  A step that is repeated with the same keys and the same random number
  generator gives the same bits, so it costs nothing more. With another
  generator, or in another run, its noise is a new draw, and the earlier draw
  counts too. (A changed dataset or mechanism begins another run if there is no
  checkpoint.)

  The journal holds all steps that were ever begun. The ledger counts as steps
  those before the checkpoint and those that will be repeated with the same
  bits. It must hold all others as replayed, and this function adds those that
  it lacks.

  Args:
    path: the journal, a private JSON file; it need not exist.
    run_id: identifies the run that continues.
    ledger: the ledger of the checkpoint from which the run continues.
    start_step: number of steps in that checkpoint.

  Returns:
    The ledger with the charge added, if there is any.
  """
  journal = _read(path)
  num_begun = sum(
    end - first for spans in journal.values() for first, end in spans
  )
  num_repeated = sum(
    end - start_step
    for first, end in journal.get(_randomness(run_id), ())
    if first <= start_step < end
  )
  num_charged = sum(entry.num_replayed_steps for entry in ledger.entries[-1:])
  num_lost = num_begun - start_step - num_repeated - num_charged
  if num_lost <= 0:
    return ledger
  console.warn(
    f'the randomness of the run has changed: {num_lost} steps that were begun'
    ' before are charged again'
  )
  return ledger.charge_replayed(num_lost)


def _randomness(run_id: str) -> str:
  """Returns a name of the randomness; equal names give equal bits."""
  return f'{run_id} {key_streams.rng_test_vector()}'


def _read(path: epath.Path) -> dict[str, list[list[int]]]:
  """Reads the spans [first, end) of steps begun, by their randomness."""
  if not path.exists():
    return {}
  return files.read_json(path)['begun_steps']
