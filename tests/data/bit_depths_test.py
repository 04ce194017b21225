"""Files of every depth are read right, by one public range for the set."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
from PIL import Image
import pytest
import tifffile

from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import folder
from dp_diffusion.data import registry
from dp_diffusion.data import value_range as values

DEPTHS = (8, 10, 12, 13, 14, 15, 16)
COMPRESSIONS = (None, 'lzw', 'zlib', 'packbits')
_SIDE = 16


def ramp(bits):
  values = np.linspace(0, (1 << bits) - 1, _SIDE**2)
  return values.astype(np.uint16).reshape(_SIDE, _SIDE)


def naive(stored, low, high):
  """Exact integers, halves up."""
  span = high - low
  clipped = np.clip(stored.astype(object), low, high) - low
  return ((clipped * 510 + span) // (2 * span)).astype(np.uint8)


def tiff(array, **how):
  data = io.BytesIO()
  tifffile.imwrite(data, array, **how)
  return data.getvalue()


def pnm(array, largest):
  kind = b'P6' if array.ndim == 3 else b'P5'
  head = kind + b'\n%d %d\n%d\n' % (*array.shape[1::-1], largest)
  return head + array.astype('>u2' if largest > 255 else 'u1').tobytes()


def decode(data, value_range=(), channels=0, frames=''):
  return decoding.decode(data, 0, channels, 10_000, value_range, frames)


@pytest.mark.parametrize('bits', DEPTHS)
def test_a_range_is_applied_alike_to_grey_colour_and_alpha(bits):
  grey, high = ramp(bits), (1 << bits) - 1
  alpha = np.full_like(grey, 65535)
  expected = naive(grey, 0, high)
  for planes in (1, 2, 3, 4):
    stack = np.stack([grey] * (planes - 1 + planes % 2), -1)
    if planes % 2 == 0:
      stack = np.concatenate([stack, alpha[..., None]], -1)
    found = decode(imagecodecs.png_encode(stack.squeeze()), (0, high))
    for channel in np.moveaxis(found, -1, 0):
      np.testing.assert_array_equal(channel, expected)


@pytest.mark.parametrize('how', [*COMPRESSIONS, 'tiled', 'minus'])
@pytest.mark.parametrize('bits', DEPTHS)
def test_tiff_of_every_depth(bits, how):
  grey, high = ramp(bits), (1 << bits) - 1
  options = {'photometric': 'minisblack', 'compression': how}
  if how == 'tiled':
    options = {'photometric': 'minisblack', 'tile': (16, 16)}
  if how == 'minus':
    options = {'photometric': 'miniswhite'}
  expected = naive(grey, 0, high)
  found = decode(tiff(grey, **options), (0, high))[..., 0]
  np.testing.assert_array_equal(
    found, 255 - expected if how == 'minus' else expected
  )


@pytest.mark.parametrize('bits', DEPTHS)
def test_pgm_and_ppm_of_every_depth(bits):
  grey, high = ramp(bits), (1 << bits) - 1
  for array in (grey, np.stack([grey] * 3, -1)):
    found = decode(pnm(array, high))  # The header says what white is.
    np.testing.assert_array_equal(found[..., 0], naive(grey, 0, high))


@pytest.mark.parametrize('bits', DEPTHS[1:-1])
def test_depth_that_is_not_used_is_refused_with_a_proposal(bits):
  high = (1 << bits) - 1
  for data in (
    imagecodecs.png_encode(ramp(bits)),
    imagecodecs.png_encode(np.stack([ramp(bits)] * 3, -1)),
    tiff(ramp(bits)),
  ):
    if bits == 15:  # Reaches the upper half of a 16-bit file nowhere.
      assert ramp(bits).max() < 1 << 15
    with pytest.raises(decoding.UnreadableError, match=rf'\(0, {high}\)'):
      decode(data)


def test_white_is_zero_without_a_range():
  stored = ramp(16)
  found = decode(tiff(stored, photometric='miniswhite'))[..., 0]
  np.testing.assert_array_equal(found, 255 - naive(stored, 0, 65535))


def test_a_burnt_in_marker_changes_nothing():
  stored = ramp(12)
  stored[0, :2] = 65535
  data = imagecodecs.png_encode(stored)
  with pytest.raises(decoding.UnreadableError, match=r'\(0, 4095\)'):
    decode(data)
  found = decode(data, (0, 4095))[..., 0]
  np.testing.assert_array_equal(found, naive(stored, 0, 4095))


@pytest.mark.parametrize(
  'marker',
  [
    [65535] * 4 + [60000, 50000, 45000, 40000, 30000, 20000],  # Soft edges.
    [65535] * 5 + [60000] * 5,
  ],
)
@pytest.mark.parametrize('bits', [10, 12, 14])
def test_markers_of_several_values_do_not_hide_a_depth(bits, marker):
  stored = ramp(bits)
  stored[0, : len(marker)] = marker
  proposed = rf'\(0, {(1 << bits) - 1}\)'
  with pytest.raises(decoding.UnreadableError, match=proposed):
    decode(imagecodecs.png_encode(stored))


def test_rare_bright_pixels_are_no_marker():
  rng = np.random.default_rng(0)
  bright = rng.exponential(8000, (64, 64)).clip(0, 65535).astype(np.uint16)
  assert decode(imagecodecs.png_encode(bright)).max() > 200


@pytest.mark.parametrize(
  'first, proposed',
  [(30720, r'\(28672, 36863\)'), (61440, r'\(61440, 65535\)')],
)
def test_a_narrow_band_of_large_values_is_refused(first, proposed):
  """Signed values are often stored with half of the depth added."""
  for stored in (first + ramp(12), first + ramp(12)[::-1]):
    with pytest.raises(decoding.UnreadableError, match=proposed):
      decode(imagecodecs.png_encode(stored.astype(np.uint16)))


@pytest.mark.parametrize('kind', [np.int16, np.float32])
def test_pixels_below_zero_alone_need_a_range(kind):
  data = tiff(-1000 - ramp(8).astype(kind))
  with pytest.raises(decoding.UnreadableError, match=r'\(-2048'):
    decode(data)


def test_signed_and_floating_pixels_need_a_range():
  signed = ramp(12).astype(np.int16) - 1024
  floats = ramp(12).astype(np.float32) / 4095
  for array, value_range in ((signed, (-1024, 3071)), (floats, (0, 1))):
    with pytest.raises(decoding.UnreadableError, match='data.value_range'):
      decode(tiff(array))
    found = decode(tiff(array), value_range)[..., 0]
    assert found.min() == 0 and found.max() == 255
    assert np.abs(found.astype(int) - naive(ramp(12), 0, 4095)).max() <= 1


@pytest.mark.parametrize('kind', [np.int8, np.int16])
def test_large_signed_images_are_mapped_as_small_ones(kind):
  """Theirs is a table of all values, which begins below 0."""
  high = np.iinfo(kind).max
  rng = np.random.default_rng(0)
  stored = rng.integers(-high - 1, high + 1, (300, 300)).astype(kind)
  mapped = values.to_bytes(stored, (-100, 100))
  np.testing.assert_array_equal(mapped, naive(stored, -100, 100))
  scaled = values.scale(stored, (-100, 100))
  assert np.abs(scaled - naive(stored, -100, 100)).max() <= 0.5


def test_values_beyond_those_of_signed_numbers_are_white():
  stored = np.array([0, 50, 100, 1 << 63, (1 << 64) - 1], np.uint64)
  found = values.to_bytes(stored, (0, 100))
  assert found.tolist() == [0, 128, 255, 255, 255]


def test_eight_bits_follow_the_range_too():
  grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
  data = imagecodecs.png_encode(grey)
  np.testing.assert_array_equal(decode(data)[..., 0], grey)
  found = decode(data, (50, 150))[..., 0]
  np.testing.assert_array_equal(found, naive(grey, 50, 150))
  with pytest.raises(decoding.UnreadableError, match='8 bits cannot reach'):
    decode(data, (0, 4095))


def animation(fmt, sizes=(16, 16, 16)):
  frames = [
    Image.new('RGB', (s, s), (60 * i,) * 3) for i, s in enumerate(sizes)
  ]
  data = io.BytesIO()
  frames[0].save(data, fmt, save_all=True, append_images=frames[1:])
  return data.getvalue()


@pytest.mark.parametrize('fmt', ['TIFF', 'GIF', 'PNG', 'WEBP'])
def test_several_frames_are_refused_unless_the_first_is_asked_for(fmt):
  with pytest.raises(decoding.UnreadableError, match='3 images'):
    decode(animation(fmt))
  assert decode(animation(fmt), frames='first').max() <= 2


@pytest.mark.parametrize('largest', [1, 100, 254, 255])
@pytest.mark.parametrize('is_text', [False, True])
def test_pgm_and_ppm_of_any_largest_value_are_exact(largest, is_text):
  rng = np.random.default_rng(largest)
  for shape in ((16, 16), (16, 16, 3)):
    stored = rng.integers(0, largest + 1, shape)
    data = pnm(stored, largest)
    if is_text:
      kind = {b'P5': b'P2', b'P6': b'P3'}[data[:2]]
      text = ' '.join(map(str, stored.ravel())).encode()
      data = kind + b' 16 16 %d\n' % largest + text
    found = decode(data)
    np.testing.assert_array_equal(found.squeeze(), naive(stored, 0, largest))


@pytest.mark.parametrize('largest', [100, 1000])
def test_pgm_of_an_odd_number_of_pixels_is_read(largest):
  given = (0, largest) if largest > 255 else ()
  stored = np.arange(15 * 15).reshape(15, 15) % (largest + 1)
  found = decode(pnm(stored, largest), given)
  np.testing.assert_array_equal(found.squeeze(), naive(stored, 0, largest))
  with pytest.raises(decoding.UnreadableError, match='truncated'):
    decode(pnm(stored, largest)[:-1])


def packed_tiff(stored, bits, photometric):
  """Values of less than 8 bits, of which several share a byte."""
  places = np.arange(bits - 1, -1, -1)
  rows = (stored[..., None] >> places & 1).astype(np.uint8)
  data = np.packbits(rows.reshape(len(stored), -1), axis=1).tobytes()
  tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: photometric}
  tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 16, 279: len(data)}
  entries = b''.join(struct.pack('<HHII', t, 4, 1, v) for t, v in tags.items())
  return b'II*\0' + struct.pack('<IH', 8, 9) + entries + bytes(4) + data


@pytest.mark.parametrize('bits', [1, 2, 3, 4, 5, 6, 7])
def test_less_than_eight_bits_are_spread(bits):
  largest = (1 << bits) - 1
  stored = np.random.default_rng(bits).integers(0, largest + 1, (16, 16))
  white = naive(stored, 0, largest)
  for photometric, expected in ((0, 255 - white), (1, white)):
    data = packed_tiff(stored, bits, photometric)
    np.testing.assert_array_equal(decode(data)[..., 0], expected)
    with pytest.raises(decoding.UnreadableError, match='are spread over 0'):
      decode(data, (0, largest))


@pytest.mark.parametrize('scheme', ['jpeg2000', 'webp', 'lzma', 'zstd'])
def test_rare_compressions_of_eight_bits_are_read(scheme, capfd):
  """A dark image among them: 8 bits are never judged by what they use."""
  stored = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3) % 60
  options = {'level': 0} if scheme in ('jpeg2000', 'webp') else {}
  data = tiff(
    stored, photometric='rgb', compression=scheme, compressionargs=options
  )
  np.testing.assert_array_equal(decode(data), stored)
  found = capfd.readouterr()
  assert not found.out + found.err


def test_a_thumbnail_is_not_taken_for_the_image():
  with pytest.raises(decoding.UnreadableError, match='thumbnail'):
    decode(animation('TIFF', (4, 16)), frames='first')


def make_set(root, arrays):
  for i, array in enumerate(arrays):
    path = root / 'a' / f'{i:02d}.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.roll(array, i)))  # All differ.


def load(root, **changes):
  return folder.load(
    registry.DataConfig(
      **{
        **{'name': 'folder', 'path': str(root), 'class_names': ('a',)},
        **{'image_size': _SIDE, 'channels': 1, 'test_fraction': 0.4},
        **changes,
      }
    ),
    'train',
  )


def test_a_dark_image_in_a_good_set_is_taken(tmp_path):
  make_set(tmp_path, [ramp(16)] * 29 + [ramp(12)])
  assert load(tmp_path).images.max() == 255


def test_blank_images_say_nothing_of_a_set(tmp_path):
  blank = (60000 + ramp(6)).astype(np.uint16)
  make_set(tmp_path, [ramp(16)] * 12 + [blank] * 8)
  assert load(tmp_path).images.max() == 255


def test_a_set_that_does_not_use_its_depth_is_refused(tmp_path):
  make_set(tmp_path, [ramp(14)] * 20)
  with pytest.raises(errors.UsageError, match=r'\(0, 16383\)'):
    load(tmp_path)
  assert load(tmp_path, value_range=(0, 16383)).images.max() == 255


def test_the_cache_knows_the_range(tmp_path):
  root = tmp_path / 'images'
  root.mkdir()
  make_set(root, [ramp(12)] * 20)
  options = {'max_in_memory_bytes': 0, 'cache_dir': str(tmp_path / 'cache')}
  dark = load(root, value_range=(0, 65535), **options)
  bright = load(root, value_range=(0, 4095), **options)
  assert dark.images.max() == 16 and bright.images.max() == 255


@pytest.mark.parametrize('bad', [(1,), (5, 5), (9, 1), (0, float('nan'))])
def test_an_impossible_range_is_named(bad):
  with pytest.raises(ValueError, match='value_range'):
    registry.DataConfig(name='generated', value_range=bad)
