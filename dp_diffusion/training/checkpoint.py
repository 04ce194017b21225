"""Checkpoints: weights, ledger and facts in one atomic step.

The only module that knows orbax. A run must be able to die at any instant and
find, when it is started again, weights and a ledger that belong together;
what was spent may never be understated because a file was lost.

A step is a folder `<folder>/<step>/` with three items: `state` (the arrays),
`ledger` and `meta` (JSON). Orbax writes it under a temporary name and renames
it. On top of that stands a digest of all three, so that bytes which changed
silently, or a disk that lied about being written, are found at restore.

Guarantees:
  - A step is whole or does not count: `test_kill_leaves_the_last_good_step`.
  - The newest whole step is used, and what was lost is said:
    `test_damaged_steps_are_skipped_and_named`.
  - A full disk costs no earlier step: `test_full_disk_costs_nothing`.
  - Steps that were lost stay known until a later one is saved, so that a
    ledger can be charged for them: `test_lost_steps_stay_known_until_a_save`.
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

_VERSION = 1
_TEMPORARY = '.orbax-checkpoint-tmp'
_SECS_FOR_OTHER_WRITES = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """What one step held.

  Attributes:
    step: its number.
    state: structure of the template, leaves np.ndarray.
    ledger: as it was given to `save`.
    meta: as it was given to `save`.
    lost_steps: later steps whose checkpoints were saved and are damaged now;
      the run had come as far as the latest of them.
  """

  step: int
  state: PyTree
  ledger: dict[str, Any]
  meta: dict[str, Any]
  lost_steps: tuple[int, ...] = ()

  def digest(self, version: int = _VERSION) -> str:
    """Hex SHA-256 of all but `lost_steps`; `state` must be a flat dict."""
    head = {
      'version': version,
      'step': self.step,
      'ledger': self.ledger,
      'meta': self.meta,
    }
    return named_arrays.digest(self.state, head)


class DamagedStepError(Exception):
  """A step that is there and cannot be trusted; the message says why."""


class Checkpointer:
  """Saves and restores the steps of one folder.

  Process 0 writes, every process reads and they must find the same: the
  folder is on storage that they share. All call `save` and `restore` together.
  State is on the host (or on one device): take device replicas away first.
  """

  def __init__(
    self, folder: epath.PathLike, *, is_private: bool, keep: int = 3
  ) -> None:
    """Does not touch the disk.

    Args:
      folder: where the steps are; made by the first save.
      is_private: whether the folder is for this user only (mode 700).
      keep: number of steps kept; older ones are removed after a save.

    Raises:
      ValueError: if `keep` is below 1.
    """
    checks.check_at_least('keep', keep, 1)
    # Orbax wants local folders from the root.
    self.folder = epath.Path(
      os.path.abspath(folder) if files.is_local(folder) else folder
    )
    self._keep = keep
    self._is_private = is_private
    self._damaged: frozenset[int] = frozenset()

  def steps(self) -> tuple[int, ...]:
    """Numbers of the steps that count, in order; damaged ones included."""
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
    """Writes one step; on return it is on the disk.

    Args:
      step: its number; above that of every step that is there.
      state: pytree of arrays without a device axis, at least one not empty.
      ledger: JSON object.
      meta: JSON object: facts to compare at the next start.

    Raises:
      ValueError: if the step, or a later one, is there already.
      UsageError: it cannot be written (a full disk, no permission); the steps
        before it are untouched.
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
        with _quiet():  # What the failed save began and nobody waits for.
          gc.collect()
        self._remove_temporary()
    if processes.any_process(bool(failure)):  # All wait for process 0 here.
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
    """Reads the newest step that is whole.

    Args:
      template: pytree of arrays or `jax.ShapeDtypeStruct`: the structure,
        shapes and dtypes to restore. None gives a flat dict of leaf name to
        array, which is enough to read a ledger.
      may_lose_all: if every step is damaged, return None as though there had
        been none. Right only where nothing private was spent.

    Returns:
      The step, or None if nothing was ever saved.

    Raises:
      UsageError: if the step does not fit the template (another config), or
        if all steps are damaged, or if processes find different steps.
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
    """Makes room among damaged steps, writes, makes durable."""
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
    """Reads from the newest step down; says what had to be skipped."""
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
    """Refuses to begin anew, without a word, where something was spent."""
    lost = sorted({*self.steps(), *self._read_lost_list()})
    if lost and not may_lose_all:
      raise errors.UsageError(
        f'Expected a whole checkpoint in {self.folder}, found all damaged, up '
        f'to step {lost[-1]}: restore it from a backup, or choose another '
        'workdir and count what was spent here too.'
      )

  def _read(self, step: int) -> Restored:
    """Reads and checks one step; leaves are named, not yet in a structure."""
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
    except Exception as error:  # Whatever broken bytes make a reader raise.
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
    """An orbax manager of this process alone, blocking; made anew each time."""
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
    """Removes damaged steps, after their numbers are on the disk."""
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
  """JSON, written while the arrays are; the crash points of a save."""

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
    """Is called when all items are written, before the step counts."""
    del directory
    crash_points.reach('before_commit')


@ocp.args.register_with_handler(_MetaHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _MetaArgs(ocp.args.CheckpointArgs):
  item: dict[str, Any] | None = None


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
  """The value as JSON gives it back: tuples are lists; no NaN, no infinity."""
  return json.loads(json.dumps(value, allow_nan=False))


def _make_folder(folder: epath.Path, is_private: bool) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  if is_private and files.is_local(folder):
    os.chmod(folder, 0o700)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences orbax: what matters is raised, and said by this module."""
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
    # Writes under way in other threads fail too, and print that they did.
    time.sleep(_SECS_FOR_OTHER_WRITES)
    raise
  finally:
    sys.unraisablehook = hook
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
