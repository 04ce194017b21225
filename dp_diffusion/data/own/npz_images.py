"""Reads own images from one `.npz` file.

The file has `images` and `labels` (and perhaps `person`). Or, as in MedMNIST,
it has `train_images`, `train_labels` and the same for `val` and `test` (or
other names of `parts`); then it states a division.

The file is untrusted, like image files. No code in it is run (pickles are
refused), and a file whose headers state more than this machine can hold is
refused without reading it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import threading
import tokenize
import zipfile
import zlib

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import host_memory
from dp_diffusion.data import image_formats
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from dp_diffusion.data.own import labelling
from dp_diffusion.data.own import parts as parts_lib

# Errors that NumPy raises for damaged .npz files.
_DAMAGED = (
  *(OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError),
  *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)
# Keys that apply to other forms only, with their defaults.
_OTHER_KEYS = {
  **dict.fromkeys(('frames', 'image_key', 'label_key'), ''),
  'file_column': 'file',
  'person_column': 'person',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
  """The arrays of one part of a division.

  Attributes:
    prefix: prefix of their names, such as 'train_', or ''.
    shape: shape of the images, [N, H, W] or [N, H, W, C].
  """

  prefix: str
  shape: tuple[int, ...]


def open_npz(
  path: pathlib.Path, config: registry.DataConfig
) -> image_files.ImageFiles:
  """Reads labels, persons and the shape of the images.

  Args:
    path: path of the .npz file.
    config: gives class_names; keys for image files must not be set.

  Raises:
    UsageError: the file is not an .npz of either form, or is too large.
  """
  _check_config(path, config)
  with _damage_named(path):
    with zipfile.ZipFile(path) as archive:
      num_bytes = sum(info.file_size for info in archive.infolist())
      if num_bytes > _most_bytes():
        raise MemoryError
      parts = [_part(archive, path, p) for p in _prefixes(path, archive)]
      _check_unread(path, archive, parts)
    labels, persons = _small_arrays(path, parts)
  if not config.class_names:
    raise errors.UsageError(
      f'Set data.class_names for {path}: label i is class_names[i].'
    )
  if labels.dtype.kind == 'U':
    labels = labelling.codes(
      labels.tolist(), config.class_names, f'labels of {path}'
    )
  registry.check_labels(labels, len(config.class_names))
  places = [(part, i) for part in parts for i in range(part.shape[0])]
  is_divided = bool(parts[0].prefix)
  status = path.stat()
  arrays = _Arrays(path)
  return image_files.ImageFiles(
    root=os.fspath(path),
    names=tuple(
      f'{part.prefix}images[{i}]' if is_divided else str(i)
      for part, i in places
    ),
    labels=labels.astype(np.int64),
    persons=persons,
    is_held_out=(
      np.array([parts_lib.is_held_out(p.prefix[:-1]) for p, _ in places], bool)
      if is_divided
      else None
    ),
    read=lambda index: arrays.read(places[index][0], places[index][1]),
    stamps=[status.st_size, status.st_mtime_ns],
  )


class _Arrays:
  """Images of all parts; a part is loaded when its first image is read."""

  def __init__(self, path: pathlib.Path) -> None:
    self._path, self._lock = path, threading.Lock()
    self._load = functools.cache(self._read_array)

  def read(self, part: _Part, index: int) -> image_formats.Stored:
    """Returns an image of a part."""
    with self._lock:
      array = self._load(f'{part.prefix}images')
    pixels = array[index].reshape(*part.shape[1:3], -1)
    is_unsigned = pixels.dtype.kind == 'u'
    return image_formats.Stored(
      pixels=pixels,
      largest=int(np.iinfo(pixels.dtype).max) if is_unsigned else None,
    )

  def _read_array(self, name: str) -> np.ndarray:
    with _damage_named(self._path):
      with np.load(self._path, allow_pickle=False) as f:
        array = f[name]
        return array.astype(array.dtype.newbyteorder('='), copy=False)


def _check_config(path: pathlib.Path, config: registry.DataConfig) -> None:
  if config.person_csv:
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} only for a folder or a '
      f'.zip: put the persons of {path} into it, as an array of integers '
      "named 'person', one per image."
    )
  for key, default in _OTHER_KEYS.items():
    if getattr(config, key) != default:
      raise errors.UsageError(
        f'Expected data.{key}={getattr(config, key)!r} not to be set for an '
        f'.npz: {path} holds single images, in arrays of fixed names.'
      )


@contextlib.contextmanager
def _damage_named(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except errors.UsageError:
    raise
  except MemoryError as error:
    raise errors.UsageError(
      f'data.path={str(path)!r} is too large for the memory of this machine '
      'when unpacked: give a folder or a .zip, which are read image by image.'
    ) from error
  except _DAMAGED as error:
    raise errors.UsageError(
      f'data.path={str(path)!r} cannot be read: {errors.without_counts(error)}.'
    ) from error


def _most_bytes() -> int:
  """Returns half of the machine's memory, since decoding makes a copy."""
  return host_memory.total_bytes() // 2


def _prefixes(path: pathlib.Path, archive: zipfile.ZipFile) -> list[str]:
  """Returns [''], or the prefixes of the parts in the order of PARTS.

  Raises:
    UsageError: there are images without a part beside those of parts, or only
      one part.
    ValueError: an array of a part is missing.
  """
  names = [name.removesuffix('.npy') for name in archive.namelist()]
  found = {
    name.rpartition('_')[0]
    for name in names
    if name.endswith(('_images', '_labels'))
  }
  listed = [part for part in found if parts_lib.are_parts([part])]
  listed.sort(
    key=lambda part: (list(parts_lib.PARTS).index(part.lower()), part)
  )
  prefixes = [f'{part}_' for part in listed] or ['']
  wanted = [f'{p}{what}' for p in prefixes for what in ('images', 'labels')]
  missing = [name for name in wanted if name not in names]
  if missing:
    raise ValueError(
      f'it lacks {checks.some(missing)} and has '
      f'{checks.some(names) or "no array"}'
    )
  others = [
    name
    for name in names
    if (name == 'images' or name.endswith('_images')) and name not in wanted
  ]
  if others:
    raise errors.UsageError(
      f'{path} has the images {checks.some(wanted[::2])} and also '
      f'{checks.some(others)}: leave one of them.'
    )
  if listed and not parts_lib.given(listed, (), os.fspath(path)):
    raise errors.UsageError(
      f'{path} has {checks.some(wanted[::2])} alone, and none on the other '
      'side of a division into train, val and test: call them images and '
      'labels, and they are divided by content.'
    )
  return prefixes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Header:
  """Header of an array in the file.

  Attributes:
    shape: shape of the array.
    dtype: dtype of its values.
    num_bytes: number of bytes that the file holds for the values.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  num_bytes: int


def _header(archive: zipfile.ZipFile, name: str) -> _Header:
  with archive.open(f'{name}.npy') as f:
    version = np.lib.format.read_magic(f)
    if version == (1, 0):
      shape, _, dtype = np.lib.format.read_array_header_1_0(f)
    else:
      shape, _, dtype = np.lib.format.read_array_header_2_0(f)
    num_bytes = archive.getinfo(f'{name}.npy').file_size - f.tell()
  return _Header(shape=shape, dtype=dtype, num_bytes=num_bytes)


def _part(archive: zipfile.ZipFile, path: pathlib.Path, prefix: str) -> _Part:
  """Reads the shape of a part's images from the header of the array."""
  name = f'{prefix}images'
  header = _header(archive, name)
  shape, dtype = header.shape, header.dtype
  num_bytes = dtype.itemsize * math.prod(shape)
  if num_bytes != header.num_bytes and not dtype.hasobject:
    found = checks.array_type(dtype, shape)
    raise ValueError(f'{name} says it is {found} and is not')
  channels = (*shape, 1)[3] if len(shape) in (3, 4) else 0
  if channels not in (1, 3) or dtype.kind not in 'iuf' or not min(shape[1:]):
    raise errors.UsageError(
      f'Expected {name} of {path} to be uint8[N, H, W, C] with 1 or 3 channels,'
      ' or [N, H, W], or deeper numbers, found'
      f' {checks.array_type(dtype, shape)}.'
    )
  if not shape[0]:
    raise errors.UsageError(
      f'Expected {name} of {path} to hold images, found none.'
    )
  return _Part(prefix=prefix, shape=shape)


def _small_arrays(
  path: pathlib.Path, parts: list[_Part]
) -> tuple[np.ndarray, tuple[str, ...] | None]:
  """Returns labels of all parts, int[N] or text, and persons."""
  labels: list[np.ndarray] = []
  persons: list[str] = []
  with np.load(path, allow_pickle=False) as f:
    for part in parts:
      name, num_images = f'{part.prefix}labels', part.shape[0]
      labels.append(_one_per_image(path, name, f[name], num_images))
      if (name := f'{part.prefix}person') in f:
        found = _one_per_image(path, name, f[name], num_images)
        persons += _persons(path, name, found)
  num_labels = sum(map(len, labels))
  if persons and len(persons) != num_labels:
    raise errors.UsageError(
      f'Expected an array of persons for each part of {path}, or for none.'
    )
  return np.concatenate(labels), tuple(persons) or None


def _check_unread(
  path: pathlib.Path, archive: zipfile.ZipFile, parts: list[_Part]
) -> None:
  """Refuses arrays that divide the images, or say who is on them, unread."""
  prefixes = [part.prefix for part in parts]
  read = {f'{p}{w}' for p in prefixes for w in ('images', 'labels', 'person')}
  names = [name for name in archive.namelist() if name.endswith('.npy')]
  for name in sorted({name.removesuffix('.npy') for name in names} - read):
    prefix = next((p for p in prefixes if p and name.startswith(p)), '')
    if parts_lib.names_persons(name.removeprefix(prefix)):
      raise errors.UsageError(
        f'{path} has an array {name!r}, which is not read: call it '
        f'{f"{prefix or prefixes[0]}person"!r}, or take it away.'
      )
    if parts_lib.divides(name) or _says_parts(archive, path, name):
      raise errors.UsageError(
        f'{path} has an array {name!r}, which is not read: save train_images, '
        'train_labels, test_images and test_labels, or take it away.'
      )


def _says_parts(
  archive: zipfile.ZipFile, path: pathlib.Path, name: str
) -> bool:
  """Whether an array of text holds names of parts, as 'train', alone."""
  if _header(archive, name).dtype.kind not in 'SU':
    return False
  with np.load(path, allow_pickle=False) as f:
    values = f[name].ravel().tolist()
  found = {
    (v.decode('utf-8', 'replace') if isinstance(v, bytes) else v).strip()
    for v in values
  }
  return len(found) > 1 and parts_lib.are_parts(found - {''})


def _persons(path: pathlib.Path, name: str, array: np.ndarray) -> list[str]:
  """Persons as text; refuses values such as '' and -1, which name nobody."""
  persons = [str(person).strip() for person in array]
  nobody = {person for person in persons if not person or person[0] == '-'}
  if nobody and (array.dtype.kind != 'U' or '' in nobody):
    raise errors.UsageError(
      f'Expected {name} of {path} to say who is on each image, found '
      f'{sorted(nobody)[0]!r}.'
    )
  return persons


def _one_per_image(
  path: pathlib.Path, name: str, array: np.ndarray, num_images: int
) -> np.ndarray:
  """Converts an array [N] or [N, 1] to int[N], or to text [N]."""
  if array.ndim == 2 and array.shape[1] > 1:
    raise errors.UsageError(
      f'Expected one label per image in {path}, found {array.shape[1]} in '
      f'{name}: with several answers that may all be true there is no one class'
      ' to train or to sample. Choose one of them, as labels[:, 0], and save '
      'that.'
    )
  array = array[:, 0] if array.ndim == 2 else array
  if array.shape != (num_images,) or array.dtype.kind not in 'iubU':
    raise errors.UsageError(
      f'Expected {name} of {path} to be int[N] or text[N], as long as the'
      f' images, found {checks.array_type(array.dtype, array.shape)}'
      f'{" of another length" if array.shape[:1] != (num_images,) else ""}.'
    )
  return array.astype(np.int64) if array.dtype.kind == 'b' else array
