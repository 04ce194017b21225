"""Tests of dp_diffusion/files.py."""

from __future__ import annotations

import errno
import os
import stat

import numpy as np
import pytest

from dp_diffusion import files


def test_json_round_trip_keeps_order(tmp_path):
  value = {'b': [1, 2.5, None], 'a': {'x': 'ü'}}
  files.write_json(tmp_path / 'new' / 'x.json', value)
  assert files.read_json(tmp_path / 'new' / 'x.json') == value
  assert list(files.read_json(tmp_path / 'new' / 'x.json')) == ['b', 'a']


def test_json_has_no_infinity(tmp_path):
  with pytest.raises(ValueError, match='not JSON compliant'):
    files.write_json(tmp_path / 'x.json', {'epsilon': float('inf')})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('failing', ['fsync', 'replace'])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, failing):
  path = tmp_path / 'x'
  files.write_text(path, 'old')

  def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(os, failing, fail)
    with pytest.raises(OSError, match='No space'):
      files.write_text(path, 'new')
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_mode(tmp_path):
  files.write_bytes(tmp_path / 'secret', b'x', mode=0o600)
  assert stat.S_IMODE((tmp_path / 'secret').stat().st_mode) == 0o600


def test_npz_is_the_same_bytes_each_time(tmp_path):
  arrays = {'images': np.arange(12, dtype=np.uint8), 'labels': np.zeros(3)}
  files.write_npz(tmp_path / 'a.npz', **arrays)
  files.write_npz(tmp_path / 'b.npz', **arrays)
  assert files.sha256(tmp_path / 'a.npz') == files.sha256(tmp_path / 'b.npz')
  back = files.read_npz(tmp_path / 'a.npz')
  assert set(back) == set(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array)
    assert back[name].dtype == array.dtype


def test_npz_refuses_objects(tmp_path):
  np.savez(tmp_path / 'x.npz', a=np.array([{}], dtype=object))
  with pytest.raises(ValueError, match='allow_pickle'):
    files.read_npz(tmp_path / 'x.npz')


def test_sha256_of_a_known_text(tmp_path):
  (tmp_path / 'x').write_bytes(b'abc')
  assert files.sha256(tmp_path / 'x') == (
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
  )


def test_sync_tree_reaches_every_file(tmp_path, monkeypatch):
  (tmp_path / 'a' / 'b').mkdir(parents=True)
  (tmp_path / 'a' / 'b' / 'x').write_text('1')
  (tmp_path / 'a' / 'y').write_text('2')
  synced = set()
  fsync = os.fsync

  def record(descriptor: int) -> None:
    synced.add(os.readlink(f'/proc/self/fd/{descriptor}'))
    fsync(descriptor)

  if not os.path.exists('/proc/self/fd'):
    pytest.skip('needs /proc')
  monkeypatch.setattr(os, 'fsync', record)
  files.sync_tree(tmp_path / 'a')
  names = ('', 'a', 'a/b', 'a/b/x', 'a/y')
  assert synced == {str(tmp_path / name) for name in names}


def test_a_file_is_on_the_disk_before_its_name_and_then_its_name(
  tmp_path, monkeypatch
):
  """A power cut leaves the old file or the new one, and no later the old."""
  if not os.path.exists('/proc/self/fd'):
    pytest.skip('needs /proc')
  path, synced, fsync = tmp_path / 'x', [], os.fsync
  path.write_text('old')

  def record(descriptor: int) -> None:
    name = os.readlink(f'/proc/self/fd/{descriptor}')
    synced.append((os.path.basename(name)[:3], path.read_text()))
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', record)
  files.write_text(path, 'new')
  assert synced == [('.x.', 'old'), (tmp_path.name[:3], 'new')]


def test_remote_paths_are_not_local():
  assert files.is_local('/runs/x') and files.is_local('runs')
  assert not files.is_local('gs://bucket/runs')
  files.sync_tree('gs://bucket/runs')  # Nothing to do, nothing raised.


def test_list_names_every_file_and_no_leftover_survives(tmp_path):
  for name in (
    'b/c/d',
    'a',
    '.hidden',
    'b/.e.0.tmp',
    '.f.tmp/g/h',
    'b/.g.tmpx',
  ):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  files.remove_unfinished(tmp_path)
  assert files.list_files(tmp_path) == ['.hidden', 'a', 'b/.g.tmpx', 'b/c/d']
  assert not (tmp_path / '.f.tmp').exists()


def test_a_file_that_is_no_zip_is_not_to_be_trusted(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'x' * 100)
  with pytest.raises(ValueError, match='^File is not a zip file$'):
    files.read_npz(tmp_path / 'x.npz')


@pytest.mark.parametrize('damage', ['cut', 'changed'])
def test_a_damaged_zip_is_a_value_error(tmp_path, damage):
  path = tmp_path / 'x.npz'
  files.write_npz(path, a=np.arange(1000) % 7, b=np.zeros(3))
  data = bytearray(path.read_bytes())
  if damage == 'cut':
    data = data[: len(data) // 2]
  else:
    data[60:90] = bytes(30)
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'\S'):
    files.read_npz(path)
