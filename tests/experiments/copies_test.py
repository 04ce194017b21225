"""A copied run is whole, and what it cost is counted once."""

from __future__ import annotations

import shutil

import pytest

from dp_diffusion import files
from experiments import copies


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / 'training'
  (folder / 'private').mkdir(parents=True, mode=0o700)
  files.write_json(folder / 'private' / 'seconds.json', {'finetune': 9.0})
  return folder


def test_copies_once(source, tmp_path):
  copy = tmp_path / 'copy'
  copies.make(source, copy)
  assert (copy / 'private').stat().st_mode & 0o777 == 0o700
  (copy / 'more').touch()
  copies.make(source, copy)
  assert (copy / 'more').exists()


def test_an_interrupted_copy_is_no_copy(source, tmp_path, monkeypatch):
  def fail(a, b):
    del a
    b.mkdir()
    raise KeyboardInterrupt

  copy = tmp_path / 'copy'
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(shutil, 'copytree', fail)
    copies.make(source, copy)
  assert not copy.exists()
  copies.make(source, copy)
  assert files.read_json(copy / 'private' / 'seconds.json')
  assert sorted(p.name for p in tmp_path.iterdir()) == ['copy', 'training']


def test_what_was_copied_took_no_time(source, tmp_path):
  seconds = {'finetune': 9.0, 'sample': 2.0}
  assert copies.own_seconds(source, seconds) == {'sample': 2.0}
  assert copies.own_seconds(tmp_path, seconds) == seconds
