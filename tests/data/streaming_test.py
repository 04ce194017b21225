"""A set larger than the memory that it may take passes through in pieces."""

from __future__ import annotations

import contextlib
import io
import pathlib
import threading

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.data import decoding
from dp_diffusion.data import registry
from dp_diffusion.privacy import key_streams

_SIDE, _NUM_IMAGES = 128, 5000
_SET_BYTES = 3 * _SIDE**2 * _NUM_IMAGES  # 234 MiB.
_FEW_BYTES = _SET_BYTES // 4  # Chunks in threads, batches, and the rest.
_STATUS = pathlib.Path('/proc/self/status')


def _own_bytes() -> int:
  """Memory of this process that is no mapped file."""
  for line in _STATUS.read_text().splitlines():
    if line.startswith('RssAnon:'):
      return 1024 * int(line.split()[1])
  raise AssertionError('The kernel says no RssAnon.')


@contextlib.contextmanager
def _grows_by_less_than(limit: int):
  before = peak = _own_bytes()
  done = threading.Event()

  def watch():
    nonlocal peak
    while not done.wait(0.002):
      peak = max(peak, _own_bytes())

  thread = threading.Thread(target=watch)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
  assert peak - before < limit


def _png(index: int) -> bytes:
  data = io.BytesIO()
  Image.new('RGB', (_SIDE, _SIDE), (index % 256,) * 3).save(data, 'PNG')
  return data.getvalue()


@pytest.mark.skipif(not _STATUS.exists(), reason='needs Linux')
def test_a_large_set_is_never_in_memory_as_a_whole(tmp_path):
  config = registry.DataConfig(
    name='generated',
    image_size=_SIDE,
    channels=3,
    cache_dir=str(tmp_path),
    max_in_memory_bytes=_SET_BYTES - 1,
  )
  encoded = [_png(i) for i in range(256)]

  def read(indices):
    return [encoded[i % 256] for i in indices]

  def fill(images):
    kept = decoding.decode_all(read, images, config, 'reading')
    return {'labels': np.zeros(len(kept.images), np.int32)}

  shape = (_NUM_IMAGES, _SIDE, _SIDE, 3)
  secret = key_streams.Secret.insecure(0)
  with _grows_by_less_than(_FEW_BYTES):
    images, small = decoding.load_or_decode(config, 'large', shape, fill)
  source = registry.ArraySource(
    spec=types.DatasetSpec(
      name='large', image_shape=shape[1:], class_names=('only',)
    ),
    images=images,
    labels=small['labels'],
  )
  with _grows_by_less_than(_FEW_BYTES):
    for step in range(20):
      batch = batching.public_batch(source, 16, seed=0, step=step)
      indices = batching.public_indices(_NUM_IMAGES, 16, seed=0, step=step)
      np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], indices % 256)
    key_streams.fingerprint(secret, 'dataset', source.images, source.labels)
