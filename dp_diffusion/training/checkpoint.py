"""Saves weights, ledger and facts of a run in one atomic checkpoint.

A run may be killed at any moment. When it is started again, it must find
weights and a ledger that belong together, and the loss of a file must never
lead to an understated privacy loss. Only this module uses orbax.

The checkpoint of a step is a folder `<folder>/<step>/` with three items:
`state` (the arrays), `ledger` and `meta` (JSON). Orbax writes it under a
temporary name and renames it. At restore, a digest of the three items reveals
bytes that have changed or that the disk did not write.

Guarantees:
  - An incomplete step does not count: `test_kill_leaves_the_last_good_step`.
  - The newest whole step is used, and damaged ones are named:
    `test_damaged_steps_are_skipped_and_named`.
  - A full disk destroys no earlier step: `test_full_disk_costs_nothing`.
  - Lost steps stay known until a later one is saved, so that a ledger can be
    charged for them: `test_lost_steps_stay_known_until_a_save`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import gc
import json
import logging
import os
import sys
import time
from typing import Any
import warnings

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import types
from dp_diffusion.training import named_arrays
from dp_diffusion.training import processes

PyTree = types.PyTree

NUM_KEPT = 3  # Checkpoints of a training; older ones are removed.
_VERSION = 1
_TEMPORARY = '.orbax-checkpoint-tmp'
_SECS_FOR_OTHER_WRITES = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """The content of one checkpoint.

  Attributes:
    step: number of the step.
    state: the arrays, np.ndarray, in the structure of the template.
    ledger: the ledger that `save` was given.
    meta: the facts that `save` was given.
    lost_steps: later steps whose checkpoints were saved but are damaged. The
      run had reached the latest of them.
  """

  step: int
  state: PyTree
  ledger: dict[str, Any]
  meta: dict[str, Any]
  lost_steps: tuple[int, ...] = ()

  def digest(self, version: int = _VERSION) -> str:
    """Returns the hex SHA-256 of all fields but `lost_steps`.

    The state must be a flat dict.
    """
    head = {
      'version': version,
      'step': self.step,
      'ledger': self.ledger,
      'meta': self.meta,
    }
    return named_arrays.digest(self.state, head)


class DamagedStepError(Exception):
  """Says why the checkpoint of a step is damaged."""


class Checkpointer:
  """Saves and restores the checkpoints of one folder.

  The folder must be on storage that all processes share. Process 0 writes, and
  every process reads the same step. All processes call `save` and `restore`
  together. The state must be on the host or on one device, without a device
  axis.
  """

  def __init__(
    self, folder: epath.PathLike, *, is_private: bool, keep: int = NUM_KEPT
  ) -> None:
    """Stores the arguments; the first `save` makes the folder.

    Args:
      folder: folder of the checkpoints.
      is_private: whether only this user may read the folder (mode 700).
      keep: number of steps kept; older ones are removed after a save.

    Raises:
      ValueError: if `keep` is below 1.
    """
    checks.check_at_least('keep', keep, 1)
    # Orbax requires an absolute path for local folders.
    self.folder = epath.Path(
      os.path.abspath(folder) if files.is_local(folder) else folder
    )
    self._keep = keep
    self._is_private = is_private
    self._damaged: frozenset[int] = frozenset()

  def steps(self) -> tuple[int, ...]:
    """Returns the numbers of all saved steps, damaged ones too, in order."""
    if not self.folder.exists():
      return ()
    names = (path.name for path in self.folder.iterdir() if path.is_dir())
    return tuple(sorted(int(name) for name in names if name.isdecimal()))

  def save(
    self,
    step: int,
    state: PyTree,
    ledger: Mapping[str, Any],
    meta: Mapping[str, Any],
  ) -> None:
    """Writes one checkpoint, which is on the disk when the call returns.

    Args:
      step: number of the step, above that of every saved step.
      state: pytree of arrays without a device axis, at least one not empty.
      ledger: the ledger, a JSON object.
      meta: facts to compare at the next start, a JSON object.

    Raises:
      ValueError: this step or a later one has been saved before.
      UsageError: the checkpoint cannot be written (a full disk, no
        permission). Earlier ones are not affected.
    """
    failure = ''
    if jax.process_index() == 0:
      self._check_is_newest(step)
      try:
        self._write(step, state, _plain(ledger), _plain(meta))
      except Exception as error:
        failure = files.disk_failure(error)
        if not failure:
          raise
      if failure:
        with _quiet():  # Ends the background writes of the failed save.
          gc.collect()
        self._remove_temporary()
    if processes.any_process(bool(failure)):  # All processes wait for 0 here.
      good = [s for s in self.steps() if s < step and s not in self._damaged]
      raise errors.UsageError(
        f'Expected to write the checkpoint of step {step} to {self.folder}: '
        f'{failure or "process 0 could not"}; mend that and run again, '
        f'it continues from step {good[-1] if good else 0}.'
      )
    crash_points.reach('after_save')

  def restore(
    self, template: PyTree | None = None, *, may_lose_all: bool = False
  ) -> Restored | None:
    """Reads the newest checkpoint that is whole.

    Args:
      template: pytree of arrays or `jax.ShapeDtypeStruct` with the structure,
        shapes and dtypes to restore. None returns the state as a flat dict from
        leaf name to array, which is enough to read a ledger.
      may_lose_all: whether to return None if every checkpoint is damaged, as if
        there had been none. Use it only if no privacy was spent.

    Returns:
      The checkpoint, or None if nothing was ever saved.

    Raises:
      UsageError: the checkpoint does not fit the template (another config), all
        checkpoints are damaged, or processes find different steps.
    """
    found = self._newest_whole_step()
    digest = found.digest() if found else 'none'
    processes.agree({'checkpoint': digest})
    if found is None:
      self._check_nothing_is_lost(may_lose_all)
      return None
    if template is None:
      return found
    where = f'the checkpoint of step {found.step} in {self.folder}'
    state = named_arrays.unflatten(template, found.state, where)
    return dataclasses.replace(found, state=state)

  def _check_is_newest(self, step: int) -> None:
    newer = [s for s in self.steps() if s >= step and s not in self._damaged]
    if newer:
      raise ValueError(
        f'Expected step={step} to be above {newer[-1]}, the newest checkpoint'
        f' in {self.folder}.'
      )

  def _write(
    self, step: int, state: PyTree, ledger: dict[str, Any], meta: dict[str, Any]
  ) -> None:
    """Sets damaged steps aside, writes the step, and syncs it to the disk."""
    _make_folder(self.folder, self._is_private)
    self._set_damaged_aside()
    arrays = named_arrays.flatten(state)
    whole = Restored(step=step, state=arrays, ledger=ledger, meta=meta)
    envelope = {'version': _VERSION, 'digest': whole.digest(), 'meta': meta}
    args = ocp.args.Composite(
      state=ocp.args.PyTreeSave(arrays),
      ledger=ocp.args.JsonSave(ledger),
      meta=_MetaArgs(envelope),
    )
    with _quiet(), self._manager(is_writer=True) as manager:
      manager.save(step, args=args, force=True)
    files.sync_tree(self.folder / str(step))
    self._lost_list().unlink(missing_ok=True)
    self._damaged = frozenset()

  def _newest_whole_step(self) -> Restored | None:
    """Returns the newest whole step, and warns of those that it skips."""
    interrupted = self._interrupted_saves()
    damaged: dict[int, str] = {}
    whole = None
    for step in reversed(self.steps()):
      try:
        whole = self._read(step)
        break
      except DamagedStepError as error:
        damaged[step] = str(error)
    self._damaged = frozenset(damaged)
    instead = f'step {whole.step} is used' if whole else 'no other is there'
    for step, reason in damaged.items():
      console.warn(
        f'the checkpoint of step {step} is damaged ({reason}): {instead}'
      )
    for step in interrupted:
      console.warn(f'the saving of step {step} was interrupted: {instead}')
    if whole is None:
      return None
    lost = {s for s in (*damaged, *self._read_lost_list()) if s > whole.step}
    return dataclasses.replace(whole, lost_steps=tuple(sorted(lost)))

  def _check_nothing_is_lost(self, may_lose_all: bool) -> None:
    """Raises UsageError if steps were saved and none is whole."""
    lost = sorted({*self.steps(), *self._read_lost_list()})
    if lost and not may_lose_all:
      raise errors.UsageError(
        f'Expected a whole checkpoint in {self.folder}, found all damaged, up '
        f'to step {lost[-1]}: restore it from a backup, or choose another '
        'workdir and count what was spent here too.'
      )

  def _read(self, step: int) -> Restored:
    """Reads and checks one step; its state is a flat dict of named leaves."""
    args = ocp.args.Composite(
      state=ocp.args.PyTreeRestore(),
      ledger=ocp.args.JsonRestore(),
      meta=_MetaArgs(),
    )
    try:
      with _quiet(), self._manager(is_writer=False) as manager:
        items = manager.restore(step, args=args)
      envelope, ledger = items['meta'], items['ledger']
      arrays = {k: np.asarray(v) for k, v in items['state'].items()}
      version, digest = envelope['version'], envelope['digest']
      read = Restored(
        step=step, state=arrays, ledger=ledger, meta=envelope['meta']
      )
    except PermissionError as error:
      raise errors.UsageError(
        f'Expected {self.folder} to be readable: {error.strerror}.'
      ) from error
    except Exception as error:  # Damaged bytes raise many kinds of errors.
      raise DamagedStepError(type(error).__name__) from error
    if digest != read.digest(version):
      raise DamagedStepError('its digest differs')
    if version != _VERSION:
      raise errors.UsageError(
        f'Expected the checkpoint of step {step} in {self.folder} to be of '
        f'format {_VERSION}, not {version!r}: use the code that wrote it.'
      )
    return read

  @contextlib.contextmanager
  def _manager(self, *, is_writer: bool) -> Iterator[ocp.CheckpointManager]:
    """Makes a blocking orbax manager for this process alone."""
    process = jax.process_index()
    options = ocp.CheckpointManagerOptions(
      create=False,
      cleanup_tmp_directories=is_writer,
      enable_async_checkpointing=False,
      preservation_policy=checkpoint_managers.LatestN(n=self._keep),
      save_root_metadata=False,
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f'process_{process}',
      ),
    )
    manager = ocp.CheckpointManager(self.folder, options=options)
    try:
      yield manager
    finally:
      manager.close()

  def _lost_list(self) -> epath.Path:
    return self.folder / 'lost_steps.json'

  def _read_lost_list(self) -> list[int]:
    path = self._lost_list()
    return files.read_json(path) if path.exists() else []

  def _set_damaged_aside(self) -> None:
    """Removes damaged steps after writing their numbers to the disk."""
    if not self._damaged:
      return
    lost = sorted({*self._damaged, *self._read_lost_list()})
    files.write_json(self._lost_list(), lost, mode=0o600)
    for step in self._damaged:
      (self.folder / str(step)).rmtree(missing_ok=True)

  def _temporary(self) -> list[epath.Path]:
    if not self.folder.exists():
      return []
    return [p for p in self.folder.iterdir() if _TEMPORARY in p.name]

  def _interrupted_saves(self) -> list[int]:
    names = (path.name.split('.')[0] for path in self._temporary())
    return sorted(int(name) for name in names if name.isdecimal())

  def _remove_temporary(self) -> None:
    with contextlib.suppress(OSError):
      for path in self._temporary():
        path.rmtree(missing_ok=True)


class _MetaHandler(ocp.CheckpointHandler):
  """Writes a JSON item beside the arrays; holds the crash points of a save."""

  def save(self, directory: epath.Path, args: _MetaArgs) -> None:
    """Writes the JSON file."""
    (directory / 'meta.json').write_text(json.dumps(args.item))
    crash_points.reach('mid_save')

  def restore(
    self, directory: epath.Path, args: _MetaArgs | None = None
  ) -> dict[str, Any]:
    """Reads the JSON file."""
    del args
    return json.loads((directory / 'meta.json').read_text())

  def finalize(self, directory: epath.Path) -> None:
    """Runs after all items are written, before the step counts as saved."""
    del directory
    crash_points.reach('before_commit')


@ocp.args.register_with_handler(_MetaHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _MetaArgs(ocp.args.CheckpointArgs):
  item: dict[str, Any] | None = None


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the value as JSON restores it, with lists instead of tuples.

  NaN and infinity are errors.
  """
  return json.loads(json.dumps(value, allow_nan=False))


def _make_folder(folder: epath.Path, is_private: bool) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  if is_private and files.is_local(folder):
    os.chmod(folder, 0o700)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences the messages of orbax; this module reports errors itself."""
  loggers = [logging.getLogger(name) for name in ('absl', 'asyncio')]
  levels = [logger.level for logger in loggers]
  hook = sys.unraisablehook
  for logger in loggers:
    logger.setLevel(logging.CRITICAL + 1)
  sys.unraisablehook = lambda _: None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  except Exception:
    # Background writes in other threads fail too, and would print it.
    time.sleep(_SECS_FOR_OTHER_WRITES)
    raise
  finally:
    sys.unraisablehook = hook
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
