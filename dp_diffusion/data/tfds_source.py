"""Any TFDS dataset with an image and a label, by name.

Prepared datasets in a random-access format (array_record) are read without
TensorFlow. What is not prepared is downloaded and prepared where TensorFlow
and a network are at hand; else the error says how to get it. TFDS itself is
imported only here, when used.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import importlib
import importlib.util
import os
import pathlib
import re
import socket
from typing import Any
import urllib.parse
import urllib.request

import numpy as np

from dp_diffusion import array_types
from dp_diffusion import console
from dp_diffusion.data import cache
from dp_diffusion.data import decoding
from dp_diffusion.data import registry

_NAME = re.compile(
  r'(?P<name>\w+)(/(?P<config>[^:/]+(/[^:/]+)*))?(:(?P<version>\d+\.\d+\.\d+))?'
)
_VERSION = re.compile(r'\d+\.\d+\.\d+')


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keys:
  """Which features of the dataset are what; person may be ''."""

  image: str
  label: str
  person: str


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads one split of a TFDS dataset.

  Args:
    config: see `registry.DataConfig`; `name` may carry a builder config and a
      version, as in 'name/config:1.0.0'.
    split: any TFDS split, as in 'train' or 'train[:10%]'.

  Returns:
    Images in the order of the stored records.

  Raises:
    UsageError: the dataset, the split or a feature is missing, or a label is
      outside the classes.
  """
  name = registry.tfds_name(config.name)
  path = find(name, data_dir(config)) or prepare_builder(
    _known_builder(name, config), config
  )
  return load_from_builder(open_builder(path), config, split)


def load_from_builder(
  builder: Any, config: registry.DataConfig, split: str
) -> registry.ArraySource:
  """Loads one split of a prepared `tfds.core.DatasetBuilder`, see `load`."""
  keys = _find_keys(builder.info, config)
  records = _open_records(builder, split, keys.image)
  label_feature = builder.info.features[keys.label]
  class_names = config.class_names or tuple(label_feature.names)
  height, width, channels = _image_shape(
    builder.info.features[keys.image].shape, config
  )

  def fill(images: np.ndarray) -> dict[str, np.ndarray]:
    return _read(records, images, keys, config)

  images, small = decoding.load_or_decode(
    config,
    _cache_name(builder, config, split, keys),
    (len(records), height, width, channels),
    fill,
  )
  return registry.ArraySource(
    spec=array_types.DatasetSpec(
      name=config.name,
      image_shape=(height, width, channels),
      class_names=class_names,
      has_person=bool(keys.person),
    ),
    images=images,
    labels=small['labels'],
    person=small.get('person'),
  )


def _read(
  records: Sequence[Any],
  images: np.ndarray,
  keys: _Keys,
  config: registry.DataConfig,
) -> dict[str, np.ndarray]:
  """Decodes all records into `images`; returns labels and persons."""
  labels = np.empty(len(records), np.int32)
  persons: list[Any] = [None] * len(records)

  def read(indices: Sequence[int]) -> list[bytes]:
    batch = records.__getitems__(indices)  # type: ignore[attr-defined]
    for index, record in zip(indices, batch):
      labels[index] = record[keys.label]
      if keys.person:
        persons[index] = record[keys.person]
    return [record[keys.image] for record in batch]

  kept = decoding.decode_all(read, images, config, f'decoding {config.name}')
  if kept.errors:
    index, reason = next(iter(kept.errors.items()))
    raise array_types.UsageError(
      f'{len(kept.errors)} images of {config.name!r} cannot be used; '
      f'the first is record {index}: {reason}.'
    )
  small = {'labels': labels}
  if keys.person:
    _, codes = np.unique(np.array(persons), return_inverse=True)
    small['person'] = codes.astype(np.int32)
  return small


def data_dir(config: registry.DataConfig) -> pathlib.Path:
  """Folder of prepared datasets: data.tfds_dir, or TFDS's own default."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return pathlib.Path(config.tfds_dir or default).expanduser()


def find(name: str, folder: pathlib.Path) -> pathlib.Path | None:
  """Folder of the newest prepared version, or None."""
  match = _NAME.fullmatch(name)
  if match is None:
    raise array_types.UsageError(
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
    raise array_types.UsageError(
      f'Expected data.name={name!r} to name one of its configs: '
      + ', '.join(repr(f'{match["name"]}/{c}') for c in configs)
      + '.'
    )
  return None


def import_tfds() -> Any:
  """Imports tensorflow_datasets, or raises a UsageError that says how to."""
  try:
    return importlib.import_module('tensorflow_datasets')
  except ImportError as error:
    raise array_types.UsageError(
      f'TFDS datasets need the package tensorflow-datasets ({error}): '
      '`pip install tensorflow-datasets array_record`.'
    ) from error


def open_builder(path: pathlib.Path) -> Any:
  """Opens a prepared dataset, with or without its code."""
  return import_tfds().builder_from_directory(os.fspath(path))


def check_available(config: registry.DataConfig) -> None:
  """See `registry.check_available`."""
  name = registry.tfds_name(config.name)
  path = find(name, data_dir(config))
  builder = open_builder(path) if path else _known_builder(name, config)
  for split in (config.split, config.test_split):
    _check_split(builder, split)


def _known_builder(name: str, config: registry.DataConfig) -> Any:
  """The builder of a dataset that can be prepared here, or says how to."""
  tfds = import_tfds()
  folder = data_dir(config)
  try:
    builder = tfds.builder(
      name, data_dir=os.fspath(folder), file_format='array_record'
    )
  except tfds.core.DatasetNotFoundError:
    raise array_types.UsageError(
      f'Expected data.name={name!r} to be prepared in {folder} or to be '
      'known to TFDS, and it is neither: see '
      'https://www.tensorflow.org/datasets/catalog/overview, or set '
      'data.tfds_dir to the folder that holds it.'
    ) from None
  _check_can_prepare(builder, config)
  return builder


def prepare_builder(builder: Any, config: registry.DataConfig) -> pathlib.Path:
  """Downloads and prepares a builder.

  Args:
    builder: a `tfds.core.DatasetBuilder`.
    config: uses manual_dir, and names for messages.

  Returns:
    The folder of the prepared dataset.

  Raises:
    UsageError: the network, TensorFlow or a file to be placed by hand is
      missing. One line: what to download, from where, where to put it.
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
  except array_types.UsageError:
    raise
  except (
    AssertionError,
    ImportError,
    OSError,
    RuntimeError,
    ValueError,
  ) as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise array_types.UsageError(
      f'{_how_to_get(builder, config)} ({lines[0]})'
    ) from error
  return pathlib.Path(builder.data_dir)


def _check_can_prepare(builder: Any, config: registry.DataConfig) -> None:
  """Refuses at once what would fail after minutes of retries."""
  if importlib.util.find_spec('tensorflow') is None:
    why = 'TensorFlow is not installed here.'
  elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not config.manual_dir:
    why = 'Its files must be placed by hand: set data.manual_dir.'
  elif not (config.manual_dir or is_online(builder.info.homepage)):
    why = 'There is no network here.'
  else:
    return
  raise array_types.UsageError(f'{_how_to_get(builder, config)} ({why})')


def _how_to_get(builder: Any, config: registry.DataConfig) -> str:
  name, folder = builder.info.full_name, data_dir(config)
  return (
    f'Dataset {config.name!r} is not prepared in {folder}: download it from '
    f'{builder.info.homepage or "its authors"} by `tfds build '
    f'{name.rpartition("/")[0]} --file_format=array_record` where TensorFlow '
    f'and a network are, and put the folder {name} into {folder}.'
  )


def is_online(url: str) -> bool:
  """Whether the name of the host resolves, or a proxy would do it."""
  if urllib.request.getproxies():
    return True
  host = urllib.parse.urlparse(url or '').hostname or 'www.tensorflow.org'
  try:
    socket.getaddrinfo(host, 443)
  except OSError:
    return False
  return True


def _find_keys(info: Any, config: registry.DataConfig) -> _Keys:
  tfds = import_tfds()
  features = info.features
  supervised = info.supervised_keys or ()
  found = {}
  for what, kind, given, usual in (
    ('image', tfds.features.Image, config.image_key, supervised[:1]),
    ('label', tfds.features.ClassLabel, config.label_key, supervised[1:2]),
  ):
    fits = sorted(k for k in features if isinstance(features[k], kind))
    if given:
      if given not in fits:
        raise array_types.UsageError(
          f'Expected data.{what}_key={given!r} to be one of {fits}.'
        )
      found[what] = given
    elif usual and usual[0] in fits:
      found[what] = usual[0]
    elif len(fits) == 1:
      found[what] = fits[0]
    else:
      raise array_types.UsageError(
        f'{config.name!r} has {len(fits)} features that could be the {what}: '
        f'set data.{what}_key to one of {fits}.'
      )
  if config.person_key and config.person_key not in features:
    raise array_types.UsageError(
      f'Expected data.person_key={config.person_key!r} to be one of '
      f'{sorted(features)}.'
    )
  return _Keys(**found, person=config.person_key)


def _image_shape(
  stored: tuple[int | None, ...], config: registry.DataConfig
) -> tuple[int, int, int]:
  height, width, channels = stored
  if config.image_size:
    height = width = config.image_size
  if height is None or width is None:
    raise array_types.UsageError(
      f'Images of {config.name!r} differ in size: set data.image_size.'
    )
  channels = config.channels or channels
  if channels is None:
    raise array_types.UsageError(
      f'Images of {config.name!r} differ in channels: set data.channels.'
    )
  return height, width, min(channels, 3)


def _check_split(builder: Any, split: str) -> None:
  known = sorted(builder.info.splits)  # Empty while it is not prepared.
  if known and split.split('[')[0] not in known:
    raise array_types.UsageError(
      f'Expected split={split!r} to be one of {known} of '
      f'{builder.info.full_name!r}.'
    )


def _open_records(builder: Any, split: str, image_key: str) -> Sequence[Any]:
  """Random access to records whose image is still encoded."""
  tfds = import_tfds()
  _check_split(builder, split)
  decoders = {image_key: tfds.decode.SkipDecoding()}
  file_format = builder.info.file_format
  if file_format in tfds.core.file_adapters.FileFormat.with_random_access():
    return builder.as_data_source(split=split, decoders=decoders)
  if importlib.util.find_spec('tensorflow') is None:
    raise array_types.UsageError(
      f'{builder.info.full_name!r} is stored as {file_format.value}, which '
      'needs TensorFlow: prepare it again by `tfds build '
      '--file_format=array_record`.'
    )
  dataset = builder.as_dataset(
    split=split,
    decoders=decoders,
    read_config=tfds.ReadConfig(interleave_cycle_length=1),
  )
  return _Listed(list(tfds.as_numpy(dataset)))


class _Listed(list):
  """Records in memory, with the batch access of a TFDS data source."""

  def __getitems__(self, indices: Sequence[int]) -> list[Any]:
    return [self[index] for index in indices]


def _cache_name(
  builder: Any, config: registry.DataConfig, split: str, keys: _Keys
) -> str:
  files = sorted(pathlib.Path(builder.data_dir).iterdir())
  stored = [
    (path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files
  ]
  key = cache.key_of(
    version=decoding.VERSION,
    folder=os.fspath(builder.data_dir),
    stored=stored,
    split=split,
    keys=dataclasses.astuple(keys),
    image_size=config.image_size,
    channels=config.channels,
  )
  return f'tfds-{builder.info.name}-{key}'
