"""The release: whole files, the same bytes again, read by others."""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import crash_points
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import release_card
from dp_diffusion import release_marks
from dp_diffusion import types
from dp_diffusion.data import tfds_writer
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import class_head
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import verify
from tests import tiny_release
from tests.stages import command

SPEC = types.DatasetSpec(
  name='Tiny:shapes',
  image_shape=(6, 6, 3),
  class_names=('circle', 'square', 'star'),
)
MARK = release_marks.make({'version': 1}, 'a' * 64)
STATEMENT = {'epsilon': 10.0, 'delta': 1e-4}


def make_shard(shard, num_images=7):
  rng = np.random.default_rng(shard)
  images = rng.integers(0, 256, (num_images, *SPEC.image_shape), np.uint8)
  labels = rng.integers(0, 3, num_images).astype(np.int32)
  return images, labels


def write_dataset(folder, num_shards=2):
  for shard in release.missing_shards(folder, num_shards):
    release.write_shard(folder, shard, num_shards, *make_shard(shard))
  release.write_dataset_info(folder, SPEC)


def contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


def test_dataset_round_trip(tmp_path):
  write_dataset(tmp_path)
  images, labels = release.read_dataset(tmp_path)
  assert images.dtype == np.uint8 and labels.dtype == np.int32
  expected = [make_shard(0), make_shard(1)]
  np.testing.assert_array_equal(
    images, np.concatenate([e[0] for e in expected])
  )
  np.testing.assert_array_equal(
    labels, np.concatenate([e[1] for e in expected])
  )
  info = release.read_dataset_info(tmp_path)
  assert info['name'] == 'synthetic_tiny_shapes'
  assert info['num_images_per_class'] == np.bincount(labels).tolist()


def make_soft(shard, num_images=7):
  rng = np.random.default_rng(100 + shard)
  return rng.dirichlet(np.ones(3), num_images).astype(np.float32)


def test_soft_labels_stand_beside_each_image_in_every_form(tmp_path):
  parquet = pytest.importorskip('pyarrow.parquet')
  plain = tmp_path / 'plain'
  write_dataset(plain)
  assert release.read_class_probabilities(plain) is None
  assert 'has_class_probabilities' not in release.read_dataset_info(plain)
  for shard in range(2):
    release.write_shard(
      tmp_path, shard, 2, *make_shard(shard), MARK, make_soft(shard)
    )
  release.write_dataset_info(tmp_path, SPEC)
  wanted = np.concatenate([make_soft(0), make_soft(1)])
  found = release.read_class_probabilities(tmp_path)
  assert found.dtype == np.float32
  np.testing.assert_array_equal(found, wanted)
  np.testing.assert_array_equal(
    release.read_dataset(tmp_path)[1], release.read_dataset(plain)[1]
  )
  assert release.read_dataset_info(tmp_path)['has_class_probabilities']
  release.write_parquet(tmp_path)
  rows = [
    row
    for path in sorted((tmp_path / 'dataset' / 'parquet').iterdir())
    for row in parquet.read_table(path).to_pylist()
  ]
  np.testing.assert_array_equal(
    np.float32([row['class_probabilities'] for row in rows]), wanted
  )
  release.write_card(tmp_path, tiny_release.make_statement())
  images = files.read_json(tmp_path / 'croissant.json')['recordSet'][-1]
  names = [field['name'] for field in images['field']]
  assert names == ['image', 'label', 'class_probabilities']
  assert "s['class_probabilities'] for" in (tmp_path / 'README.md').read_text()


def test_soft_labels_of_some_shards_are_refused(tmp_path):
  release.write_shard(tmp_path, 0, 2, *make_shard(0), MARK, make_soft(0))
  release.write_shard(tmp_path, 1, 2, *make_shard(1), MARK)
  with pytest.raises(errors.UsageError, match='in all shards .* or in none'):
    release.read_class_probabilities(tmp_path)


@pytest.mark.parametrize(
  'found',
  [
    make_soft(0).astype(np.float64),
    make_soft(0, 6),
    make_soft(0)[:, 0],
    make_soft(0) * 2,
    np.tile(np.float32([-0.5, 1.0, 0.5]), (7, 1)),
  ],
)
def test_invalid_probabilities_are_refused(tmp_path, found):
  with pytest.raises(ValueError, match='Expected class_probabilities'):
    release.write_shard(tmp_path, 0, 1, *make_shard(0), MARK, found)
  assert not contents(tmp_path)


def test_only_missing_shards_are_made_again(tmp_path):
  release.write_shard(tmp_path, 1, 3, *make_shard(1))
  assert release_marks.of_npz(release.shard_path(tmp_path, 1, 3)) is None
  assert release.missing_shards(tmp_path, 3) == (0, 2)
  with pytest.raises(errors.UsageError, match='3 shards'):
    release.read_dataset(tmp_path)


def test_a_damaged_shard_is_named(tmp_path):
  write_dataset(tmp_path)
  path = tmp_path / 'dataset' / 'images-00001-of-00002.npz'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(errors.UsageError, match=f'{path.name} is gone or'):
    release.read_dataset(tmp_path)


def test_absent_parts_name_the_stage_that_makes_them(tmp_path):
  with pytest.raises(errors.UsageError, match='stage sample'):
    release.read_dataset(tmp_path)
  with pytest.raises(errors.UsageError, match='stage sample'):
    release.read_dataset_info(tmp_path)
  with pytest.raises(errors.UsageError, match='stage finetune'):
    release.read_model(tmp_path)


@pytest.mark.parametrize(
  ('images', 'labels'),
  [
    (np.zeros((2, 4, 4, 1), np.float32), np.zeros(2, np.int32)),
    (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
    (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64)),
    (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32)),
  ],
)
def test_shards_of_another_type_are_refused(tmp_path, images, labels):
  with pytest.raises(ValueError, match='Expected (images|labels)'):
    release.write_shard(tmp_path, 0, 1, images, labels)
  assert not contents(tmp_path)


def test_model_round_trip(tmp_path):
  params = {'a': {'kernel': np.arange(6, dtype=np.float32).reshape(2, 3)}}
  release.write_model(tmp_path, params, {'channels': 16})
  arrays, description = release.read_model(tmp_path)
  np.testing.assert_array_equal(arrays['a/kernel'], params['a']['kernel'])
  assert description == {'channels': 16}


def test_the_model_says_how_the_last_images_were_sampled(tmp_path):
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {'channels': 16})
  for number in (10, 20):
    release.write_sampling(tmp_path, {'batch_size': number})
    written = json.loads((tmp_path / 'model' / 'model.json').read_text())
    assert written == {'channels': 16, 'sampling': {'batch_size': number}}


def test_samples_show_each_class_crisply(tmp_path):
  write_dataset(tmp_path)
  release.write_samples(tmp_path, per_class=4)
  grid = np.asarray(Image.open(tmp_path / 'samples.png'))
  images, labels = release.read_dataset(tmp_path)
  assert grid.shape[0] == 3 * (48 + 4) + 4
  first = images[np.flatnonzero(labels == 0)[0]].repeat(8, 0).repeat(8, 1)
  left = grid.shape[1] - 4 * (48 + 4)
  np.testing.assert_array_equal(grid[4:52, left : left + 48], first)
  margin = grid[:, :left]
  assert np.any(margin < 100)  # The names are there.


def test_seal_hashes_every_other_file(tmp_path):
  write_dataset(tmp_path)
  release.write_samples(tmp_path)
  (tmp_path / '.samples.png.0123.tmp').write_bytes(b'half')
  (tmp_path / 'dataset' / '.tfds.tmp').mkdir()
  (tmp_path / 'dataset' / '.tfds.tmp' / 'x').write_bytes(b'half')
  sealed = release.seal(tmp_path, STATEMENT)
  assert files.read_json(tmp_path / 'privacy.json') == sealed
  assert sealed['epsilon'] == 10.0
  found = contents(tmp_path)
  del found['privacy.json']
  assert set(sealed['files']) == set(found)  # And no leftovers.
  for name, digest in sealed['files'].items():
    assert files.sha256(tmp_path / name) == digest
  assert release.seal(tmp_path, sealed) == sealed


def test_sealed_again_a_release_has_the_hashes_of_now(tmp_path):
  write_dataset(tmp_path)
  before = release.seal(tmp_path, STATEMENT)
  release.write_shard(tmp_path, 0, 2, *make_shard(3))
  shard = release.shard_path(tmp_path, 0, 2)
  now = release.seal(tmp_path, before)
  name = 'dataset/images-00000-of-00002.npz'
  assert before['files'][name] != now['files'][name] == files.sha256(shard)
  assert files.read_json(tmp_path / 'privacy.json') == now


def test_shards_of_two_numbers_are_no_dataset(tmp_path):
  """Images of the longer division are there already in the shorter one."""
  write_dataset(tmp_path)
  release.write_shard(tmp_path, 0, 3, *make_shard(0))
  with pytest.raises(errors.UsageError, match='Expected 2 shards .* not 3'):
    release.read_dataset(tmp_path)


@pytest.mark.parametrize(
  'name',
  [
    'notes.txt',
    '.DS_Store',
    'model/loss.csv',
    'dataset/real.npz',
    # Names of ours with something before or behind.
    'samples.png.bak',
    'README.md~',  # An editor's copy, which etils does not list.
    'README.md.orig',
    'model/params.npz.old',
    'old/samples.png',
    # Beside those of our own dataset.
    'dataset/parquet/train-00000-of-00009.parquet',
    'dataset/tfds/real.tfrecord',
    'dataset/tfds/synthetic_other/1.0.0/dataset_info.json',
    'dataset/tfds/synthetic_tiny_shapes/2.0.0/dataset_info.json',
  ],
)
def test_seal_covers_no_file_of_others(tmp_path, name):
  """A hash in the statement would say that the guarantee holds for it."""
  write_dataset(tmp_path)
  release.seal(tmp_path, STATEMENT)
  before = (tmp_path / 'privacy.json').read_bytes()
  (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(errors.UsageError, match=name) as raised:
    release.seal(tmp_path, STATEMENT)
  assert '\n' not in str(raised.value)
  assert (tmp_path / 'privacy.json').read_bytes() == before


@pytest.mark.parametrize('other', ['another run', 'no release'])
def test_images_of_another_release_are_refused(tmp_path, monkeypatch, other):
  """Shards, and the TFDS form, that were copied here to save time."""
  mark = None
  if other == 'another run':
    mark = release_marks.make({'version': 1}, 'b' * 64)
  release.write_shard(tmp_path, 0, 2, *make_shard(0), MARK)
  assert release.missing_shards(tmp_path, 2, MARK) == (1,)
  release.write_shard(tmp_path, 1, 2, *make_shard(1), mark)
  with pytest.raises(errors.UsageError, match='images-00001-of-00002.npz'):
    release.missing_shards(tmp_path, 2, MARK)
  release.write_shard(tmp_path, 1, 2, *make_shard(1), MARK)
  release.write_dataset_info(tmp_path, SPEC)
  folder = tmp_path / 'dataset' / 'tfds' / 'synthetic_tiny_shapes' / '1.0.0'
  folder.mkdir(parents=True)
  info = folder / 'dataset_info.json'
  text = mark.in_description() if mark else ''
  info.write_text(json.dumps({'description': text}))
  with pytest.raises(errors.UsageError, match='1.0.0 to hold images of this'):
    release.write_tfds(tmp_path)
  info.write_text(json.dumps({'description': MARK.in_description()}))
  assert release.write_tfds(tmp_path) == folder


def test_images_of_a_damaged_mark_are_refused(tmp_path):
  images, labels = make_shard(0)
  path = release.shard_path(tmp_path, 0, 1)
  files.write_npz(
    path, images=images, labels=labels, dp_release=np.array('{"ledger')
  )
  with pytest.raises(errors.UsageError, match='mark is missing or of another'):
    release.missing_shards(tmp_path, 1, MARK)
  with pytest.raises(errors.UsageError, match='mark is missing or of another'):
    release.check_images(tmp_path, lambda: MARK)


def test_replaced_weights_are_not_sampled(tmp_path):
  """A statement over them would name a ledger that never paid for them."""
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  release.seal(tmp_path, STATEMENT)
  release.check_model(tmp_path)
  release.write_model(tmp_path, {'w': np.zeros(1, np.float32)}, {})
  with pytest.raises(errors.UsageError, match='covers no others') as raised:
    release.check_model(tmp_path)
  assert '\n' not in str(raised.value)
  (tmp_path / 'model' / 'params.npz').unlink()
  with pytest.raises(errors.UsageError, match='covers no others'):
    release.check_model(tmp_path)
  (tmp_path / 'privacy.json').unlink()
  with pytest.raises(errors.UsageError, match='privacy.json is gone'):
    release.check_model(tmp_path)


def test_a_class_head_that_nothing_paid_for_is_not_used(tmp_path):
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  release.seal(tmp_path, STATEMENT)
  head = class_head.ClassHead(
    kernel=np.ones((3, 2), np.float32), bias=np.zeros(2, np.float32)
  )
  release.write_class_head(tmp_path, head)
  with pytest.raises(errors.UsageError, match='class_head.npz to be the'):
    release.check_model(tmp_path)


def test_gaussians_that_nothing_paid_for_are_not_used(tmp_path):
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  release.seal(tmp_path, STATEMENT)
  gaussians = class_gaussians.ClassGaussians(
    means=np.zeros((1, 2, 2, 1), np.float32),
    factors=np.zeros((1, 1, 1, 1, 1), np.float32),
  )
  release.write_class_gaussians(tmp_path, gaussians)
  with pytest.raises(errors.UsageError, match='class_gaussians.npz to be the'):
    release.check_model(tmp_path)


def test_many_files_of_others_are_named_in_part(tmp_path):
  write_dataset(tmp_path)
  for i in range(9):
    (tmp_path / f'scan{i}.png').write_bytes(b'x')
  with pytest.raises(errors.UsageError, match='scan4.png and more') as raised:
    release.seal(tmp_path, STATEMENT)
  assert 'scan5' not in str(raised.value)


@pytest.fixture(scope='module')
def statement():
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=1000,
    expected_batch_size=100,
    num_steps=5,
    noise_multiplier=3.0,
    l2_clip_norm=1.0,
    delta=1e-4,
  )
  ledger = ledger_lib.Ledger(
    delta=1e-4,
    budget_epsilon=10.0,
    relation=mechanism.relation,
  )
  ledger = ledger.add(ledger_lib.DpSgdEntry(mechanism=mechanism)).with_steps(5)
  return statement_lib.statement(
    ledger,
    dataset='shapes',
    insecure_secret=False,
    code_revision='abc',
    versions={'numpy': '2'},
  )


def test_card_tells_of_what_is_there(tmp_path, statement):
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  release.write_card(tmp_path, statement)
  card = (tmp_path / 'README.md').read_text()
  assert card.startswith('---\ntags:\n') and 'configs:' not in card
  assert statement['statement'] in card.split('\n\n')[2]
  assert card.index('model/params.npz') < card.index('### Whom one must trust')
  assert 'dataset/' not in card and 'load_dataset' not in card
  assert not (tmp_path / 'croissant.json').exists()
  write_dataset(tmp_path)
  release.write_card(tmp_path, statement)
  card = (tmp_path / 'README.md').read_text()
  assert '14 synthetic images' in card and '6x6 pixels' in card
  assert 'tensorflow_datasets' not in card and 'load_dataset' not in card
  release.write_parquet(tmp_path)
  release.write_card(tmp_path, statement)
  card = (tmp_path / 'README.md').read_text()
  assert 'path: dataset/parquet/*.parquet\n---\n' in card
  assert "load_dataset('" in card and 'mlcroissant' in card


def test_code_on_the_card_runs(tmp_path, monkeypatch, statement):
  write_dataset(tmp_path)
  release.write_card(tmp_path, statement)
  code = (tmp_path / 'README.md').read_text().split('```python\n')[1]
  monkeypatch.chdir(tmp_path)
  found = {}
  exec(code.split('```')[0], found)
  images, labels = release.read_dataset(tmp_path)
  np.testing.assert_array_equal(found['images'], images)
  np.testing.assert_array_equal(found['labels'], labels)


def test_parquet_holds_the_images_and_what_hugging_face_wants(tmp_path):
  parquet = pytest.importorskip('pyarrow.parquet')
  write_dataset(tmp_path)
  release.write_parquet(tmp_path)
  written = contents(tmp_path / 'dataset' / 'parquet')
  assert sorted(written) == [
    'train-00000-of-00002.parquet',
    'train-00001-of-00002.parquet',
  ]
  # Files of another run, which it may have left, do not stay.
  stale = tmp_path / 'dataset' / 'parquet' / 'train-00001-of-00002.parquet'
  stale.write_bytes(b'of another run')
  release.write_parquet(tmp_path)
  assert contents(tmp_path / 'dataset' / 'parquet') == written
  tables = [
    parquet.read_table(tmp_path / 'dataset' / 'parquet' / name)
    for name in sorted(written)
  ]
  rows = [row for table in tables for row in table.to_pylist()]
  images, labels = release.read_dataset(tmp_path)
  assert [row['label'] for row in rows] == labels.tolist()
  for row, image in zip(rows, images, strict=True):
    decoded = np.asarray(Image.open(io.BytesIO(row['image']['bytes'])))
    np.testing.assert_array_equal(decoded, image)
  features = json.loads(tables[0].schema.metadata[b'huggingface'])
  assert features['info']['features'] == {
    'image': {'_type': 'Image'},
    'label': {'names': list(SPEC.class_names), '_type': 'ClassLabel'},
  }


def test_croissant_names_the_files_as_they_are(tmp_path, statement):
  write_dataset(tmp_path)
  release.write_parquet(tmp_path)
  release.write_card(
    tmp_path, statement, release_card.CardConfig(date='2026-01-31')
  )
  found = files.read_json(tmp_path / 'croissant.json')
  assert found['description'].endswith(f' {statement["statement"]}')
  assert found['datePublished'] == '2026-01-31'
  *objects, file_set = found['distribution']
  assert file_set['includes'] == 'dataset/parquet/*.parquet'
  assert len(objects) == 2
  for entry in objects:
    path = tmp_path / entry['contentUrl']
    assert entry['sha256'] == files.sha256(path)
    assert entry['contentSize'] == f'{path.stat().st_size} B'
  names = [row['classes/name'] for row in found['recordSet'][0]['data']]
  assert names == list(SPEC.class_names)


def test_a_sealed_release_passes_its_verification(tmp_path, statement):
  write_dataset(tmp_path)
  release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  release.write_parquet(tmp_path)
  release.write_card(tmp_path, statement)
  release.seal(tmp_path, statement)
  assert not verify.verify(tmp_path).mismatches
  release.write_shard(tmp_path, 0, 2, *make_shard(3))
  assert len(verify.verify(tmp_path).mismatches) == 1


@pytest.mark.parametrize('fault', ['changed', 'gone', 'new', 'new images'])
def test_what_is_no_release_any_more_is_not_sealed_again(
  tmp_path, statement, capsys, fault
):
  write_dataset(tmp_path)
  release.write_card(tmp_path, statement)
  release.seal(tmp_path, statement)
  shard = release.shard_path(tmp_path, 0, 2)
  if fault == 'changed':
    shard.unlink()
    release.write_shard(tmp_path, 0, 2, *make_shard(3))
  elif fault == 'gone':
    shard.unlink()
  elif fault == 'new images':  # Of the form that a release has.
    folder = tmp_path / 'dataset' / 'parquet'
    folder.mkdir()
    (folder / 'train-00000-of-00002.parquet').write_bytes(b'')
  else:
    release.write_model(tmp_path, {'w': np.ones(1, np.float32)}, {})
  before = command.contents(tmp_path)
  assert release.main([str(tmp_path)]) == 2
  assert str(tmp_path) in capsys.readouterr().err
  assert command.contents(tmp_path) == before


def test_missing_tensorflow_is_said_and_the_release_goes_on(
  tmp_path, monkeypatch, capsys
):
  write_dataset(tmp_path)
  monkeypatch.setattr(tfds_writer, 'is_available', lambda: False)
  assert release.write_tfds(tmp_path) is None
  said = capsys.readouterr().out
  assert said.count('\n') == 1
  assert f'python -m dp_diffusion.release {tmp_path}' in said


def _run(code, *arguments, cwd, **environment):
  return subprocess.run(
    [sys.executable, '-c', code, *map(str, arguments)],
    cwd=cwd,
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
  )


_WRITE = """
import sys
import numpy as np
from dp_diffusion import release, release_marks, types
mark = release_marks.make({'version': 1}, 'a' * 64)
spec = types.DatasetSpec(
  name='t', image_shape=(6, 6, 3), class_names=('a', 'b', 'c'))
for folder in sys.argv[1:]:
  release.write_model(folder, {'w': np.ones((3, 3), np.float32)}, {'width': 1})
  for shard in release.missing_shards(folder, 2):
    rng = np.random.default_rng(shard)
    images = rng.integers(0, 256, (5, 6, 6, 3), np.uint8)
    labels = np.arange(5, dtype=np.int32) % 3
    soft = np.eye(3, dtype=np.float32)[labels]
    release.write_shard(folder, shard, 2, images, labels, mark, soft)
  release.write_dataset_info(folder, spec)
  release.write_samples(folder)
  release.write_parquet(folder)
  release.write_tfds(folder)
  release.seal(folder, {'epsilon': 1.0})
"""

_READ = """
import importlib.util, json, sys
assert importlib.util.find_spec('dp_diffusion') is None
import numpy as np
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
rows = list(builder.as_dataset(split='train').as_numpy_iterator())
by_index = tfds.builder_from_directory(sys.argv[1]).as_data_source('train')
assert len(rows) == len(by_index) == builder.info.splits['train'].num_examples
for row, other in zip(rows, by_index):
  assert row['label'] == other['label']
  assert (row['image'] == other['image']).all()
  for found in (row, other):
    assert (found['class_probabilities'] == np.eye(3)[row['label']]).all()
print(json.dumps({
  'homepage': builder.info.homepage,
  'supervised_keys': builder.info.supervised_keys,
  'pair': len(builder.as_dataset('train', as_supervised=True).element_spec),
  'names': builder.info.features['label'].names,
  'shape': builder.info.features['image'].shape,
  'labels': [int(row['label']) for row in rows],
  'images': [row['image'].tolist() for row in rows],
}))
"""


def test_tfds_is_read_without_this_project(tmp_path, repository):
  pytest.importorskip('tensorflow_datasets')
  whole, again = tmp_path / 'whole', tmp_path / 'again'
  leftover = again / 'dataset' / '.tfds.tmp' / 'synthetic_t' / '1.0.0' / 'half'
  leftover.parent.mkdir(parents=True)
  leftover.write_bytes(b'half')
  done = _run(_WRITE, again, whole, cwd=repository)
  assert done.returncode == 0, done.stderr
  assert contents(whole) == contents(again)
  mark = release_marks.make({'version': 1}, 'a' * 64)
  folder = whole / 'dataset' / 'tfds' / 'synthetic_t' / '1.0.0'
  assert release_marks.of_tfds(folder) == mark
  assert release_marks.of_npz(release.shard_path(whole, 0, 2)) == mark

  moved = tmp_path / 'elsewhere'
  (whole / 'dataset' / 'tfds' / 'synthetic_t' / '1.0.0').rename(moved)
  read = _run(_READ, moved, cwd=tmp_path, PYTHONPATH='')
  assert read.returncode == 0, read.stderr
  found = json.loads(read.stdout)
  images, labels = release.read_dataset(whole)
  assert found['names'] == ['a', 'b', 'c']
  assert found['supervised_keys'] == ['image', 'label'] and found['pair'] == 2
  assert found['homepage'] == release_card.PAPER_URL  # A page that is there.
  assert found['shape'] == [6, 6, 3]
  assert found['labels'] == labels.tolist()
  np.testing.assert_array_equal(found['images'], images)


def test_an_error_while_tfds_is_written_leaves_nothing_half(
  tmp_path, monkeypatch
):
  def fail(target, *_):
    target.mkdir(parents=True)
    (target / 'half').write_bytes(b'half')
    raise OSError('disk full')

  write_dataset(tmp_path)
  monkeypatch.setattr(tfds_writer, 'is_available', lambda: True)
  monkeypatch.setattr(tfds_writer, 'write', fail)
  with pytest.raises(OSError, match='disk full'):
    release.write_tfds(tmp_path)
  assert not (tmp_path / 'dataset' / 'tfds').exists()
  sealed = release.seal(tmp_path, STATEMENT)
  assert not any('half' in name for name in sealed['files'])
  assert not any('half' in name for name in contents(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('times', [1, 2])
def test_killed_and_run_again_equals_uninterrupted(tmp_path, repository, times):
  pytest.importorskip('tensorflow_datasets')
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  crashed = _run(
    _WRITE,
    killed,
    cwd=repository,
    **{crash_points.ENVIRONMENT_VARIABLE: f'mid_release:{times}'},
  )
  assert crashed.returncode == -signal.SIGKILL, crashed.stderr
  assert not (killed / 'dataset' / 'tfds').exists()
  assert not (killed / 'privacy.json').exists()
  done = _run(_WRITE, killed, whole, cwd=repository)
  assert done.returncode == 0, done.stderr
  assert contents(whole) == contents(killed)


def test_help_of_the_command(capsys):
  assert release.main(['--help']) == 0
  assert 'dp_diffusion.release RELEASE_DIR' in capsys.readouterr().out
  for argv in ([], ['--num=1'], ['a', 'b']):
    assert release.main(argv) == 2
    assert 'usage: python -m dp_diffusion.release' in capsys.readouterr().err
