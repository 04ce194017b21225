"""Tests of dp_diffusion.data.cache."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest

from dp_diffusion.data import cache


class _Maker:
  """Counts how often it is asked."""

  def __init__(self):
    self.calls = 0

  def __call__(self):
    self.calls += 1
    return {'x': np.arange(3)}


def _is_valid(arrays):
  return arrays['x'].shape == (3,)


def test_folder_follows_xdg_cache_home(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  assert cache.folder('') == tmp_path / 'dp_diffusion'
  assert (tmp_path / 'dp_diffusion').stat().st_mode & 0o077 == 0


def test_a_folder_may_begin_at_home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert cache.folder('~/of/images') == tmp_path / 'of' / 'images'
  monkeypatch.setenv('XDG_CACHE_HOME', '')
  assert cache.folder('') == tmp_path / '.cache' / 'dp_diffusion'


def test_arrays_are_made_once(tmp_path):
  make = _Maker()
  for _ in range(3):
    found = cache.arrays(str(tmp_path), 'n', make, _is_valid)
    np.testing.assert_array_equal(found['x'], [0, 1, 2])
  assert make.calls == 1
  assert (tmp_path / 'n.npz').stat().st_mode & 0o077 == 0


def test_decoded_images_are_closed_to_others(tmp_path):
  def fill(large):
    (made,) = tmp_path.glob('.n.*.tmp')
    assert made.stat().st_mode & 0o077 == 0  # Also while they are written.
    large[:] = 1
    return {'x': np.arange(3)}

  tmp_path.chmod(0o755)  # A folder of the user, as open as it was.
  cache.mapped(str(tmp_path), 'n', (3, 2, 2, 1), fill)
  assert (tmp_path / 'n').stat().st_mode & 0o077 == 0


@pytest.mark.parametrize('damage', ['cut', 'flip', 'empty', 'other'])
def test_a_damaged_file_is_made_again(tmp_path, capsys, damage):
  make = _Maker()
  cache.arrays(str(tmp_path), 'n', make, _is_valid)
  path = tmp_path / 'n.npz'
  data = bytearray(path.read_bytes())
  if damage == 'cut':
    path.write_bytes(data[: len(data) // 2])
  elif damage == 'flip':
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
  elif damage == 'empty':
    path.write_bytes(b'')
  else:
    np.savez(path, y=np.zeros(3))
  found = cache.arrays(str(tmp_path), 'n', make, _is_valid)
  np.testing.assert_array_equal(found['x'], [0, 1, 2])
  assert make.calls == 2
  assert 'is damaged' in capsys.readouterr().err
  cache.arrays(str(tmp_path), 'n', make, _is_valid)
  assert make.calls == 2


def test_a_folder_that_cannot_be_made_is_only_warned_of(tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  found = cache.arrays(str(tmp_path / 'file'), 'n', _Maker(), _is_valid)
  np.testing.assert_array_equal(found['x'], [0, 1, 2])
  assert 'cache folder' in capsys.readouterr().err


def _fill(large):
  large[:] = 7
  return {'labels': np.zeros(len(large), np.int32)}


def test_decoded_images_can_be_forgotten(tmp_path):
  """Whole entries and what a kill left; nothing else in the folder."""
  path = tmp_path / 'cache'
  assert cache.decoded(str(path)) == cache.forget(str(path)) == []
  assert not path.exists()
  for name in ('folder-0', 'tfds-mnist-1'):
    cache.mapped(str(path), name, (2, 3, 3, 1), _fill)
  left = [path / f'.folder-{i}.{"0a" * 16}.tmp' for i in (2, 5)]
  for folder, name in zip(left, ('large.npy', 'small.npz'), strict=True):
    folder.mkdir()  # The second one was being removed.
    (folder / name).write_bytes(b'half of it')
  cache.arrays(str(path), 'glyphs-3', _Maker(), _is_valid)
  (path / 'mine').mkdir()
  (path / 'mine' / 'notes.txt').write_text('kept')
  elsewhere = tmp_path / 'elsewhere'
  cache.mapped(str(elsewhere), 'folder-4', (2, 3, 3, 1), _fill)
  (path / 'link').symlink_to(elsewhere / 'folder-4')
  names = [entry.name for entry in cache.forget(str(path))]
  assert names == [left[0].name, left[1].name, 'folder-0', 'tfds-mnist-1']
  assert cache.decoded(str(path)) == []
  assert sorted(os.listdir(path)) == ['glyphs-3.npz', 'link', 'mine']
  assert len(cache.decoded(str(elsewhere))) == 1


def test_a_removal_that_was_killed_goes_on(tmp_path, monkeypatch):
  """Of an entry without its images, the labels and persons are left."""
  cache.mapped(str(tmp_path), 'folder-0', (2, 3, 3, 1), _fill)

  def die(folder, *_, **__):
    (folder / 'large.npy').unlink()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(cache.shutil, 'rmtree', die)
    with pytest.raises(KeyboardInterrupt):
      cache.forget(str(tmp_path))
  (left,) = os.listdir(tmp_path)
  assert os.listdir(tmp_path / left) == ['small.npz']
  assert [entry.name for entry in cache.forget(str(tmp_path))] == [left]
  assert os.listdir(tmp_path) == []


def test_arrays_of_another_form_are_made_again(tmp_path, capsys):
  cache.arrays(str(tmp_path), 'n', lambda: {'x': np.arange(2)}, _is_valid)
  found = cache.arrays(str(tmp_path), 'n', _Maker(), _is_valid)
  np.testing.assert_array_equal(found['x'], [0, 1, 2])
  assert 'is damaged' in capsys.readouterr().err


def test_decoded_images_of_another_shape_are_made_again(tmp_path, capsys):
  for num in (1234, 2):
    large, _ = cache.mapped(str(tmp_path), 'n', (num, 3, 3, 1), _fill)
    assert large.shape == (num, 3, 3, 1)
  said = capsys.readouterr().err
  assert 'is damaged' in said and '1234' not in said


def test_decoded_images_cannot_be_changed(tmp_path):
  """Whoever reads the entry next would get the change."""
  large, _ = cache.mapped(str(tmp_path), 'n', (2, 3, 3, 1), _fill)
  with pytest.raises(ValueError, match='read-only'):
    large[0] = 0


def _cut(path):
  """An array whose header says that it has 137 times 8 numbers."""
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<i4', 'fortran_order': False, 'shape': (137, 8)}
  )
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x.npy', header.getvalue() + bytes(960))


def test_a_damaged_file_is_said_without_the_sizes_in_it(tmp_path, capsys):
  """They may be numbers of sensitive images."""
  cache.arrays(str(tmp_path), 'a', _Maker(), _is_valid)
  cache.mapped(str(tmp_path), 'b', (2, 3, 3, 1), _fill)
  _cut(tmp_path / 'a.npz')
  _cut(tmp_path / 'b' / 'small.npz')
  cache.arrays(str(tmp_path), 'a', _Maker(), _is_valid)
  cache.mapped(str(tmp_path), 'b', (2, 3, 3, 1), _fill)
  said = capsys.readouterr().err.replace(str(tmp_path), '')
  assert said.count('is damaged') == 2
  assert not set('0123456789') & set(said)


def test_of_two_processes_that_decode_one_set_either_is_right(tmp_path):
  def fill(large):
    cache.mapped(str(tmp_path), 'n', large.shape, _fill)  # It is faster.
    return _fill(large)

  large, small = cache.mapped(str(tmp_path), 'n', (2, 3, 3, 1), fill)
  assert (large == 7).all() and len(small['labels']) == 2
  assert os.listdir(tmp_path) == ['n']


def test_what_cannot_be_removed_is_not_called_forgotten(tmp_path, monkeypatch):
  """As where the folder is of another user."""
  cache.mapped(str(tmp_path), 'folder-0', (2, 3, 3, 1), _fill)

  def refuse(path, *_, **__):
    raise PermissionError(13, 'Permission denied', str(path))

  with monkeypatch.context() as patch:
    for name in ('unlink', 'rmdir'):
      patch.setattr(os, name, refuse)
    with pytest.raises(PermissionError):
      cache.forget(str(tmp_path))
  assert len(cache.decoded(str(tmp_path))) == 1
