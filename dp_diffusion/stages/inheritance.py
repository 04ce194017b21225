"""What the weights that a run starts from have cost already.

Weights that were released under differential privacy are no public weights:
whoever fine-tunes them further on the same records spends on top. Where
`pretrain.init_from` leads to a release, its ledger is read, kept beside the
weights in `public/`, and composed with what this run spends. Whether the
records are the same is not asked: composing never understates.

Guarantees:
  * Weights of a release bring its ledger, also through another run's folder.
    `tests/stages/inheritance_test.py::test_a_release_brings_its_ledger`,
    `tests/stages/inheritance_test.py::test_it_travels_through_another_run`.
  * The mechanism is calibrated to what the inherited ledger leaves, and the
    published ledger holds both.
    `tests/stages/inheritance_test.py::test_fine_tuning_composes_the_ledger`.
  * A statement that does not cover the weights is refused, not ignored.
    `tests/stages/inheritance_test.py::test_doubtful_statement_is_refused`.
  * Released weights that were copied away from their ledger are refused.
    `tests/stages/inheritance_test.py::test_released_weights_without_their_ledger_are_refused`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epath

from dp_diffusion import array_types
from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion.models import weights
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import strict_json
from dp_diffusion.stages import workdirs

_RECORD = 'inherited.json'  # Beside the weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inherited:
  """What comes with the first weights.

  Attributes:
    entries: none for public weights, or the ledger of a release.
    is_insecure: the secret of that release was planted by a test.
  """

  entries: tuple[ledger_lib.InheritedEntry, ...] = ()
  is_insecure: bool = False


def find(config: config_lib.Config, workdir: workdirs.Workdir) -> Inherited:
  """What the weights of this run have cost.

  Weights that are missing have cost nothing, as far as this can say: see
  `can_be_read`. They are loaded, and so must be there, before any step.

  Args:
    config: its `pretrain.init_from` is asked while there are no weights yet.
    workdir: its `public/` is asked once they are there.

  Raises:
    UsageError: the statement is damaged, is not of these weights, or protects
      another unit than this run.
  """
  path = _first_weights(config, workdir)
  if path is None:
    return Inherited()
  found = _beside(path)
  for entry in found.entries:
    if entry.ledger.unit != config.data.unit:
      raise array_types.UsageError(
        f'Expected data.unit={config.data.unit!r} to be'
        f' {entry.ledger.unit!r}, the unit of the release whose weights'
        ' pretrain.init_from names.'
      )
  return found


def can_be_read(config: config_lib.Config, workdir: workdirs.Workdir) -> bool:
  """Whether `find` saw the first weights, or they come from the seed."""
  path = _first_weights(config, workdir)
  return path is None or path.exists()


def _first_weights(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> epath.Path | None:
  """Those of `public/`, else those to start from; None for fresh ones."""
  if workdir.public_weights.exists():
    return workdir.public_weights
  if not config.pretrain.init_from:
    return None
  return init_path(config.pretrain)


def record(config: config_lib.Config, workdir: workdirs.Workdir) -> bool:
  """Keeps what the first weights have cost; before they are written.

  Returns:
    Whether they have cost anything.
  """
  if not config.pretrain.init_from:
    return False
  found = _beside(init_path(config.pretrain))
  for entry in found.entries:
    files.write_json(
      workdir.public_weights.parent / _RECORD,
      {'entry': entry.to_json(), 'is_insecure': found.is_insecure},
    )
  return bool(found.entries)


def init_path(pretrain: config_lib.PretrainConfig) -> epath.Path:
  """The .npz that `pretrain.init_from` leads to; it must be set.

  Raises:
    UsageError: a folder without weights.
  """
  path = epath.Path(pretrain.init_from)
  if not path.is_dir():
    return path
  for place in ('public/model/params.npz', 'model/params.npz', 'params.npz'):
    if (path / place).exists():
      return path / place
  raise array_types.UsageError(
    f'Expected pretrain.init_from={pretrain.init_from} to hold'
    ' public/model/params.npz or params.npz: name a finished run or an'
    ' .npz file.'
  )


def _beside(path: epath.Path) -> Inherited:
  """What is known of the weights at `path`: a record, or a statement."""
  kept = path.parent / _RECORD
  if kept.exists():
    return _of_record(kept)
  for folder in (path.parent, path.parent.parent):
    statement = folder / statement_lib.FILE_NAME
    if statement.exists():
      return _of_release(statement, path)
  if weights.is_released(path):
    raise array_types.UsageError(
      f'Expected the ledger of {path}, which holds weights released under'
      ' differential privacy: name the whole release folder, with its'
      f' {statement_lib.FILE_NAME}.'
    )
  return Inherited()


def _of_record(path: epath.Path) -> Inherited:
  found = _read(path)
  try:
    strict_json.fields(path.name, found, ('entry', 'is_insecure'))
    entry = ledger_lib.InheritedEntry.from_json(found['entry'])
    is_insecure = strict_json.boolean('is_insecure', found['is_insecure'])
  except ValueError as error:
    raise _doubtful(path, str(error)) from error
  return Inherited(entries=(entry,), is_insecure=is_insecure)


def _of_release(path: epath.Path, weights_path: epath.Path) -> Inherited:
  """Reads a release's statement, and checks that it covers the weights."""
  statement = _read(path)
  try:
    ledger = statement_lib.parse_ledger(statement)
    is_insecure = strict_json.boolean(
      'insecure_secret', statement.get('insecure_secret')
    )
    is_whole = statement.get('checksum') == statement_lib.checksum(statement)
    digest = files.sha256(weights_path)
    is_covered = digest in statement['files'].values()
    dataset = strict_json.line('dataset', statement.get('dataset'))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise _doubtful(path, str(error)) from error
  if not is_whole:
    raise _doubtful(path, 'its checksum differs')
  if not is_covered:
    raise _doubtful(path, f'it does not list {weights_path}')
  source = f'the release of {dataset}, weights of sha256 {digest[:16]}'
  return Inherited(
    entries=(ledger_lib.InheritedEntry(ledger=ledger, source=source),),
    is_insecure=is_insecure,
  )


def _read(path: epath.Path) -> dict[str, Any]:
  try:
    value = strict_json.loads(path.read_bytes())
  except ValueError as error:
    raise _doubtful(path, str(error)) from error
  if not isinstance(value, dict):
    raise _doubtful(path, 'it is no JSON object')
  return value


def _doubtful(path: epath.Path, reason: str) -> array_types.UsageError:
  return array_types.UsageError(
    f'Expected {path} to state what the weights beside it have cost, but'
    f' {reason}: take the release as it was published, or weights that are'
    ' public.'
  )
