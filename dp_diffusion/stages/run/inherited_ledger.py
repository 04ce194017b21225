"""The ledger that first weights, or released images, bring to a run.

Weights that were released under differential privacy are not public weights:
fine-tuning them on the same records adds to the privacy loss of these records.
If `pretrain.init_from` leads to a release, its ledger is read, kept beside the
weights in `public/`, and composed with that of this run. The same holds for
released images that are used for pre-training (`released`). It is not checked
whether the records are the same, since composition never understates.

Guarantees:
  * Weights of a release bring its ledger, also through another run's folder.
    `tests/stages/run/inherited_ledger_test.py::test_a_release_brings_its_ledger`,
    `tests/stages/run/inherited_ledger_test.py::test_it_travels_through_another_run`.
  * The mechanism is calibrated to what the inherited ledger leaves, and the
    published ledger holds both.
    `tests/stages/run/inherited_ledger_test.py::test_fine_tuning_composes_the_ledger`.
  * A statement that does not cover the weights is refused, not ignored.
    `tests/stages/run/inherited_ledger_test.py::test_doubtful_statement_is_refused`.
  * Images of a release that are used for pre-training bring its ledger, and so
    do weights that another run has trained on them.
    `tests/stages/run/inherited_ledger_test.py::test_released_images_bring_the_ledger`,
    `tests/stages/run/inherited_ledger_test.py::test_weights_made_from_released_images`.
  * Released weights that were copied away from their ledger are refused.
    `tests/stages/run/inherited_ledger_test.py::test_released_weights_without_their_ledger_are_refused`.
"""

from __future__ import annotations

from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.models.formats import foreign
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import strict_json
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import released_ledger
from dp_diffusion.stages.run import workdirs

_RECORD = 'inherited.json'  # A file beside the weights.


Inherited = released_ledger.Inherited


def find(config: config_lib.Config, workdir: workdirs.Workdir) -> Inherited:
  """Finds the ledger that the first weights of this run bring.

  The result is empty for weights that are missing, see `can_be_read`. Weights
  are loaded before the first step, so they cannot be missing then.

  Args:
    config: its `pretrain.init_from` is read if public/ has no weights yet.
    workdir: its public/ is read once it has weights.

  Raises:
    UsageError: the statement is damaged, does not cover these weights, or has
      another unit than this run.
  """
  path = _first_weights(config, workdir)
  found = Inherited() if path is None else _beside(path)
  found += _of_images(config, path)
  for entry in found.entries:
    if entry.ledger.unit != config.data.unit:
      raise errors.UsageError(
        f'Expected data.unit={config.data.unit!r} to be'
        f' {entry.ledger.unit!r}, the unit of the release that pre-training'
        f' starts from: {entry.source}.'
      )
  return found


def can_be_read(config: config_lib.Config, workdir: workdirs.Workdir) -> bool:
  """Whether the first weights exist, or come from the seed."""
  path = _first_weights(config, workdir)
  return path is None or path.exists()


def _first_weights(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> epath.Path | None:
  """Returns the weights in public/, else those to start from; None for new."""
  if workdir.public_weights.exists():
    return workdir.public_weights
  if not config.pretrain.init_from:
    return None
  return init_path(config.pretrain)


def record(config: config_lib.Config, workdir: workdirs.Workdir) -> bool:
  """Writes the ledger of the first weights; call it before writing weights.

  Returns:
    Whether the ledger has entries.
  """
  path = init_path(config.pretrain) if config.pretrain.init_from else None
  found = Inherited() if path is None else _beside(path)
  found += _of_images(config, path)
  if found.entries:
    files.write_json(
      workdir.public_weights.parent / _RECORD,
      {
        'entries': [entry.to_json() for entry in found.entries],
        'is_insecure': found.is_insecure,
      },
    )
  return bool(found.entries)


def init_path(pretrain: config_lib.PretrainConfig) -> epath.Path:
  """Returns the file to which `pretrain.init_from`, which must be set, leads.

  Raises:
    UsageError: the folder has no weights, or a foreign file does not exist.
  """
  if pretrain.init_format:
    return foreign.find(pretrain.init_format, pretrain.init_from)
  path = epath.Path(pretrain.init_from)
  if not path.is_dir():
    return path
  for place in ('public/model/params.npz', 'model/params.npz', 'params.npz'):
    if (path / place).exists():
      return path / place
  raise errors.UsageError(
    f'Expected pretrain.init_from={pretrain.init_from} to hold'
    ' public/model/params.npz or params.npz: name a finished run or an'
    ' .npz file.'
  )


def refuse_released_images(data: registry.DataConfig) -> None:
  """Refuses released images for a training that does not compose ledgers.

  Raises:
    UsageError: the images are part of a release.
  """
  for entry in released_ledger.of_images(data).entries:
    raise errors.UsageError(
      f'Expected public images in {data.name} {data.path}, found images of'
      f' {entry.source}: what they have cost would not be counted here.'
    )


def _of_images(config: config_lib.Config, path: epath.Path | None) -> Inherited:
  """Finds the ledgers of the images that the weights are trained on.

  Args:
    config: config of the run.
    path: path of the first weights; None for new ones.
  """
  found = Inherited()
  if config.reads_public_images:
    found += released_ledger.of_images(config.pretrain.data)
  if path is not None and path.exists():
    for entry in public_provenance.of_weights(path):
      if entry.data is not None:
        found += released_ledger.of_images(entry.data)
  return found


def _beside(path: epath.Path) -> Inherited:
  """Reads the ledger beside weights, from a record or a statement."""
  kept = path.parent / _RECORD
  if kept.exists():
    return _of_record(kept)
  for folder in (path.parent, path.parent.parent):
    statement = folder / statement_lib.FILE_NAME
    if statement.exists():
      return _of_release(statement, path)
  if weights.is_released(path):
    raise errors.UsageError(
      f'Expected the ledger of {path}, which holds weights released under'
      ' differential privacy: name the whole release folder, with its'
      f' {statement_lib.FILE_NAME}.'
    )
  return Inherited()


def _of_record(path: epath.Path) -> Inherited:
  try:
    found = strict_json.loads(path.read_bytes())
    if not isinstance(found, dict):
      raise ValueError('it is no JSON object')
    entries = found.get('entries', [found.get('entry')])
    is_insecure = strict_json.boolean('is_insecure', found.get('is_insecure'))
    return Inherited(
      entries=tuple(
        ledger_lib.InheritedEntry.from_json(entry)
        for entry in strict_json.items('entries', entries)
      ),
      is_insecure=is_insecure,
    )
  except ValueError as error:
    raise released_ledger.doubtful(str(path), str(error), 'weights') from error


def _of_release(path: epath.Path, weights_path: epath.Path) -> Inherited:
  """Reads a release's statement, and checks that it covers the weights."""

  def problem_of(statement: dict[str, Any]) -> str:
    is_covered = files.sha256(weights_path) in statement['files'].values()
    return '' if is_covered else f'it does not list {weights_path}'

  return released_ledger.of_statement(
    str(path), path.read_bytes(), problem_of, 'weights'
  )
