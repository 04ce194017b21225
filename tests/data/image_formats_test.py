"""Tests of dp_diffusion.data.image_formats: depths, frames, damaged files."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
from PIL import Image
import pytest
import tifffile

from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import registry

_PIXELS = 10_000
_RNG = np.random.default_rng(0)
_BITS = (8, 10, 12, 13, 14, 15, 16)


def _png(pixels):
  """16 bits per channel, grey, grey with alpha, RGB or RGBA; by hand."""
  height, width, channels = pixels.shape
  kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

  def chunk(name, data):
    crc = zlib.crc32(name + data)
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', crc)

  header = struct.pack('>IIBBBBB', width, height, 16, kind, 0, 0, 0)
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )


def _pnm(pixels, largest, is_text=False):
  height, width, channels = pixels.shape
  kind = {1: 2, 3: 3}[channels] + (0 if is_text else 3)
  header = f'P{kind}\n# made by hand\n{width} {height}\n{largest}\n'.encode()
  if is_text:
    return header + ' '.join(map(str, pixels.ravel())).encode()
  return header + pixels.astype('>u2' if largest > 255 else 'u1').tobytes()


def _tiff(pixels, **how):
  """By tifffile."""
  data = io.BytesIO()
  how.setdefault('photometric', 'minisblack' if pixels.shape[2] < 3 else 'rgb')
  if pixels.shape[2] in (2, 4):
    how['extrasamples'] = ['unassalpha']
  if how.get('planarconfig') == 'separate':
    pixels = np.moveaxis(pixels, -1, 0)
  elif pixels.shape[2] == 1:
    pixels = pixels[..., 0]
  tifffile.imwrite(data, pixels, metadata=None, **how)
  return data.getvalue()


def _plain_tiff(pixels, photometric, bits):
  """One strip of one sample per pixel, little-endian; by hand."""
  data = pixels.astype({8: 'u1', 16: '<u2'}[bits]).tobytes()
  height, width = pixels.shape
  tags = [
    *((256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1)),
    *((262, 3, photometric), (273, 4, 122), (277, 3, 1), (278, 4, height)),
    (279, 4, len(data)),
  ]
  body = b''.join(struct.pack('<HHII', t, k, 1, value) for t, k, value in tags)
  start = b'II*\0' + struct.pack('<IH', 8, len(tags))
  return start + body + b'\0' * 4 + data


def _image(bits, channels=1):
  pixels = _RNG.integers(0, 1 << bits, (6, 5, channels)).astype(np.uint16)
  pixels[0, 0], pixels[1, 1] = 0, (1 << bits) - 1
  return pixels


def _oracle(pixels, low, high):
  """Half up, in whole numbers of Python."""

  def one(value):
    value = min(max(int(value), low), high) - low
    return (2 * value * 255 + high - low) // (2 * (high - low))

  return np.array([one(v) for v in pixels.ravel()]).reshape(pixels.shape)


_WRITERS = {
  'png': _png,
  'tiff': _tiff,
  'lzw': lambda p: _tiff(p, compression='lzw', predictor=True),
  'deflate': lambda p: _tiff(p, compression='deflate'),
  'packbits': lambda p: _tiff(p, compression='packbits'),
  'tiled': lambda p: _tiff(p, tile=(16, 16), compression='deflate'),
  'big-endian': lambda p: _tiff(p, byteorder='>'),
  'bigtiff': lambda p: _tiff(p, bigtiff=True),
}


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('writer', _WRITERS)
def test_every_depth_is_mapped_exactly(writer, channels):
  for bits in _BITS:
    pixels = _image(bits, channels)
    pixels[0, 0, -1] = 65535 if channels in (2, 4) else 0  # Alpha, dropped.
    data, high = _WRITERS[writer](pixels), (1 << bits) - 1
    found = decoding.decode(data, 0, 0, _PIXELS, (0, high))
    colours = pixels[..., : 1 if channels < 3 else 3]
    np.testing.assert_array_equal(found, _oracle(colours, 0, high))


@pytest.mark.parametrize('is_text', [False, True])
@pytest.mark.parametrize('channels', [1, 3])
def test_netpbm_is_mapped_by_the_range_not_by_its_header(channels, is_text):
  for bits in _BITS[1:]:
    pixels, high = _image(bits, channels), (1 << bits) - 1
    for largest in (high, 65535):
      data = _pnm(pixels, largest, is_text)
      found = decoding.decode(data, 0, 0, _PIXELS, (3, 900))
      np.testing.assert_array_equal(found, _oracle(pixels, 3, 900))


@pytest.mark.parametrize('bits', [12, 14, 16])
def test_a_header_says_what_white_is_and_the_image_reaches_it(bits):
  pixels, high = _image(bits), (1 << bits) - 1
  found = decoding.decode(_pnm(pixels, high), 0, 0, _PIXELS)
  np.testing.assert_array_equal(found, _oracle(pixels, 0, high))


def test_fewer_than_eight_bits_are_spread_over_eight():
  pixels = _RNG.integers(0, 16, (6, 5, 1)).astype(np.uint16)
  found = decoding.decode(_pnm(pixels, 15), 0, 0, _PIXELS)
  np.testing.assert_array_equal(found, pixels * 17)


@pytest.mark.parametrize('writer', ['png', 'tiff'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('bits', _BITS[:-1])
def test_a_part_of_the_depth_needs_a_range(writer, channels, bits):
  pixels = _image(bits, channels)
  pixels[..., -1] |= 0 if channels in (1, 3) else 65535
  wanted = rf'data\.value_range .*perhaps \(0, {(1 << bits) - 1}\)$'
  with pytest.raises(decoding.UnreadableError, match=wanted):
    decoding.decode(_WRITERS[writer](pixels), 0, 0, _PIXELS)


@pytest.mark.parametrize('side', [1, 3])
def test_a_burnt_in_marker_does_not_set_the_range(side):
  pixels = _RNG.integers(0, 4096, (40, 40, 1)).astype(np.uint16)
  pixels[:side, :side] = 65535
  with pytest.raises(decoding.UnreadableError, match=r'\(0, 4095\)'):
    decoding.decode(_png(pixels), 0, 0, _PIXELS)
  found = decoding.decode(_png(pixels), 0, 0, _PIXELS, (0, 4095))
  np.testing.assert_array_equal(found, _oracle(pixels, 0, 4095))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('value_range', [(), (0, 200)])
def test_white_is_zero_is_no_negative(bits, value_range):
  high = (1 << bits) - 1
  ramp = np.linspace(0, high, 256).astype(np.uint16).reshape(16, 16)
  black, white = (
    decoding.decode(_plain_tiff(ramp, kind, bits), 0, 0, _PIXELS, value_range)
    for kind in (1, 0)
  )
  np.testing.assert_array_equal(white, 255 - black)
  assert white[0, 0, 0] == 255 and not white[-1, -1, 0]


def test_planes_apart_are_one_image():
  pixels = _image(16, 3)
  data = _tiff(pixels, planarconfig='separate', photometric='rgb')
  found = decoding.decode(data, 0, 0, _PIXELS, (0, 65535))
  np.testing.assert_array_equal(found, _oracle(pixels, 0, 65535))


@pytest.mark.parametrize('kind', ['int8', 'int16', 'int32', 'float32'])
def test_signed_and_floating_pixels_need_a_range(kind):
  pixels = np.linspace(-100, 100, 30).reshape(6, 5, 1).astype(kind)
  data = _tiff(pixels)
  with pytest.raises(decoding.UnreadableError, match='value_range'):
    decoding.decode(data, 0, 0, _PIXELS)
  found = decoding.decode(data, 0, 0, _PIXELS, (-100, 100))
  expected = np.floor((pixels.astype(float) + 100) * 255 / 200 + 0.5)
  np.testing.assert_array_equal(found, expected)


def test_pixels_that_are_no_numbers_are_refused():
  pixels = np.full((6, 5, 1), np.nan, np.float32)
  for value_range in ((), (0, 1)):
    with pytest.raises(decoding.UnreadableError, match='NaN'):
      decoding.decode(_tiff(pixels), 0, 0, _PIXELS, value_range)


def test_the_range_applies_to_eight_bits_too():
  pixels = _RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'PNG')
  found = decoding.decode(data.getvalue(), 0, 0, _PIXELS, (50, 150))
  np.testing.assert_array_equal(found, _oracle(pixels, 50, 150))
  with pytest.raises(decoding.UnreadableError, match='cannot reach the white'):
    decoding.decode(data.getvalue(), 0, 0, _PIXELS, (0, 4095))


@pytest.mark.parametrize('channels', [1, 3])
def test_deep_images_are_resized_before_they_are_rounded(channels):
  pixels = _RNG.integers(0, 4096, (40, 30, channels)).astype(np.uint16)
  found = decoding.decode(_png(pixels), 10, channels, _PIXELS, (0, 4095))
  for i in range(channels):
    plane = Image.fromarray((pixels[..., i] / 4095 * 255).astype('f4'))
    exact = plane.resize((10, 10), Image.Resampling.LANCZOS, (0, 5, 30, 35))
    exact = np.asarray(exact)
    assert np.abs(found[..., i] - np.clip(exact, 0, 255)).max() <= 0.501


def test_one_image_of_no_fixed_range_makes_a_set_need_one():
  deep = [_png(_image(16)) for _ in range(30)]
  deep[7] = _tiff(_RNG.random((6, 5, 1), np.float32))
  images = np.empty((30, 6, 5, 1), np.uint8)
  config = registry.DataConfig(name='generated')
  with pytest.raises(errors.UsageError, match='no fixed range'):
    decoding.decode_all(lambda at: [deep[i] for i in at], images, config, 't')


def _save_all(images, file_format, **how):
  data = io.BytesIO()
  first, *rest = (Image.fromarray(image) for image in images)
  first.save(data, file_format, save_all=True, append_images=rest, **how)
  return data.getvalue()


_FRAMES = [np.full((8, 8, 3), value, np.uint8) for value in (10, 120, 250)]
_STACKS = {
  'TIFF': _save_all(_FRAMES, 'TIFF'),
  'GIF': _save_all(_FRAMES, 'GIF'),
  'PNG': _save_all(_FRAMES, 'PNG'),
  'WEBP': _save_all(_FRAMES, 'WEBP', lossless=True),
  'PPM': b''.join(_pnm(frame, 255) for frame in _FRAMES),
}


@pytest.mark.parametrize('kind', _STACKS)
def test_several_images_are_refused_or_told_apart(kind):
  data = _STACKS[kind]
  assert decoding.count_frames(data) == 3
  with pytest.raises(decoding.UnreadableError, match=r'3 images.*data\.frames'):
    decoding.decode(data, 0, 3, _PIXELS)
  first = decoding.decode(data, 0, 3, _PIXELS, frames='first')
  np.testing.assert_array_equal(first, _FRAMES[0])
  for index, frame in enumerate(_FRAMES):
    found = decoding.decode(data, 0, 3, _PIXELS, (), 'all', index)
    np.testing.assert_array_equal(found, frame)
  with pytest.raises(decoding.UnreadableError, match='no image 3'):
    decoding.decode(data, 0, 3, _PIXELS, (), 'all', 3)


def test_deep_stacks_are_told_apart():
  frames = [_image(16) for _ in range(3)]
  data = io.BytesIO()
  with tifffile.TiffWriter(data) as writer:
    for frame in frames:
      writer.write(frame[..., 0], contiguous=False, metadata=None)
  for index, frame in enumerate(frames):
    found = decoding.decode(data.getvalue(), 0, 1, _PIXELS, (), 'all', index)
    np.testing.assert_array_equal(found, _oracle(frame, 0, 65535))


@pytest.mark.parametrize('form', ['TIFF', 'PPM'])
def test_deep_images_behind_one_of_eight_bits_are_read_as_deep(form):
  first, second = _image(8).astype(np.uint8), _image(16)
  if form == 'PPM':
    data = _pnm(first, 255) + _pnm(second, 65535)
  else:
    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as writer:
      for frame in (first, second):
        writer.write(frame[..., 0], metadata=None)
    data = pages.getvalue()
  found = decoding.decode(data, 0, 1, _PIXELS, (), 'all', 1)
  np.testing.assert_array_equal(found, _oracle(second, 0, 65535))


def test_a_volume_and_a_tile_that_is_too_large_are_refused():
  for kind in (np.uint8, np.uint16):
    volume, data = np.zeros((16, 16, 16), kind), io.BytesIO()
    tifffile.imwrite(data, volume, tile=(16, 16, 16), photometric='minisblack')
    with pytest.raises(decoding.UnreadableError, match='grey or RGB and flat'):
      decoding.decode(data.getvalue(), 0, 1, _PIXELS, (0, 9), 'first')
  data = bytearray(_tiff(_image(16), tile=(16, 16), byteorder='<'))
  with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
    tags = [tiff.pages[0].tags[number] for number in (322, 323)]
  for tag in tags:
    kind = {3: '<H', 4: '<I'}[int(tag.dtype)]
    struct.pack_into(kind, data, tag.valueoffset, 4096)
  with pytest.raises(decoding.UnreadableError, match='tiles are larger'):
    decoding.decode(bytes(data), 0, 1, _PIXELS, (0, 65535))


def test_a_photo_with_a_preview_is_one_image():
  """As phones store them."""
  photo, preview = (_RNG.integers(0, 256, (s, s, 3)) for s in (16, 8))
  data = _save_all([photo.astype('u1'), preview.astype('u1')], 'MPO')
  assert decoding.count_frames(data) == 1
  assert decoding.decode(data, 0, 3, _PIXELS).shape == (16, 16, 3)


def _with_thumbnail(is_marked):
  data = io.BytesIO()
  with tifffile.TiffWriter(data) as writer:
    writer.write(np.full((4, 4), 5, np.uint8), subfiletype=int(is_marked))
    writer.write(np.full((16, 16), 200, np.uint8))
  return data.getvalue()


def test_a_marked_thumbnail_is_no_image():
  data = _with_thumbnail(is_marked=True)
  assert decoding.count_frames(data) == 1
  found = decoding.decode(data, 0, 1, _PIXELS)
  np.testing.assert_array_equal(found, np.full((16, 16, 1), 200))


@pytest.mark.parametrize('frames', ['', 'first', 'all'])
def test_pages_of_two_sizes_are_refused(frames):
  with pytest.raises(decoding.UnreadableError, match='save them apart'):
    decoding.decode(_with_thumbnail(False), 0, 1, _PIXELS, (), frames)


def test_damaged_files_are_unreadable_and_nothing_else(capfd):
  good = [
    *(writer(_image(16, 3)) for writer in _WRITERS.values()),
    *(_pnm(_image(12), 4095, is_text) for is_text in (False, True)),
    *_STACKS.values(),
  ]
  rng = np.random.default_rng(1)
  for data in good:
    for length in rng.integers(0, len(data), 12):
      _decode_or_refuse(data[:length])
    for _ in range(25):
      damaged = bytearray(data)
      for place in rng.integers(0, len(data), 3):
        damaged[place] = rng.integers(0, 256)
      _decode_or_refuse(bytes(damaged))
  assert capfd.readouterr() == ('', '')


def _decode_or_refuse(data):
  try:
    decoding.decode(data, 8, 3, _PIXELS, (0, 255), 'first')
  except decoding.UnreadableError as error:
    assert str(error) and '\n' not in str(error)


def test_what_deep_tiffs_may_not_be():
  five = _RNG.integers(0, 1 << 16, (6, 5, 5)).astype(np.uint16)
  data = io.BytesIO()
  tifffile.imwrite(data, five, photometric='minisblack', planarconfig='contig')
  with pytest.raises(decoding.UnreadableError, match='5 channels'):
    decoding.decode(data.getvalue(), 0, 1, _PIXELS)
  data = io.BytesIO()
  tifffile.imwrite(data, five[..., :4], photometric='separated')
  with pytest.raises(decoding.UnreadableError, match='grey or RGB'):
    decoding.decode(data.getvalue(), 0, 1, _PIXELS)


def test_a_large_header_is_refused_before_decoding():
  pixels = np.zeros((6, 5, 1), np.uint16)
  for data, limit in itertools.product(
    (_png(pixels), _tiff(pixels), _pnm(pixels, 4095)), (29,)
  ):
    with pytest.raises(decoding.UnreadableError, match='5x6 pixels'):
      decoding.decode(data, 0, 0, limit)


# Each orientation of EXIF, as Pillow turns an image of 8 bits.
_TURNS = {
  1: lambda x: x,
  2: np.fliplr,
  3: lambda x: np.rot90(x, 2),
  4: np.flipud,
  5: lambda x: np.fliplr(np.rot90(x, -1)),
  6: lambda x: np.rot90(x, -1),
  7: lambda x: np.fliplr(np.rot90(x)),
  8: np.rot90,
}


@pytest.mark.parametrize('orientation', _TURNS)
def test_images_of_every_depth_are_turned_upright(orientation):
  expected = _TURNS[orientation]
  deep = _image(16, 3)
  found = decoding.decode(
    _tiff(deep, extratags=[(0x0112, 'H', 1, orientation, True)]),
    *(0, 0, _PIXELS, (0, 65535)),
  )
  np.testing.assert_array_equal(found, expected(_oracle(deep, 0, 65535)))
  data, exif = io.BytesIO(), Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(deep[..., 0]).save(data, 'PNG', exif=exif)
  found = decoding.decode(data.getvalue(), 0, 0, _PIXELS, (0, 65535))
  np.testing.assert_array_equal(
    found, expected(_oracle(deep[..., :1], 0, 65535))
  )
  shallow = _image(8, 3).astype(np.uint8)
  data = io.BytesIO()
  Image.fromarray(shallow).save(data, 'PNG', exif=exif)
  for value_range in ((), (0, 200)):
    found = decoding.decode(data.getvalue(), 0, 0, _PIXELS, value_range)
    high = (value_range or (0, 255))[1]
    np.testing.assert_array_equal(found, expected(_oracle(shallow, 0, high)))


def test_deep_colours_become_grey_as_those_of_eight_bits():
  pixels = _RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
  grey = np.asarray(Image.fromarray(pixels).convert('L'), int)
  found = decoding.decode(_png(pixels * np.uint16(257)), 0, 1, _PIXELS)
  assert np.abs(found[..., 0] - grey).max() <= 1


def test_a_page_that_is_a_mask_is_no_image():
  data = io.BytesIO()
  with tifffile.TiffWriter(data) as writer:
    writer.write(np.full((16, 16), 200, np.uint8))
    writer.write(np.full((16, 16), 255, np.uint8), subfiletype=2)
  data.seek(0)
  with tifffile.TiffFile(data) as tiff:
    order, place = tiff.byteorder, tiff.pages[1].tags[254].valueoffset
  whole = bytearray(data.getvalue())
  struct.pack_into(f'{order}I', whole, place, 4)  # Of a mask.
  assert decoding.count_frames(bytes(whole)) == 1
  found = decoding.decode(bytes(whole), 0, 1, _PIXELS)
  np.testing.assert_array_equal(found, np.full((16, 16, 1), 200))


def test_a_stack_of_imagej_in_one_page_is_refused():
  """Its images after the first would be missing without a message."""
  data = io.BytesIO()
  stack = np.stack([_image(16)[..., 0] for _ in range(3)])
  tifffile.imwrite(data, stack, imagej=True)
  data.seek(0)
  with tifffile.TiffFile(data) as tiff:
    order, start = tiff.byteorder, tiff.pages[0].offset
  whole = bytearray(data.getvalue())  # Large files have no page but the first.
  num_tags = struct.unpack_from(f'{order}H', whole, start)[0]
  struct.pack_into(f'{order}I', whole, start + 2 + 12 * num_tags, 0)
  with pytest.raises(decoding.UnreadableError, match='ImageJ stack of one'):
    decoding.decode(bytes(whole), 0, 1, _PIXELS, (0, 65535), 'all')


@pytest.mark.parametrize('bits', [8, 16])
def test_a_second_channel_that_is_no_alpha_is_refused(bits):
  """As of two stains; the image would be the first of them alone."""
  pixels, data = _image(bits, 2).astype(f'u{bits // 8}'), io.BytesIO()
  tifffile.imwrite(
    data, pixels, photometric='minisblack', extrasamples=['unspecified']
  )
  with pytest.raises(decoding.UnreadableError, match='save channels apart'):
    decoding.decode(data.getvalue(), 0, 1, _PIXELS, (0, 255))


def test_every_image_of_a_file_is_checked_for_its_size():
  data = io.BytesIO()
  with tifffile.TiffWriter(data) as writer:
    for side in (4, 30):
      writer.write(np.full((side, side), 9, np.uint8))
  config = registry.DataConfig(
    name='generated', image_size=4, frames='all', max_image_pixels=899
  )
  found = decoding.inspect(data.getvalue(), config)
  assert '30x30 pixels, more than' in str(found)
  with pytest.raises(decoding.UnreadableError, match='30x30 pixels'):
    decoding.decode(data.getvalue(), 4, 1, 899, (), 'all', 1)


@pytest.mark.parametrize('largest', [100, 1000])
def test_values_above_the_largest_of_a_header_are_refused(largest):
  pixels = np.full((6, 5, 1), largest, np.uint16)
  pixels[3, 2] += 1
  with pytest.raises(decoding.UnreadableError, match='above the largest'):
    decoding.decode(_pnm(pixels, largest), 0, 1, _PIXELS, ())
