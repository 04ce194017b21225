"""Writes labelled images as a parquet file, as Hugging Face datasets has them.

The columns are `image`, a struct of PNG bytes and a path, and `label`, int64.
The metadata of the file say that they are an image and a class with names, so
that `datasets.load_dataset` decodes them. pyarrow is imported when a file is
written.
"""

from __future__ import annotations

from collections.abc import Sequence
import io
import json

_DESCRIPTION = 'Synthetic images; privacy.json says how private they are.'


def to_bytes(
  images: Sequence[bytes],
  labels: Sequence[int],
  class_names: Sequence[str],
  mark: str = '',
) -> bytes:
  """Returns the content of a parquet file. Equal images give equal bytes.

  Args:
    images: PNG files.
    labels: number of the class of each image.
    class_names: one per label.
    mark: mark of the release, see `release_marks`; it becomes part of the
      metadata of the file.
  """
  import pyarrow
  from pyarrow import parquet

  image_type = pyarrow.struct(
    [('bytes', pyarrow.binary()), ('path', pyarrow.string())]
  )
  features = {
    'image': {'_type': 'Image'},
    'label': {'names': list(class_names), '_type': 'ClassLabel'},
  }
  schema = pyarrow.schema(
    [('image', image_type), ('label', pyarrow.int64())],
    metadata={
      'huggingface': json.dumps({'info': {'features': features}}),
      'description': f'{_DESCRIPTION} {mark}'.strip(),
    },
  )
  rows = {
    'image': [{'bytes': image, 'path': None} for image in images],
    'label': [int(label) for label in labels],
  }
  buffer = io.BytesIO()
  parquet.write_table(pyarrow.table(rows, schema=schema), buffer)
  return buffer.getvalue()
