"""Where the weights come from, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from dp_diffusion import errors
from dp_diffusion.models import inception_weights

CONTENT = b'a graph'


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  return tmp_path / 'dp_diffusion'


@pytest.fixture
def known_content(monkeypatch):
  digest = hashlib.sha256(CONTENT).hexdigest()
  monkeypatch.setattr(inception_weights, 'FILE_SHA256', digest)


def archive(name=inception_weights.FILE_NAME, content=CONTENT):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w:gz') as f:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    f.addfile(member, io.BytesIO(content))
  return buffer.getvalue()


def test_fetches_once(empty_cache, known_content):
  calls = []

  def download():
    calls.append(1)
    return archive()

  for _ in range(2):
    path = inception_weights.find(download=download)
    assert path == empty_cache / inception_weights.FILE_NAME
    assert path.read_bytes() == CONTENT
  assert len(calls) == 1


def test_without_a_network_says_where_to_put_the_file(empty_cache):
  def download():
    raise OSError('no route to host')

  with pytest.raises(errors.UsageError) as e:
    inception_weights.find(download=download)
  message = str(e.value)
  assert '\n' not in message
  assert str(empty_cache / inception_weights.FILE_NAME) in message
  assert 'inception-2015-12-05.tgz' in message


@pytest.mark.parametrize(
  'reply',
  [archive(name='other.pb'), archive()[:40], b'<html>'],
  ids=['other file', 'cut short', 'no archive'],  # Archives hold the time.
)
def test_a_broken_archive_is_not_kept(empty_cache, known_content, reply):
  with pytest.raises(errors.UsageError, match='cannot be fetched'):
    inception_weights.find(download=lambda: reply)
  assert not list(empty_cache.glob('*'))


def test_what_came_is_checked_before_it_is_kept(empty_cache):
  with pytest.raises(errors.UsageError, match='sha256'):
    inception_weights.find(download=archive)
  assert not list(empty_cache.glob('*'))


def test_a_file_placed_by_hand_is_checked(tmp_path, known_content):
  path = tmp_path / 'graph.pb'
  with pytest.raises(errors.UsageError, match='no such file'):
    inception_weights.find(str(path))
  path.write_bytes(CONTENT)
  assert inception_weights.find(str(path)) == path
  path.write_bytes(CONTENT + b'.')
  with pytest.raises(errors.UsageError, match='sha256'):
    inception_weights.find(str(path))
