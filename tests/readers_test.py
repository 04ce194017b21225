"""Others' libraries read a release, in an environment without this project.

`make test-readers` makes the environment from `readers/requirements.txt` and
names its Python in DP_DIFFUSION_READERS.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from dp_diffusion import release
from dp_diffusion import release_card
from dp_diffusion import release_marks
from dp_diffusion import types
from dp_diffusion.privacy import verify
from tests import tiny_release

PYTHON = os.environ.get('DP_DIFFUSION_READERS', '')
pytestmark = pytest.mark.skipif(
  not PYTHON, reason='`make test-readers` makes the environment for it.'
)
CLASSES = ('circle', "étoile 'à 5'")
CONFIG = release_card.CardConfig(
  data_name='Formes "à la main"',
  license='Für die Klinik',
  contact='The shape lab',
  url='https://example.org/shapes',
  date='2026-01-31',
)


@pytest.fixture(scope='module', params=[1, 3])
def made(request, tmp_path_factory) -> pathlib.Path:
  """A release of 7 images in grey or colour and two shards."""
  folder = tmp_path_factory.mktemp('made') / 'release'
  statement = tiny_release.make_statement()
  shape = (8, 6, request.param)
  rng = np.random.default_rng(0)
  mark = release_marks.make({'version': 1}, 'a' * 64)
  for shard, num in enumerate((4, 3)):
    images = rng.integers(0, 256, (num, *shape), np.uint8)
    labels = np.arange(num, dtype=np.int32) % 2
    soft = rng.dirichlet(np.ones(2), num).astype(np.float32)
    soft = soft if request.param == 3 else None
    release.write_shard(folder, shard, 2, images, labels, mark, soft)
  spec = types.DatasetSpec(name='t', image_shape=shape, class_names=CLASSES)
  release.write_dataset_info(folder, spec)
  release.write_samples(folder)
  release.write_parquet(folder)
  release.write_tfds(folder, CONFIG.url)
  release.write_card(folder, statement, CONFIG)
  release.seal(folder, statement)
  assert not verify.verify(folder).mismatches
  return folder


def run(code: str, folder: pathlib.Path, cache: pathlib.Path) -> object:
  """Runs code in the other environment; returns what it prints as JSON."""
  done = subprocess.run(
    [PYTHON, '-W', 'error::UserWarning', '-c', code],
    cwd=folder,
    env={
      'PATH': os.environ['PATH'],
      'HOME': os.fspath(cache),
      'HF_HUB_OFFLINE': '1',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def code_of(folder: pathlib.Path, word: str) -> str:
  """Returns the code on the card that has a word."""
  parts = (folder / 'README.md').read_text().split('```python\n')[1:]
  blocks = [part.partition('```')[0] for part in parts]
  (found,) = (block for block in blocks if word in block)
  return found.replace('FOLDER_OF_THIS_FILE', os.fspath(folder))


def check_soft(found, folder):
  """What a row has beside image and label; the coloured release has some."""
  wanted = release.read_class_probabilities(folder)
  if wanted is None:
    assert found == []
  else:
    np.testing.assert_array_equal(np.float32(found), wanted)


def check_images(found, folder):
  images, labels = release.read_dataset(folder)
  assert found['labels'] == labels.tolist()
  grey = images[..., 0] if images.shape[-1] == 1 else images
  np.testing.assert_array_equal(found['images'], grey)


def test_hugging_face_datasets(made, tmp_path):
  code = f"""{code_of(made, 'load_dataset')}
import json
import numpy
print(json.dumps({{
  'names': dataset.features['label'].names,
  'kind': type(dataset.features['image']).__name__,
  'labels': dataset['label'][:],
  'soft': [row['class_probabilities'] for row in dataset
           if 'class_probabilities' in row],
  'images': [numpy.asarray(image).tolist() for image in dataset['image']],
}}))"""
  found = run(code, made, tmp_path)
  assert found['names'] == list(CLASSES) and found['kind'] == 'Image'
  check_images(found, made)
  check_soft(found['soft'], made)


def test_metadata_of_the_card(made, tmp_path):
  code = """
import json
from huggingface_hub import DatasetCard
print(json.dumps(DatasetCard.load('README.md').data.to_dict()))"""
  found = run(code, made, tmp_path)
  assert found['license'] == 'other'
  assert found['license_name'] == 'Für die Klinik'
  assert found['tags'] == ['differential-privacy', 'synthetic']
  assert found['task_categories'] == ['image-classification']


def test_mlcroissant(made, tmp_path):
  code = f"""{code_of(made, 'mlcroissant')}
import json
import numpy
dataset = mlcroissant.Dataset(jsonld='croissant.json')
issues = dataset.metadata.ctx.issues
rows = list(records)
names = {{
  row['classes/label']: row['classes/name'].decode()
  if isinstance(row['classes/name'], bytes) else row['classes/name']
  for row in dataset.records('classes')
}}
print(json.dumps({{
  'errors': list(issues.errors), 'warnings': list(issues.warnings),
  'names': [names[i] for i in range(2)],
  'labels': [int(row['images/label']) for row in rows],
  'soft': [[float(x) for x in row['images/class_probabilities']]
           for row in rows if 'images/class_probabilities' in row],
  'images': [numpy.asarray(row['images/image']).tolist() for row in rows],
}}))"""
  found = run(code, made, tmp_path)
  assert found['errors'] == [] and found['warnings'] == []
  assert found['names'] == list(CLASSES)
  check_images(found, made)
  check_soft(found['soft'], made)


def test_pytorch(made, tmp_path):
  code = f"""{code_of(made, 'np.load')}
{code_of(made, 'torch')}
import json
pairs = [dataset[i] for i in range(len(dataset))]
batch, of_batch = next(iter(loader))
assert batch.shape[0] == 7 and batch.dtype == torch.float32
print(json.dumps({{
  'shape': list(pairs[0][0].shape), 'kind': str(of_batch.dtype),
  'labels': [int(label) for _, label in pairs],
  'images': [
    (image.permute(1, 2, 0) * 255).round().int().squeeze(-1).tolist()
    for image, _ in pairs
  ],
}}))"""
  found = run(code, made, tmp_path)
  channels = release.read_dataset_info(made)['image_shape'][2]
  assert found['shape'] == [channels, 8, 6] and found['kind'] == 'torch.int64'
  check_images(found, made)


def test_tfds_without_tensorflow(made, tmp_path):
  code = f"""{code_of(made, 'as_data_source')}
import json
import sys
info = builder.info
print(json.dumps({{
  'tensorflow': 'tensorflow' in sys.modules,
  'names': info.features['label'].names,
  'keys': info.supervised_keys, 'homepage': info.homepage,
  'labels': [int(row['label']) for row in source],
  'soft': [row['class_probabilities'].tolist() for row in source
           if 'class_probabilities' in row],
  'images': [row['image'].squeeze(-1).tolist() if row['image'].shape[-1] == 1
             else row['image'].tolist() for row in source],
}}))"""
  found = run(code, made, tmp_path)
  assert not found['tensorflow'] and found['names'] == list(CLASSES)
  assert found['keys'] == ['image', 'label']
  assert found['homepage'] == 'https://example.org/shapes'
  check_images(found, made)
  check_soft(found['soft'], made)
