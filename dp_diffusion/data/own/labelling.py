"""Finds labels, persons and a division for files in a folder or a zip.

Labels are the names of class folders, or a column of a table beside the images
(`tables`). Outer folders that hold everything are ignored. Folders above the
classes that are named like parts of a division (`parts`) state a division: all
but `train` is held out. If only one part exists, the images are divided by
content, and the terminal says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import os
import pathlib

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.data import image_formats
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from dp_diffusion.data.own import parts as parts_lib
from dp_diffusion.data.own import tables
from dp_diffusion.data.own import trees

# If a table labels `a.xyz`, every `.xyz` counts as an image, but for these.
_NO_IMAGE_SUFFIXES = ('.csv', '.json', '.md', '.pdf', '.txt', '.xml')
_TEXTS = ('readme', 'license', 'licence', 'copying', 'version', 'changes')
_OTHER_SUFFIXES = ('.npz', '.zip')
_MOST_NAMED = 20  # Largest number of classes listed in a message.


class NoClassNames(errors.UsageError):
  """The config has no class names; `found` holds those of the data."""

  def __init__(self, message: str, found: Sequence[str]) -> None:
    """Stores the message and the names."""
    super().__init__(message)
    self.found = tuple(found)


def list_tree(
  tree: trees.Tree, config: registry.DataConfig
) -> image_files.ImageFiles:
  """Finds images, labels, persons and parts, without reading an image.

  Raises:
    UsageError: an image has no label, a class is not in the config, or a person
      is unknown.
  """
  root = tree.root
  tree = unwrap(tree, config.class_names)
  folders = _folders(tree.names)
  parts = parts_lib.given(folders, config.class_names, tree.root)
  prefix = tree.root.removeprefix(root).lstrip('/')
  rows = tables.read_beside(tree, parts, config)
  _check_columns_read(tree.root, rows, config)
  if rows.labels is not None:
    names, labels = _tabled(tree, rows, config.class_names)
    _check_folders(names, labels, bool(parts), rows, config.class_names)
  else:
    if config.label_key:
      raise errors.UsageError(
        f'Expected data.label_key={config.label_key!r} to be a column of '
        f'{" or ".join(tables.BESIDE)} in {tree.root}.'
      )
    names, values = _in_class_folders(
      tree, bool(parts), rows, config.class_names
    )
    labels = _of_folders(tree.root, values, config.class_names)
    if rows.unread:
      parts_lib.warn_once(rows.unread)
  if not parts:
    around = [n for n in prefix.split('/') if parts_lib.are_parts([n])]
    parts_lib.say_one_sided(around or folders, config.class_names, root)
  return image_files.ImageFiles(
    root=tree.root,
    names=tuple(names),
    labels=labels,
    persons=_persons(names, prefix, rows, config, bool(parts)),
    is_held_out=_sides(names, parts),
    read=lambda index: tree.read(names[index]),
    stamps=tree.stamps,
    may_name_persons=any(map(_may_be_dicom, names)),
  )


def _check_columns_read(
  root: str, rows: tables.Rows, config: registry.DataConfig
) -> None:
  """Refuses a column that the user names and no table has."""
  for key, default in (('file_column', 'file'), ('person_column', 'person')):
    value = getattr(config, key)
    if value not in (default, *rows.columns) and not config.person_csv:
      raise errors.UsageError(
        f'Expected data.{key}={value!r} to be a column of '
        f'{" or ".join(tables.BESIDE)} in {root}, or of data.person_csv.'
        + (f' {rows.unread}.' if rows.unread else '')
      )


def unwrap(tree: trees.Tree, class_names: Sequence[str]) -> trees.Tree:
  """Enters outer folders that hold everything and are not classes."""
  while True:
    tops = _folders(tree.names)
    beside = [name for name in tree.names if '/' not in name]
    is_here = any(
      image_formats.is_image_name(n) or tables.is_beside(n) for n in beside
    )
    is_class = any(_is_same(tops[0], name) for name in class_names if tops)
    if len(tops) != 1 or is_class or is_here:
      return tree
    below = trees.below(tree, tops[0])
    flat = [name for name in below.names if '/' not in name]
    if not _folders(below.names) and not any(map(tables.is_beside, flat)):
      return tree
    tree = below


def _may_be_dicom(name: str) -> bool:
  """Whether a file may be DICOM; many have no ending, or a number as ending."""
  return not image_formats.is_image_name(name) or name.lower().endswith('.dcm')


def _sides(names: Sequence[str], parts: dict[str, bool]) -> np.ndarray | None:
  if not parts:
    return None
  return np.array([parts[name.split('/')[0]] for name in names], bool)


def _folders(names: Iterable[str]) -> list[str]:
  return sorted({name.split('/')[0] for name in names if '/' in name})


def codes(
  values: Sequence[str], class_names: Sequence[str], what: str
) -> np.ndarray:
  """Returns labels int64[N], the index of each class name or the numbers.

  >>> codes(['b', 'a'], ('a', 'b'), 'x'), codes(['1', '0'], ('a', 'b'), 'x')
  (array([1, 0]), array([1, 0]))

  Args:
    values: class names, or numbers, where i means class_names[i]. If a class
      name is itself a number, the values are names.
    class_names: class names of the config.
    what: name of the values, for messages.

  Raises:
    UsageError: a label is not among the classes.
  """
  values = [tables.composed(value) for value in values]
  found = sorted(set(values))
  if not class_names:
    raise _no_class_names(what, found)
  places = _places(class_names)
  if set(found) <= set(places):
    return np.array([places[value] for value in values], np.int64)
  if _are_numbers(found) and not any(_are_numbers([c]) for c in class_names):
    labels = np.array([int(value) for value in values], object)
    registry.check_labels(labels, len(class_names))
    return labels.astype(np.int64)
  unknown = [value for value in found if value not in places]
  # If some are numbers, only the others are named.
  unknown = [v for v in unknown if not _are_numbers([v])] or unknown
  if '-1' in found and '-1' not in places:
    registry.check_labels(np.array([-1]), len(class_names))
  raise errors.UsageError(
    f'{what[:1].upper()}{what[1:]} that data.class_names='
    f'{_shown(class_names)} does not list: {checks.some(unknown)}.'
  )


def _places(class_names: Sequence[str]) -> dict[str, int]:
  """Returns labels by class name, with composed accents."""
  return {tables.composed(name): i for i, name in enumerate(class_names)}


def _is_same(one: str, other: str) -> bool:
  """Whether two names are equal, however their accents are composed."""
  return tables.composed(one) == tables.composed(other)


def _are_numbers(names: Iterable[str]) -> bool:
  """Whether all names are whole numbers."""
  return all(name.removeprefix('-').isdecimal() for name in names)


def _tabled(
  tree: trees.Tree, rows: tables.Rows, class_names: Sequence[str]
) -> tuple[list[str], np.ndarray]:
  """Returns images and labels if a table has the labels."""
  labels = rows.labels or {}
  endings = {_ending(name) for name in labels} - set(_NO_IMAGE_SUFFIXES)
  unlisted = [
    name
    for name in tree.names
    if name not in labels
    and (image_formats.is_image_name(name) or _ending(name) in endings)
  ]
  if unlisted:
    raise errors.UsageError(
      f'Images of {tree.root} that {rows.table} does not label: '
      f'{checks.some(unlisted)}.'
    )
  if not labels:
    raise errors.UsageError(f'{rows.table} labels no image.')
  names = sorted(labels)
  without = [name for name in names if not labels[name]]
  if without:
    raise errors.UsageError(
      f'Images that have no label in {rows.table}: {checks.some(without)}.'
    )
  values = [labels[name] for name in names]
  return names, codes(values, class_names, f'labels of {rows.table}')


def _ending(name: str) -> str:
  """Suffix of a file; its whole name for texts without suffix, as README."""
  path = pathlib.PurePosixPath(name.lower())
  return path.name if path.name in _TEXTS else path.suffix


def _check_folders(
  names: Sequence[str],
  labels: np.ndarray,
  is_divided: bool,
  rows: tables.Rows,
  class_names: Sequence[str],
) -> None:
  """Refuses a table whose labels contradict the class folders."""
  odd = []
  for name, label in zip(names, labels.tolist()):
    folder = name.split('/')[1 if is_divided else 0 : -1][:1]
    place = _places(class_names).get(
      tables.composed(folder[0] if folder else '')
    )
    if place is not None and place != label:
      odd.append(name)
  if odd:
    raise errors.UsageError(
      f'Images to which {rows.table} gives another class than their folder: '
      f'{checks.some(odd)}. Leave one of the two.'
    )


def _in_class_folders(
  tree: trees.Tree,
  is_divided: bool,
  rows: tables.Rows,
  class_names: Sequence[str],
) -> tuple[list[str], list[str]]:
  """Returns the names of the images and of their class folders."""
  names, values, astray = [], [], []
  deeper: dict[str, set[str]] = {}
  for name in tree.names:
    folders = name.split('/')[1 if is_divided else 0 : -1]
    if folders:
      names.append(name)
      values.append(tables.composed(folders[0]))
      deeper.setdefault(folders[0], set()).update(folders[1:2])
    elif image_formats.is_image_name(name):
      astray.append(name)
  for folder, below in deeper.items():
    _check_below(tree.root, folder, below, class_names)
  if astray:
    raise errors.UsageError(
      f'Images of {tree.root} lie outside the class folders, and no '
      f'{" or ".join(tables.BESIDE)} labels them: {checks.some(astray)}.'
      + _hint_of_class(tree.root, class_names)
      + (f' {rows.unread}.' if rows.unread else '')
    )
  if not names:
    arrays = [n for n in tree.names if n.lower().endswith(_OTHER_SUFFIXES)]
    raise errors.UsageError(
      f'Expected {tree.root} to have one subfolder of images per class, or '
      f'images beside a {tables.BESIDE[0]}.'
      + (f' To read {arrays[0]}, set data.path to that file.' if arrays else '')
    )
  return names, values


def _hint_of_class(root: str, class_names: Sequence[str]) -> str:
  name = pathlib.PurePath(root).name
  if not any(_is_same(name, known) for known in class_names):
    return ''
  return f' {name!r} is a class: set data.path to the folder above it.'


def _check_below(
  root: str, folder: str, below: set[str], class_names: Sequence[str]
) -> None:
  """Refuses a class folder that holds a division, or only other classes."""
  if parts_lib.given(below, (), root):
    raise errors.UsageError(
      f'The division {checks.some(sorted(below))} of {root} lies below the '
      f'class {folder!r}: put those folders above the classes.'
    )
  known = set(class_names)
  if folder in known and below and below <= known and below != {folder}:
    raise errors.UsageError(
      f'Folder {folder!r} of {root} is a class by its name and holds classes, '
      f'{checks.some(sorted(below))}: set data.path to it, or rename one of '
      'them.'
    )


def _of_folders(
  root: str, values: Sequence[str], class_names: Sequence[str]
) -> np.ndarray:
  what = f'subfolders of {root}'
  found = sorted(set(values))
  if not class_names:
    raise _no_class_names(what, found)
  places = _places(class_names)
  unknown = [name for name in found if name not in places]
  if unknown:
    hint = ''
    if any(name.casefold() in parts_lib.PARTS for name in unknown):
      hint = (
        '; train, val and test above the classes are a division where nothing '
        'else lies beside them'
      )
    raise errors.UsageError(
      f'{what[0].upper()}{what[1:]} that data.class_names='
      f'{_shown(class_names)} does not list: {checks.some(unknown)}{hint}.'
    )
  return np.array([places[value] for value in values], np.int64)


def _no_class_names(what: str, found: Sequence[str]) -> NoClassNames:
  return NoClassNames(
    f'Set data.class_names; the {what} are {_shown(found)}.', found
  )


def _shown(class_names: Sequence[str]) -> str:
  """Shows class names as the user would type them, if they are few."""
  if len(class_names) > _MOST_NAMED:
    return f'({checks.some(class_names)})'
  return str(tuple(class_names))


def _persons(
  names: Sequence[str],
  prefix: str,
  rows: tables.Rows,
  config: registry.DataConfig,
  is_divided: bool,
) -> tuple[str, ...] | None:
  """Returns the person of each image, from a CSV file or a table, or None."""
  beside = None
  if rows.persons is not None:
    beside = [rows.persons.get(name, '') for name in names]
  if not config.person_csv:
    if beside is None:
      return None
    without = [name for name, person in zip(names, beside) if not person]
    if without:
      raise errors.UsageError(
        f'Images without a person in column {config.person_column!r} of '
        f'{rows.table}: {checks.some(without)}.'
      )
    return tuple(beside)
  path = pathlib.Path(config.person_csv).expanduser()
  known = _read_persons(path, config, is_divided)
  found = {
    name: known.get(tables.path_in('', name))
    or known.get(tables.path_in(prefix, name))
    for name in names
  }
  unknown = [name for name in names if not found[name]]
  if unknown:
    raise errors.UsageError(
      f'{path} names no person for some images; its column'
      f' {config.file_column!r} begins with {next(iter(known), "")!r}, expected'
      f' as in {unknown[0]!r}. Without a person: {checks.some(unknown)}.'
    )
  persons = tuple(found[name] or '' for name in names)
  odd = [n for n, one, two in zip(names, persons, beside or ()) if one != two]
  if odd:
    raise errors.UsageError(
      f'{path} and {rows.table} give two persons to {checks.some(odd)}: leave '
      'data.person_csv out, or that column.'
    )
  return persons


def _read_persons(
  path: pathlib.Path, config: registry.DataConfig, is_divided: bool
) -> dict[str, str]:
  """Reads the person of each file."""
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
  tables.check_unread(table, columns, is_divided, config)
  known: dict[str, str] = {}
  for row in table.rows:
    file, person = (row[column] for column in columns)
    if known.setdefault(tables.path_in('', file), person) != person:
      raise errors.UsageError(f'{path} gives {file!r} two persons.')
  return known
