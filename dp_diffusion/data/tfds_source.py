"""Loads any TFDS dataset that has an image and a label.

Prepared datasets in a random-access format (array_record) are read without
TensorFlow. `tfds_builders` prepares a dataset that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import importlib
import importlib.util
import os
import pathlib
from typing import Any

import numpy as np

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import cache
from dp_diffusion.data import decoding
from dp_diffusion.data import registry
from dp_diffusion.data import tfds_builders

READS = (
  *('image_key', 'label_key', 'manual_dir', 'max_image_pixels', 'person_key'),
  *('tfds_dir', 'value_range'),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Keys:
  """Names of the dataset's features; person is '' if there is none."""

  image: str
  label: str
  person: str


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads one split of a TFDS dataset.

  Args:
    config: see `registry.DataConfig`; `name` may carry a builder config and a
      version, as in 'name/config:1.0.0'.
    split: any TFDS split, such as 'train' or 'train[:10%]'.

  Returns:
    Images in the order of the stored records.

  Raises:
    UsageError: the dataset, the split or a feature is missing, or a label is
      outside the classes.
  """
  name = registry.tfds_name(config.name)
  path = tfds_builders.find(name, tfds_builders.data_dir(config))
  if path is None:
    builder = tfds_builders.known_builder(name, config)
    path = tfds_builders.prepare_builder(builder, config)
  return load_from_builder(tfds_builders.open_builder(path), config, split)


def check_available(config: registry.DataConfig, splits: Sequence[str]) -> None:
  """See `registry.check_available`."""
  name = registry.tfds_name(config.name)
  path = tfds_builders.find(name, tfds_builders.data_dir(config))
  builder = (
    tfds_builders.open_builder(path)
    if path
    else tfds_builders.known_builder(name, config)
  )
  for split in splits:
    tfds_builders.check_split(builder, split)


def find_class_names(config: registry.DataConfig) -> tuple[str, ...]:
  """See `registry.find_class_names`; () if the dataset is not prepared yet."""
  name = registry.tfds_name(config.name)
  path = tfds_builders.find(name, tfds_builders.data_dir(config))
  if not path:
    return ()
  builder = tfds_builders.open_builder(path)
  keys = _find_keys(builder.info, config)
  return tuple(builder.info.features[keys.label].names)


def load_from_builder(
  builder: Any, config: registry.DataConfig, split: str
) -> registry.ArraySource:
  """Loads one split of a prepared `tfds.core.DatasetBuilder`, see `load`."""
  keys = _find_keys(builder.info, config)
  with tfds_builders.damage_named(builder.data_dir):
    records = _open_records(builder, split, keys.image)
  label_feature = builder.info.features[keys.label]
  class_names = config.class_names or tuple(label_feature.names)
  height, width, channels = _image_shape(
    builder.info.features[keys.image].shape, config
  )

  def fill(images: np.ndarray) -> dict[str, np.ndarray]:
    return _read(records, images, keys, config, os.fspath(builder.data_dir))

  images, small = decoding.load_or_decode(
    config,
    _cache_name(builder, config, split, keys),
    (len(records), height, width, channels),
    fill,
  )
  return registry.ArraySource(
    spec=types.DatasetSpec(
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
  folder: str,
) -> dict[str, np.ndarray]:
  """Decodes all records into `images`; returns labels and persons."""
  labels = np.empty(len(records), np.int32)
  persons: list[Any] = [None] * len(records)

  def read(indices: Sequence[int]) -> list[bytes]:
    with tfds_builders.damage_named(folder):
      batch = records.__getitems__(indices)  # type: ignore[attr-defined]
    for index, record in zip(indices, batch):
      labels[index] = record[keys.label]
      if keys.person:
        persons[index] = record[keys.person]
    return [record[keys.image] for record in batch]

  kept = decoding.decode_all(read, images, config, f'decoding {config.name}')
  if kept.errors:
    index, reason = next(iter(kept.errors.items()))
    raise errors.UsageError(
      f'Images of {config.name!r} cannot be used; the first is record {index}:'
      f' {reason}.'
    )
  small = {'labels': labels}
  if keys.person:
    small['person'] = _person_codes(persons, config)
  return small


def _person_codes(
  persons: Sequence[Any], config: registry.DataConfig
) -> np.ndarray:
  """Returns a number for each person, int32[N], in the order of their values.

  Args:
    persons: a number or text for each record, as TFDS stores them.
    config: gives name and person_key, for messages.

  Raises:
    UsageError: a value names nobody, or there are several for a record.
  """
  where = f'data.person_key={config.person_key!r} of {config.name!r}'
  values = np.array(persons)
  if values.ndim != 1 or values.dtype.kind not in 'iubfSUO':
    raise errors.UsageError(
      f'Expected {where} to hold one number or name for each image.'
    )
  texts = [
    p.decode('utf-8', 'replace') if isinstance(p, bytes) else str(p)
    for p in persons
  ]
  names = registry.check_persons(texts, where)
  if values.dtype.kind in 'SUO':
    values = np.array(names, object)
  return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _find_keys(info: Any, config: registry.DataConfig) -> _Keys:
  tfds = tfds_builders.import_tfds()
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
        raise errors.UsageError(
          f'Expected data.{what}_key={given!r} to be one of {fits}.'
        )
      found[what] = given
    elif usual and usual[0] in fits:
      found[what] = usual[0]
    elif len(fits) == 1:
      found[what] = fits[0]
    else:
      raise errors.UsageError(
        f'{config.name!r} has {len(fits)} features that could be the {what}: '
        f'set data.{what}_key to one of {fits}.'
      )
  if config.person_key and config.person_key not in features:
    raise errors.UsageError(
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
    raise errors.UsageError(
      f'Images of {config.name!r} differ in size: set data.image_size.'
    )
  channels = config.channels or channels
  if channels is None:
    raise errors.UsageError(
      f'Images of {config.name!r} differ in channels: set data.channels.'
    )
  return height, width, min(channels, 3)


def _open_records(builder: Any, split: str, image_key: str) -> Sequence[Any]:
  """Opens records for random access, without decoding their images."""
  tfds = tfds_builders.import_tfds()
  tfds_builders.check_split(builder, split)
  decoders = {image_key: tfds.decode.SkipDecoding()}
  file_format = builder.info.file_format
  if file_format in tfds.core.file_adapters.FileFormat.with_random_access():
    return builder.as_data_source(split=split, decoders=decoders)
  if importlib.util.find_spec('tensorflow') is None:
    raise errors.UsageError(
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
  """Records in memory, which can be read in batches like a TFDS source."""

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
    value_range=config.value_range,
    frames=config.frames,
  )
  return f'tfds-{builder.info.name}-{key}'
