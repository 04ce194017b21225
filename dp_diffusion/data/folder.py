"""Loads own images: folders by class or with a table, zips, .npz and parquet.

Files are untrusted. A zip is read without extracting it, and is refused if a
path leads out of it. Image headers are checked before decoding (`decoding`).
Error messages name the files that cannot be used.

If the data state a division it is kept, except that training images which equal
a held-out image or show its person are left out. Otherwise the images are
divided by content (`division`): equal images, whatever their names and file
formats, are in the same part, with all other images of their persons. Both
parts are decoded at once.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Any
import weakref

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import cache
from dp_diffusion.data import decoding
from dp_diffusion.data import division
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from dp_diffusion.data.own import labelling
from dp_diffusion.data.own import npz_images
from dp_diffusion.data.own import parquet_images
from dp_diffusion.data.own import tables
from dp_diffusion.data.own import trees

SPLITS = ('train', 'test')  # The order of the parts in memory.
READS = (
  *('file_column', 'frames', 'image_key', 'label_key', 'max_image_pixels'),
  *('max_images', 'path', 'person_column', 'person_csv', 'skip_unreadable'),
  *('split_seed', 'test_fraction', 'value_range'),
)
_NUM_LOOKED_AT = 64  # Images that decide whether a set is grey.
_SIDE_LOOKED_AT = 64  # Pixels to which these images are resized.
_MOST_ODD = 0.1  # Share of these images that may be of the other kind.
_GREY_SPREAD = 2.0  # Levels between the channels of a grey image, on average.
_VERSION = 3  # Increase it when the same images give other arrays.
_LEFT_OUT = 2  # Index of images left out; 0 and 1 are the splits.
# Decoded images that are in use, by the name of their cache entry.
_in_use: dict[str, tuple[weakref.ref[np.ndarray], dict[str, np.ndarray]]] = {}


def load(config: registry.DataConfig, split: str) -> registry.ArraySource:
  """Loads own images from `config.path`.

  Args:
    config: gives path, class_names, image_size, channels, person_csv, ...
    split: 'train' or 'test'.

  Returns:
    The images in the order of their names.

  Raises:
    UsageError: there are no images, a class is not in `class_names`, a file
      cannot be used, or the person of an image is unknown.
  """
  registry.check_split(split, SPLITS)
  files = _open(config)
  images, small = _decoded(files, config)
  side = SPLITS.index(split)
  first, last = np.searchsorted(small['side'], [side, side + 1])
  if first == last:
    raise _empty_split(files, config, split, images, small)
  person = small.get('person')
  skipped = json.loads(small['skipped'].tobytes())
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name=config.name,
      image_shape=images.shape[1:],
      class_names=config.class_names,
      has_person=person is not None,
    ),
    images=images[first:last],
    labels=small['labels'][first:last],
    person=None if person is None else person[first:last],
    skipped=tuple((name, of, why) for name, of, why in skipped),
    contradictions=tuple(
      tuple((name, of) for name, of in together)
      for together in json.loads(small['contradictions'].tobytes())
    ),
  )


def check_available(config: registry.DataConfig, splits: Sequence[str]) -> None:
  """Reads names, labels and persons, see `registry.check_available`."""
  for split in splits:
    registry.check_split(split, SPLITS)
  files = _open(config)
  is_unknown = files.persons is None and config.frames != 'all'
  if config.unit == 'person' and is_unknown and not files.may_name_persons:
    raise registry.no_persons(config)


def check_readable(config: registry.DataConfig, splits: Sequence[str]) -> None:
  """See `registry.check_readable`."""
  files = image_files.name_persons(_open(config), config)
  if files.check(config):
    for split in splits:
      load(config, split)


def find_channels(config: registry.DataConfig) -> int:
  """See `registry.find_channels`; decodes some images, chosen by their names.

  Adding or removing an image changes at most one of the chosen images.
  """
  try:
    names = config.class_names or find_class_names(config)
    files = _open(dataclasses.replace(config, class_names=names))
  except errors.UsageError:
    return 0  # Reading the images raises this error again.
  small = dataclasses.replace(config, image_size=_SIDE_LOOKED_AT, channels=0)
  order = sorted(
    range(len(files.names)),
    key=lambda i: hashlib.sha256(os.fsencode(files.names[i])).digest(),
  )
  found = []
  for index in order[:_NUM_LOOKED_AT]:
    image = decoding.decode_or_error(files.read_or_error(index), small)
    if not isinstance(image, decoding.UnreadableError):
      found.append(_is_coloured(image))
  if not found:
    return 0
  share = sum(found) / len(found)
  if _MOST_ODD < share < 1 - _MOST_ODD:
    raise errors.UsageError(
      f'Images of data.path={config.path!r} are in part grey, in part coloured:'
      ' set data.channels=1 (all grey) or 3 (all in colour).'
    )
  return 1 if share <= _MOST_ODD else 3


def _is_coloured(image: np.ndarray) -> bool:
  """Whether channels of uint8[H, W, C] differ by more than JPEG's errors.

  >>> _is_coloured(np.full((2, 2, 1), 9)), _is_coloured(np.full((2, 2, 3), 9))
  (False, False)
  >>> _is_coloured(np.array([[[250, 0, 0]]]))
  True
  """
  spread = image.max(axis=2).astype(int) - image.min(axis=2)
  return float(spread.mean()) > _GREY_SPREAD


def find_class_names(config: registry.DataConfig) -> tuple[str, ...]:
  """See `registry.find_class_names`: names of folders, or labels of a table.

  Returns:
    Sorted names; () if the data have none, such as an .npz.
  """
  try:
    _open(dataclasses.replace(config, class_names=()))
  except labelling.NoClassNames as error:
    return error.found
  except errors.UsageError:
    pass  # Reading the images raises this error again.
  return ()


def survey_files(config: registry.DataConfig) -> dict[str, Any]:
  """Counts as `registry.survey`, and says whether the data are divided."""
  files = _open(config)
  is_given = files.is_held_out is not None
  return files.survey() | {'division': 'given' if is_given else 'by content'}


def _empty_split(
  files: image_files.ImageFiles,
  config: registry.DataConfig,
  split: str,
  images: np.ndarray,
  small: dict[str, np.ndarray],
) -> errors.UsageError:
  person = small.get('person')
  persons = None if person is None else [str(code) for code in person]
  contents = division.contents(images, persons is not None)
  if files.is_held_out is None and len({*division.keys(contents, persons)}) < 2:
    why = (
      ': its images are all equal, or of one person, or joined by both, and '
      'such images lie on one side: add others'
    )
  elif files.is_held_out is None:
    why = (
      f' with data.test_fraction={config.test_fraction}: change it or '
      'data.split_seed'
    )
  else:
    why = ': the division of the data has no image there, or none that is left'
  return errors.UsageError(
    f'Split {split!r} of data.path={config.path!r} is empty{why}.'
  )


def _open(config: registry.DataConfig) -> image_files.ImageFiles:
  """Reads names, labels and persons, of some images if only some are asked."""
  files = _listed(config)
  _check_division(files, config)
  return image_files.some_of(files, config)


def _listed(config: registry.DataConfig) -> image_files.ImageFiles:
  path = pathlib.Path(config.path).expanduser()
  if not config.path or not path.exists():
    raise errors.UsageError(
      f'Expected data.path={config.path!r} to be a folder with one subfolder '
      'per class, a .zip of it, or an .npz or .parquet file.'
    )
  if path.is_file() and path.suffix.lower() == '.npz':
    return npz_images.open_npz(path, config)
  if path.is_file() and path.suffix.lower() == parquet_images.SUFFIX:
    return parquet_images.open_files(path.parent, [path.name], config)
  tree = trees.open_any(path)
  if any(name.lower().endswith(parquet_images.SUFFIX) for name in tree.names):
    _check_parquet(path, tree)
    return parquet_images.open_folder(path, tree.names, config)
  if config.image_key:
    raise errors.UsageError(
      f'Expected data.image_key={config.image_key!r} only for a column of '
      f'parquet files; {path} has none.'
    )
  return labelling.list_tree(tree, config)


def _check_division(
  files: image_files.ImageFiles, config: registry.DataConfig
) -> None:
  """Refuses keys that divide the images if the data state a division."""
  if files.is_held_out is None:
    return
  is_some = 0 < config.max_images < len(files.names)  # Chosen by split_seed.
  for key in ('test_fraction', 'split_seed'):
    value = getattr(config, key)
    is_set = value != getattr(registry.DataConfig, key)
    if is_set and not (key == 'split_seed' and is_some):
      raise errors.UsageError(
        f'Expected data.{key}={value!r} not to be set: {files.root} brings its '
        'own division, which is kept.'
      )


def _check_parquet(path: pathlib.Path, tree: trees.Tree) -> None:
  """Refuses parquet files in a zip, and tables of image files beside them."""
  if not path.is_dir():
    raise errors.UsageError(
      f'{path} has parquet files: unpack it, and set data.path to the folder.'
    )
  beside = [name for name in tree.names if tables.is_named(name)]
  if beside:
    raise errors.UsageError(
      f'{path} has parquet files and {checks.some(beside)}: images and tables '
      f'of them are read with {" or ".join(tables.BESIDE)}, parquet files '
      'without.'
    )


def _decoded(
  files: image_files.ImageFiles, config: registry.DataConfig
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Decodes all images, in the order of their splits.

  Returns:
    (uint8[N, H, W, C], read-only; small arrays by name). These are 'labels'
    int32[N], 'side' int8[N] (index in `SPLITS`), 'skipped' and
    'contradictions' (JSON) and, if persons are known, 'person' int32[N].
  """
  name = _cache_name(files, config)
  reference, small = _in_use.get(name, (lambda: None, {}))
  images = reference()
  if images is not None:
    return images[: len(small['labels'])], small
  _in_use.clear()
  files = image_files.name_persons(files, config)
  files = image_files.expand(files, config)
  height, width, channels = files.shape(config)

  def fill(images: np.ndarray) -> dict[str, np.ndarray]:
    return _fill(files, images, config)

  images, small = decoding.load_or_decode(
    config, name, (len(files.labels), height, width, channels), fill
  )
  owner = images if images.base is None else images.base
  if not isinstance(images, np.memmap) and isinstance(owner, np.ndarray):
    owner.setflags(write=False)
    images.setflags(write=False)
    _in_use[name] = weakref.ref(owner), small
  return images, small


def _fill(
  files: image_files.ImageFiles,
  images: np.ndarray,
  config: registry.DataConfig,
) -> dict[str, np.ndarray]:
  kept, skipped = files.fill(images, config)
  persons = None if files.persons is None else [files.persons[i] for i in kept]
  contents = division.contents(images[: len(kept)], persons is not None)
  if files.is_held_out is None:
    keys = division.keys(contents, persons)
    is_held_out = division.is_held_out(
      keys, config.split_seed, config.test_fraction
    )
    bearing = {}
  else:
    is_held_out = files.is_held_out[kept]
    bearing = {
      int(kept[i]): why
      for i, why in division.bearing(contents, persons, is_held_out).items()
    }
    files.check_rest(
      bearing,
      kept[~is_held_out].tolist(),
      config,
      'that are to be trained on equal held-out ones or show their persons: '
      'put all into one part, and data.split_seed makes a division',
    )
  sides = is_held_out.astype(np.int8)
  sides[np.isin(kept, list(bearing))] = _LEFT_OUT
  order = np.argsort(sides, kind='stable')
  division.reorder(images[: len(kept)], order)
  order = order[: np.count_nonzero(sides < _LEFT_OUT)]
  left_out = skipped | bearing
  listed = [
    (files.names[i], config.class_names[files.labels[i]], left_out[i])
    for i in sorted(left_out)
  ]
  small = {
    'labels': files.labels[kept[order]].astype(np.int32),
    'side': sides[order],
    'skipped': np.frombuffer(json.dumps(listed).encode(), np.uint8),
    'contradictions': np.frombuffer(
      json.dumps(_contradictions(files, kept, contents, config)).encode(),
      np.uint8,
    ),
  }
  if persons is not None:
    small['person'] = image_files.codes(persons)[order]
  return small


def _contradictions(
  files: image_files.ImageFiles,
  kept: np.ndarray,
  contents: Sequence[bytes],
  config: registry.DataConfig,
) -> list[list[tuple[str, str]]]:
  """(Name, class) of equal images under several classes, those together."""
  labels = files.labels[kept].tolist()
  return [
    [(files.names[kept[i]], config.class_names[labels[i]]) for i in together]
    for together in division.under_several(contents, labels)
  ]


def _cache_name(
  files: image_files.ImageFiles, config: registry.DataConfig
) -> str:
  divided = files.is_held_out
  listed = json.dumps(
    [
      files.names,
      files.labels.tolist(),
      files.persons,
      None if divided is None else divided.tolist(),
      files.stamps,
    ]
  )
  key = cache.key_of(
    version=[decoding.VERSION, _VERSION],
    root=os.path.abspath(files.root),
    listed=hashlib.sha256(listed.encode()).hexdigest(),
    config={
      name: getattr(config, name)
      for name in (
        *('path', 'class_names', 'image_size', 'channels', 'split_seed'),
        *('test_fraction', 'skip_unreadable', 'max_image_pixels', 'unit'),
        *('value_range', 'frames', 'image_key', 'label_key'),
      )
    },
  )
  return f'folder-{key}'
