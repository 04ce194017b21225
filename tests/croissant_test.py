"""Metadata of a dataset: each name leads to what is there."""

from __future__ import annotations

import io
from typing import Any

import pytest

from dp_diffusion import croissant
from dp_diffusion.data import parquet_writer

FILES = [
  croissant.File(
    path=f'dataset/parquet/train-{i}.parquet', num_bytes=10 + i, sha256=str(i)
  )
  for i in range(2)
]
FOUND = croissant.describe({'name': 'shapes'}, FILES, ('circle', 'star'))


def records(name: str) -> dict[str, Any]:
  (found,) = (r for r in FOUND['recordSet'] if r['name'] == name)
  return found


def test_each_file_is_named_with_its_size_and_hash():
  *files, together = FOUND['distribution']
  assert [(x['contentUrl'], x['contentSize'], x['sha256']) for x in files] == [
    (f.path, f'{f.num_bytes} B', f.sha256) for f in FILES
  ]
  assert together['includes'] == 'dataset/parquet/*.parquet'
  assert FOUND['name'] == 'shapes' and not FOUND['isLiveDataset']


def test_classes_are_numbered_by_their_labels():
  classes = records('classes')
  assert classes['data'] == [
    {'classes/label': 0, 'classes/name': 'circle'},
    {'classes/label': 1, 'classes/name': 'star'},
  ]
  assert classes['key'] == {'@id': 'classes/label'}


def test_every_reference_leads_somewhere():
  known = {part['@id'] for part in FOUND['distribution']}
  fields = {
    field['@id'] for part in FOUND['recordSet'] for field in part['field']
  }
  assert fields == {
    *('classes/label', 'classes/name'),
    *('images/image', 'images/label'),
  }
  image, label = records('images')['field']
  for field in (image, label):
    assert field['source']['fileSet']['@id'] in known
  assert label['references'] == {'field': {'@id': 'classes/label'}}
  assert 'references' not in image


def test_soft_labels_are_a_field_that_repeats():
  *before, images = croissant.describe(
    {'name': 'shapes'},
    FILES,
    ('circle', 'star'),
    has_class_probabilities=True,
  )['recordSet']
  *known, soft = images['field']
  assert [*before, known] == [records('classes'), records('images')['field']]
  assert soft['@id'] == 'images/class_probabilities' and soft['repeated']
  assert soft['source']['extract'] == {'column': 'class_probabilities'}


def test_columns_are_those_of_the_files():
  parquet = pytest.importorskip('pyarrow.parquet')
  data = parquet_writer.to_bytes([b'png'], [1], ['circle', 'star'], '')
  (row,) = parquet.read_table(io.BytesIO(data)).to_pylist()
  image, label = (field['source'] for field in records('images')['field'])
  assert row[label['extract']['column']] == 1
  part = image['transform']['jsonPath']
  assert row[image['extract']['column']][part] == b'png'
