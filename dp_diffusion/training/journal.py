"""The journal of steps that may have been run, and what lost ones cost.

A private JSON file, written before steps are begun: the spans of steps, by the
randomness (run and random number generator) with which they were begun.

Guarantees:
  * Steps that are run again with other randomness are charged again, and
    once; the charge survives a kill and the loss of a checkpoint.
    `private_loop_test.py::test_changed_randomness_charges_replayed_steps`,
    `private_loop_test.py::test_charge_outlives_the_checkpoint_that_held_it`,
    `private_loop_test.py::test_another_run_charges_the_steps_of_the_one_before`.
  * A failure before the first program of a step has started (tracing,
    compiling, reading) charges nothing; one after it charges the steps up to
    that one, and no others.
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
  """Writes which steps may have run, before they do; forgets none that did.

  One write for the steps up to the next checkpoint. Whoever leaves in order,
  by an error or a stop, takes back those that were not begun; after a kill
  all of them count.
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
    """Writes nothing yet.

    Args:
      path: the journal; what it holds already stays.
      run_id: of the run, which says with `key_streams.rng_test_vector` what
        the randomness of a step is.
      num_steps: of the mechanism.
      checkpoint_every_steps: steps between checkpoints.
      num_processes: of the job. The devices of another process may have begun
        one step more than this one: with several, nothing is taken back.
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
    """Takes back what was not begun."""
    is_orderly = kind is None or issubclass(kind, Exception)
    if is_orderly and self._is_alone and self._begun < self._written:
      with contextlib.suppress(OSError):  # Then all of them count.
        self._write(self._begun)

  def begin(self, step: int) -> None:
    """Call it before anything of a step runs."""
    if step >= self._written:
      self._before, self._first = _read(self._path), step
      self._written = min(
        self._num_steps, (step // self._every + 1) * self._every
      )
      self._write(self._written)
    self._begun = step + 1

  def _write(self, end: int) -> None:
    """Steps of before, and those from the first to `end`."""
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

  Run again with the same keys and the same random number generator, a step
  gives the same bits, and nothing of it had left `private/`: it costs
  nothing. With another generator, or as another run (without a checkpoint a
  changed dataset or mechanism begins one), the earlier noise is another draw.

  The journal holds all steps that were ever begun. Those of this path, and
  those that are repeated alike from here on, are counted as steps; the
  rest is what the ledger has to hold as replayed, now or from an earlier call.

  Args:
    path: the journal, a private JSON file; need not exist.
    run_id: of the run that goes on.
    ledger: of the checkpoint that the run continues from.
    start_step: steps in that checkpoint.

  Returns:
    The ledger, charged if need be.
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
  """Steps begun under the same name repeat the same bits."""
  return f'{run_id} {key_streams.rng_test_vector()}'


def _read(path: epath.Path) -> dict[str, list[list[int]]]:
  """Spans [first, end) of steps begun, by their randomness."""
  if not path.exists():
    return {}
  return files.read_json(path)['begun_steps']
