"""Reads the pixels, frames and person of DICOM files.

Pixels are those that a viewer shows. Stored values are converted by the
modality LUT or rescaling, then mapped by `data.value_range` (in modality units
such as Hounsfield) or, without it, by the file's own VOI LUT or window.
MONOCHROME1 is inverted. Overlays, ICC profiles and presentation LUTs are
ignored.

The header of a file names a person. Therefore no error message quotes a value
of the header or the message of a library, and only `person_of` returns one.

Guarantees:
  - No value of a header is in an error or on the terminal
    (`test_no_value_of_a_header_is_in_an_error`).
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import io
import logging
import threading
from typing import Any
import warnings

import numpy as np

from dp_diffusion import errors
from dp_diffusion.data import image_formats
from dp_diffusion.data import value_range

_MOST_META_BYTES = 4096  # Size of a file's start with the transfer syntax.
_DEFLATED = b'1.2.840.10008.1.2.1.99'
_GREY = ('MONOCHROME1', 'MONOCHROME2')
_COLOUR = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')
_PALETTE = 'PALETTE COLOR'
# Part of the name of a transfer syntax -> packages that decode it.
_READERS = {
  'JPEG-LS': 'pyjpegls',
  'JPEG 2000': 'pylibjpeg pylibjpeg-openjpeg',
  'High-Throughput': 'pylibjpeg pylibjpeg-openjpeg',
  'JPEG': 'pylibjpeg pylibjpeg-libjpeg',
  'RLE': 'pylibjpeg pylibjpeg-rle',
}
_quiet = threading.Lock()  # Filters of warnings are shared by all threads.


def inspect_header(data: bytes) -> image_formats.Header:
  """Reads size, depth and number of frames of a file.

  Raises:
    UnreadableError: the file is damaged or holds no image.
    UsageError: pydicom is not installed.
  """
  with _reading() as pydicom:
    dataset = _dataset(pydicom, data, is_whole=False)
    size = int(dataset.Columns), int(dataset.Rows)
    return image_formats.Header(
      format='DICOM',
      bits=int(dataset.BitsStored),
      channels=int(dataset.SamplesPerPixel),
      sizes=image_formats.repeated(
        size, int(dataset.get('NumberOfFrames') or 1)
      ),
      is_deep=True,
    )


def person_of(data: bytes) -> str:
  """Returns the person on the image, PatientID.

  Raises:
    UnreadableError: PatientID is empty, or the file is damaged.
    UsageError: pydicom is not installed.
  """
  with _reading() as pydicom:
    dataset = _dataset(pydicom, data, is_whole=False, is_image=False)
    person = str(dataset.get('PatientID') or '').strip()
  if not person:
    raise image_formats.UnreadableError(
      'it names no person: PatientID is empty'
    )
  return person


def read(data: bytes, frame: int) -> image_formats.Stored:
  """Decodes a frame, in modality units.

  Raises:
    UnreadableError: the file is damaged, holds no image, or is compressed in
      a way that no installed package reads.
    UsageError: pydicom is not installed.
  """
  with _reading() as pydicom:
    dataset = _dataset(pydicom, data, is_whole=True)
    kind = dataset.PhotometricInterpretation
    if kind not in (*_GREY, *_COLOUR, _PALETTE):
      raise image_formats.UnreadableError(
        'its photometric interpretation is neither grey, RGB, YBR nor a palette'
      )
    stored = _stored_values(pydicom, dataset, frame)
    if kind in _GREY:
      return _grey(pydicom, dataset, stored, frame)
    if kind == _PALETTE:
      pixels = pydicom.pixels.apply_color_lut(stored[..., 0], dataset)[..., :3]
      white = 65535 if _is_wide_palette(dataset) else 255
      return image_formats.Stored(
        pixels=value_range.to_bytes(pixels, (0, white)),
        largest=255,
        window=(0, 255),
      )
    largest = (1 << int(dataset.BitsStored)) - 1
    return image_formats.Stored(
      pixels=stored,
      largest=largest,
      window=(0, largest) if largest < 256 else None,
    )


@contextlib.contextmanager
def _reading() -> Iterator[Any]:
  """Yields pydicom; its warnings and logs are silenced in the block."""
  try:
    import pydicom
    import pydicom.pixels
  except ImportError:
    raise errors.UsageError(
      "DICOM files need pydicom: pip install 'dp_diffusion[dicom]', or "
      'pip install pydicom.'
    ) from None
  with _quiet, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    for name in ('pydicom', 'pylibjpeg', 'PIL'):
      logging.getLogger(name).disabled = True
    try:
      yield pydicom
    except image_formats.UnreadableError:
      raise
    except MemoryError:
      raise image_formats.UnreadableError('too large for the memory') from None
    except Exception:  # The message is dropped; it may quote the header.
      raise image_formats.UnreadableError(
        'a damaged or truncated DICOM file, or one without what an image needs'
      ) from None


def _dataset(
  pydicom: Any, data: bytes, is_whole: bool, is_image: bool = True
) -> Any:
  if _DEFLATED in data[:_MOST_META_BYTES]:
    raise image_formats.UnreadableError(
      'a deflated DICOM file, whose size is not known before: store it plain'
    )
  dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=not is_whole)
  wanted = ['Rows', 'Columns', *(['PixelData'] if is_whole else [])]
  if is_image and any(name not in dataset for name in wanted):
    raise image_formats.UnreadableError(
      'a DICOM file without an image of integers (a report, a plan, ...)'
    )
  return dataset


def _stored_values(pydicom: Any, dataset: Any, frame: int) -> np.ndarray:
  """Returns the stored values [H, W, C], with colours converted to RGB."""
  syntax = dataset.file_meta.TransferSyntaxUID
  name = syntax.name if not syntax.is_private else ''
  is_known = bool(name) and name != str(syntax)
  reader = next((v for k, v in _READERS.items() if k in name), 'pylibjpeg')
  what = name if is_known else 'a transfer syntax that pydicom does not know'
  try:
    decoder = pydicom.pixels.get_decoder(syntax)
  except NotImplementedError:
    raise image_formats.UnreadableError(
      f'it is stored in {what}: convert it to Explicit VR Little Endian'
    ) from None
  if not decoder.is_available:
    raise image_formats.UnreadableError(
      f'it is compressed ({what}): pip install {reader}'
    )
  try:
    pixels = pydicom.pixels.pixel_array(dataset, index=frame)
  except Exception:
    if not syntax.is_compressed:
      raise
    raise image_formats.UnreadableError(
      f'it is compressed ({what}) and damaged, or of a kind that needs another '
      f'package: pip install {reader}'
    ) from None
  shape = (int(dataset.Rows), int(dataset.Columns))
  return pixels.reshape(*shape, int(dataset.SamplesPerPixel))


def _is_wide_palette(dataset: Any) -> bool:
  """Whether the palette has 16-bit colours; some files put 8 bits in 16."""
  if int(dataset.RedPaletteColorLookupTableDescriptor[2]) <= 8:
    return False
  tables = [
    dataset.get(f'{colour}PaletteColorLookupTableData')
    for colour in ('Red', 'Green', 'Blue')
  ]
  if not all(tables):
    return True  # A segmented palette.
  words = _words(dataset)
  return any(np.frombuffer(t, words).max() > 255 for t in tables)


def _grey(
  pydicom: Any, dataset: Any, stored: np.ndarray, frame: int
) -> image_formats.Stored:
  transform = _group(dataset, frame, 'PixelValueTransformationSequence')
  view = _group(dataset, frame, 'FrameVOILUTSequence')
  pixels, is_plain = _modality(pydicom, dataset, transform, stored)
  is_unsigned = is_plain and not int(dataset.PixelRepresentation)
  largest = (1 << int(dataset.BitsStored)) - 1 if is_unsigned else None
  window = _window(view)
  if view.get('VOILUTSequence'):
    lut = view.VOILUTSequence[0]
    bits = int(lut.LUTDescriptor[2])
    mapped = _look_up(lut, np.asarray(pixels), _words(dataset))
    pixels_of_view, window = mapped, (0.0, float((1 << bits) - 1))
  elif view.get('VOILUTFunction') == 'SIGMOID' and window:
    low, high = window
    with np.errstate(over='ignore'):
      power = np.exp(-4.0 * (pixels - (low + high) / 2) / (high - low))
    pixels_of_view, window = 255.0 / (1.0 + power), (0.0, 255.0)
  else:
    pixels_of_view = None
  if window is None and largest is not None and largest < 256:
    window = (0, largest)
  return image_formats.Stored(
    pixels=pixels,
    largest=largest,
    is_inverted=dataset.PhotometricInterpretation == 'MONOCHROME1',
    window=window,
    view=pixels_of_view,
  )


def _group(dataset: Any, frame: int, name: str) -> Any:
  """Returns where an attribute of a frame is stored.

  It is the frame's functional group, the shared group or the file itself.
  """
  own = dataset.get('PerFrameFunctionalGroupsSequence') or ()
  shared = dataset.get('SharedFunctionalGroupsSequence') or ()
  for group in (*own[frame : frame + 1], *shared[:1]):
    if group.get(name):
      return group.get(name)[0]
  return dataset


def _modality(
  pydicom: Any, dataset: Any, transform: Any, stored: np.ndarray
) -> tuple[np.ndarray, bool]:
  """Returns the values in modality units, and whether they are unchanged.

  They remain integers if the modality units are integers.
  """
  if dataset.get('ModalityLUTSequence'):
    lut = dataset.ModalityLUTSequence[0]
    return _look_up(lut, stored, _words(dataset)), False
  slope = transform.get('RescaleSlope')
  intercept = transform.get('RescaleIntercept')
  slope = 1.0 if slope is None else float(slope)
  intercept = 0.0 if intercept is None else float(intercept)
  if (slope, intercept) == (1.0, 0.0):
    return stored, True
  if slope.is_integer() and intercept.is_integer():
    return stored.astype(np.int64) * int(slope) + int(intercept), False
  return stored * slope + intercept, False


def _words(dataset: Any) -> str:
  """Type of 16-bit words in the byte order of the file."""
  syntax = dataset.file_meta.TransferSyntaxUID
  return '<u2' if syntax.is_little_endian else '>u2'


def _look_up(lut: Any, values: np.ndarray, words: str) -> np.ndarray:
  """Applies a modality or VOI LUT; values beyond an end take its entry."""
  num_entries, first, bits = (int(value) for value in lut.LUTDescriptor)
  num_entries = num_entries or 1 << 16
  if values.min(initial=0) < 0 and first > 1 << 15:
    first -= 1 << 16  # A signed value that was read as unsigned.
  entries = lut.LUTData
  if isinstance(entries, bytes):
    is_wide = bits > 8 or len(entries) >= 2 * num_entries
    entries = np.frombuffer(entries, words if is_wide else np.uint8)
  table = np.atleast_1d(np.asarray(entries)).astype(np.int64)[:num_entries]
  place = np.clip(np.floor(values).astype(np.int64) - first, 0, len(table) - 1)
  return table[place]


def _window(view: Any) -> tuple[float, float] | None:
  """Returns the values of black and white of a file's first window, or None."""
  center, width = (
    np.atleast_1d(np.asarray(view.get(name), np.float64))
    if view.get(name) not in (None, '')
    else None
    for name in ('WindowCenter', 'WindowWidth')
  )
  if center is None or width is None or not len(center) or not len(width):
    return None
  middle, span = float(center[0]), float(width[0])
  if (view.get('VOILUTFunction') or 'LINEAR') == 'LINEAR':
    middle, span = middle - 0.5, span - 1  # PS3.3 C.11.2.1.2.1.
  if not np.isfinite([middle, span]).all() or span < 0:
    raise image_formats.UnreadableError('its window has no width')
  span = max(span, 1e-6)  # A window of width 1 is a threshold.
  return middle - span / 2, middle + span / 2
