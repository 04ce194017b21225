"""Tests of dp_diffusion.data.decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import registry

_PIXELS = 10_000
_RNG = np.random.default_rng(0)
_RGB = _RNG.integers(0, 256, (12, 9, 3), np.uint8)
_GREY = _RNG.integers(0, 256, (12, 9), np.uint8)


def _encode(array, file_format='PNG', **options):
  data = io.BytesIO()
  Image.fromarray(array).save(data, file_format, **options)
  return data.getvalue()


def _huge_png(width, height):
  """A few bytes that say they are a large image."""

  def chunk(name, data):
    crc = zlib.crc32(name + data)
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', crc)

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(b'\0' * 1000))
    + chunk(b'IEND', b'')
  )


def _config(**changes):
  return registry.DataConfig(name='generated', **changes)


def test_a_stored_image_is_kept_as_it_is():
  np.testing.assert_array_equal(
    decoding.decode(_encode(_RGB), 0, 0, _PIXELS), _RGB
  )
  np.testing.assert_array_equal(
    decoding.decode(_encode(_GREY), 0, 0, _PIXELS), _GREY[..., None]
  )


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_modes_become_grey_or_rgb(mode, channels):
  image = Image.fromarray(_RGB).convert(mode)
  data = io.BytesIO()
  image.save(data, 'TIFF' if mode == 'CMYK' else 'PNG')
  found = decoding.decode(data.getvalue(), 0, channels, _PIXELS)
  assert found.shape == (12, 9, channels)
  assert found.dtype == np.uint8


def test_sixteen_bits_are_rounded_to_the_nearest_of_eight():
  array = _RNG.integers(0, 1 << 16, (5, 4)).astype(np.uint16)
  found = decoding.decode(_encode(array), 0, 1, _PIXELS)
  np.testing.assert_array_equal(found[..., 0], np.floor(array / 257 + 0.5))


def test_the_middle_square_is_kept():
  wide = np.zeros((4, 12, 3), np.uint8)
  wide[:, 4:8] = 200
  found = decoding.decode(_encode(wide), 4, 3, _PIXELS)
  np.testing.assert_array_equal(found, np.full((4, 4, 3), 200))


def test_the_middle_is_kept_to_half_a_pixel():
  row = np.array([10, 90, 200, 90, 10], np.uint8)
  for wide in (np.tile(row, (4, 1)), np.tile(row, (4, 1)).T):
    found = decoding.decode(_encode(np.ascontiguousarray(wide)), 4, 1, _PIXELS)
    np.testing.assert_array_equal(found, found[::-1, ::-1])


def test_resizing_is_antialiased():
  lines = np.zeros((96, 96), np.uint8)
  lines[:, ::3] = 255  # Nearest neighbours would see one value only.
  found = decoding.decode(_encode(lines), 32, 1, _PIXELS)
  assert np.all(np.abs(found[:, 4:-4].astype(int) - 85) < 12)


def test_orientation_is_applied():
  data = io.BytesIO()
  exif = Image.Exif()
  exif[0x0112] = 6  # Turn clockwise.
  Image.fromarray(_RGB).save(data, 'PNG', exif=exif)
  found = decoding.decode(data.getvalue(), 0, 3, _PIXELS)
  np.testing.assert_array_equal(found, np.rot90(_RGB, -1))


@pytest.mark.parametrize(
  'data, why',
  [
    (b'', 'not an image'),
    (b'not an image', 'not an image'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'not an image'),
    (_encode(_RGB)[:150], 'truncated|broken|file'),
    (
      _encode(_RNG.integers(0, 256, (64, 64, 3), np.uint8), 'JPEG')[:800],
      'truncated|broken',
    ),
    (_encode(np.zeros((101, 100), np.uint8)), '100x101 pixels'),
    (_huge_png(9_000, 9_000), '9000x9000 pixels'),
    (_huge_png(60_000, 60_000), 'too large'),
    (_encode(np.zeros((4, 4), np.float32), 'TIFF'), 'no fixed range'),
  ],
)
def test_what_cannot_be_used_is_refused_in_one_line(data, why):
  with pytest.raises(decoding.UnreadableError, match=why) as caught:
    decoding.decode(data, 8, 3, _PIXELS)
  assert '\n' not in str(caught.value)


def test_many_are_decoded_in_order_and_errors_are_told_apart(capsys):
  arrays = _RNG.integers(0, 256, (300, 4, 4, 1), np.uint8)
  encoded = [_encode(array[..., 0]) for array in arrays]
  encoded[7] = b'bad'
  encoded[200] = decoding.UnreadableError('too far away')
  encoded[299] = _encode(_GREY)
  images = np.empty((300, 4, 4, 1), np.uint8)
  kept = decoding.decode_all(
    lambda indices: [encoded[i] for i in indices], images, _config(), 'work'
  )
  good = np.delete(np.arange(300), [7, 200, 299])
  np.testing.assert_array_equal(kept.indices, good)
  np.testing.assert_array_equal(kept.images, arrays[good])
  assert sorted(kept.errors) == [7, 200, 299]
  assert kept.errors[200] == 'too far away'
  assert 'set data.image_size' in kept.errors[299]
  assert '300' not in capsys.readouterr().out  # Sizes may be private.


def _fill(images):
  images[:3] = 7
  return {'labels': np.arange(3, dtype=np.int32)}


@pytest.mark.parametrize('limit, kind', [(1000, np.ndarray), (10, np.memmap)])
def test_large_sets_are_memory_mapped(tmp_path, limit, kind):
  config = _config(max_in_memory_bytes=limit, cache_dir=str(tmp_path))
  images, small = decoding.load_or_decode(config, 'n', (4, 2, 2, 1), _fill)
  assert type(images) is kind
  np.testing.assert_array_equal(images, np.full((3, 2, 2, 1), 7))
  np.testing.assert_array_equal(small['labels'], [0, 1, 2])


def test_a_mapped_set_is_decoded_once(tmp_path, capsys):
  config = _config(max_in_memory_bytes=10, cache_dir=str(tmp_path))
  for fill in (_fill, None):
    images, _ = decoding.load_or_decode(config, 'n', (4, 2, 2, 1), fill)
  del images
  (tmp_path / 'n' / 'large.npy').write_bytes(b'damaged')
  images, _ = decoding.load_or_decode(config, 'n', (4, 2, 2, 1), _fill)
  assert images[0, 0, 0, 0] == 7
  assert 'damaged' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['n']


def test_an_interrupted_decoding_leaves_nothing(tmp_path):
  config = _config(max_in_memory_bytes=10, cache_dir=str(tmp_path))

  def fail(images):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    decoding.load_or_decode(config, 'n', (4, 2, 2, 1), fail)
  assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
  (tmp_path / 'file').write_text('')
  config = _config(max_in_memory_bytes=10, cache_dir=str(tmp_path / 'file'))
  with pytest.raises(errors.UsageError, match='set data.cache_dir'):
    decoding.load_or_decode(config, 'n', (4, 2, 2, 1), _fill)


def test_errors_of_struct_are_errors_of_the_file(monkeypatch):
  def fail(*_):
    raise struct.error('required argument is not an integer')

  monkeypatch.setattr(decoding, 'fit', fail)
  with pytest.raises(decoding.UnreadableError, match='required argument'):
    decoding.decode(_encode(np.zeros((2, 2), np.uint8)), 0, 0, 100)


def test_twelve_bits_in_sixteen_are_refused():
  """Their upper half is nearly black."""
  array = _RNG.integers(0, 1 << 12, (5, 4)).astype(np.uint16)
  with pytest.raises(
    decoding.UnreadableError, match='set data.value_range .* perhaps .0, 4095.'
  ):
    decoding.decode(_encode(array), 0, 0, 100)
  black = decoding.decode(_encode(np.zeros((2, 2), np.uint16)), 0, 0, 100)
  assert not black.any()


def test_reading_tells_neither_how_many_there_are_nor_how_long(capsys):
  data = [_encode(np.zeros((4, 4), np.uint8))]
  said = []
  for num_images in (3, 200):
    decoding.decode_all(
      lambda indices: data * len(indices),
      np.zeros((num_images, 4, 4, 1), np.uint8),
      _config(image_size=4, channels=1),
      'reading',
    )
    said.append(capsys.readouterr().out)
  assert said[0] == said[1] and '100/100' in said[0] and ' s' not in said[0]
