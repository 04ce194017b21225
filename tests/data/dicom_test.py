"""Tests of dp_diffusion.data.dicom, on files made by hand."""

from __future__ import annotations

import io
import logging
import struct
import sys

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import dicom
from dp_diffusion.data import registry

_PIXELS = 10_000
_RNG = np.random.default_rng(0)
_SECRET = 'Planted^Secret'
_SECRET_UID = '1.2.999.424242'
_PLAIN = '1.2.840.10008.1.2.1'
_LONG = ('OB', 'OW', 'SQ', 'UN')


def _element(group, element, kind, value):
  """One element in Explicit VR Little Endian."""
  if kind == 'SQ':
    value = b''.join(
      struct.pack('<HHI', 0xFFFE, 0xE000, len(item)) + item for item in value
    )
  elif kind == 'US':
    value = struct.pack(f'<{np.size(value)}H', *np.atleast_1d(value))
  elif isinstance(value, str):
    value = value.encode()
  if len(value) % 2:
    value += b'\0' if kind in ('UI', 'OB') else b' '
  head = struct.pack('<HH', group, element) + kind.encode()
  if kind in _LONG:
    return head + struct.pack('<HI', 0, len(value)) + value
  return head + struct.pack('<H', len(value)) + value


def _elements(items):
  return b''.join(
    _element(*tag, kind, value) for tag, (kind, value) in sorted(items.items())
  )


_WINDOW_CENTER, _WINDOW_WIDTH = (0x28, 0x1050), (0x28, 0x1051)
_INTERCEPT, _SLOPE = (0x28, 0x1052), (0x28, 0x1053)
_VOI_FUNCTION = (0x28, 0x1056)


def _file(pixels, more=None, bits=None, kind='MONOCHROME2', syntax=_PLAIN):
  """A file of [H, W], [F, H, W] or [H, W, 3], with secrets in its header."""
  is_colour = pixels.shape[-1] == 3
  frames = pixels if pixels.ndim == 3 and not is_colour else pixels[None]
  height, width = frames.shape[1:3]
  allocated = 8 * pixels.dtype.itemsize
  bits = bits or allocated
  data = pixels.astype(pixels.dtype.newbyteorder('<')).tobytes()
  items = {
    (0x08, 0x18): ('UI', _SECRET_UID),
    (0x10, 0x10): ('PN', _SECRET),
    (0x10, 0x20): ('LO', f'{_SECRET}-7'),
    (0x28, 0x02): ('US', 3 if is_colour else 1),
    (0x28, 0x04): ('CS', kind),
    (0x28, 0x08): ('IS', str(len(frames))),
    (0x28, 0x10): ('US', height),
    (0x28, 0x11): ('US', width),
    (0x28, 0x100): ('US', allocated),
    (0x28, 0x101): ('US', bits),
    (0x28, 0x102): ('US', bits - 1),
    (0x28, 0x103): ('US', int(pixels.dtype.kind == 'i')),
    (0x7FE0, 0x10): ('OB' if allocated == 8 else 'OW', data),
    **({(0x28, 0x06): ('US', 0)} if is_colour else {}),
    **(more or {}),
  }
  items = {tag: value for tag, value in items.items() if value is not None}
  meta = _elements(
    {
      (0x02, 0x02): ('UI', '1.2.840.10008.5.1.4.1.1.2'),
      (0x02, 0x03): ('UI', _SECRET_UID),
      (0x02, 0x10): ('UI', syntax),
    }
  )
  length = _element(0x02, 0x00, 'UL', struct.pack('<I', len(meta)))
  return bytes(128) + b'DICM' + length + meta + _elements(items)


def _decode(data, value_range=(), **how):
  return decoding.decode(data, 0, 0, _PIXELS, value_range, **how)


def _oracle(values, low, high):
  """Half up, one value at a time."""
  shares = [(min(max(v, low), high) - low) / (high - low) for v in values.flat]
  return np.array([int(s * 255 + 0.5) for s in shares]).reshape(
    *values.shape, 1
  )


def _grey(bits=12, signed=False):
  low, high = (
    (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
  )
  return _RNG.integers(low, high, (6, 5)).astype('i2' if signed else 'u2')


def test_header_is_read_without_pixels():
  header = decoding.inspect_header(_file(_grey(), bits=12))
  assert (header.format, header.width, header.height) == ('DICOM', 5, 6)
  assert (header.bits, header.channels, header.frames) == (12, 1, 1)


@pytest.mark.parametrize('bits', [8, 10, 12, 13, 14, 15, 16])
@pytest.mark.parametrize('signed', [False, True])
def test_the_range_is_in_modality_units(bits, signed):
  pixels = _grey(bits, signed)
  more = {_SLOPE: ('DS', '2'), _INTERCEPT: ('DS', '-1024')}
  found = _decode(_file(pixels, more, bits), (-1000, 400))
  units = pixels.astype(int) * 2 - 1024
  np.testing.assert_array_equal(found, _oracle(units, -1000, 400))


def test_signed_bits_in_a_wider_word_keep_their_sign():
  """Only the stored bits count, whatever lies above them."""
  pixels = _grey(12, signed=True)
  clean = (pixels & 0x0FFF).astype(np.int16)
  found = _decode(_file(clean, bits=12), (-2048, 2047))
  np.testing.assert_array_equal(found, _oracle(pixels, -2048, 2047))


@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
def test_the_range_wins_over_the_window_and_monochrome1_is_turned(kind):
  pixels = _grey()
  more = {_WINDOW_CENTER: ('DS', '50'), _WINDOW_WIDTH: ('DS', '10')}
  found = _decode(_file(pixels, more, 12, kind), (0, 4095))
  expected = _oracle(pixels, 0, 4095)
  turned = 255 - expected if kind == 'MONOCHROME1' else expected
  np.testing.assert_array_equal(found, turned)


@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize(
  'function', ['LINEAR', 'LINEAR_EXACT', 'SIGMOID', None]
)
def test_the_window_of_the_standard(function, kind):
  """PS3.3 C.11.2.1.2 and C.11.2.1.3, one value at a time."""
  pixels, center, width = _grey(), 1900.0, 1200.0
  more = {_WINDOW_CENTER: ('DS', '1900\\3'), _WINDOW_WIDTH: ('DS', '1200\\9')}
  if function:
    more[_VOI_FUNCTION] = ('CS', function)

  def one(x):
    if function == 'SIGMOID':
      return 255 / (1 + np.exp(-4 * (x - center) / width))
    c, w = center, width
    if function != 'LINEAR_EXACT':
      c, w = c - 0.5, w - 1
    if x <= c - w / 2:
      return 0.0
    return 255.0 if x > c + w / 2 else ((x - c) / w + 0.5) * 255

  exact = np.array([one(float(x)) for x in pixels.flat]).reshape(6, 5, 1)
  exact = 255 - exact if kind == 'MONOCHROME1' else exact
  found = _decode(_file(pixels, more, 12, kind))
  assert np.abs(found - exact).max() <= 0.5 + 1e-6


def test_a_voi_table_is_applied():
  pixels = _grey(4)
  table = _RNG.integers(0, 1 << 10, 16).astype('<u2')
  lut = _elements(
    {
      (0x28, 0x3002): ('US', (16, 0, 10)),
      (0x28, 0x3006): ('OW', table.tobytes()),
    }
  )
  found = _decode(_file(pixels, {(0x28, 0x3010): ('SQ', [lut])}, 12))
  np.testing.assert_array_equal(found, _oracle(table[pixels], 0, 1023))


@pytest.mark.parametrize('is_big', [False, True])
@pytest.mark.parametrize('bits', [8, 16])
def test_tables_are_words_in_the_order_of_the_file(bits, is_big):
  """Of 8 bits too, where there are as many words as entries."""
  import pydicom

  order, pixels = '>' if is_big else '<', _grey(4).astype(np.uint16)
  syntax = (
    pydicom.uid.ExplicitVRBigEndian
    if is_big
    else pydicom.uid.ExplicitVRLittleEndian
  )
  table = _RNG.integers(0, 1 << bits, 16)
  file = pydicom.dcmread(io.BytesIO(_file(pixels, bits=4)))
  file.file_meta.TransferSyntaxUID = syntax
  file.PixelData = pixels.astype(f'{order}u2').tobytes()
  lut = pydicom.dataset.Dataset()
  lut.LUTDescriptor = [16, 0, bits]
  lut.add_new((0x28, 0x3006), 'OW', table.astype(f'{order}u2').tobytes())
  file.ModalityLUTSequence = [lut]
  data = io.BytesIO()
  pydicom.dcmwrite(data, file)
  found = _decode(data.getvalue(), (0, (1 << bits) - 1))
  np.testing.assert_array_equal(
    found, _oracle(table[pixels], 0, (1 << bits) - 1)
  )


def test_a_modality_table_is_applied():
  pixels = _grey(5)
  table = _RNG.integers(0, 1 << 16, 16).astype('<u2')
  lut = _elements(
    {
      (0x28, 0x3002): ('US', (16, 4, 16)),
      (0x28, 0x3004): ('LO', 'US'),
      (0x28, 0x3006): ('OW', table.tobytes()),
    }
  )
  data = _file(pixels, {(0x28, 0x3000): ('SQ', [lut])}, 12)
  values = table[np.clip(pixels.astype(int) - 4, 0, 15)]
  np.testing.assert_array_equal(
    _decode(data, (9, 60_000)), _oracle(values.astype(int), 9, 60_000)
  )


def test_without_window_or_range_deep_pixels_need_one():
  with pytest.raises(decoding.UnreadableError, match=r'value_range.*\(0, 4095'):
    _decode(_file(_grey(), bits=16))
  pixels = _grey(8).astype(np.uint8)
  np.testing.assert_array_equal(_decode(_file(pixels))[..., 0], pixels)
  with pytest.raises(decoding.UnreadableError, match='cannot reach the white'):
    _decode(_file(pixels), (0, 4095))


def test_colours():
  pixels = _RNG.integers(0, 256, (6, 5, 3)).astype(np.uint8)
  np.testing.assert_array_equal(_decode(_file(pixels, kind='RGB')), pixels)
  ycc = np.asarray(Image.fromarray(pixels).convert('YCbCr'))
  found = _decode(_file(ycc, kind='YBR_FULL')).astype(int)
  assert np.abs(found - pixels).max() <= 3  # Rounded twice.


@pytest.mark.parametrize('bits, factor', [(8, 1), (16, 257)])
def test_palettes_become_colours(bits, factor):
  pixels = _grey(4).astype(np.uint8)
  table = _RNG.integers(0, 256, (3, 16))
  wide = (table * factor).astype('<u2' if bits == 16 else 'u1')
  more = {}
  for i in range(3):
    more[(0x28, 0x1101 + i)] = ('US', (16, 0, bits))
    more[(0x28, 0x1201 + i)] = ('OW', wide[i].tobytes())
  found = _decode(_file(pixels, more, kind='PALETTE COLOR'))
  np.testing.assert_array_equal(found, np.moveaxis(table[:, pixels], 0, -1))


def test_frames_are_refused_or_told_apart():
  pixels = np.stack([_grey() for _ in range(3)])
  data = _file(pixels, bits=12)
  assert decoding.count_frames(data) == 3
  with pytest.raises(decoding.UnreadableError, match=r'3 images'):
    _decode(data, (0, 4095))
  for index, frame in enumerate(pixels):
    found = _decode(data, (0, 4095), frames='all', frame=index)
    np.testing.assert_array_equal(found, _oracle(frame, 0, 4095))


def test_each_frame_has_its_own_rescaling():
  pixels = np.stack([_grey() for _ in range(2)])

  def group(intercept):
    inner = {_INTERCEPT: ('DS', intercept), _SLOPE: ('DS', '1')}
    return _elements({(0x28, 0x9145): ('SQ', [_elements(inner)])})

  groups = {(0x5200, 0x9230): ('SQ', [group('-100'), group('-900')])}
  data = _file(pixels, groups, bits=12)
  for index, shift in enumerate((-100, -900)):
    found = _decode(data, (0, 3000), frames='all', frame=index)
    values = pixels[index].astype(int) + shift
    np.testing.assert_array_equal(found, _oracle(values, 0, 3000))


def _sequence(tag, **values):
  """A sequence of one item, as in a functional group."""
  inner = {
    'center': (_WINDOW_CENTER, 'DS'),
    'width': (_WINDOW_WIDTH, 'DS'),
    'function': (_VOI_FUNCTION, 'CS'),
    'intercept': (_INTERCEPT, 'DS'),
    'slope': (_SLOPE, 'DS'),
  }
  items = {inner[k][0]: (inner[k][1], value) for k, value in values.items()}
  return _elements({tag: ('SQ', [_elements(items)])})


def test_each_frame_has_its_own_window():
  pixels = np.stack([_grey() for _ in range(2)])
  windows = [
    _sequence((0x28, 0x9132), center=c, width='1000', function='LINEAR_EXACT')
    for c in ('1000', '3000')
  ]
  data = _file(pixels, {(0x5200, 0x9230): ('SQ', windows)}, bits=12)
  for index, low in enumerate((500, 2500)):
    found = _decode(data, frames='all', frame=index)
    expected = _oracle(pixels[index], low, low + 1000)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_what_the_frames_share_holds_for_each():
  """As the rescaling of an enhanced CT."""
  pixels = np.stack([_grey() for _ in range(2)])
  shared = _sequence((0x28, 0x9145), intercept='-1024', slope='1')
  own = [_sequence((0x28, 0x9132), center='0', width='9') for _ in range(2)]
  groups = {(0x5200, 0x9229): ('SQ', [shared]), (0x5200, 0x9230): ('SQ', own)}
  data = _file(pixels, groups, bits=12)
  for index, frame in enumerate(pixels):
    found = _decode(data, (-1000, 400), frames='all', frame=index)
    expected = _oracle(frame.astype(int) - 1024, -1000, 400)
    np.testing.assert_array_equal(found, expected)


def test_the_range_wins_over_a_voi_table():
  """A range is in modality units, so it does not apply to the table's."""
  pixels = _grey(4)
  lut = _elements(
    {
      (0x28, 0x3002): ('US', (16, 0, 10)),
      (0x28, 0x3006): ('OW', np.arange(1000, 984, -1, '<u2').tobytes()),
    }
  )
  data = _file(pixels, {(0x28, 0x3010): ('SQ', [lut])}, 12)
  np.testing.assert_array_equal(_decode(data, (0, 15)), _oracle(pixels, 0, 15))


def test_signed_pixels_without_a_window_need_a_range():
  """Their values below 0 would be black."""
  for bits, dtype in ((12, np.int16), (8, np.int8)):
    pixels = _grey(bits, signed=True).astype(dtype)
    with pytest.raises(decoding.UnreadableError, match='no fixed range'):
      _decode(_file(pixels, bits=bits))


def test_a_table_may_begin_below_zero():
  """Its first value is then read as one of 16 bits without a sign."""
  pixels = _grey(4, signed=True)
  table = _RNG.integers(0, 1 << 16, 16).astype('<u2')
  lut = _elements(
    {
      (0x28, 0x3002): ('US', (16, 65536 - 8, 16)),
      (0x28, 0x3004): ('LO', 'US'),
      (0x28, 0x3006): ('OW', table.tobytes()),
    }
  )
  data = _file(pixels, {(0x28, 0x3000): ('SQ', [lut])})
  values = table[pixels.astype(int) + 8].astype(int)
  np.testing.assert_array_equal(
    _decode(data, (0, 65535)), _oracle(values, 0, 65535)
  )


def test_a_slope_may_be_a_fraction():
  """As that of positron emission."""
  pixels = _grey()
  more = {_SLOPE: ('DS', '0.25'), _INTERCEPT: ('DS', '-100')}
  found = _decode(_file(pixels, more, 12), (-100, 900))
  expected = _oracle(pixels * 0.25 - 100, -100, 900)
  assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize('size', [0, 3])
def test_monochrome1_is_turned_at_every_size(size):
  pixels = np.full((6, 6), 1000, np.uint16)
  data = _file(pixels, bits=12, kind='MONOCHROME1')
  found = decoding.decode(data, size, 0, _PIXELS, (0, 4000))
  assert set(found.ravel().tolist()) == {255 - 64}


def test_a_palette_of_words_may_hold_bytes():
  """Some files call 8-bit colours 16-bit ones; they are not black."""
  pixels = _grey(4).astype(np.uint8)
  table = _RNG.integers(0, 256, (3, 16))
  table[:, 0] = 255
  more = {}
  for i in range(3):
    more[(0x28, 0x1101 + i)] = ('US', (16, 0, 16))
    more[(0x28, 0x1201 + i)] = ('OW', table[i].astype('<u2').tobytes())
  found = _decode(_file(pixels, more, kind='PALETTE COLOR'))
  np.testing.assert_array_equal(found, np.moveaxis(table[:, pixels], 0, -1))


def test_whose_image_it_is():
  assert dicom.person_of(_file(_grey())) == f'{_SECRET}-7'
  for nobody in (None, ('LO', ''), ('LO', '  ')):
    with pytest.raises(decoding.UnreadableError, match='PatientID is empty'):
      dicom.person_of(_file(_grey(), {(0x10, 0x20): nobody}))


def test_a_report_holds_no_image():
  report = {(0x28, 0x10): None, (0x28, 0x11): None, (0x7FE0, 0x10): None}
  for more in (report, {(0x7FE0, 0x10): None}):
    with pytest.raises(decoding.UnreadableError, match='without an image'):
      _decode(_file(_grey(), more), (0, 4095))


@pytest.mark.parametrize(
  'syntax, why',
  [
    ('1.2.840.10008.1.2.4.80', 'JPEG-LS.*pip install pyjpegls'),
    ('1.2.840.10008.1.2.4.70', 'JPEG Lossless.*pip install pylibjpeg'),
    (_SECRET_UID, 'does not know'),
    ('1.2.840.10008.1.2.1.99', 'deflated'),
  ],
)
def test_what_cannot_be_decompressed_says_what_would_help(syntax, why):
  with pytest.raises(decoding.UnreadableError, match=why):
    _decode(_file(_grey(), syntax=syntax), (0, 4095))


def test_without_pydicom_one_line_says_how_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, 'pydicom', None)
  config = registry.DataConfig(name='generated', skip_unreadable=True)
  with pytest.raises(errors.UsageError, match='pip install') as caught:
    decoding.decode_or_error(_file(_grey()), config)
  assert '\n' not in str(caught.value)


def test_a_large_header_is_refused_before_decoding():
  with pytest.raises(decoding.UnreadableError, match='60000x60000 pixels'):
    more = {(0x28, 0x10): ('US', 60_000), (0x28, 0x11): ('US', 60_000)}
    _decode(_file(_grey(), more), (0, 4095))
  with pytest.raises(decoding.UnreadableError, match='impossible number'):
    _decode(_file(_grey(), {(0x28, 0x08): ('IS', '2000000000')}), (0, 4095))


_WRONG = {
  'bits': {(0x28, 0x101): ('US', 77)},
  'kind': {(0x28, 0x04): ('CS', 'PLANTED SECRET')},
  'number': {(0x28, 0x08): ('IS', _SECRET)},
  'slope': {_SLOPE: ('DS', _SECRET)},
  'window': {_WINDOW_CENTER: ('DS', _SECRET), _WINDOW_WIDTH: ('DS', _SECRET)},
  'no window': {_WINDOW_CENTER: ('DS', '4'), _WINDOW_WIDTH: ('DS', '-5')},
  'uid': {(0x08, 0x18): ('UI', _SECRET)},
  'date': {(0x08, 0x20): ('DA', _SECRET)},
  'charset': {(0x08, 0x05): ('CS', _SECRET)},
  'short': {(0x7FE0, 0x10): ('OW', b'SECRET')},
}


def _attempt(data):
  texts = []
  for attempt in (
    lambda: _decode(data),
    lambda: _decode(data, (0, 4095), frames='first'),
    lambda: dicom.person_of(data) and None,
  ):
    try:
      attempt()
    except decoding.UnreadableError as error:
      assert error.__cause__ is None  # A traceback would show it.
      texts.append(str(error))
  return texts


def test_no_value_of_a_header_is_in_an_error(capfd, caplog):
  caplog.set_level(logging.DEBUG)
  texts = []
  for more in _WRONG.values():
    texts += _attempt(_file(_grey(), more))
  good = _file(_grey(), bits=12)
  rng = np.random.default_rng(2)
  for _ in range(150):
    damaged = bytearray(good)
    for place in rng.integers(132, len(good), 2):
      damaged[place] = rng.integers(0, 256)
    texts += _attempt(bytes(damaged))
  for length in rng.integers(132, len(good), 40):
    texts += _attempt(good[:length])
  said = '\n'.join([*texts, *capfd.readouterr(), caplog.text])
  assert len(texts) > 50
  for secret in ('Planted', 'PLANTED', 'Secret', 'SECRET', '999', '4242'):
    assert secret not in said
  assert caplog.text == ''


def test_compressed_files_are_read():
  """JPEG 2000 and JPEG by Pillow, as pydicom finds them."""
  pixels = np.full((8, 8, 3), (200, 90, 30), np.uint8)
  data = io.BytesIO()
  Image.fromarray(pixels).save(data, 'JPEG', quality=95)
  code = data.getvalue() + b'\0' * (len(data.getvalue()) % 2)
  item = b'\xfe\xff\x00\xe0'
  stream = item + struct.pack('<I', 0) + item + struct.pack('<I', len(code))
  stream += code + b'\xfe\xff\xdd\xe0' + struct.pack('<I', 0)
  more = {(0x7FE0, 0x10): ('OB', b'')}
  file = _file(
    pixels, more, kind='YBR_FULL_422', syntax='1.2.840.10008.1.2.4.50'
  )
  head = file[: -len(_element(0x7FE0, 0x10, 'OB', b''))]
  start = struct.pack('<HH', 0x7FE0, 0x10) + b'OB\0\0\xff\xff\xff\xff'
  found = _decode(head + start + stream)
  assert np.abs(found.astype(int) - pixels).max() <= 4
