"""Tests of dp_diffusion.data.cache."""

from __future__ import annotations

import os

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
