"""Writes labelled images in the form of TensorFlow Datasets.

`tfds.builder_from_directory` reads them without this project: by `as_dataset`
from TFRecord files, and by `as_data_source`, which needs no TensorFlow, from
ArrayRecord files. TensorFlow is imported when something is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import importlib.util
import io
import os
import types
from typing import Any

from etils import epath

VERSION = '1.0.0'
_IMAGES_PER_FILE = 10_000
_DESCRIPTION = 'Synthetic images; privacy.json says how private they are.'


def is_available() -> bool:
  """Whether TensorFlow and TFDS are installed; imports neither."""
  return all(
    importlib.util.find_spec(name) is not None
    for name in ('tensorflow', 'tensorflow_datasets')
  )


def write(
  folder: epath.PathLike,
  name: str,
  image_shape: tuple[int, int, int],
  class_names: Sequence[str],
  batches: Iterable[tuple[Sequence[bytes], Sequence[int]]],
  mark: str = '',
) -> None:
  """Writes the split 'train'; equal images give equal bytes.

  Args:
    folder: of this dataset and version; made if it is not there.
    name: of the dataset, in lower case with underscores.
    image_shape: (H, W, C).
    class_names: one per label.
    batches: (PNG files, labels) in order. Pillow encodes them some 20 times
      as fast as TensorFlow does.
    mark: of the release, see `release_marks`; in the dataset's description.
  """
  tfds = _import_tfds()
  epath.Path(folder).mkdir(parents=True, exist_ok=True)
  has_array_record = importlib.util.find_spec('array_record') is not None
  alternatives = ['array_record'] if has_array_record else []
  writers = []
  for file_format in (*alternatives, 'tfrecord'):
    info = tfds.core.DatasetInfo(
      builder=tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version(VERSION),
        data_dir=os.fspath(folder),
        module_name='',
      ),
      description=f'{_DESCRIPTION} {mark}'.strip(),
      features=_features(tfds, image_shape, class_names),
      alternative_file_formats=[f for f in alternatives if f != file_format],
    )
    writer = tfds.core.SequentialWriter(
      info, max_examples_per_shard=_IMAGES_PER_FILE, file_format=file_format
    )
    writer.initialize_splits(['train'])
    writers.append(writer)
  for images, labels in batches:
    for writer in writers:
      examples = [
        {'image': io.BytesIO(image), 'label': int(label)}
        for image, label in zip(images, labels, strict=True)
      ]
      writer.add_examples({'train': examples})
  for writer in writers:  # The last one's metadata stays.
    writer.close_all()


def _features(
  tfds: types.ModuleType,
  image_shape: tuple[int, int, int],
  class_names: Sequence[str],
) -> Any:
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=image_shape, encoding_format='png'),
      'label': tfds.features.ClassLabel(names=list(class_names)),
    }
  )


def _import_tfds() -> types.ModuleType:
  """Imports TFDS; TensorFlow sees no GPU, which belongs to jax."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  tf.config.set_visible_devices([], 'GPU')
  return tfds
