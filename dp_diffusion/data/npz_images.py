"""Own images as one `.npz`: read, checked, brought to one shape.

Either `images` and `labels` (and `person`), or, as MedMNIST publishes its sets,
`train_images`, `train_labels` and the same of `val` and `test`: then the file
says what is held out.

It is untrusted, as image files are: nothing in it is run (no pickle), and one
that says it is larger than what this machine can hold is refused unread.
"""

from __future__ import annotations

from collections.abc import Mapping
import os
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np
from PIL import Image

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import registry

# What NumPy raises on files that are no .npz any more.
_DAMAGED = (
  *(OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError),
  *(zipfile.BadZipFile, zlib.error),
)
_WANTED = ('images', 'labels', 'person')
HELD_OUT = 'is_held_out'
_PARTS = ('train', 'val', 'test')  # All but the first are held out.


def read(
  path: pathlib.Path, config: registry.DataConfig
) -> dict[str, np.ndarray]:
  """Reads 'images', 'labels' and, where given, 'person'.

  Args:
    path: of the .npz.
    config: uses person_csv and class_names, for what must not or must be set.

  Returns:
    images uint8[N, H, W, C] with 1 or 3 channels, labels int[N] and perhaps
    person int[N], or is_held_out bool[N] where the file is divided.

  Raises:
    UsageError: not an .npz of that form, or one too large.
  """
  if config.person_csv:
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} only for a folder or a '
      f'.zip: put the persons of {path} into it, as an array of integers '
      "named 'person', one per image."
    )
  for key in ('value_range', 'frames'):
    if getattr(config, key):
      raise errors.UsageError(
        f'Expected data.{key}={getattr(config, key)!r} only for image files:'
        f' {path} holds arrays of 8 bits, which are taken as they are.'
      )
  arrays = _read(path)
  images = arrays['images']
  if images.ndim == 3:
    images = arrays['images'] = images[..., None]
  is_image = images.ndim == 4 and images.dtype == np.uint8
  if not is_image or images.shape[3] not in (1, 3):
    raise errors.UsageError(
      f'Expected images of {path} to be uint8[N, H, W, C] with 1 or 3 '
      f'channels, found {images.dtype}{list(images.shape)}.'
    )
  arrays['labels'] = _one_per_image(path, arrays['labels'])
  for name in set(arrays) - {'images', HELD_OUT}:
    array = arrays[name]
    if array.shape != images.shape[:1] or array.dtype.kind not in ('iu'):
      raise errors.UsageError(
        f'Expected {name} of {path} to be int[{len(images)}], found '
        f'{array.dtype}{list(array.shape)}.'
      )
  if not config.class_names:
    raise errors.UsageError(
      f'Set data.class_names for {path}: label i is class_names[i].'
    )
  registry.check_labels(arrays['labels'], len(config.class_names))
  return arrays


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      num_bytes = sum(info.file_size for info in archive.infolist())
    if num_bytes > _most_bytes():
      raise MemoryError(f'{num_bytes / 1e9:,.1f} GB when unpacked')
    with np.load(path, allow_pickle=False) as f:
      if {'train_images', 'train_labels'} <= set(f.files):
        return _divided(f)
      missing = {'images', 'labels'} - set(f.files)
      if missing:
        raise ValueError(
          f'it lacks {sorted(missing)} and has {checks.some(f.files)}'
        )
      return {name: f[name] for name in _WANTED if name in f.files}
  except MemoryError as error:
    raise errors.UsageError(
      f'data.path={str(path)!r} is too large for the memory of this machine '
      f'({error}): give a folder or a .zip, which are read image by image.'
    ) from error
  except _DAMAGED as error:
    raise errors.UsageError(
      f'data.path={str(path)!r} cannot be read: {error}.'
    ) from error


def _divided(f: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The parts one after another, and which of them are held out."""
  parts = [part for part in _PARTS if f'{part}_images' in f]
  images = [f[f'{part}_images'] for part in parts]
  held_out = [np.full(len(i), p != 'train') for p, i in zip(parts, images)]
  return {
    'images': np.concatenate(images),
    'labels': np.concatenate([f[f'{part}_labels'] for part in parts]),
    HELD_OUT: np.concatenate(held_out),
  }


def _one_per_image(path: pathlib.Path, labels: np.ndarray) -> np.ndarray:
  """Labels [N, 1] as [N]."""
  if labels.ndim == 2 and labels.shape[1] > 1:
    raise errors.UsageError(
      f'Expected one label per image in {path}, found {labels.shape[1]}: with'
      ' several answers that may all be true there is no one class to train or'
      ' to sample. Choose one of them, as labels[:, 0], and save that.'
    )
  return labels[:, 0] if labels.ndim == 2 else labels


def _most_bytes() -> int:
  """Half of the machine's memory: a split is a copy."""
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2


def fit(images: np.ndarray, config: registry.DataConfig) -> np.ndarray:
  """Crops and resizes where the config asks for another shape.

  Args:
    images: uint8[N, H, W, C].
    config: uses image_size and channels; 0 keeps what there is.

  Returns:
    uint8[N, H', W', C'].
  """
  _, height, width, depth = images.shape
  size, channels = config.image_size, config.channels
  if (height, width, depth) == (
    size or height,
    size or width,
    channels or depth,
  ):
    return images
  return np.stack(
    [
      decoding.fit(
        Image.fromarray(image[..., 0] if depth == 1 else image), size, channels
      )
      for image in images
    ]
  )
