"""Tensors of .pt files; `data/` holds files that PyTorch itself has written."""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.models.formats import torch_file
from tests.models.formats import torch_files

DATA = pathlib.Path(__file__).parent / 'data'
ARRAYS = {
  'a.weight': np.arange(24, dtype='<f4').reshape(2, 3, 4),
  'a.bias': np.arange(3, dtype='<f2'),
  'turned': np.arange(6, dtype='<f8').reshape(2, 3).T,
}


def read(path):
  return {k: v.load() for k, v in torch_file.read(path).items()}


@pytest.mark.parametrize('is_legacy', [False, True])
def test_tensors_as_float32(tmp_path, is_legacy):
  path = tmp_path / 'x.pt'
  kept = {k: np.ascontiguousarray(v) for k, v in ARRAYS.items()}
  torch_files.save(path, kept, is_legacy=is_legacy)
  lazy = torch_file.read(path)
  assert {k: v.shape for k, v in lazy.items()} == {
    k: v.shape for k, v in ARRAYS.items()
  }
  for name, array in read(path).items():
    assert array.dtype == np.float32 and array.flags.c_contiguous
    np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize('name', ['zip.pt', 'legacy.pt', 'protocol4.pt'])
def test_what_pytorch_has_written(name):
  """Views, parameters, turned, empty and 0-d tensors of five dtypes."""
  found = read(DATA / name)
  with np.load(DATA / 'tensors.npz') as expected:
    assert set(found) == set(expected)
    for key, array in found.items():
      assert array.shape == expected[key].shape
      np.testing.assert_array_equal(array, expected[key])


def wrong(tmp_path, program, **options):
  path = tmp_path / 'x.pt'
  torch_files.write_zip(path, program, ARRAYS.values(), **options)
  with pytest.raises(errors.UsageError) as raised:
    read(path)
  message = str(raised.value)
  assert '\n' not in message and str(path) in message
  return message


class _Evil:
  def __reduce__(self):
    return os.system, ('touch ran',)


def test_code_is_refused_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  evil = pickle.dumps({'weight': _Evil()}, 2)
  assert 'posix.system' in wrong(tmp_path, evil)
  (tmp_path / 'x.pt').write_bytes(
    torch_files.MAGIC + torch_files.VERSION + torch_files.SYSTEM + evil
  )
  with pytest.raises(errors.UsageError, match='posix.system'):
    torch_file.read(tmp_path / 'x.pt')
  (tmp_path / 'x.pt').write_bytes(evil)
  with pytest.raises(errors.UsageError, match='posix.system'):
    torch_file.read(tmp_path / 'x.pt')
  (tmp_path / 'x.pt').write_bytes(pickle.dumps([1], 2))
  with pytest.raises(errors.UsageError, match='torch.save has not written'):
    torch_file.read(tmp_path / 'x.pt')
  assert not (tmp_path / 'ran').exists()


def test_edm_is_refused_with_the_reason(tmp_path):
  code = 'torch_utils.persistence._reconstruct_persistent_obj'
  program = b'\x80\x02' + torch_files.name(code) + b')R.'
  assert 'licence' in wrong(tmp_path, program)
  (tmp_path / 'x.pkl').write_bytes(program)  # As they are published.
  with pytest.raises(errors.UsageError, match='EDM .* licence'):
    torch_file.read(tmp_path / 'x.pkl')


def test_no_tensor_exceeds_its_storage(tmp_path):
  array = np.zeros(4, '<f4')
  for shape in ((5,), (2, 3), (2**31 - 1,)):
    tensor = torch_files.tensor('0', array, shape=shape)
    program = b'\x80\x02}' + torch_files.text('a') + tensor + b's.'
    assert re.search('damaged tensor|beyond the 4', wrong(tmp_path, program))
  program = torch_files.state_dict({'a': np.zeros(1000, '<f4')})
  assert 'cut short' in wrong(tmp_path, program)
  stretched = np.broadcast_to(np.zeros(1, '<f4'), (1000,))
  program = torch_files.state_dict({'a': stretched})
  assert wrong(tmp_path, program)


@pytest.mark.parametrize(
  ('program', 'words'),
  [
    (b'\x80\x02].', 'a list instead of tensors'),
    (b'\x80\x02}.', '0 tensors'),
    (b'\x80\x02}' + torch_files.text('step') + b'K\x01s.', "'step' .int"),
    (b'\x80\x02}K\x01K\x01s.', 'no tensor as 1'),
    (b'\x80\x02', 'exhausted'),
    (torch_files.state_dict({'a\nb': np.ones(1, '<f4')}), 'the name'),
  ],
)
def test_other_contents(tmp_path, program, words):
  assert re.search(words, wrong(tmp_path, program))


def test_wrong_archives(tmp_path):
  program = torch_files.state_dict(ARRAYS)
  options = {'compression': zipfile.ZIP_DEFLATED}
  assert 'compressed' in wrong(tmp_path, program, **options)
  path = tmp_path / 'x.pt'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.npy', b'')
  with pytest.raises(errors.UsageError, match='without NAME/data.pkl'):
    torch_file.read(path)
  for content, words in (
    (b'', 'an empty file'),
    (b'<!DOCTYPE html>', 'starts with'),
  ):
    path.write_bytes(content)
    with pytest.raises(errors.UsageError, match=words):
      torch_file.read(path)
  with pytest.raises(errors.UsageError, match='does not exist'):
    torch_file.read(tmp_path / 'none.pt')
  with pytest.raises(errors.UsageError, match='directory'):
    torch_file.read(tmp_path)


@pytest.mark.parametrize('name', ['zip.pt', 'legacy.pt'])
def test_damaged_files(tmp_path, name):
  """Cut anywhere, or with any byte changed: a line, or the whole file."""
  whole = (DATA / name).read_bytes()
  path, rng = tmp_path / 'x.pt', np.random.default_rng(0)
  damaged = [whole[:n] for n in rng.integers(0, len(whole), 60)]
  for at in rng.integers(0, min(len(whole), 2500), 200):
    content = bytearray(whole)
    content[at] = rng.integers(256)
    damaged.append(bytes(content))
  num_refused = 0
  for content in damaged:
    path.write_bytes(content)
    try:
      read(path)
    except errors.UsageError as error:
      assert '\n' not in str(error)
      num_refused += 1
  assert num_refused > 100
