"""Encoded images to arrays of one shape: decoded, resized, cropped.

The stored images of every file-based source pass here once, in threads, into
memory or into a memory-mapped file of the cache folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
import dataclasses
import io
import os
import struct
from typing import TypeAlias

import numpy as np
import PIL
from PIL import Image
from PIL import ImageOps

from dp_diffusion import array_types
from dp_diffusion import console
from dp_diffusion.data import cache
from dp_diffusion.data import registry

# What Pillow raises on files that are no image any more.
_DAMAGED = (
  *(OSError, SyntaxError, ValueError, EOFError, IndexError),
  struct.error,
)
_FEWEST_LEVELS = 1 << 12  # Of 16 bits: below, 12 bits were stored as they are.
VERSION = 2  # Raise it when the same bytes give another array.
_FORMATS = ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM')
_CHUNK_IMAGES = 64
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_CHANNELS = {1: 'L', 3: 'RGB'}


class UnreadableError(ValueError):
  """An image that cannot be used; the message says why, without its name."""


BytesOrError: TypeAlias = bytes | UnreadableError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """What came of decoding.

  Attributes:
    images: uint8[N, H, W, C], those that could be read, in order.
    indices: int64[N], which ones they are.
    errors: reason for each of the others, by index.
  """

  images: np.ndarray
  indices: np.ndarray
  errors: dict[int, str]


def decode(
  data: bytes, size: int, channels: int, max_pixels: int
) -> np.ndarray:
  """Decodes one image.

  The middle square is resized with an antialiasing (Lanczos) filter. Alpha is
  dropped, 16-bit grey keeps its upper 8 bits (and is refused where they are
  nearly empty, as in a scan of 12 bits), and EXIF orientation is applied.

  Args:
    data: an encoded file.
    size: height and width of the result; 0 keeps the stored ones.
    channels: 1 (grey) or 3 (RGB); 0 keeps grey grey and makes the rest RGB.
    max_pixels: a header that says more is refused before decoding.

  Returns:
    uint8[H, W, C].

  Raises:
    UnreadableError: not an image, cut short, or too large.
  """
  try:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
      if image.width * image.height > max_pixels:
        raise UnreadableError(
          f'{image.width}x{image.height} pixels, more than '
          f'data.max_image_pixels={max_pixels}'
        )
      image.load()
      return fit(image, size, channels)
  except _BOMBS as error:
    raise UnreadableError(f'too large: {error}') from error
  except (PIL.UnidentifiedImageError, Image.UnidentifiedImageError) as error:
    raise UnreadableError('not an image of a known format') from error
  except UnreadableError:
    raise
  except _DAMAGED as error:
    raise UnreadableError(str(error).splitlines()[0]) from error


def fit(image: Image.Image, size: int, channels: int) -> np.ndarray:
  """Turns, converts, crops and resizes an open image, see `decode`."""
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):
    pixels = np.asarray(image)
    if 0 < pixels.max() < _FEWEST_LEVELS:
      raise UnreadableError(
        f'its 16 bits hold nothing above {pixels.max()}, which would be black:'
        ' rescale it to 8 bits'
      )
    image = Image.fromarray((pixels >> 8).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise UnreadableError(f'pixels of type {image.mode!r} have no fixed range')
  is_grey = image.mode in ('1', 'L', 'LA')
  image = image.convert(_CHANNELS[channels or (1 if is_grey else 3)])
  if size and image.size != (size, size):
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    image = image.resize(
      (size, size),
      Image.Resampling.LANCZOS,
      box=(left, top, left + side, top + side),
    )
  array = np.asarray(image)
  return array[..., None] if array.ndim == 2 else array


def decode_all(
  read: Callable[[Sequence[int]], Sequence[BytesOrError]],
  images: np.ndarray,
  config: registry.DataConfig,
  title: str,
) -> Kept:
  """Decodes many images in threads.

  Args:
    read: encoded bytes of the images at the given indices, or why they cannot
      be read; thread-safe.
    images: uint8[N, H, W, C], written in place.
    config: uses image_size, channels and max_image_pixels.
    title: what the progress bar says; it shows percents, never a count.

  Returns:
    What was kept. Images of another shape than asked for are errors.
  """
  num_images, shape = len(images), images.shape[1:]

  def decode_chunk(start: int) -> list[np.ndarray | UnreadableError]:
    indices = range(start, min(start + _CHUNK_IMAGES, num_images))
    results = [decode_or_error(data, config) for data in read(list(indices))]
    return [_error_unless_shape(result, shape) for result in results]

  indices: list[int] = []
  errors: dict[int, str] = {}
  starts = range(0, num_images, _CHUNK_IMAGES)
  num_threads = min(32, os.cpu_count() or 1)
  with (
    console.progress(title, 100) as advance,
    futures.ThreadPoolExecutor(num_threads) as pool,
  ):
    shown = 0
    for first in range(0, len(starts), 4 * num_threads):
      group = starts[first : first + 4 * num_threads]  # Bounds the memory.
      for start, results in zip(group, pool.map(decode_chunk, group)):
        for index, result in enumerate(results, start):
          if isinstance(result, UnreadableError):
            errors[index] = str(result)
          else:
            images[len(indices)] = result
            indices.append(index)
        percent = 100 * min(start + _CHUNK_IMAGES, num_images) // num_images
        advance(percent - shown)
        shown = percent
  return Kept(
    images=images[: len(indices)],
    indices=np.array(indices, np.int64),
    errors=errors,
  )


def decode_or_error(
  data: BytesOrError, config: registry.DataConfig
) -> np.ndarray | UnreadableError:
  """Decodes as the config says; an error is a result, not raised."""
  if isinstance(data, UnreadableError):
    return data
  try:
    return decode(
      data, config.image_size, config.channels, config.max_image_pixels
    )
  except UnreadableError as error:
    return error


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
  """Decodes into memory, or, once for all, into a file of the cache.

  Args:
    config: uses max_in_memory_bytes and cache_dir.
    name: of the cache entry; says everything that the arrays depend on.
    shape: (N, H, W, C) of what may come.
    fill: writes the first n <= N images in place and returns the small arrays
      that belong to them, each of length n.

  Returns:
    (uint8[n, H, W, C], the small arrays).

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
      raise array_types.UsageError(
        f'Decoded images of {config.name!r} need '
        f'{np.prod(shape, dtype=np.int64) / 1e9:.1f} GB in the cache folder '
        f'({error}): set data.cache_dir to another, or raise '
        'data.max_in_memory_bytes.'
      ) from error
  num_kept = {len(array) for array in small.values()}
  assert len(num_kept) == 1, 'Small arrays differ in length.'
  return images[: num_kept.pop()], small
