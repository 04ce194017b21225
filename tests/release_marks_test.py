"""Marks of released images: made, read, and their statement found."""

from __future__ import annotations

import json
import pathlib
import shutil
import zipfile

import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import release_marks
from dp_diffusion.data import parquet_writer

LEDGER = {
  'version': 1,
  'relation': 'add_or_remove_one',
  'unit': 'image',
  'delta': 1e-4,
  'budget_epsilon': None,
  'events': [],
}


def make_release(folder: pathlib.Path, model: str = 'a' * 64, *, marked=True):
  """A statement and a shard, as far as marks go."""
  statement = {
    'statement_version': 4,
    **LEDGER,
    'files': {'model/params.npz': model},
  }
  mark = release_marks.make(LEDGER, model)
  assert release_marks.of_statement(statement) == mark
  (folder / 'dataset').mkdir(parents=True)
  (folder / 'privacy.json').write_text(json.dumps(statement))
  extra = {release_marks.NAME: mark.to_array()} if marked else {}
  path = folder / 'dataset' / 'images-00000-of-00001.npz'
  np.savez(path, images=np.zeros((1, 2, 2, 1), np.uint8), **extra)
  tfds = folder / 'dataset' / 'tfds' / 'x' / 'c' / '1.0.0'
  tfds.mkdir(parents=True)
  text = f'Synthetic. {mark.in_description()}' if marked else 'Synthetic.'
  info = {'name': 'x', 'description': text}
  (tfds / 'dataset_info.json').write_text(json.dumps(info))
  return path, tfds


def test_a_mark_is_read_by_numpy_alone(tmp_path):
  path, tfds = make_release(tmp_path)
  with np.load(path, allow_pickle=False) as f:
    assert json.loads(str(f['dp_release']))['model_sha256'] == 'a' * 64
  assert release_marks.of_npz(path) == release_marks.of_tfds(tfds)
  again = release_marks.make(json.loads(json.dumps(LEDGER)), 'a' * 64)
  assert release_marks.of_npz(path) == again
  others = [{**LEDGER, name: 'other'} for name in LEDGER]
  assert again not in (
    *(release_marks.make(other, 'a' * 64) for other in others),
    release_marks.make(LEDGER, 'b' * 64),
  )


def test_a_mark_finds_its_own_statement(tmp_path):
  path, tfds = make_release(tmp_path / 'release')
  expected = (tmp_path / 'release' / 'privacy.json').read_bytes()
  copy = tmp_path / 'copy'
  copy.mkdir()
  shutil.copyfile(path, copy / 'mine.npz')
  shutil.copyfile(tmp_path / 'release' / 'privacy.json', copy / 'privacy.json')
  link = tmp_path / 'link.npz'
  link.symlink_to(path)
  for place in (path, tfds, copy / 'mine.npz', link):
    found = release_marks.find(place)
    assert found is not None and found.content == expected
  # A nearer statement of another release is passed over.
  shutil.rmtree(copy)
  make_release(tmp_path / 'release' / 'dataset' / 'sub', 'b' * 64)
  shutil.copyfile(path, tmp_path / 'release' / 'dataset' / 'sub' / 'x.npz')
  found = release_marks.find(tmp_path / 'release' / 'dataset' / 'sub' / 'x.npz')
  assert found is not None and found.content == expected


@pytest.mark.parametrize('beside', ['nothing', 'other', 'damaged'])
def test_marked_images_without_a_ledger(tmp_path, beside):
  path, tfds = make_release(tmp_path / 'release')
  away = tmp_path / 'far' / 'away'
  away.mkdir(parents=True)
  shutil.copyfile(path, away / 'x.npz')
  shutil.copytree(tfds, away / '1.0.0')
  if beside == 'other':
    make_release(tmp_path / 'other', 'b' * 64)
    shutil.copyfile(tmp_path / 'other' / 'privacy.json', away / 'privacy.json')
  elif beside == 'damaged':
    text = (tmp_path / 'release' / 'privacy.json').read_text()
    (away / 'privacy.json').write_text(text[:-9])
  for place in (away / 'x.npz', away / '1.0.0'):
    with pytest.raises(errors.UsageError, match='Expected the ledger of') as e:
      release_marks.find(place)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'array',
  [
    np.array('{}'),
    np.array('no'),
    np.array(3),
    np.array('{"ledger_sha256": 1, "model_sha256": 2}'),
    np.array('x' * 100_000),
  ],
)
def test_a_damaged_mark_is_refused(tmp_path, array):
  np.savez(tmp_path / 'x.npz', dp_release=array)
  with pytest.raises(errors.UsageError, match='as they were published'):
    release_marks.find(tmp_path / 'x.npz')


def write_parquet(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(parquet_writer.to_bytes([b'png'], [0], ['a'], text))
  return path


def test_the_mark_of_a_parquet_file_leads_to_its_own_statement(tmp_path):
  make_release(tmp_path / 'release')
  mark = release_marks.make(LEDGER, 'a' * 64)
  text = mark.in_description()
  path = write_parquet(tmp_path / 'release/dataset/parquet/a.parquet', text)
  assert release_marks.of_parquet(path) == mark
  found = release_marks.find(path)
  expected = (tmp_path / 'release' / 'privacy.json').read_bytes()
  assert found is not None and found.content == expected
  away = write_parquet(tmp_path / 'far' / 'away' / 'b.PARQUET', text)
  for place in release_marks.places(tmp_path / 'far'):
    if place == away:
      with pytest.raises(errors.UsageError, match='Expected the ledger of'):
        release_marks.find(place)
      break
  else:
    raise AssertionError('A marked file in a folder was passed over.')


@pytest.mark.parametrize(
  'text', ['dp_release={"ledger', 'dp_release={}', 'dp_release={"a": 1}']
)
def test_a_damaged_mark_in_parquet_is_refused(tmp_path, text):
  path = write_parquet(tmp_path / 'x.parquet', text)
  with pytest.raises(errors.UsageError, match='as they were published'):
    release_marks.find(path)


def test_parquet_of_others_has_no_mark(tmp_path):
  path = write_parquet(tmp_path / 'x.parquet', '')
  assert release_marks.find(path) is None
  whole = path.read_bytes()
  for damaged in (b'', b'PAR1', whole[:-1], whole[:-8] + b'\xff' * 4 + b'PAR1'):
    path.write_bytes(damaged)
    assert release_marks.find(path) is None


def test_a_damaged_mark_in_tfds_is_refused(tmp_path):
  info = {'description': 'Synthetic. dp_release={"ledger'}
  (tmp_path / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(errors.UsageError, match='cut off'):
    release_marks.find(tmp_path)


def test_unmarked_images_below_a_release(tmp_path):
  """A release of an earlier version, and images that a user wrote into one."""
  path, tfds = make_release(tmp_path / 'release', marked=False)
  pngs = tmp_path / 'release' / 'dataset' / 'png'
  pngs.mkdir()
  zipped = tmp_path / 'z.zip'
  with zipfile.ZipFile(zipped, 'w') as archive:
    archive.write(tmp_path / 'release' / 'privacy.json', 'r/privacy.json')
    archive.writestr('r/a/0.png', b'')
  link = tmp_path / 'elsewhere' / 'link'
  link.parent.mkdir()
  link.symlink_to(pngs)
  for place in (path, tfds, pngs, link, tmp_path / 'release', zipped):
    assert release_marks.find(place) is not None, place
  statement = tmp_path / 'release' / 'privacy.json'
  statement.write_text(statement.read_text()[:-9])  # Damaged, not absent.
  for place in (path, tfds, pngs, tmp_path / 'release'):
    assert release_marks.find(place) is not None, place


def test_a_release_below_a_folder_is_found(tmp_path):
  """As where samples of a release were unpacked among other images."""
  expected = []
  for name in ('b', 'a'):
    path, _ = make_release(tmp_path / 'mine' / 'x' / name, name * 64)
    path.unlink()
    expected.append(tmp_path / 'mine' / 'x' / name / 'privacy.json')
  other = tmp_path / 'mine' / 'c' / 'privacy.json'
  other.parent.mkdir()
  other.write_text('{"who": "somebody else"}')
  places = list(release_marks.places(tmp_path / 'mine'))
  assert places[0] == tmp_path / 'mine'
  found = [release_marks.find(place) for place in places]
  assert [origin.where for origin in found if origin] == [
    str(path) for path in sorted(expected)
  ]


def test_a_statement_in_a_zip_is_found_behind_what_is_none(tmp_path):
  make_release(tmp_path / 'release')
  path = tmp_path / 'z.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('privacy.json', '{"who": "somebody else"}')
    archive.write(tmp_path / 'release' / 'privacy.json', 'r/privacy.json')
    archive.writestr('r/a/0.png', b'')
  found = release_marks.find(path)
  assert found is not None and found.where == f'{path}/r/privacy.json'


def test_public_images_lie_in_no_release(tmp_path):
  (tmp_path / 'privacy.json').write_text('{"who": "somebody else"}')
  np.savez(tmp_path / 'x.npz', images=np.zeros((1, 2, 2, 1), np.uint8))
  (tmp_path / 'broken.npz').write_bytes(b'PK no zip')
  (tmp_path / 'folder' / 'a').mkdir(parents=True)
  for name in ('x.npz', 'broken.npz', 'folder', 'absent'):
    assert release_marks.find(tmp_path / name) is None


def test_a_mark_is_read_once(tmp_path, monkeypatch):
  """What is refused and what is returned follow from the same bytes."""
  path, _ = make_release(tmp_path / 'release')
  zipped = tmp_path / 'z.zip'
  with zipfile.ZipFile(zipped, 'w') as archive:
    archive.write(tmp_path / 'release' / 'privacy.json', 'r/privacy.json')
    archive.writestr('r/a/0.png', b'')
  read, original = [], release_marks.of_npz
  monkeypatch.setattr(
    release_marks, 'of_npz', lambda p: read.append(p) or original(p)
  )
  for place in (path, zipped):
    read.clear()
    (found,) = release_marks.find_all(place)
    assert found.where.endswith('privacy.json') and read == [place]
