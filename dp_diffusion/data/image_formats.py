"""Formats of image files: their endings, headers, frames and stored pixels.

Files are untrusted. Sizes are checked before anything is decoded, and every
error of a library on a damaged file becomes an `UnreadableError`. Pillow reads
images of 8 bits. It would convert deeper colours to 8 bits and show deeper
WhiteIsZero images as negatives, so tifffile and imagecodecs read those.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import io
import logging
from typing import Any

import numpy as np
import PIL
from PIL import Image
from PIL import ImageOps

from dp_diffusion import errors
from dp_diffusion.data import netpbm

# Endings of files that are images, in lower case.
_SUFFIXES = (
  *('.bmp', '.dcm', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm'),
  *('.tif', '.tiff', '.webp'),
)
_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM')
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_PNG = b'\x89PNG\r\n\x1a\n'
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2  # TIFF photometrics.
_UINT, _INT, _FLOAT = 1, 2, 3  # TIFF sample formats.
_MOST_FRAMES = 1_000_000
# TIFF compressions and depths that Pillow reads; others need tifffile.
_PILLOW_SCHEMES = frozenset(
  (*range(1, 9), 32771, 32773, 32946, 34676, 34677, 34925, 50000)
)
_PILLOW_BITS = (1, 2, 4, 8)
_DICOM = (128, b'DICM')
_ORIENTATION = 0x0112


class UnreadableError(ValueError):
  """Says why an image cannot be used, without the name of the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
  """Facts on a file that are known before its pixels are decoded.

  Attributes:
    format: Pillow's name of the format, 'PNG', 'TIFF', 'PPM', or 'DICOM'.
    width, height: size of the first frame, in pixels.
    bits: bits of one stored value.
    channels: stored channels per pixel, including alpha.
    frames: number of images in the file, without TIFF pages that are marked as
      thumbnails or masks.
    sizes: (width, height) of each frame.
    is_deep: whether the pixels need more than unsigned 8 bits, or are of a
      kind that Pillow does not read as a whole, or does not scale exactly.
    is_inverted: whether the smallest stored value is white.
    pages: for a TIFF, the page of each frame.
  """

  format: str
  bits: int
  channels: int
  sizes: tuple[tuple[int, int], ...]
  is_deep: bool
  is_inverted: bool = False
  pages: tuple[int, ...] = ()

  @property
  def width(self) -> int:
    """Width of the first frame, in pixels."""
    return self.sizes[0][0]

  @property
  def height(self) -> int:
    """Height of the first frame, in pixels."""
    return self.sizes[0][1]

  @property
  def frames(self) -> int:
    """Number of images in the file."""
    return len(self.sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
  """The stored pixels of an image.

  Attributes:
    pixels: [H, W, C] of integers or floats, with C 1 or 3, without alpha.
    largest: largest value that the file can hold; None if the values have no
      fixed range from 0.
    is_inverted: whether the smallest value is white.
    window: the range of values that the file itself states, as DICOM does. It
      is used if the config has no range.
    view: the pixels to which `window` applies; None if these are `pixels`.
  """

  pixels: np.ndarray
  largest: int | None
  is_inverted: bool = False
  window: tuple[float, float] | None = None
  view: np.ndarray | None = None

  def header(self) -> Header:
    """Returns a header for an array that was never in an image file."""
    height, width, channels = self.pixels.shape
    return Header(
      format=f'array of {self.pixels.dtype}',
      bits=8 * self.pixels.dtype.itemsize,
      channels=channels,
      sizes=((width, height),),
      is_deep=self.pixels.dtype != np.uint8,
    )


@contextlib.contextmanager
def damage_named() -> Iterator[None]:
  """Turns any error of a library in the block into `UnreadableError`."""
  try:
    yield
  except (UnreadableError, errors.UsageError):
    raise
  except _BOMBS as error:
    raise UnreadableError(f'too large: {error}') from error
  except (PIL.UnidentifiedImageError, Image.UnidentifiedImageError) as error:
    raise UnreadableError('not an image of a known format') from error
  except MemoryError as error:
    raise UnreadableError('too large for the memory') from error
  except Exception as error:  # Libraries raise many kinds on damaged files.
    raise UnreadableError(
      f'damaged or truncated: {errors.first_line(error)}'
    ) from error


def is_image_name(name: str) -> bool:
  """Whether the name of a file is that of an image."""
  return name.lower().endswith(_SUFFIXES)


def is_dicom(data: bytes) -> bool:
  """Whether the content of a file is DICOM."""
  offset, magic = _DICOM
  return data[offset : offset + len(magic)] == magic


def inspect_header(data: bytes) -> Header:
  """Reads a header without decoding pixels.

  Raises:
    UnreadableError: the file is not an image or is damaged.
  """
  with damage_named():
    if data.startswith(_TIFF):
      return _tiff_header(data)
    if found := netpbm.headers(data):
      return Header(
        format='PPM',
        bits=max(header.largest for header in found).bit_length(),
        channels=found[0].channels,
        sizes=tuple((header.width, header.height) for header in found),
        is_deep=any(header.largest != 255 for header in found),
      )
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      return _pillow_header(image, data)


def repeated(size: tuple[int, int], frames: int) -> tuple[tuple[int, int], ...]:
  """Returns the sizes of frames that all have the same size.

  Raises:
    UnreadableError: the number of frames is 0 or impossibly large.
  """
  if not 0 < frames <= _MOST_FRAMES:
    raise UnreadableError('its header has an impossible number of images')
  return (size,) * frames


def _pillow_header(image: Image.Image, data: bytes) -> Header:
  bits, channels = 8, len(image.getbands())
  if data.startswith(_PNG):
    bits, channels = data[24], _PNG_CHANNELS[data[25]]
  elif image.mode in ('I', 'F'):
    bits = 32
  elif image.mode.startswith('I;16'):
    bits = 16
  # Further images of a JPEG are previews and depth maps of the first.
  is_still = image.format in ('JPEG', 'MPO')
  frames = 1 if is_still else getattr(image, 'n_frames', 1)
  return Header(
    format=image.format or '',
    bits=bits,
    channels=channels,
    sizes=repeated(image.size, frames),
    is_deep=bits > 8,
  )


def read_shallow(data: bytes, header: Header, frame: int) -> Image.Image:
  """Decodes a frame of 8 bits to an open image, upright as EXIF says.

  Raises:
    UnreadableError: the file is damaged.
  """
  with damage_named():
    if header.format == 'PPM' and header.frames > 1:
      data, frame = data[netpbm.headers(data)[frame].start :], 0
    if header.format == 'TIFF':
      frame = header.pages[frame]
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      if frame:
        image.seek(frame)
      image.load()
      return ImageOps.exif_transpose(image)


def read_deep(data: bytes, header: Header, frame: int) -> Stored:
  """Decodes a frame that `Header.is_deep`, upright and without alpha.

  Raises:
    UnreadableError: the file is damaged, or its values are ambiguous.
  """
  with damage_named():
    if header.format == 'TIFF':
      return _read_tiff(data, header.pages[frame])
    if header.format == 'PNG':
      return _read_png(data, frame)
    if header.format == 'PPM' and (found := netpbm.headers(data)):
      return Stored(
        pixels=netpbm.read(data, found[frame]), largest=found[frame].largest
      )
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      return Stored(pixels=np.asarray(image)[..., None], largest=None)


def _read_png(data: bytes, frame: int) -> Stored:
  import imagecodecs  # It takes 0.1 s to load, and most sets do not need it.

  pixels = (
    imagecodecs.apng_decode(data, frame)
    if frame
    else imagecodecs.png_decode(data)
  )
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  with Image.open(io.BytesIO(data), formats=('PNG',)) as image:
    turn = image.getexif().get(_ORIENTATION, 1)
  channels = 1 if pixels.shape[2] < 3 else 3
  return Stored(pixels=_upright(pixels[..., :channels], turn), largest=65535)


def _upright(pixels: np.ndarray, orientation: Any) -> np.ndarray:
  """Applies EXIF's orientation to [H, W, C]."""
  turns = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
  }
  turn = turns.get(orientation)
  return np.ascontiguousarray(turn(pixels) if turn else pixels)


@contextlib.contextmanager
def _open_tiff(data: bytes) -> Iterator[Any]:
  import tifffile  # Imported here because most sets do not need it.

  logger = logging.getLogger('tifffile')
  logger.disabled = True  # It would print parts of the file.
  with tifffile.TiffFile(io.BytesIO(data)) as tiff:
    yield tiff


def _pages(tiff: Any) -> list[Any]:
  """Returns the pages that are images, not thumbnails or masks."""
  pages = list(tiff.pages)
  kept = [p for p in pages if not (p.is_reduced or p.is_mask)]
  stack = (tiff.imagej_metadata or {}).get('images', 1) if tiff.is_imagej else 1
  if stack > len(pages):
    raise UnreadableError(
      'an ImageJ stack of one page: save each of its images as a page'
    )
  return kept or pages[:1]


def _tiff_header(data: bytes) -> Header:
  with _open_tiff(data) as tiff:
    pages = _pages(tiff)
    sizes = tuple((page.imagewidth, page.imagelength) for page in pages)
    return Header(
      format='TIFF',
      bits=max(_bits(page) for page in pages),
      channels=pages[0].samplesperpixel,
      sizes=sizes,
      is_deep=any(
        _bits(page) not in _PILLOW_BITS
        or page.sampleformat not in (_UINT, None)
        or page.compression not in _PILLOW_SCHEMES
        or _holds_more(page)
        for page in pages
      ),
      is_inverted=any(page.photometric == _WHITE_IS_ZERO for page in pages),
      pages=tuple(page.index for page in pages),
    )


def _holds_more(page: Any) -> bool:
  """Whether a page is a volume or several channels; Pillow reads the first."""
  is_grey = page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
  return page.imagedepth > 1 or (is_grey and 0 in (page.extrasamples or ()))


def _bits(page: Any) -> int:
  bits = page.bitspersample
  return max(bits) if isinstance(bits, tuple) else bits


def _read_tiff(data: bytes, index: int) -> Stored:
  with _open_tiff(data) as tiff:
    page = tiff.pages[index]
    bits, samples = _bits(page), page.samplesperpixel
    colours = 3 if page.photometric == _RGB else 1
    _check_tiff(page, colours)
    values = page.asarray()
    if page.planarconfig == 2 and samples > 1:
      values = np.moveaxis(values, 0, -1)
    values = values.reshape(page.imagelength, page.imagewidth, samples)
    tag = page.tags.get(_ORIENTATION)
    return Stored(
      pixels=_upright(values[..., :colours], tag.value if tag else 1),
      largest=(1 << bits) - 1 if page.sampleformat == _UINT else None,
      is_inverted=page.photometric == _WHITE_IS_ZERO,
    )


def _check_tiff(page: Any, colours: int) -> None:
  """Refuses a page whose values are ambiguous, before it is decoded."""
  known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
  if page.photometric not in known or page.imagedepth > 1:
    raise UnreadableError(
      'a TIFF that is deeper than 8 bits, compressed in a rare way or a volume '
      'must be grey or RGB and flat: convert it'
    )
  if page.sampleformat not in (_UINT, _INT, _FLOAT):
    raise UnreadableError('its pixels are neither integers nor floats')
  if not 0 <= page.samplesperpixel - colours <= 1:
    raise UnreadableError(
      f'it has {page.samplesperpixel} channels: keep grey or RGB, and at most '
      'alpha'
    )
  if any(kind == 0 for kind in page.extrasamples or ()) and colours == 1:
    raise UnreadableError(
      'it has a second channel that is not alpha: save channels apart'
    )
  tile = (page.tilewidth or 0) * (page.tilelength or 0)
  if tile > 4 * max(page.imagewidth * page.imagelength, 1 << 20):
    raise UnreadableError('its tiles are larger than it is')
