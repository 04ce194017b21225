"""Writes labelled images as a dataset of TensorFlow Datasets (TFDS).

`tfds.builder_from_directory` reads it without this package. Its `as_dataset`
uses the TFRecord files; its `as_data_source`, which needs no TensorFlow, uses
the ArrayRecord files. TensorFlow is imported when a dataset is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import importlib.util
import io
import os
import types
from typing import Any

from etils import epath
import numpy as np

VERSION = '1.0.0'
_IMAGES_PER_FILE = 10_000
_DESCRIPTION = 'Synthetic images; privacy.json says how private they are.'


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """Facts of a dataset.

  Attributes:
    name: name of the dataset, in lower case with underscores.
    image_shape: (H, W, C).
    class_names: one per label.
    homepage: a link. Without one TFDS names a page of its own catalogue, where
      this dataset is not.
    mark: mark of the release, see `release_marks`; it becomes part of the
      description of the dataset.
    has_class_probabilities: whether each image has probabilities of classes.
  """

  name: str
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  homepage: str
  mark: str = ''
  has_class_probabilities: bool = False


def is_available() -> bool:
  """Whether TensorFlow and TFDS are installed; imports neither."""
  return all(
    importlib.util.find_spec(name) is not None
    for name in ('tensorflow', 'tensorflow_datasets')
  )


def write(
  folder: epath.PathLike,
  about: About,
  batches: Iterable[tuple[Sequence[bytes], Sequence[int], np.ndarray | None]],
) -> None:
  """Writes the split 'train'. Equal images give equal bytes.

  Args:
    folder: folder of this dataset and version; it is made if it does not exist.
    about: facts of the dataset.
    batches: batches of (PNG files, labels, class probabilities
      float32[B, num_classes] or None), in order. The caller encodes the images
      with Pillow, some 20 times as fast as TensorFlow does.
  """
  tfds = _import_tfds()
  epath.Path(folder).mkdir(parents=True, exist_ok=True)
  has_array_record = importlib.util.find_spec('array_record') is not None
  alternatives = ['array_record'] if has_array_record else []
  writers = []
  for file_format in (*alternatives, 'tfrecord'):
    info = tfds.core.DatasetInfo(
      builder=tfds.core.DatasetIdentity(
        name=about.name,
        version=tfds.core.Version(VERSION),
        data_dir=os.fspath(folder),
        module_name='',
      ),
      description=f'{_DESCRIPTION} {about.mark}'.strip(),
      features=_features(tfds, about),
      supervised_keys=('image', 'label'),
      homepage=about.homepage,
      alternative_file_formats=[f for f in alternatives if f != file_format],
    )
    writer = tfds.core.SequentialWriter(
      info, max_examples_per_shard=_IMAGES_PER_FILE, file_format=file_format
    )
    writer.initialize_splits(['train'])
    writers.append(writer)
  for images, labels, probabilities in batches:
    rows: list[dict[str, Any]] = [{'label': int(label)} for label in labels]
    if probabilities is not None:
      for row, found in zip(rows, probabilities, strict=True):
        row['class_probabilities'] = found
    for writer in writers:
      examples = [
        {'image': io.BytesIO(image), **row}
        for image, row in zip(images, rows, strict=True)
      ]
      writer.add_examples({'train': examples})
  for writer in writers:  # The metadata of the last one remain.
    writer.close_all()


def _features(tfds: types.ModuleType, about: About) -> Any:
  found = {
    'image': tfds.features.Image(
      shape=about.image_shape, encoding_format='png'
    ),
    'label': tfds.features.ClassLabel(names=list(about.class_names)),
  }
  if about.has_class_probabilities:
    found['class_probabilities'] = tfds.features.Tensor(
      shape=(len(about.class_names),), dtype=np.float32
    )
  return tfds.features.FeaturesDict(found)


def _import_tfds() -> types.ModuleType:
  """Imports TFDS, and hides the GPU from TensorFlow, since JAX uses it."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  tf.config.set_visible_devices([], 'GPU')
  return tfds
