"""Reads own images from parquet files, such as those of Hugging Face.

An image is a struct with encoded `bytes` (or a `path`), plain bytes, or the
path of a file. Paths are relative to the folder of the parquet file and may not
leave it. Files or folders that are named like parts of a division
(train-00000-of-00001.parquet) state a division.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import threading
from typing import Any

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.data import image_formats
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from dp_diffusion.data.own import labelling
from dp_diffusion.data.own import parts as parts_lib
from dp_diffusion.data.own import trees

SUFFIX = '.parquet'
_LABEL_COLUMN = 'label'
_PATH_COLUMNS = ('image', 'file_name', 'path')
_MOST_KEPT_BYTES = 1 << 30  # Size of the row groups kept in memory.
_MOST_GROUP_BYTES = 1 << 32
_PART = re.compile(r'([A-Za-z]+)(?:[-_.]|$)')
_SHARD = re.compile(
  r'(.*)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.parquet', re.IGNORECASE
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Columns:
  """The columns of a file.

  Attributes:
    image, label, person: names of the columns; person is '' if there is none.
    is_path: whether the image column holds paths of files.
    published: class names that the files state for numbers, or ().
  """

  image: str
  label: str
  person: str
  is_path: bool
  published: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
  """Everything that a file holds but the images.

  Attributes:
    path: path of the file.
    columns: columns of the file.
    labels: class names, or numbers as text.
    persons: the person on each image; () if unknown.
    images: paths of the images; () if they are in the file itself.
    beside: paths of files that hold some images, where the file itself holds
      others.
    groups: (row group, row) of each image.
  """

  path: pathlib.Path
  columns: _Columns
  labels: list[str]
  persons: list[str]
  images: list[pathlib.Path]
  beside: list[pathlib.Path]
  groups: list[tuple[int, int]]


def open_folder(
  root: pathlib.Path, names: Sequence[str], config: registry.DataConfig
) -> image_files.ImageFiles:
  """Reads all parquet files of a folder; see `open_files`.

  Args:
    root: the folder.
    names: names of all files below it.
    config: see `open_files`.

  Raises:
    UsageError: a shard is missing, the folder has images that no row names, or
      an error of `open_files`.
  """
  parquet = [name for name in names if name.lower().endswith(SUFFIX)]
  _check_shards(parquet, root)
  files = open_files(root, parquet, config)
  used = {path for path, _, _ in files.stamps}
  others = [
    name
    for name in names
    if image_formats.is_image_name(name)
    and str((root / name).resolve()) not in used
  ]
  if files.is_held_out is None:
    found = _part_names(parquet, root).values()
    parts_lib.say_one_sided(found, (), os.fspath(root))
  if others:
    raise errors.UsageError(
      f'{root} has parquet files, {checks.some(parquet)}, and images that they '
      f'do not name, {checks.some(others)}: move one of the two away.'
    )
  return files


def open_files(
  root: pathlib.Path, names: Sequence[str], config: registry.DataConfig
) -> image_files.ImageFiles:
  """Reads schemas, labels and persons, without reading images.

  Args:
    root: the folder.
    names: names of the parquet files below it.
    config: gives class_names, image_key, label_key and person_column.

  Raises:
    UsageError: pyarrow is not installed, a file is damaged, a column is missing
      or ambiguous, or a label is not among the classes.
  """
  if config.person_csv:
    raise errors.UsageError(
      f'Expected data.person_csv={config.person_csv!r} only for image files: '
      'parquet files say who is on an image in a column data.person_column.'
    )
  if config.file_column != 'file':
    raise errors.UsageError(
      f'Expected data.file_column={config.file_column!r} only for image files: '
      'data.image_key is the column of images, or of their paths.'
    )
  parts = _parts(names, root)
  tables = [
    _read_table(root / name, root, config, bool(parts)) for name in names
  ]
  for table in tables[1:]:
    if table.columns != tables[0].columns:
      raise errors.UsageError(
        f'Expected all parquet files of {root} to have the same columns; '
        f'{table.path.name} differs from {tables[0].path.name}.'
      )
  rows = [(t, i) for t, of in enumerate(tables) for i in range(len(of.labels))]
  if not rows:
    raise errors.UsageError(f'Expected {root} to hold rows with images.')
  return image_files.ImageFiles(
    root=os.fspath(root),
    names=tuple(f'{names[t]} row {i}' for t, i in rows),
    labels=labelling.codes(
      [tables[t].labels[i] for t, i in rows],
      config.class_names,
      f'labels of {root}',
    ),
    persons=(
      tuple(tables[t].persons[i] for t, i in rows)
      if tables[0].columns.person
      else None
    ),
    is_held_out=(
      np.array([parts[names[t]] for t, _ in rows], bool) if parts else None
    ),
    read=_reader(tables, rows, root),
    stamps=[
      _stamp(path)
      for table in tables
      for path in (table.path, *table.images, *table.beside)
    ],
  )


def _stamp(path: pathlib.Path) -> tuple[str, int, int]:
  status = path.stat()
  return os.fspath(path), status.st_size, status.st_mtime_ns


def _reader(
  tables: Sequence[_Table],
  rows: Sequence[tuple[int, int]],
  root: pathlib.Path,
) -> Any:
  """Returns a function from an index in `rows` to encoded bytes.

  The function may raise OSError.
  """
  groups = _Groups(tables[0].columns.image)

  def read(index: int) -> bytes:
    table, row = tables[rows[index][0]], rows[index][1]
    if table.columns.is_path:
      return _read_file(table.images[row])
    value = groups.read(table.path, *table.groups[row])
    data = value.get('bytes') if isinstance(value, Mapping) else value
    if isinstance(data, bytes):
      return data
    name = value.get('path') if isinstance(value, Mapping) else None
    if not name:
      raise OSError('no image in this row')
    return _read_file(_below(table.path.parent, name, root))

  return read


class _Groups:
  """Reads values of one column by row, and keeps the last row groups."""

  def __init__(self, column: str) -> None:
    self._column, self._lock = column, threading.Lock()
    self._kept: collections.OrderedDict[Any, Any] = collections.OrderedDict()

  def read(self, path: pathlib.Path, group: int, row: int) -> Any:
    """Returns a value; raises UsageError if the file is damaged."""
    with self._lock:
      key = path, group
      if key not in self._kept:
        with _opened(path) as file:
          self._kept[key] = file.read_row_group(
            group, columns=[self._column]
          ).column(0)
      self._kept.move_to_end(key)
      column = self._kept[key]
      while len(self._kept) > 1 and self._num_bytes() > _MOST_KEPT_BYTES:
        self._kept.popitem(last=False)
    return column[row].as_py()

  def _num_bytes(self) -> int:
    return sum(column.nbytes for column in self._kept.values())


def _read_file(path: pathlib.Path) -> bytes:
  if path.stat().st_size > trees.MAX_FILE_BYTES:
    raise OSError(f'more than {trees.MAX_FILE_BYTES} bytes')
  return path.read_bytes()


def _below(folder: pathlib.Path, name: str, root: pathlib.Path) -> pathlib.Path:
  """Returns a path in a folder; raises OSError if it leaves the root."""
  path = (folder / name).resolve()
  if not path.is_relative_to(root.resolve()):
    raise OSError(f'its path {name!r} leads outside of {root}')
  return path


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """Yields a `pyarrow.parquet.ParquetFile`; errors name a damaged file."""
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise errors.UsageError(
      f'Parquet files need the package pyarrow ({error}): `pip install '
      'pyarrow`.'
    ) from error
  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      yield file
  except errors.UsageError:
    raise
  except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
    line = errors.without_counts(error).rstrip('.')
    raise errors.UsageError(
      f'{path} cannot be read as parquet: {line}.'
    ) from error


def _read_table(
  path: pathlib.Path,
  root: pathlib.Path,
  config: registry.DataConfig,
  is_divided: bool,
) -> _Table:
  with _opened(path) as file:
    columns = _find_columns(path, file.schema_arrow, config)
    if not is_divided:
      _check_no_division(path, file, columns)
    wanted = [columns.label, *filter(None, [columns.person])]
    table = file.read(columns=wanted + [columns.image] * columns.is_path)
    groups = []
    for group in range(file.num_row_groups):
      _check_size(path, file.metadata.row_group(group), columns.image)
      num_rows = file.metadata.row_group(group).num_rows
      groups += [(group, row) for row in range(num_rows)]
    beside = _find_beside(path, file, columns.image, root)
  images = []
  if columns.is_path:
    names = _texts(path, columns.image, table.column(columns.image))
    images = _find_images(path, names, root)
  return _Table(
    path=path,
    columns=columns,
    labels=_labels(path, table.column(columns.label), columns),
    persons=(
      _texts(path, columns.person, table.column(columns.person))
      if columns.person
      else []
    ),
    images=images,
    beside=beside,
    groups=groups,
  )


def _check_size(path: pathlib.Path, group: Any, column: str) -> None:
  sizes = [group.column(i) for i in range(group.num_columns)]
  num_bytes = sum(
    part.total_uncompressed_size
    for part in sizes
    if part.path_in_schema.split('.')[0] == column
  )
  if num_bytes > _MOST_GROUP_BYTES:
    raise errors.UsageError(
      f'{path} has a row group of more than {_MOST_GROUP_BYTES / 1e9:.1f} GB, '
      'which is read as a whole: write it again with a row_group_size of 1000.'
    )


def _find_images(
  path: pathlib.Path, names: Sequence[str], root: pathlib.Path
) -> list[pathlib.Path]:
  images, missing = [], []
  for name in names:
    try:
      image = _below(path.parent, name, root)
    except OSError as error:
      raise errors.UsageError(f'An image of {path}: {error}.') from error
    images.append(image)
    if not image.is_file():
      missing.append(name)
  if missing:
    raise errors.UsageError(
      f'Files that {path} names and that are not there (paths begin at its own '
      f'folder): {checks.some(missing)}.'
    )
  return images


def _find_beside(
  path: pathlib.Path, file: Any, column: str, root: pathlib.Path
) -> list[pathlib.Path]:
  """Returns the files that structs without bytes name, as far as they exist."""
  places = {
    file.metadata.row_group(0).column(i).path_in_schema: i
    for i in range(file.metadata.num_columns if file.num_row_groups else 0)
  }
  if not {f'{column}.bytes', f'{column}.path'} <= set(places):
    return []
  found = set()
  for group in range(file.num_row_groups):
    part = file.metadata.row_group(group).column(places[f'{column}.bytes'])
    if part.statistics is not None and part.statistics.null_count == 0:
      continue
    values = file.read_row_group(group, columns=[f'{column}.path']).column(0)
    for name in {(value or {}).get('path') for value in values.to_pylist()}:
      try:
        found.add(_below(path.parent, name or '', root))
      except OSError:
        continue  # Reading the image reports it.
  return sorted(image for image in found if image.is_file())


def _check_no_division(
  path: pathlib.Path, file: Any, columns: _Columns
) -> None:
  """Refuses a column that divides the images: it would be dropped unsaid."""
  import pyarrow

  read = {columns.image, columns.label, columns.person}
  for field in file.schema_arrow:
    kind = field.type
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(
      kind
    )
    if field.name in read or pyarrow.types.is_nested(kind):
      continue
    if not (is_text or parts_lib.divides(field.name)):
      continue
    values: set[str] = set()
    for group in range(file.num_row_groups):
      column = file.read_row_group(group, columns=[field.name]).column(0)
      found = column.unique().to_pylist()
      values |= {'' if v is None else str(v).strip().casefold() for v in found}
      if not parts_lib.may_divide(field.name, values):
        break
    parts_lib.check_no_division(field.name, values, os.fspath(path))


def _find_columns(
  path: pathlib.Path, schema: Any, config: registry.DataConfig
) -> _Columns:
  features = _features(schema)
  image, is_path = _image_column(path, schema, config.image_key)
  label = _label_column(path, schema, features, config.label_key)
  person = config.person_column
  if person not in ('person', *schema.names):
    raise errors.UsageError(
      f'Expected data.person_column={person!r} to be a column of {path}, which '
      f'has {checks.some(schema.names)}.'
    )
  if person not in schema.names:
    parts_lib.say_unread_persons(
      [name for name in schema.names if name not in (image, label)],
      os.fspath(path),
    )
  return _Columns(
    image=image,
    label=label,
    person=person if person in schema.names else '',
    is_path=is_path,
    published=_published(features.get(label)),
  )


def _features(schema: Any) -> dict[str, Any]:
  """Returns Hugging Face's description of the columns, or {}."""
  try:
    written = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
    features = written['info']['features']
  except (ValueError, KeyError, TypeError, RecursionError):
    return {}
  return features if isinstance(features, dict) else {}


def _published(feature: Any) -> tuple[str, ...]:
  if isinstance(feature, dict) and feature.get('_type') == 'ClassLabel':
    return tuple(str(name) for name in feature.get('names') or ())
  return ()


def _image_column(
  path: pathlib.Path, schema: Any, key: str
) -> tuple[str, bool]:
  """Returns the column with the images, and whether it holds paths."""
  from pyarrow import types

  def is_image(name: str) -> bool:
    kind = schema.field(name).type
    if types.is_struct(kind):
      return kind.get_field_index('bytes') >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)

  def is_path(name: str) -> bool:
    kind = schema.field(name).type
    return types.is_string(kind) or types.is_large_string(kind)

  names = schema.names
  if key:
    if names.count(key) != 1 or not (is_image(key) or is_path(key)):
      raise errors.UsageError(
        f'Expected data.image_key={key!r} to be a column of images or paths '
        f'of {path}, which has {checks.some(names)}.'
      )
    return key, is_path(key)
  if len(set(names)) < len(names):
    raise errors.UsageError(
      f'{path} has columns of one name: {checks.some(names)}.'
    )
  fits = [name for name in names if is_image(name)]
  if not fits:
    fits = [n for n in _PATH_COLUMNS if n in names and is_path(n)]
  if len(fits) != 1:
    raise errors.UsageError(
      f'Expected {path} to have one column of images, found {len(fits)} of '
      f'that kind ({checks.some(fits) or "none"}) among {checks.some(names)}: '
      'set data.image_key.'
    )
  return fits[0], is_path(fits[0])


def _label_column(
  path: pathlib.Path, schema: Any, features: Mapping[str, Any], key: str
) -> str:
  classes = [n for n in schema.names if _published(features.get(n))]
  name = key or _LABEL_COLUMN
  if not key and name not in schema.names and len(classes) == 1:
    return classes[0]
  if name not in schema.names:
    raise errors.UsageError(
      f'Expected data.label_key={name!r} to be a column of {path}, which has '
      f'{checks.some(schema.names)}.'
    )
  return name


def _labels(path: pathlib.Path, column: Any, columns: _Columns) -> list[str]:
  """Returns class names, or numbers as text if they have no names."""
  values = _texts(path, columns.label, column)
  if not columns.published:
    return values
  named = {str(i): name for i, name in enumerate(columns.published)}
  for value in values:
    if value not in named:
      registry.check_labels(np.array([-1 if value == '-1' else 0]), len(named))
      raise errors.UsageError(
        f'Expected each {columns.label} of {path} to be in [0, {len(named)}), '
        f'as its own class names say, found {value}.'
      )
  return [named[value] for value in values]


def _texts(path: pathlib.Path, name: str, column: Any) -> list[str]:
  """Returns whole numbers, names or booleans (as 0 and 1) as text."""
  from pyarrow import types

  kind = column.type
  if types.is_dictionary(kind):
    column, kind = column.cast(kind.value_type), kind.value_type
  is_text = types.is_string(kind) or types.is_large_string(kind)
  if not (is_text or types.is_integer(kind) or types.is_boolean(kind)):
    raise errors.UsageError(
      f'Expected column {name!r} of {path} to hold one whole number or name '
      f'per image, found {kind}.'
    )
  found = column.to_pylist()
  if types.is_boolean(kind):
    found = [None if value is None else int(value) for value in found]
  values = ['' if value is None else str(value).strip() for value in found]
  if '' in values:
    raise errors.UsageError(
      f'Column {name!r} of {path} has no value in row {values.index("")}: '
      'leave such rows out.'
    )
  return values


def _parts(names: Sequence[str], root: pathlib.Path) -> dict[str, bool]:
  """Returns whether each file is held out, if their names are parts."""
  found = _part_names(names, root)
  others = [name for name in names if not found[name]]
  if 0 < len(others) < len(names):
    raise errors.UsageError(
      f'Parquet files of {root} that are no part of its division into train, '
      f'val and test: {checks.some(others)}. Move them away.'
    )
  listed = sorted(set(found.values()))
  parts = parts_lib.given(listed, (), os.fspath(root))
  return {name: parts[part] for name, part in found.items()} if parts else {}


def _part_names(names: Sequence[str], root: pathlib.Path) -> dict[str, str]:
  """Returns the part in the name of each file or its folder, or ''."""
  found, folders = {}, set()
  for name in names:
    path = pathlib.PurePosixPath(name)
    match = _PART.match(path.name)
    part, folder = match[1] if match else '', path.parent
    if part.casefold() not in parts_lib.PARTS and folder.name:
      if folder.name.casefold() in parts_lib.PARTS:
        part, folder = folder.name, folder.parent
    found[name] = part if part.casefold() in parts_lib.PARTS else ''
    folders.add(folder)
  if len(folders) > 1:
    raise errors.UsageError(
      f'Parquet files of {root} lie in several folders, '
      f'{checks.some(sorted(map(str, folders)))}: set data.path to one of them.'
    )
  return found


def _check_shards(names: Sequence[str], root: pathlib.Path) -> None:
  """Refuses a set whose shards are not all there."""
  found: dict[tuple[str, int], set[int]] = {}
  for name in names:
    if match := _SHARD.fullmatch(name):
      found.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
  missing = [
    f'{start}-{number:05d}-of-{total:05d}{SUFFIX}'
    for (start, total), numbers in sorted(found.items())
    for number in sorted(set(range(total)) - numbers)
  ]
  if missing:
    raise errors.UsageError(
      f'Parquet files of {root} that are not there: {checks.some(missing)}.'
    )
