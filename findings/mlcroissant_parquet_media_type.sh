#!/usr/bin/env bash
# mlcroissant 1.1.1: a file with encodingFormat "application/vnd.apache.parquet",
# the media type that is registered for parquet at IANA, passes the validation
# without an error or a warning, and cannot be read: "None of the provided
# encoding formats ... returned a valid pandas dataframe". Only the unregistered
# "application/x-parquet" is known.
#
# Surprise: a Croissant file by the book is called valid, and fails at the first
# record. The croissant.json of a release therefore says application/x-parquet.
#
# Exits with 0 as long as mlcroissant behaves so, else with 1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet install 'mlcroissant==1.1.1' pyarrow
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import sys

import mlcroissant
import pyarrow
from pyarrow import parquet

logging.disable(logging.CRITICAL)
print('mlcroissant', importlib.metadata.version('mlcroissant'))
parquet.write_table(pyarrow.table({'sides': [3, 4]}), 'shapes.parquet')
digest = hashlib.sha256(pathlib.Path('shapes.parquet').read_bytes()).hexdigest()


def read(media_type: str) -> tuple[bool, str]:
  """Returns whether the description is valid, and what reading it gives."""
  file = mlcroissant.FileObject(
    id='shapes.parquet',
    name='shapes.parquet',
    content_url='shapes.parquet',
    encoding_formats=[media_type],
    sha256=digest,
  )
  field = mlcroissant.Field(
    id='shapes/sides',
    name='sides',
    data_types=mlcroissant.DataType.INTEGER,
    source=mlcroissant.Source(
      file_object='shapes.parquet',
      extract=mlcroissant.Extract(column='sides'),
    ),
  )
  metadata = mlcroissant.Metadata(
    name='shapes',
    description='Numbers of sides.',
    url='https://www.example.org',
    license='https://www.example.org/license',
    distribution=[file],
    record_sets=[
      mlcroissant.RecordSet(id='shapes', name='shapes', fields=[field])
    ],
  )
  path = pathlib.Path('croissant.json')
  path.write_text(json.dumps(metadata.to_json(), default=str))
  dataset = mlcroissant.Dataset(jsonld=str(path))
  is_valid = not dataset.metadata.ctx.issues.errors
  try:
    return is_valid, f'{len(list(dataset.records("shapes")))} records'
  except Exception as error:
    cause = error.__cause__ or error
    return is_valid, f'{type(error).__name__}: {cause}'


found = {
  name: read(name)
  for name in ('application/x-parquet', 'application/vnd.apache.parquet')
}
for name, (is_valid, outcome) in found.items():
  print(f'{name}: {"valid" if is_valid else "not valid"}; {outcome}')
known, registered = found.values()
is_so = (
  known == (True, '2 records') and registered[0] and 'Error' in registered[1]
)
print('the registered type is not read' if is_so else 'it is mended')
sys.exit(not is_so)
PYTHON
