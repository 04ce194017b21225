"""Writes labelled images as a parquet file, as Hugging Face datasets has them.

The columns are `image`, a struct of PNG bytes and a path, `label`, int64, and,
where they are given, `class_probabilities`, a list of float32 for each image.
The metadata of the file say that they are an image and a class with names, so
that `datasets.load_dataset` decodes them. pyarrow is imported when a file is
written.
"""

from __future__ import annotations

from collections.abc import Sequence
import io
import json
from typing import Any

import numpy as np

_DESCRIPTION = 'Synthetic images; privacy.json says how private they are.'


def to_bytes(
  images: Sequence[bytes],
  labels: Sequence[int],
  class_names: Sequence[str],
  mark: str = '',
  class_probabilities: np.ndarray | None = None,
) -> bytes:
  """Returns the content of a parquet file. Equal images give equal bytes.

  Args:
    images: PNG files.
    labels: number of the class of each image.
    class_names: one per label.
    mark: mark of the release, see `release_marks`; it becomes part of the
      metadata of the file.
    class_probabilities: float32[N, num_classes]; None for no column.
  """
  import pyarrow
  from pyarrow import parquet

  image_type = pyarrow.struct(
    [('bytes', pyarrow.binary()), ('path', pyarrow.string())]
  )
  features: dict[str, Any] = {
    'image': {'_type': 'Image'},
    'label': {'names': list(class_names), '_type': 'ClassLabel'},
  }
  columns = [('image', image_type), ('label', pyarrow.int64())]
  rows: dict[str, list[Any]] = {
    'image': [{'bytes': image, 'path': None} for image in images],
    'label': [int(label) for label in labels],
  }
  if class_probabilities is not None:
    features['class_probabilities'] = {
      'feature': {'dtype': 'float32', '_type': 'Value'},
      '_type': 'Sequence',  # Readers of every age know this name.
    }
    columns.append(('class_probabilities', pyarrow.list_(pyarrow.float32())))
    rows['class_probabilities'] = class_probabilities.tolist()
  schema = pyarrow.schema(
    columns,
    metadata={
      'huggingface': json.dumps({'info': {'features': features}}),
      'description': f'{_DESCRIPTION} {mark}'.strip(),
    },
  )
  buffer = io.BytesIO()
  parquet.write_table(pyarrow.table(rows, schema=schema), buffer)
  return buffer.getvalue()
