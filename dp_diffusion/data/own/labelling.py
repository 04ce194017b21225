"""From files below a folder, or in a zip, to labels, persons and a division.

One folder around all is left out. Folders named as parts of a division
(`PARTS`) above the classes are one: what is not `train` is held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import pathlib
import posixpath

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from dp_diffusion.data.own import tables
from dp_diffusion.data.own import trees

# Of Hugging Face and of well-known datasets; whether they are held out.
PARTS = {
  **dict.fromkeys(('train', 'training'), False),
  **dict.fromkeys(('val', 'valid', 'validation', 'dev'), True),
  **dict.fromkeys(('test', 'testing', 'eval', 'evaluation'), True),
}
_IMAGE_SUFFIXES = (
  *('.bmp', '.dcm', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm'),
  *('.tif', '.tiff', '.webp'),
)
_MOST_NAMED = 20  # Classes, to be copied from a message.


def list_tree(
  tree: trees.Tree, config: registry.DataConfig
) -> image_files.ImageFiles:
  """Finds images, labels, persons and parts; reads no image.

  Raises:
    UsageError: images without a label, classes that the config lacks, persons
      that are not known.
  """
  root = tree.root
  tree = unwrap(tree, config.class_names)
  parts = given_parts(_folders(tree.names), config.class_names, tree.root)
  names, values = _in_class_folders(tree, bool(parts))
  prefix = tree.root.removeprefix(root).lstrip('/')
  return image_files.ImageFiles(
    root=tree.root,
    names=tuple(names),
    labels=_of_folders(tree.root, values, config.class_names),
    persons=_persons(names, prefix, config),
    is_held_out=_sides(names, parts),
    read=lambda index: tree.read(names[index]),
    stamps=tree.stamps,
  )


def unwrap(tree: trees.Tree, class_names: Sequence[str]) -> trees.Tree:
  """Leaves out folders that hold everything and are no class."""
  while True:
    tops = _folders(tree.names)
    beside = [name for name in tree.names if '/' not in name]
    if len(tops) != 1 or tops[0] in class_names or any(map(is_image, beside)):
      return tree
    below = trees.below(tree, tops[0])
    if not _folders(below.names):
      return tree
    tree = below


def given_parts(
  names: Iterable[str], class_names: Sequence[str], root: str
) -> dict[str, bool]:
  """Which names are held out, where they are parts of a division; else {}.

  >>> given_parts(['train', 'Valid'], (), '')
  {'train': False, 'Valid': True}
  >>> given_parts(['train', 'plane'], (), ''), given_parts(['train'], (), '')
  ({}, {})

  Args:
    names: of folders or files, without what comes after the part.
    class_names: a class may be called 'train'.
    root: for messages.

  Raises:
    UsageError: two names of the training part.
  """
  names = list(names)
  folded = [name.casefold() for name in names]
  if set(names) & set(class_names) or not set(folded) <= set(PARTS):
    return {}
  parts = {name: PARTS[name.casefold()] for name in names}
  trained = [name for name, is_held_out in parts.items() if not is_held_out]
  if not trained or len(trained) == len(names):
    return {}
  if len(trained) > 1:
    raise errors.UsageError(
      f'{root} has several training parts, {checks.some(trained)}: leave'
      ' one of them.'
    )
  return parts


def is_image(name: str) -> bool:
  """Whether a file is called as images are."""
  return name.lower().endswith(_IMAGE_SUFFIXES)


def _sides(names: Sequence[str], parts: dict[str, bool]) -> np.ndarray | None:
  if not parts:
    return None
  return np.array([parts[name.split('/')[0]] for name in names], bool)


def _folders(names: Iterable[str]) -> list[str]:
  return sorted({name.split('/')[0] for name in names if '/' in name})


def _in_class_folders(
  tree: trees.Tree, is_divided: bool
) -> tuple[list[str], list[str]]:
  """Names of the images and of their class folders."""
  names, values, astray = [], [], []
  deeper: dict[str, set[str]] = {}
  for name in tree.names:
    folders = name.split('/')[1 if is_divided else 0 : -1]
    if folders:
      names.append(name)
      values.append(folders[0])
      deeper.setdefault(folders[0], set()).update(folders[1:2])
    elif is_image(name):
      astray.append(name)
  for folder, below in deeper.items():
    if given_parts(below, (), tree.root):
      raise errors.UsageError(
        f'The division {checks.some(sorted(below))} of {tree.root} lies '
        f'below the class {folder!r}: put those folders above the classes.'
      )
  if astray:
    raise errors.UsageError(
      f'Images of {tree.root} lie outside the class folders: '
      f'{checks.some(astray)}.'
    )
  if not names:
    raise errors.UsageError(
      f'Expected {tree.root} to have one subfolder of images per class.'
    )
  return names, values


def _of_folders(
  root: str, values: Sequence[str], class_names: Sequence[str]
) -> np.ndarray:
  what = f'subfolders of {root}'
  found = sorted(set(values))
  if not class_names:
    raise _no_class_names(what, found)
  unknown = [name for name in found if name not in class_names]
  if unknown:
    hint = ''
    if any(name.casefold() in PARTS for name in unknown):
      hint = (
        '; train, val and test above the classes are a division where nothing '
        'else lies beside them'
      )
    raise errors.UsageError(
      f'{what[0].upper()}{what[1:]} that data.class_names='
      f'{tuple(class_names)} does not list: {checks.some(unknown)}{hint}.'
    )
  places = {name: place for place, name in enumerate(class_names)}
  return np.array([places[value] for value in values], np.int64)


def _no_class_names(what: str, found: Sequence[str]) -> errors.UsageError:
  if len(found) > _MOST_NAMED:
    return errors.UsageError(
      f'Set data.class_names; the {what} are {checks.some(found)}.'
    )
  return errors.UsageError(
    f'Set data.class_names; the {what} are {tuple(found)}.'
  )


def _persons(
  names: Sequence[str], prefix: str, config: registry.DataConfig
) -> tuple[str, ...] | None:
  """The person of each image, from the CSV file; None without one."""
  if not config.person_csv:
    return None
  path = pathlib.Path(config.person_csv).expanduser()
  known = _read_persons(path, config)
  found = {
    name: known.get(name) or known.get(posixpath.join(prefix, name))
    for name in names
  }
  unknown = [name for name in names if not found[name]]
  if unknown:
    raise errors.UsageError(
      f'{path} names no person for {len(unknown)} images; its column'
      f' {config.file_column!r} begins with {next(iter(known), "")!r}, expected'
      f' as in {unknown[0]!r}. Without a person: {checks.some(unknown)}.'
    )
  return tuple(found[name] or '' for name in names)


def _read_persons(
  path: pathlib.Path, config: registry.DataConfig
) -> dict[str, str]:
  """File -> person."""
  try:
    data = path.read_bytes()
  except OSError as error:
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} to be a CSV file; it '
      f'cannot be read: {error}.'
    ) from error
  table = tables.parse(data, os.fspath(path))
  columns = (config.file_column, config.person_column)
  table.check_columns(columns, 'see data.file_column and data.person_column')
  known: dict[str, str] = {}
  for row in table.rows:
    file, person = (row[column] for column in columns)
    if known.setdefault(file, person) != person:
      raise errors.UsageError(f'{path} gives {file!r} two persons.')
  return known
