"""Writes the privacy statement and the card of a release from its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import importlib.metadata
import platform
from typing import Any

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import release_card
from dp_diffusion import release_marks
from dp_diffusion import version
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs

_CHANNELS = 'data.channels'
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'dp-accounting', 'numpy')


def check_release_is_new(workdir: workdirs.Workdir) -> None:
  """Refuses files that were in release/ before the run.

  Raises:
    UsageError: see `release.check_no_leftovers`.
  """
  if not run_secret.has_begun(workdir):
    release.check_no_leftovers(workdir.release)


def store(
  workdir: workdirs.Workdir,
  ledger: ledger_lib.Ledger,
  *,
  is_insecure: bool,
  public_data: Sequence[Mapping[str, Any]] = (),
) -> None:
  """Writes the final ledger to private/, for the stages that write files."""
  files.write_json(
    workdir.private / 'ledger.json',
    {
      'ledger': ledger.to_json(),
      'is_insecure': is_insecure,
      'public_data': list(public_data),
      'code_revision': version.revision(),
      'versions': versions(),
    },
    mode=0o600,
  )


def read(workdir: workdirs.Workdir) -> Mapping[str, Any]:
  """Reads what `store` wrote."""
  return files.read_json(workdir.private / 'ledger.json')


def mark(workdir: workdirs.Workdir) -> release_marks.Mark:
  """Returns the mark of this run's images; its model must be released first."""
  model = workdir.release / 'model' / 'params.npz'
  return release_marks.make(read(workdir)['ledger'], files.sha256(model))


def seal(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Writes the card and privacy.json for all files of release/.

  Raises:
    UsageError: the images there, or other files, are not of this run.
  """
  release.check_images(workdir.release, lambda: mark(workdir))
  stored = read(workdir)
  ledger = ledger_lib.Ledger.from_json(stored['ledger'])
  statement_lib.check_unit(ledger, config.data.unit)
  was_found = workdir.has_found(_CHANNELS, config)
  statement = statement_lib.statement(
    ledger,
    dataset=config.card.data_name or config.data.name,
    public_data=stored.get('public_data', ()),
    insecure_secret=stored['is_insecure'],
    code_revision=stored['code_revision'],
    versions=stored['versions'],
    decided_by_opening=(_CHANNELS,) if was_found else (),
  )
  channels = release_card.Channels(
    number=config.data.channels, is_found=was_found
  )
  release.write_card(workdir.release, statement, config.card, channels)
  release.seal(workdir.release, statement)


def versions() -> dict[str, str]:
  """Returns the versions of the software that computed the release."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {'python': platform.python_version(), **found}
