"""Decodes, resizes and crops encoded images to arrays of one shape.

Every source that stores images in files uses it. Images are decoded once, in
threads, into memory or into a memory-mapped file of the cache folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
import dataclasses
import os
from typing import TypeAlias

import numpy as np
from PIL import Image
from PIL import ImageOps

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import cache
from dp_diffusion.data import dicom
from dp_diffusion.data import image_formats
from dp_diffusion.data import registry
from dp_diffusion.data import value_range as values

VERSION = 4  # Increase it when the same bytes are decoded to another array.
_CHUNK_IMAGES = 64
_CHANNELS = {1: 'L', 3: 'RGB'}
# Weights of ITU-R BT.601, as in Pillow.
_LUMA = np.array([19595, 38470, 7471]) / 65536

UnreadableError = image_formats.UnreadableError
to_bytes = values.to_bytes  # The same mapping serves arrays of every source.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
  """One image of a file that has several.

  Attributes:
    data: the encoded file.
    index: index of the image in the file, from 0.
    header: header of the file; None if it was not read yet.
  """

  data: bytes
  index: int
  header: image_formats.Header | None = None


Encoded: TypeAlias = bytes | Frame | image_formats.Stored
BytesOrError: TypeAlias = Encoded | UnreadableError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """Decoded images, and reasons for those that could not be decoded.

  Attributes:
    images: uint8[N, H, W, C], the images that could be decoded, in order.
    indices: int64[N], the index of each of them among all images.
    errors: the reason for each other image, by its index.
  """

  images: np.ndarray
  indices: np.ndarray
  errors: dict[int, str]


def count_frames(data: bytes) -> int:
  """Returns the number of images in a file, from its headers alone.

  Raises:
    UnreadableError: the file is not an image.
  """
  return inspect_header(data).frames


def inspect_header(data: Encoded) -> image_formats.Header:
  """Reads a header without decoding, see `image_formats.inspect_header`."""
  if isinstance(data, image_formats.Stored):
    return data.header()
  if isinstance(data, Frame):
    return data.header or inspect_header(data.data)
  if image_formats.is_dicom(data):
    return dicom.inspect_header(data)
  return image_formats.inspect_header(data)


def inspect(
  data: BytesOrError, config: registry.DataConfig
) -> image_formats.Header | UnreadableError:
  """Reads a header without decoding, and checks that the file can be used.

  Args:
    data: an encoded file, or the error of reading it.
    config: gives the limits and `frames`.

  Returns:
    The header, or the error that says why the file cannot be used.
  """
  if isinstance(data, UnreadableError):
    return data
  try:
    header = inspect_header(data)
    _check_frames(header, config)
    for size in header.sizes if config.frames == 'all' else header.sizes[:1]:
      _check_num_pixels(size, config)
  except UnreadableError as error:
    return error
  return header


def decode(
  data: bytes,
  size: int,
  channels: int,
  max_pixels: int,
  value_range: tuple[float, ...] = (),
  frames: str = '',
  frame: int = 0,
) -> np.ndarray:
  """Decodes one image.

  The central square is resized with an antialiasing (Lanczos) filter. Alpha is
  dropped, and EXIF orientation is applied. Pixels that are not unsigned 8 bits
  are mapped by `value_range` (see `value_range.to_bytes`); they are rounded
  once, after resizing and conversion to grey. Values of fewer bits are scaled
  to 8 bits before the range is applied.

  Args:
    data: an encoded file.
    size: height and width of the result; 0 keeps the stored ones.
    channels: 1 (grey) or 3 (RGB); 0 keeps grey images and makes others RGB.
    max_pixels: a file whose header states more pixels is not decoded.
    value_range: stored values of black and of white, applied to every depth.
      () leaves 8 bits as they are, and refuses deeper images unless their
      values reach the upper half of what the file can hold.
    frames: 'first' or 'all' for files that may have several images; '' refuses
      such files.
    frame: index of the image in the file, from 0.

  Returns:
    uint8[H, W, C].

  Raises:
    UnreadableError: the file is not an image, is cut short, is too large, has
      several images, or has a depth that needs a range.
  """
  config = _Options(
    image_size=size,
    channels=channels,
    max_image_pixels=max_pixels,
    value_range=value_range,
    frames=frames,
  )
  array, depth = _decode(Frame(data=data, index=frame), config)
  if depth is not None and not values.is_whole([depth]):
    raise UnreadableError(values.refusal([depth]))
  return array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
  """The fields of a `registry.DataConfig` that decoding uses."""

  image_size: int
  channels: int
  max_image_pixels: int
  value_range: tuple[float, ...]
  frames: str


def _decode(
  chosen: Frame, config: _Options | registry.DataConfig
) -> tuple[np.ndarray, values.Depth | None]:
  """Decodes one image, and measures its depth if the set must be judged."""
  data, frame = chosen.data, chosen.index
  header = chosen.header or inspect_header(data)
  _check_frames(header, config)
  if not 0 <= frame < header.frames:
    raise UnreadableError(f'it has no image {frame}')
  _check_num_pixels(header.sizes[frame], config)
  _check_spread(header, config)
  with image_formats.damage_named():
    if header.format == 'DICOM':
      stored = dicom.read(data, frame)
      if config.value_range and (stored.largest or 256) < 256:
        _check_reach(config.value_range)
      return _map(stored, config)
    # The range refers to stored values, which Pillow would invert.
    is_raw = header.is_inverted and header.bits == 8 and config.value_range
    if not (header.is_deep or is_raw):
      image = image_formats.read_shallow(data, header, frame)
      if not config.value_range or tuple(config.value_range) == (0, 255):
        return fit(image, config.image_size, config.channels), None
      _check_reach(config.value_range)
      grey = image.mode in ('1', 'L', 'LA')
      pixels = np.asarray(image.convert('L' if grey else 'RGB'))
      stored = image_formats.Stored(
        pixels=pixels[..., None] if grey else pixels, largest=255
      )
    else:
      stored = image_formats.read_deep(data, header, frame)
      if (stored.largest or 256) < 256:
        stored = _spread(stored)
        _check_reach(config.value_range or (0, 255))
    return _map(stored, config)


def _spread(stored: image_formats.Stored) -> image_formats.Stored:
  """Spreads values of at most 8 bits over 0 ... 255, from their bits alone."""
  assert stored.largest
  pixels = values.to_bytes(stored.pixels, (0, stored.largest))
  return dataclasses.replace(
    stored, pixels=pixels, largest=255, window=(0.0, 255.0)
  )


def _check_frames(
  header: image_formats.Header, config: _Options | registry.DataConfig
) -> None:
  if header.frames == 1:
    return
  if not config.frames:
    raise UnreadableError(
      f'it has {header.frames} images (a stack, pages or an animation): set '
      "data.frames='first' or 'all', or save them apart"
    )
  if config.frames == 'first':
    first = header.width * header.height
    if any(width * height > first for width, height in header.sizes):
      raise UnreadableError(
        'its first image is smaller than a later one, as a thumbnail is: save '
        'them apart'
      )
  elif not config.image_size and len(set(header.sizes)) > 1:
    raise UnreadableError(
      'its images differ in size: set data.image_size or save them apart'
    )


def _check_spread(
  header: image_formats.Header, config: _Options | registry.DataConfig
) -> None:
  """Refuses data.value_range for files whose values are spread first."""
  if not config.value_range or header.bits >= 8 or header.format == 'DICOM':
    return
  if config.value_range[1] < 1 << header.bits:
    raise UnreadableError(
      f'its {header.bits} bits are spread over 0 ... 255 first, which is more '
      f'than data.value_range={tuple(config.value_range)}: leave it out'
    )


def _check_num_pixels(
  size: tuple[int, int], config: _Options | registry.DataConfig
) -> None:
  width, height = size
  if width * height > config.max_image_pixels:
    raise UnreadableError(
      f'{width}x{height} pixels, more than '
      f'data.max_image_pixels={config.max_image_pixels}'
    )


def _decode_array(
  stored: image_formats.Stored, config: registry.DataConfig
) -> tuple[np.ndarray, values.Depth | None]:
  """Does what `_decode` does, for pixels that were never in an image file."""
  is_shallow = stored.pixels.dtype == np.uint8
  if is_shallow and tuple(config.value_range) in ((), (0, 255)):
    pixels = stored.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return fit(image, config.image_size, config.channels), None
  if is_shallow:
    _check_reach(config.value_range)
  return _map(stored, config)


def _check_reach(value_range: tuple[float, ...]) -> None:
  """Refuses 8-bit pixels in a deeper set, which would be nearly black."""
  if value_range[1] > 255:
    raise UnreadableError(
      f'its 8 bits cannot reach the white of data.value_range={value_range}: '
      'convert it from the original, or set the range of 8-bit files'
    )


def _map(
  stored: image_formats.Stored, config: _Options | registry.DataConfig
) -> tuple[np.ndarray, values.Depth | None]:
  pixels, depth = stored.pixels, None
  if pixels.dtype.kind == 'f' and not np.isfinite(pixels).all():
    raise UnreadableError('it has pixels that are NaN or infinite')
  value_range = tuple(config.value_range)
  if not value_range and stored.window:
    value_range = stored.window
    pixels = pixels if stored.view is None else stored.view
  if not value_range:
    depth = values.measure(pixels, stored.largest)
    # `decode_all` judges by the whole set whether this range is right.
    value_range = (0, stored.largest or depth.high or 1)
  array = fit_values(
    pixels,
    value_range,
    config.image_size,
    config.channels,
    is_inverted=stored.is_inverted,
  )
  return array, depth


def fit_values(
  pixels: np.ndarray,
  value_range: tuple[float, ...],
  size: int,
  channels: int,
  is_inverted: bool = False,
) -> np.ndarray:
  """Maps, crops and resizes one image of any depth, and rounds once.

  Args:
    pixels: [H, W, C] of integers or floats, with C 1 or 3.
    value_range: (low, high), see `value_range.to_bytes`.
    size: height and width of the result; 0 keeps the stored ones.
    channels: 1 (grey) or 3 (RGB); 0 keeps the stored ones.
    is_inverted: whether `low` is white.

  Returns:
    uint8[H', W', C'].
  """
  low, high = value_range
  height, width, depth = pixels.shape
  channels = channels or depth
  is_fitting = not size or (height, width) == (size, size)
  if is_fitting and channels >= depth:
    array = values.to_bytes(pixels, (low, high))
    array = 255 - array if is_inverted else array
    return np.repeat(array, channels // depth, axis=2)
  scaled = values.scale(pixels, (low, high))
  scaled = 255 - scaled if is_inverted else scaled
  if channels < depth:
    scaled = (scaled @ _LUMA)[..., None]
  if not is_fitting:
    planes = [
      np.asarray(
        _resize(Image.fromarray(scaled[..., i].astype(np.float32)), size)
      )
      for i in range(scaled.shape[2])
    ]
    scaled = np.stack(planes, axis=2)
  array = np.clip(np.floor(scaled + 0.5), 0, 255).astype(np.uint8)
  return np.repeat(array, channels // array.shape[2], axis=2)


def fit(image: Image.Image, size: int, channels: int) -> np.ndarray:
  """Orients, converts, crops and resizes an open image of 8 bits.

  Args:
    image: an open image.
    size: height and width of the result; 0 keeps the stored ones.
    channels: 1 (grey) or 3 (RGB); 0 keeps grey images and makes others RGB.

  Returns:
    uint8[H, W, C].
  """
  image = ImageOps.exif_transpose(image)
  is_grey = image.mode in ('1', 'L', 'LA')
  image = image.convert(_CHANNELS[channels or (1 if is_grey else 3)])
  if size and image.size != (size, size):
    image = _resize(image, size)
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def _resize(image: Image.Image, size: int) -> Image.Image:
  """Resizes the central square with a Lanczos filter."""
  side = min(image.size)
  left, top = (image.width - side) / 2, (image.height - side) / 2
  return image.resize(
    (size, size),
    Image.Resampling.LANCZOS,
    box=(left, top, left + side, top + side),
  )


def decode_all(
  read: Callable[[Sequence[int]], Sequence[BytesOrError]],
  images: np.ndarray,
  config: registry.DataConfig,
  title: str,
) -> Kept:
  """Decodes many images in threads.

  Args:
    read: returns the encoded bytes of the images at given indices, or the
      errors of reading them; thread-safe.
    images: uint8[N, H, W, C], written in place.
    config: gives image_size, channels, max_image_pixels, value_range, frames.
    title: title of the progress bar, which shows percents alone: the number of
      images and the time that they take are private.

  Returns:
    The decoded images. An image of another shape than `images` is an error.

  Raises:
    UsageError: data.value_range is () and the images are deeper than 8 bits
      and, as a set, do not use their whole depth.
  """
  num_images, shape = len(images), images.shape[1:]

  def decode_chunk(start: int) -> list[np.ndarray | UnreadableError]:
    indices = range(start, min(start + _CHUNK_IMAGES, num_images))
    results = [_decode_or_error(data, config) for data in read(list(indices))]
    depths.extend(depth for _, depth in results if depth is not None)
    return [_error_unless_shape(result, shape) for result, _ in results]

  indices: list[int] = []
  failed: dict[int, str] = {}
  depths: list[values.Depth] = []
  starts = range(0, num_images, _CHUNK_IMAGES)
  num_threads = min(32, os.cpu_count() or 1)
  with (
    console.progress_of(title, num_images) as advance,
    futures.ThreadPoolExecutor(num_threads) as pool,
  ):
    for first in range(0, len(starts), 4 * num_threads):
      group = starts[first : first + 4 * num_threads]  # Bounds the memory.
      for start, results in zip(group, pool.map(decode_chunk, group)):
        for index, result in enumerate(results, start):
          if isinstance(result, UnreadableError):
            failed[index] = str(result)
          else:
            images[len(indices)] = result
            indices.append(index)
        advance(len(results))
  if depths and not values.is_whole(depths):
    raise errors.UsageError(
      f'Deep images of {config.name!r}: {values.refusal(depths)}.'
    )
  return Kept(
    images=images[: len(indices)],
    indices=np.array(indices, np.int64),
    errors=failed,
  )


def decode_or_error(
  data: BytesOrError, config: registry.DataConfig
) -> np.ndarray | UnreadableError:
  """Decodes as the config says; returns an error instead of raising it.

  Without data.value_range, a deep image is accepted here; `decode_all` judges
  by the whole set whether its depth is used.
  """
  return _decode_or_error(data, config)[0]


def _decode_or_error(
  data: BytesOrError, config: registry.DataConfig
) -> tuple[np.ndarray | UnreadableError, values.Depth | None]:
  if isinstance(data, UnreadableError):
    return data, None
  if isinstance(data, bytes):
    data = Frame(data=data, index=0)
  try:
    if isinstance(data, image_formats.Stored):
      return _decode_array(data, config)
    return _decode(data, config)
  except UnreadableError as error:
    return error, None


def _error_unless_shape(
  image: np.ndarray | UnreadableError, shape: tuple[int, ...]
) -> np.ndarray | UnreadableError:
  if isinstance(image, UnreadableError) or image.shape == shape:
    return image
  return UnreadableError(
    f'height, width and channels are {image.shape} where the others have '
    f'{shape}; set data.image_size and data.channels'
  )


def load_or_decode(
  config: registry.DataConfig,
  name: str,
  shape: tuple[int, ...],
  fill: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Decodes into memory, or a large set into a file of the cache.

  Args:
    config: gives max_in_memory_bytes and cache_dir.
    name: name of the cache entry. It must contain everything that the arrays
      depend on.
    shape: largest shape (N, H, W, C) of the images.
    fill: writes the first n <= N images in place and returns small arrays;
      'labels' is one of them, of length n.

  Returns:
    (uint8[n, H, W, C], small arrays by name).

  Raises:
    UsageError: the cache folder is full or cannot be written.
  """
  if np.prod(shape, dtype=np.int64) <= config.max_in_memory_bytes:
    images = np.empty(shape, np.uint8)
    small = fill(images)
  else:
    try:
      images, small = cache.mapped(config.cache_dir, name, shape, fill)
    except OSError as error:
      raise errors.UsageError(
        f'Decoded images of {config.name!r} do not go into the cache folder '
        f'({error}): set data.cache_dir to another, or raise '
        'data.max_in_memory_bytes.'
      ) from error
  return images[: len(small['labels'])], small
