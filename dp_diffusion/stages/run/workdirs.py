"""The working directory, its folders and the config that it belongs to.

config.json    resolved config of each stage, and which are complete
public/        pre-training checkpoints, logs, progress.png and curves.png
private/       mode 700: checkpoints, secret, un-noised metrics, timings, a look
               at the images (training_images.png, survey.json), progress.png,
               curves.png
release/       all that the guarantee covers
evaluation/    mode 700: computed from real images, not covered
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import fcntl
import os
import socket
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files

# Sections of the config that each stage uses, beyond those of earlier stages.
_SECTIONS = {
  'pretrain': ('seed', 'model', 'diffusion', 'pretrain'),
  'finetune': ('data', 'privacy', 'finetune'),
  'sample': ('sample', 'card'),
  'evaluate': ('evaluate',),
}
STAGES = tuple(_SECTIONS)
# Files in private/ which show that randomness was drawn from the secret.
JOURNAL = 'begun_steps.json'
HISTOGRAM = 'label_histogram.json'
BEGUN_EMBEDDING = 'begun_embedding.json'  # Of a baseline.
BEGUN_WARM_UP = 'begun_warm_up.json'
BEGUN_CLASS_HEAD = 'begun_class_head.json'
BEGUN_CLASS_GAUSSIANS = 'begun_class_gaussians.json'
BEGUN = (
  JOURNAL,
  HISTOGRAM,
  BEGUN_EMBEDDING,
  BEGUN_WARM_UP,
  BEGUN_CLASS_HEAD,
  BEGUN_CLASS_GAUSSIANS,
)
_FOUND = 'found'  # Keys that images were opened for, see `config.Config`.
# Keys that may change between runs, since they do not affect the result.
_OPERATIONAL = frozenset(
  {
    'pretrain.checkpoint_every_steps',
    'pretrain.data.cache_dir',
    'pretrain.data.tfds_dir',
    'pretrain.data.manual_dir',
    'data.cache_dir',
    'data.tfds_dir',
    'data.manual_dir',
    'privacy.secret_dir',
    'finetune.microbatch_size',
    'finetune.draw_chunk_size',
    'finetune.checkpoint_every_steps',
    'sample.batch_size',
    'card',
  }
)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of one run.

  Attributes:
    root: the folder that the user named.
  """

  root: epath.Path

  @property
  def public(self) -> epath.Path:
    """Folder of pre-training, which may be published."""
    return self.root / 'public'

  @property
  def public_weights(self) -> epath.Path:
    """File of public weights, from which fine-tuning and the audit start."""
    return self.public / 'model' / 'params.npz'

  @property
  def private(self) -> epath.Path:
    """Folder with mode 700, which must never be published."""
    return self.root / 'private'

  @property
  def release(self) -> epath.Path:
    """Folder that the guarantee covers."""
    return self.root / 'release'

  @property
  def evaluation(self) -> epath.Path:
    """Folder with mode 700, computed from real images and not covered."""
    return self.root / 'evaluation'

  @property
  def baseline(self) -> epath.Path:
    """File that names the baseline to which the folder belongs, if any."""
    return self.private / 'baseline.json'

  @property
  def config_path(self) -> epath.Path:
    """File with the resolved config of each stage."""
    return self.root / 'config.json'

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Locks the folder against other processes of this machine.

    Raises:
      UsageError: another process, which the message names, uses the folder.
    """
    if not files.is_local(self.root):
      yield
      return
    with open(self.private / '.lock', 'a+', encoding='utf-8') as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        lock.seek(0)
        raise errors.UsageError(
          f'{self.root} is in use by {lock.read() or "another process"}: wait'
          ' for it, or give another --workdir.'
        ) from None
      except OSError:
        pass  # The file system has no locks.
      lock.truncate(0)
      lock.write(f'process {os.getpid()} on {socket.gethostname()}')
      lock.flush()
      try:
        yield
      finally:
        lock.truncate(0)

  def is_complete(self, stage: str) -> bool:
    """Whether the stage has finished and its outputs exist."""
    return bool(self._record().get(stage, {}).get('complete'))

  def has_begun(self, stage: str) -> bool:
    """Whether the stage was begun, complete or not."""
    return stage in self._record()

  def begin(self, stage: str, config: config_lib.Config) -> None:
    """Records the config of the stage.

    Raises:
      UsageError: an earlier run of the stage had another config.
    """
    self.check(config, (stage,))
    record = self._record()
    before = record.get(stage, {})
    entry = before
    if before.get('config') != _resolved(stage, config):
      entry = {'config': _resolved(stage, config), 'complete': False}
    found = set(before.get(_FOUND, ())) | set(config.found)
    if found or not before or _FOUND in before:  # Else it was not recorded.
      entry = {**entry, _FOUND: sorted(found)}
    if entry != before:
      record[stage] = entry
      files.write_json(self.config_path, record)

  def forget(self, stage: str) -> None:
    """Removes the record of a stage that ended before it had done anything."""
    record = self._record()
    if record.pop(stage, None) is not None:
      files.write_json(self.config_path, record)

  def complete(self, stage: str, secs: float) -> None:
    """Marks the stage as finished, once its outputs are on the disk.

    Args:
      stage: one of STAGES.
      secs: seconds of the last run of the stage. The times are kept in
        private/, since the time of private steps depends on the number of
        records they read.
    """
    self.add_secs(stage, secs)
    record = self._record()
    record[stage]['complete'] = True
    files.write_json(self.config_path, record)

  def add_secs(self, stage: str, secs: float) -> None:
    """Adds seconds to the time that a stage has taken."""
    path = self.private / 'seconds.json'
    taken = files.read_json(path) if path.exists() else {}
    taken[stage] = taken.get(stage, 0.0) + secs
    files.write_json(path, taken, mode=0o600)

  def secs(self) -> Mapping[str, float]:
    """Returns the seconds of every stage that has run."""
    path = self.private / 'seconds.json'
    return files.read_json(path) if path.exists() else {}

  def check(
    self, config: config_lib.Config, stages: tuple[str, ...] = STAGES
  ) -> None:
    """Refuses a workdir that was begun with another config.

    A finished evaluation may be repeated with other settings.

    Raises:
      UsageError: a key differs (the message has both values), or the folder
        belongs to a baseline.
    """
    if self.baseline.exists():
      method = files.read_json(self.baseline)['method']
      raise errors.UsageError(
        f'{self.root} belongs to the baseline {method}, which has a ledger of'
        ' its own. Give another --workdir.'
      )
    record = self._record()
    for stage in stages:
      before = record.get(stage, {}).get('config')
      if before is None or stage == 'evaluate':
        continue
      whole = _with_later_keys(before)
      now = _with_later_keys(_resolved(stage, config))
      difference = first_difference(whole, now)
      if difference:
        key, old, new = difference
        later = ''
        if _has(whole, key) and not _has(before, key):
          later = ' (the default; earlier versions lack this key)'
        raise errors.UsageError(
          f'{self.root} belongs to another config: its {stage} stage has'
          f' {key}={old!r}{later}, this run has {key}={new!r}. Give the old'
          ' value, or another --workdir.'
        )

  def differs(self, stage: str, config: config_lib.Config) -> bool:
    """Whether the stage last ran with another config than this one."""
    before = self._record().get(stage, {}).get('config')
    now = _with_later_keys(_resolved(stage, config))
    return bool(first_difference(_with_later_keys(before or {}), now))

  def has_other_card(self, config: config_lib.Config) -> bool:
    """Whether the release has the card of another config."""
    stage = self._record().get('sample', {}).get('config', {})
    return bool(stage) and stage.get('card', {}) != (
      config_lib.to_dict(config.card)
    )

  def has_found(self, key: str, config: config_lib.Config) -> bool | None:
    """Whether a run of this folder opened images to decide a key.

    Args:
      key: dotted key.
      config: config of the present run.

    Returns:
      None if the training was by a version that did not record it.
    """
    record = self._record()
    recorded = [entry.get(_FOUND, ()) for entry in record.values()]
    if key in set(config.found).union(*recorded):
      return True
    return None if _FOUND not in record.get('finetune', {_FOUND: ()}) else False

  def _record(self) -> dict[str, Any]:
    if not self.config_path.exists():
      return {}
    try:
      record = files.read_json(self.config_path)
      if not isinstance(record, dict) or not all(
        isinstance(entry, dict) for entry in record.values()
      ):
        raise ValueError('it is no record of stages')
      return record
    except ValueError as error:
      raise errors.UsageError(
        f'{self.config_path} is damaged ({error}): restore it, or give another'
        ' --workdir.'
      ) from error


def open_workdir(path: str) -> Workdir:
  """Makes the folders; only the owner can read private ones.

  Raises:
    UsageError: the folder, or a subfolder that a stage writes to, cannot be
      made or written.
  """
  root = epath.Path(path)
  workdir = Workdir(root)
  try:
    root.mkdir(parents=True, exist_ok=True)
    for folder in (workdir.private, workdir.evaluation):
      folder.mkdir(parents=True, exist_ok=True)
      if files.is_local(folder):
        os.chmod(folder, 0o700)
    files.write_text(root / '.writable', '')
    (root / '.writable').unlink()
  except OSError as error:
    raise errors.UsageError(
      f'Expected --workdir={path} to be a folder that can be written'
      f' ({error.strerror or error}). Give another --workdir.'
    ) from None
  _check_writable(workdir)
  return workdir


def _check_writable(workdir: Workdir) -> None:
  """Checks now what would fail after hours of training.

  Raises:
    UsageError: an existing folder cannot be written.
  """
  folders = (
    workdir.public,
    workdir.public_weights.parent,
    workdir.private,
    workdir.private / 'checkpoints',
    workdir.release,
    workdir.release / 'model',
    workdir.release / 'dataset',
    workdir.evaluation,
  )
  for folder in folders:
    if not files.is_local(folder) or not os.path.lexists(folder):
      continue
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
      raise errors.UsageError(
        f'Expected {folder} to be a folder that can be written: run chmod u+rwx'
        ' on it, or give another --workdir.'
      )


def _resolved(stage: str, config: config_lib.Config) -> dict[str, Any]:
  full = config_lib.to_dict(config)
  return {section: full[section] for section in _SECTIONS[stage]}


def _with_later_keys(record: Any) -> Any:
  return config_lib.with_later_keys(record, config_lib.Config)


def _has(record: Any, key: str) -> bool:
  """Whether a record of a config has a dotted key."""
  for name in key.split('.'):
    if not isinstance(record, Mapping) or name not in record:
      return False
    record = record[name]
  return True


def first_difference(
  before: Any, after: Any, key: str = ''
) -> tuple[str, Any, Any] | None:
  """Returns the first dotted key that differs with both values, or None.

  >>> first_difference({'a': {'b': 1}}, {'a': {'b': 2}})
  ('a.b', 1, 2)
  """
  if key in _OPERATIONAL:
    return None
  if isinstance(before, Mapping) and isinstance(after, Mapping):
    for name in dict.fromkeys([*before, *after]):
      inner = f'{key}.{name}' if key else name
      found = first_difference(before.get(name), after.get(name), inner)
      if found:
        return found
    return None
  return None if before == after else (key, before, after)
