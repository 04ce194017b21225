"""Describes a released dataset in Croissant 1.0, the metadata of MLCommons.

`croissant.json` names the parquet files with their sha256, the classes and the
columns, so that `mlcroissant.Dataset(jsonld=PATH).records('images')` gives
the images. Its paths are relative to the folder of the release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

_PARQUET = 'application/x-parquet'  # The name that mlcroissant knows.
_CLASSES = 'classes'
_IMAGES = 'images'
_FILES = 'parquet-files'
# The context of Croissant 1.0: terms without a prefix are those of schema.org.
_OF_CROISSANT = (
  *('citeAs', 'column', 'equivalentProperty', 'extract', 'field'),
  *('fileProperty', 'fileObject', 'fileSet', 'format', 'includes'),
  *('isLiveDataset', 'jsonPath', 'key', 'md5', 'parentField', 'path'),
  *('recordSet', 'references', 'regex', 'repeated', 'replace', 'samplingRate'),
  *('separator', 'source', 'subField', 'transform'),
)
_CONTEXT: Mapping[str, Any] = {
  '@language': 'en',
  '@vocab': 'https://schema.org/',
  'sc': 'https://schema.org/',
  'cr': 'http://mlcommons.org/croissant/',
  'rai': 'http://mlcommons.org/croissant/RAI/',
  'dct': 'http://purl.org/dc/terms/',
  'conformsTo': 'dct:conformsTo',
  'data': {'@id': 'cr:data', '@type': '@json'},
  'dataType': {'@id': 'cr:dataType', '@type': '@vocab'},
  'examples': {'@id': 'cr:examples', '@type': '@json'},
  **{name: f'cr:{name}' for name in _OF_CROISSANT},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
  """A parquet file.

  Attributes:
    path: relative to the release, with '/'.
    num_bytes: size.
    sha256: hex digest.
  """

  path: str
  num_bytes: int
  sha256: str


def describe(
  about: Mapping[str, Any],
  files: Sequence[File],
  class_names: Sequence[str],
  *,
  has_class_probabilities: bool = False,
) -> dict[str, Any]:
  """Returns the content of `croissant.json`.

  Args:
    about: properties of the dataset as a whole: `name`, `description`,
      `license`, ...
    files: the parquet files, in order.
    class_names: one per label.
    has_class_probabilities: whether there is a column of that name.
  """
  folder = files[0].path.rpartition('/')[0]
  return {
    '@context': dict(_CONTEXT),
    '@type': 'sc:Dataset',
    'conformsTo': 'http://mlcommons.org/croissant/1.0',
    **about,
    'isLiveDataset': False,
    'distribution': [
      *(_file_object(file) for file in files),
      {
        '@type': 'cr:FileSet',
        '@id': _FILES,
        'name': _FILES,
        'encodingFormat': _PARQUET,
        'includes': f'{folder}/*.parquet',
      },
    ],
    'recordSet': [_classes(class_names), _images(has_class_probabilities)],
  }


def _file_object(file: File) -> dict[str, Any]:
  return {
    '@type': 'cr:FileObject',
    '@id': file.path,
    'name': file.path.rpartition('/')[2],
    'contentUrl': file.path,
    'contentSize': f'{file.num_bytes} B',
    'encodingFormat': _PARQUET,
    'sha256': file.sha256,
  }


def _classes(class_names: Sequence[str]) -> dict[str, Any]:
  number, name = f'{_CLASSES}/label', f'{_CLASSES}/name'
  return {
    '@type': 'cr:RecordSet',
    '@id': _CLASSES,
    'name': _CLASSES,
    'dataType': 'sc:Enumeration',
    'key': {'@id': number},
    'field': [
      _field(number, 'sc:Integer'),
      _field(name, 'sc:Text'),
    ],
    'data': [{number: i, name: text} for i, text in enumerate(class_names)],
  }


def _images(has_class_probabilities: bool) -> dict[str, Any]:
  image, label = f'{_IMAGES}/image', f'{_IMAGES}/label'
  fields = [
    {
      **_field(image, 'sc:ImageObject'),
      'source': _source('image', {'jsonPath': 'bytes'}),
    },
    {
      **_field(label, 'sc:Integer'),
      'references': {'field': {'@id': f'{_CLASSES}/label'}},
      'source': _source('label'),
    },
  ]
  if has_class_probabilities:
    fields.append(
      {
        **_field(f'{_IMAGES}/class_probabilities', 'sc:Float'),
        'repeated': True,
        'source': _source('class_probabilities'),
      }
    )
  return {
    '@type': 'cr:RecordSet',
    '@id': _IMAGES,
    'name': _IMAGES,
    'field': fields,
  }


def _field(identity: str, kind: str) -> dict[str, Any]:
  name = identity.rpartition('/')[2]
  return {
    '@type': 'cr:Field',
    '@id': identity,
    'name': name,
    'dataType': kind,
  }


def _source(
  column: str, transform: Mapping[str, str] | None = None
) -> dict[str, Any]:
  return {
    'fileSet': {'@id': _FILES},
    'extract': {'column': column},
    **({'transform': dict(transform)} if transform else {}),
  }
