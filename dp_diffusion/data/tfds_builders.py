"""Finds, downloads, prepares and opens TFDS datasets on disk.

A dataset that is not prepared is downloaded and prepared if TensorFlow and a
network are available; otherwise the error says how to get it. TFDS is imported
when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import importlib.util
import os
import pathlib
import re
import socket
from typing import Any
import urllib.parse
import urllib.request

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import registry

_NAME = re.compile(
  r'(?P<name>\w+)(/(?P<config>[^:/]+(/[^:/]+)*))?(:(?P<version>\d+\.\d+\.\d+))?'
)
_VERSION = re.compile(r'\d+\.\d+\.\d+')


def data_dir(config: registry.DataConfig) -> pathlib.Path:
  """Returns the folder of prepared datasets, data.tfds_dir or TFDS's own."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(config.tfds_dir or default).expanduser()


def find(name: str, folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the folder of the newest prepared version, or None."""
  match = _NAME.fullmatch(name)
  if match is None:
    raise errors.UsageError(
      f"Expected data.name={name!r} to be 'NAME', 'NAME/CONFIG' or "
      "'NAME/CONFIG:1.0.0'."
    )
  base = folder / match['name']
  if match['config']:
    base = base / match['config']
  found = sorted(
    info.parent
    for info in base.glob('*/dataset_info.json')
    if match['version'] in (None, info.parent.name)
    and _VERSION.fullmatch(info.parent.name)
  )
  if found:
    return max(found, key=lambda path: [int(v) for v in path.name.split('.')])
  configs = sorted(
    {
      str(info.parent.parent.relative_to(base))
      for info in base.glob('*/*/dataset_info.json')
    }
  )
  if configs and not match['config']:
    raise errors.UsageError(
      f'Expected data.name={name!r} to name one of its configs: '
      + checks.some([repr(f'{match["name"]}/{c}') for c in configs])
      + '.'
    )
  return None


def import_tfds() -> Any:
  """Imports tensorflow_datasets; a UsageError says how to install it."""
  try:
    return importlib.import_module('tensorflow_datasets')
  except ImportError as error:
    raise errors.UsageError(
      f'TFDS datasets need the package tensorflow-datasets ({error}): '
      '`pip install tensorflow-datasets array_record`.'
    ) from error


def open_builder(path: pathlib.Path) -> Any:
  """Opens a prepared dataset, even if TFDS does not have its code."""
  tfds = import_tfds()
  with damage_named(path):
    return tfds.builder_from_directory(os.fspath(path))


@contextlib.contextmanager
def damage_named(path: pathlib.Path | str) -> Iterator[None]:
  """Turns any error of TFDS in the block into a UsageError of one line.

  Args:
    path: folder of the prepared dataset.

  Raises:
    UsageError: TFDS raised an error, since files are missing or damaged.
  """
  try:
    yield
  except errors.UsageError:
    raise
  except Exception as error:
    reason = errors.without_counts(error)
    raise errors.UsageError(
      f'The prepared dataset in {path} cannot be read ({reason}): it is'
      ' damaged or not whole; put it there again.'
    ) from error


def known_builder(name: str, config: registry.DataConfig) -> Any:
  """Returns the builder of a dataset that TFDS knows.

  Raises:
    UsageError: TFDS does not know the dataset; the message says what to do.
  """
  tfds = import_tfds()
  folder = data_dir(config)
  try:
    builder = tfds.builder(
      name, data_dir=os.fspath(folder), file_format='array_record'
    )
  except tfds.core.DatasetNotFoundError:
    raise errors.UsageError(
      f'Expected data.name={name!r} to be prepared in {folder} or to be '
      'known to TFDS, and it is neither: see '
      'https://www.tensorflow.org/datasets/catalog/overview, or set '
      'data.tfds_dir to the folder that holds it.'
    ) from None
  except (AssertionError, ValueError):
    # The code of the dataset does not have this config or version.
    raise errors.UsageError(
      f'Expected data.name={name!r} to name a config and a version that TFDS'
      f' knows{_known_to(tfds, name)}, or one that is prepared in {folder}.'
    ) from None
  _check_can_prepare(builder, config)
  return builder


def _known_to(tfds: Any, name: str) -> str:
  """Lists the configs and the version of a dataset, for messages."""
  match = _NAME.fullmatch(name)
  kind = tfds.builder_cls(match['name']) if match else None
  if kind is None:
    return ''
  configs = [repr(config.name) for config in kind.BUILDER_CONFIGS]
  parts = [f'configs {checks.some(configs)}' if configs else 'no configs']
  if kind.VERSION is not None:
    parts.append(f'version {kind.VERSION}')
  return f' ({"; ".join(parts)})'


def prepare_builder(builder: Any, config: registry.DataConfig) -> pathlib.Path:
  """Downloads and prepares a builder.

  Args:
    builder: a `tfds.core.DatasetBuilder`.
    config: gives manual_dir, and the names for messages.

  Returns:
    The folder of the prepared dataset.

  Raises:
    UsageError: the network, TensorFlow or a file to be placed by hand is
      missing. The message says what to download and where to put it.
  """
  tfds = import_tfds()
  options = {}
  if config.manual_dir:
    options['manual_dir'] = str(pathlib.Path(config.manual_dir).expanduser())
  console.say(f'preparing {builder.info.full_name} in {builder.data_dir}')
  tfds.disable_progress_bar()
  try:
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(**options)
    )
  except errors.UsageError:
    raise
  except (
    AssertionError,
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
  ) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise errors.UsageError(
      f'{_how_to_get(builder, config)} ({lines[0]})'
    ) from error
  return pathlib.Path(builder.data_dir)


def _check_can_prepare(builder: Any, config: registry.DataConfig) -> None:
  """Raises UsageError if preparing would fail, after minutes of retries."""
  if importlib.util.find_spec('tensorflow') is None:
    why = 'TensorFlow is not installed here.'
  elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not config.manual_dir:
    why = 'Its files must be placed by hand: set data.manual_dir.'
  elif not (config.manual_dir or is_online(builder.info.homepage)):
    why = 'There is no network here.'
  else:
    return
  raise errors.UsageError(f'{_how_to_get(builder, config)} ({why})')


def _how_to_get(builder: Any, config: registry.DataConfig) -> str:
  name, folder = builder.info.full_name, data_dir(config)
  return (
    f'Dataset {config.name!r} is not prepared in {folder}: download it from '
    f'{builder.info.homepage or "its authors"} by `tfds build '
    f'{name.rpartition("/")[0]} --file_format=array_record` where TensorFlow '
    f'and a network are, and put the folder {name} into {folder}.'
  )


def is_online(url: str) -> bool:
  """Whether the name of the host resolves, or a proxy is configured."""
  if urllib.request.getproxies():
    return True
  host = urllib.parse.urlparse(url or '').hostname or 'www.tensorflow.org'
  try:
    socket.getaddrinfo(host, 443)
  except OSError:
    return False
  return True


def check_split(builder: Any, split: str) -> None:
  """Raises UsageError unless a prepared builder has images in the split."""
  known = sorted(builder.info.splits)  # Empty if it is not prepared.
  if not known:
    return
  try:  # This also makes parts such as 'train[:10%]'.
    num_images = [
      builder.info.splits[part.strip()].num_examples
      for part in split.split('+')
    ]
  except (KeyError, ValueError):
    raise errors.UsageError(
      f'Expected split={split!r} to be one of {known} of '
      f"{builder.info.full_name!r}, or a part such as '{known[0]}[:10%]'."
    ) from None
  if min(num_images) < 0 or not sum(num_images):  # [20:10] is negative.
    raise errors.UsageError(
      f'Split {split!r} of {builder.info.full_name!r} is empty: no image lies '
      'between its bounds.'
    )
