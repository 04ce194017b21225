"""A record, beside public weights, of the images they were trained on.

`public/model/public_data.json` names the images, with a hash of their pixels in
order and the data section that loads them. Weights that start from those of
another run include its record. For weights from elsewhere only their own hash
is recorded.

Guarantees:
  * Images of the run that weights came from stay named, whoever trained
    further.
    `tests/stages/run/public_data_test.py::test_images_of_an_earlier_run`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import os
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.data import registry
from dp_diffusion.data import same_source
from dp_diffusion.privacy import statement as statement_lib

_FILE = 'public_data.json'
_IN_RUN = ('public', 'model', 'params.npz')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublicImages:
  """Images that weights were trained on, as far as known.

  Attributes:
    source: a public name, without folders of this machine.
    split: split of the source; '' if unknown.
    images_sha256: SHA-256 of the pixels in order; '' if unknown.
    data: the data section that loads the images; None if they are unknown.
  """

  source: str
  split: str = ''
  images_sha256: str = ''
  data: registry.DataConfig | None = None


def of_config(
  data: registry.DataConfig, images_sha256: str = ''
) -> PublicImages:
  """Returns the record of the images that a data section loads."""
  return PublicImages(
    source=same_source.describe(data),
    split=data.split,
    images_sha256=images_sha256,
    data=data,
  )


def path_of(weights_path: epath.PathLike) -> epath.Path:
  """Returns the path of the record of weights."""
  return epath.Path(weights_path).parent / _FILE


def write(weights_path: epath.PathLike, images: Sequence[PublicImages]) -> None:
  """Writes the record beside the weights."""
  entries = [
    {
      **{k: v for k, v in vars(entry).items() if k != 'data'},
      'data': config_lib.to_dict(entry.data) if entry.data else None,
    }
    for entry in images
  ]
  files.write_json(path_of(weights_path), {'images': entries})


def read(weights_path: epath.PathLike) -> tuple[PublicImages, ...] | None:
  """Reads the record beside weights; None if there is none.

  Raises:
    UsageError: the record is damaged.
  """
  path = path_of(weights_path)
  if not path.exists():
    return None
  try:
    entries = files.read_whole_json(path)['images']
    return tuple(
      PublicImages(**{**entry, 'data': _data(entry['data'])})
      for entry in entries
    )
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UsageError(
      f'{path} is damaged ({error}): restore it, or pre-train in another'
      ' --workdir.'
    ) from error


def of_weights(weights_path: epath.Path) -> tuple[PublicImages, ...]:
  """Finds the images that weights were trained on.

  They are taken from the record, the config of a run or a statement.
  """
  kept = read(weights_path)
  if kept is not None:
    return kept
  if weights_path.parts[-3:] == _IN_RUN:
    config = weights_path.parent.parent.parent / 'config.json'
    if config.exists():
      return _of_run(config)
  for folder in (weights_path.parent, weights_path.parent.parent):
    path = folder / statement_lib.FILE_NAME
    if path.exists():
      return _of_statement(path, weights_path)
  return (_unknown(weights_path),)


def _of_run(path: epath.Path) -> tuple[PublicImages, ...]:
  """Finds the images of a run of an older version, which has no record."""
  try:
    pretrain = files.read_json(path)['pretrain']['config']['pretrain']
    found: tuple[PublicImages, ...] = ()
    if pretrain['num_steps']:
      data = _data(pretrain['data'])
      assert data is not None
      found = (of_config(data),)
    if pretrain['init_from']:
      name = os.path.basename(os.path.normpath(pretrain['init_from']))
      found = (*found, PublicImages(source=f'weights of {name}'))
    return found
  except (KeyError, TypeError, ValueError, OSError) as error:
    raise errors.UsageError(
      f'Expected {path} to say which images the weights have seen, but it is'
      f' damaged ({error}): restore it.'
    ) from error


def _of_statement(
  path: epath.Path, weights_path: epath.Path
) -> tuple[PublicImages, ...]:
  """Reads a release's public images; `inherited_ledger` checks the rest."""
  try:
    entries = files.read_json(path)['public_data']
    return tuple(
      PublicImages(
        source=entry['source'],
        split=entry['split'],
        images_sha256=entry['images_sha256'],
      )
      for entry in entries
    )
  except (KeyError, TypeError, ValueError, OSError):
    return (_unknown(weights_path),)


def _unknown(weights_path: epath.Path) -> PublicImages:
  if not weights_path.exists():
    return PublicImages(source='weights that are not there')
  return PublicImages(
    source=f'weights of sha256 {files.sha256(weights_path)[:16]}'
  )


def _data(values: dict[str, Any] | None) -> registry.DataConfig | None:
  """Returns a data section, which an earlier version may have written."""
  if values is None:
    return None
  known = {field.name for field in dataclasses.fields(registry.DataConfig)}
  return registry.DataConfig(**{k: v for k, v in values.items() if k in known})
