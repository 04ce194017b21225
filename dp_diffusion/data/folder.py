"""Own images: a folder with one subfolder per class, a zip of it, or an .npz.

Files are untrusted: a zip is read, never extracted, and refused when a path
leaves it; image headers are checked before decoding (`decoding`). Every file
that cannot be used is named.

Held-out images are chosen by a hash of the seed and the decoded image (or its
person): equal images, under whatever name or file format, lie on one side, with
all other images of their persons. Adding or removing one record moves no other
from one split to the other, unless it joins or parts persons that share an
image.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from concurrent import futures
import csv
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import cache
from dp_diffusion.data import decoding
from dp_diffusion.data import division
from dp_diffusion.data import npz_images
from dp_diffusion.data import registry
from dp_diffusion.data import trees

SPLITS = ('train', 'test')
READS = ('max_images', 'path', 'person_csv')
_IMAGE_SUFFIXES = (
  *('.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff'),
  '.webp',
)
_MOST_BITS = 1 << 64


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads own images from `config.path`.

  Args:
    config: uses path, class_names, image_size, channels, person_csv, ...
    split: 'train' or 'test'.

  Returns:
    Images in the order of their paths.

  Raises:
    UsageError: nothing there, a class outside `class_names`, files that
      cannot be used (all of them are named), persons that are not known.
  """
  registry.check_split(split, SPLITS)
  path = _path(config)
  if path.suffix == '.npz':
    return _load_npz(path, config, split)
  return _load_tree(_open(path, config), config, split)


def check_available(config: registry.DataConfig, splits: Sequence[str]) -> None:
  """See `registry.check_available`; names of files and persons are read."""
  for split in splits:
    registry.check_split(split, SPLITS)
  path = _path(config)
  if config.person_csv and not os.path.isfile(
    os.path.expanduser(config.person_csv)
  ):
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} to be a CSV file.'
    )
  if path.suffix == '.npz':
    return
  if config.unit == 'person' and not config.person_csv:
    raise registry.no_persons(config)
  names, _ = _label_files(_open(path, config), config)
  _read_persons(names, config)


def _path(config: registry.DataConfig) -> pathlib.Path:
  path = pathlib.Path(config.path).expanduser()
  if not config.path or not path.exists():
    raise errors.UsageError(
      f'Expected data.path={config.path!r} to be a folder with one subfolder '
      'per class, a .zip of it, or an .npz file.'
    )
  return path


def _open(path: pathlib.Path, config: registry.DataConfig) -> trees.Tree:
  if path.is_file():
    return trees.open_zip(path, config.class_names)
  return trees.open_folder(path)


def _load_tree(
  tree: trees.Tree, config: registry.DataConfig, split: str
) -> registry.ArraySource:
  names, labels = _label_files(tree, config)
  persons = _read_persons(names, config)
  contents = _digests(tree, names, config)
  is_chosen = _choose(division.keys(contents, persons), config, split)
  chosen = np.flatnonzero(is_chosen)
  codes = (
    None if persons is None else np.unique(persons, return_inverse=True)[1]
  )
  height, width, channels = _infer_shape(tree, names, config)

  def read(indices: Sequence[int]) -> list[decoding.BytesOrError]:
    return [_read(tree, names[chosen[index]]) for index in indices]

  def fill(images: np.ndarray) -> dict[str, np.ndarray]:
    kept = decoding.decode_all(read, images, config, 'reading images')
    failed = {names[chosen[i]]: why for i, why in kept.errors.items()}
    if split == config.split:
      others = [names[i] for i in np.flatnonzero(~is_chosen)]
      failed |= _find_unreadable(tree, others, config)
    is_none = not len(kept.indices)
    if failed and (is_none or not config.skip_unreadable):
      raise _refusal(failed, tree)
    small = {'labels': labels[chosen[kept.indices]].astype(np.int32)}
    if codes is not None:
      small['person'] = codes[chosen[kept.indices]].astype(np.int32)
    return small

  images, small = decoding.load_or_decode(
    config,
    _cache_name(tree, config, split),
    (len(chosen), height, width, channels),
    fill,
  )
  return _source(config, images, small)


def _source(
  config: registry.DataConfig,
  images: np.ndarray,
  small: dict[str, np.ndarray],
) -> registry.ArraySource:
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name=config.name,
      image_shape=images.shape[1:],
      class_names=config.class_names,
      has_person='person' in small,
    ),
    images=images,
    labels=small['labels'],
    person=small.get('person'),
  )


def _label_files(
  tree: trees.Tree, config: registry.DataConfig
) -> tuple[list[str], np.ndarray]:
  """Names of the images, and their labels int64[N]."""
  names = [name for name in tree.names if '/' in name]
  astray = [
    name
    for name in tree.names
    if '/' not in name and name.lower().endswith(_IMAGE_SUFFIXES)
  ]
  if astray:
    raise errors.UsageError(
      f'Images of {tree.root} lie outside the class folders: '
      f'{", ".join(astray)}.'
    )
  classes = sorted({name.split('/')[0] for name in names})
  if not names:
    raise errors.UsageError(
      f'Expected {tree.root} to have one subfolder of images per class.'
    )
  if not config.class_names:
    raise errors.UsageError(
      f'Set data.class_names; the subfolders of {tree.root} are '
      f'{tuple(classes)}.'
    )
  unknown = [name for name in classes if name not in config.class_names]
  if unknown:
    raise errors.UsageError(
      f'Subfolders of {tree.root} that data.class_names={config.class_names} '
      f'does not list: {", ".join(unknown)}.'
    )
  folders = [name.split('/')[0] for name in names]
  names = [names[i] for i in _some_of(names, folders, config)]
  labels = [config.class_names.index(name.split('/')[0]) for name in names]
  return names, np.array(labels)


def _some_of(
  keys: Sequence[str], classes: Sequence[Any], config: registry.DataConfig
) -> list[int]:
  """Numbers of `max_images` images, evenly from the classes, rising."""
  if not 0 < config.max_images < len(keys):
    return list(range(len(keys)))
  seed = f'{config.split_seed}/'.encode()
  order = sorted(
    (hashlib.sha256(seed + os.fsencode(key)).digest(), index)
    for index, key in enumerate(keys)
  )
  num_before: collections.Counter[Any] = collections.Counter()
  ranked = []
  for place, (_, index) in enumerate(order):
    ranked.append((num_before[classes[index]], place, index))
    num_before[classes[index]] += 1
  return sorted(i for _, _, i in sorted(ranked)[: config.max_images])


def _read_persons(
  names: Sequence[str], config: registry.DataConfig
) -> list[str] | None:
  """The person of each image, from the CSV file, or None without one."""
  if not config.person_csv:
    return None
  path = pathlib.Path(config.person_csv).expanduser()
  columns = (config.file_column, config.person_column)
  try:
    with path.open(newline='', encoding='utf-8-sig') as f:
      rows = csv.DictReader(f)
      if not set(columns) <= set(rows.fieldnames or ()):
        hint = 'see data.file_column and data.person_column'
        if any(mark in ''.join(rows.fieldnames or ()) for mark in ';\t'):
          hint = 'save it with commas between the columns'
        raise errors.UsageError(
          f'Expected {path} to have the columns {columns}, found '
          f'{rows.fieldnames}: {hint}.'
        )
      known: dict[str, str] = {}
      for row in rows:
        file, person = (row[column] or '' for column in columns)
        if known.setdefault(file.strip(), person.strip()) != person.strip():
          raise errors.UsageError(f'{path} gives {file!r} two persons.')
  except UnicodeDecodeError as error:
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} to be text in UTF-8'
      f" (byte {error.start} is not): save it as 'CSV UTF-8'."
    ) from error
  except (OSError, csv.Error) as error:
    raise errors.UsageError(
      f'data.person_csv={config.person_csv!r} cannot be read: {error}.'
    ) from error
  unknown = [name for name in names if not known.get(name)]
  if unknown:
    raise errors.UsageError(
      f'{path} names no person for {len(unknown)} images; its column'
      f' {config.file_column!r} begins with {next(iter(known), "")!r}, expected'
      f' as in {unknown[0]!r}. Without a person: {", ".join(unknown)}.'
    )
  return [known[name] for name in names]


def _choose(
  keys: Sequence[str | bytes], config: registry.DataConfig, split: str
) -> np.ndarray:
  """bool[N]: which records belong to the split; equal keys stay together."""
  threshold = int(config.test_fraction * _MOST_BITS)
  seed = f'{config.split_seed}/'.encode()
  is_test = np.zeros(len(keys), bool)
  for index, key in enumerate(keys):
    data = os.fsencode(key)  # A name need not be UTF-8.
    digest = hashlib.sha256(seed + data).digest()
    is_test[index] = int.from_bytes(digest[:8], 'little') < threshold
  is_chosen = is_test if split == 'test' else ~is_test
  if not is_chosen.any():
    raise errors.UsageError(
      f'Split {split!r} of data.path={config.path!r} is empty with '
      f'data.test_fraction={config.test_fraction}: change it or '
      'data.split_seed.'
    )
  return is_chosen


def _infer_shape(
  tree: trees.Tree, names: Sequence[str], config: registry.DataConfig
) -> tuple[int, int, int]:
  """Shape of all images: what the config says, else that of the first."""
  size, channels = config.image_size, config.channels
  if size and channels:
    return size, size, channels
  failed = {}
  for name in names:
    image = decoding.decode_or_error(_read(tree, name), config)
    if not isinstance(image, decoding.UnreadableError):
      height, width, depth = image.shape
      return height, width, depth
    failed[name] = str(image)
  raise _refusal(failed, tree)


def _digests(
  tree: trees.Tree, names: Sequence[str], config: registry.DataConfig
) -> list[bytes]:
  """Of each image as it is decoded; of its name where it cannot be."""

  def digest(name: str) -> bytes:
    image = decoding.decode_or_error(_read(tree, name), config)
    if isinstance(image, decoding.UnreadableError):
      return division.digest(os.fsencode(name))
    return division.digest(image.tobytes())

  digests = []
  with (
    console.progress('comparing images', 100) as advance,
    futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool,
  ):
    shown = 0
    for index, found in enumerate(pool.map(digest, names), 1):
      digests.append(found)
      advance(100 * index // len(names) - shown)
      shown = 100 * index // len(names)
  return digests


def _read(tree: trees.Tree, name: str) -> decoding.BytesOrError:
  try:
    return tree.read(name)
  except OSError as error:
    return decoding.UnreadableError(str(error))


def _find_unreadable(
  tree: trees.Tree, names: Sequence[str], config: registry.DataConfig
) -> dict[str, str]:
  """Errors of the other split's files: named now, not hours later."""
  if config.skip_unreadable:
    return {}
  failed = {}
  for name in names:
    result = decoding.decode_or_error(_read(tree, name), config)
    if isinstance(result, decoding.UnreadableError):
      failed[name] = str(result)
  return failed


def _refusal(failed: dict[str, str], tree: trees.Tree) -> Exception:
  listed = '; '.join(f'{name}: {why}' for name, why in sorted(failed.items()))
  return errors.UsageError(
    f'Files of {tree.root} that cannot be used (remove them, or set '
    f'data.skip_unreadable=True): {listed}.'
  )


def _cache_name(
  tree: trees.Tree, config: registry.DataConfig, split: str
) -> str:
  csv_bytes = b''
  if config.person_csv:
    csv_bytes = pathlib.Path(config.person_csv).expanduser().read_bytes()
  key = cache.key_of(
    version=decoding.VERSION,
    root=os.path.abspath(tree.root),
    stamps=tree.stamps,
    split=split,
    persons=hashlib.sha256(csv_bytes).hexdigest(),
    config={
      name: getattr(config, name)
      for name in (
        *('class_names', 'image_size', 'channels', 'split_seed'),
        *('test_fraction', 'skip_unreadable', 'max_image_pixels'),
        *('file_column', 'person_column', 'value_range', 'frames'),
        'max_images',
      )
    },
  )
  return f'folder-{key}'


def _load_npz(
  path: pathlib.Path, config: registry.DataConfig, split: str
) -> registry.ArraySource:
  arrays = npz_images.read(path, config)
  if config.max_images:
    labels = arrays['labels'].tolist()
    some = _some_of([str(i) for i in range(len(labels))], labels, config)
    arrays = {name: array[some] for name, array in arrays.items()}
  images, person = (
    npz_images.fit(arrays['images'], config),
    arrays.get('person'),
  )
  held_out = arrays.get(npz_images.HELD_OUT)
  if held_out is None:
    contents = [division.digest(image.tobytes()) for image in images]
    persons = None if person is None else [str(p) for p in person]
    is_chosen = _choose(division.keys(contents, persons), config, split)
  else:  # The file's own division.
    is_chosen = held_out == (split == 'test')
    if not is_chosen.any():
      raise errors.UsageError(
        f'Split {split!r} of data.path={config.path!r} is empty: its arrays'
        f' are those of {"train" if split == "test" else "test"} alone.'
      )
  chosen = np.flatnonzero(is_chosen)
  small = {'labels': arrays['labels'][chosen].astype(np.int32)}
  if person is not None:
    codes = np.unique(person, return_inverse=True)[1]
    small['person'] = codes[chosen].astype(np.int32)
  return _source(config, images[chosen], small)
