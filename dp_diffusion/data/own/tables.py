"""Reads CSV tables with the labels or persons of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import csv
import dataclasses
import io
import posixpath
import unicodedata

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import parts as parts_lib
from dp_diffusion.data.own import trees

BESIDE = ('labels.csv', 'metadata.csv')  # Names of tables beside images.
_UNREAD = ('metadata.jsonl', 'metadata.parquet')  # Other names, not read.
_FILE_COLUMN = 'file_name'  # The name in Hugging Face's datasets.
_LABEL_COLUMN = 'label'
_NO_COMMAS = 'save it with commas between the columns'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of text.

  Attributes:
    name: name of its file, for messages.
    columns: names of the columns.
    rows: for each row, text by column, without surrounding spaces; '' for an
      empty cell.
  """

  name: str
  columns: tuple[str, ...]
  rows: list[dict[str, str]]

  def has_other_marks(self) -> bool:
    """Whether the columns are separated by something else than commas."""
    return any(mark in ''.join(self.columns) for mark in ';\t|')

  def check_columns(self, wanted: Sequence[str], hint: str) -> None:
    """Raises UsageError unless the table has the wanted columns."""
    if set(wanted) <= set(self.columns):
      return
    hint = _NO_COMMAS if self.has_other_marks() else hint
    raise errors.UsageError(
      f'Expected {self.name} to have the columns {tuple(wanted)}, found '
      f'{checks.some(self.columns) or "none"}: {hint}.'
    )


def parse(data: bytes, name: str) -> Table:
  """Reads a table.

  Args:
    data: content of the file.
    name: path of the file, for messages.

  Raises:
    UsageError: the file is not text in UTF-8, or not a table.
  """
  try:
    text = data.decode('utf-8-sig')
    reader = csv.DictReader(io.StringIO(text, newline=''))
    columns = tuple(column.strip() for column in reader.fieldnames or ())
    reader.fieldnames = columns
    if len({*filter(None, columns)}) < len([*filter(None, columns)]):
      raise errors.UsageError(
        f'{name} has two columns of one name: {checks.some(columns)}.'
      )
    rows = []
    for row in reader:
      if any(row.get(None) or ()):  # Empty fields at the end are ignored.
        raise errors.UsageError(
          f'Line {reader.line_num} of {name} has more fields than there are '
          'columns: put quotes around what holds a comma.'
        )
      rows.append({column: (row[column] or '').strip() for column in columns})
  except UnicodeDecodeError as error:
    raise errors.UsageError(
      f'Expected {name} to be text in UTF-8 (byte {error.start} is not): save'
      " it as 'CSV UTF-8'."
    ) from error
  except csv.Error as error:
    raise errors.UsageError(f'{name} cannot be read: {error}.') from error
  return Table(name=name, columns=columns, rows=rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
  """The content of the tables beside images.

  Attributes:
    table: name of one of the tables, for messages; '' if none is read.
    labels: file -> label; None if no table has labels.
    persons: file -> person; None if no table has persons.
    columns: names of the columns that are read.
    unread: why an existing table is not read; '' if there is none.
  """

  table: str = ''
  labels: Mapping[str, str] | None = None
  persons: Mapping[str, str] | None = None
  columns: tuple[str, ...] = ()
  unread: str = ''


def is_beside(name: str) -> bool:
  """Whether a path ends in the name of a table that is read, `labels.csv`."""
  return posixpath.basename(name).casefold() in BESIDE


def is_named(name: str) -> bool:
  """Whether a path ends in the name of a table, read or not."""
  return posixpath.basename(name).casefold() in (*BESIDE, *_UNREAD)


def read_beside(
  tree: trees.Tree, parts: Collection[str], config: registry.DataConfig
) -> Rows:
  """Reads the table at the root, or those at the roots of the parts.

  Args:
    tree: the files; no image is read.
    parts: folders of a division.
    config: gives file_column, label_key and person_column.

  Raises:
    UsageError: there are several tables in one place, a file does not exist, or
      a file has two different rows.
  """
  found = [
    name
    for folder in ('', *parts)
    for name in tree.names
    if posixpath.dirname(name) == folder and is_beside(name)
  ]
  folders = [posixpath.dirname(name) for name in found]
  if len(set(folders)) < len(folders) or ('' in folders and len(folders) > 1):
    raise errors.UsageError(
      f'{tree.root} has several tables, {checks.some(found)}: leave one.'
    )
  unread = [
    name
    for name in tree.names
    if posixpath.basename(name).casefold() in _UNREAD
  ]
  if unread and not found:
    raise errors.UsageError(
      f'{tree.root} has {unread[0]}: save it as {BESIDE[1]} with the columns '
      f'{_FILE_COLUMN} and {_LABEL_COLUMN}.'
    )
  rows = Rows()
  for name in found:
    rows = _joined(rows, _rows(tree, name, bool(parts), config))
  return rows


def _joined(one: Rows, other: Rows) -> Rows:
  """Joins the rows of two parts."""
  if other.unread or not one.table:
    return dataclasses.replace(other, unread=one.unread or other.unread)
  labels, persons = (
    {**a, **b} if a is not None and b is not None else None
    for a, b in ((one.labels, other.labels), (one.persons, other.persons))
  )
  if (labels is None) != (one.labels is None and other.labels is None) or (
    persons is None
  ) != (one.persons is None and other.persons is None):
    raise errors.UsageError(
      f'Expected the same columns in {one.table} and {other.table}.'
    )
  columns = (*one.columns, *other.columns)
  return dataclasses.replace(
    one, labels=labels, persons=persons, columns=columns
  )


def _rows(
  tree: trees.Tree, name: str, is_divided: bool, config: registry.DataConfig
) -> Rows:
  full = f'{tree.root}/{name}'
  try:
    table = parse(tree.read(name), full)
  except OSError as error:
    raise errors.UsageError(f'{full} cannot be read: {error}.') from error
  columns = _columns(table, config)
  check_unread(table, columns.values(), is_divided, config)
  if 'file' not in columns or len(columns) < 2:
    if config.label_key:
      table.check_columns([config.label_key], 'see data.label_key')
    wanted = config.label_key or _LABEL_COLUMN
    return Rows(
      unread=f'{full} is not read: it would be with the columns '
      f'{_FILE_COLUMN!r} and {wanted!r}, and has '
      + (checks.some(table.columns) or 'none')
      + (f': {_NO_COMMAS}' if table.has_other_marks() else '')
    )
  files = _files(tree, posixpath.dirname(name), table, columns['file'])
  values = {
    what: {file: row[columns[what]] for file, row in files.items()}
    for what in ('label', 'person')
    if what in columns
  }
  return Rows(
    table=full,
    labels=values.get('label'),
    persons=values.get('person'),
    columns=tuple(columns.values()),
  )


def check_unread(
  table: Table,
  read: Collection[str],
  is_divided: bool,
  config: registry.DataConfig,
) -> None:
  """Refuses columns that divide the images, and warns of some others.

  Args:
    table: says something of images.
    read: its columns that are read.
    is_divided: whether folders or files are a division.
    config: uses person_csv and person_column.

  Raises:
    UsageError: see `parts.check_no_division`.
  """
  unread = [name for name in table.columns if name not in read]
  if not is_divided:
    for column in unread:
      marks = {row[column] for row in table.rows}
      parts_lib.check_no_division(column, marks, table.name)
  if not config.person_csv and config.person_column not in table.columns:
    parts_lib.say_unread_persons(unread, table.name)


def _columns(table: Table, config: registry.DataConfig) -> dict[str, str]:
  """Returns the columns of 'file', 'label' and 'person' that exist."""
  found: dict[str, str] = {}
  for what, names in {
    'file': {config.file_column, _FILE_COLUMN},
    'label': {config.label_key or _LABEL_COLUMN},
    'person': {config.person_column},
  }.items():
    there = [name for name in table.columns if name in names]
    if len(there) > 1:
      raise errors.UsageError(
        f'{table.name} has the columns {" and ".join(there)}: leave one of '
        'them, or set data.file_column.'
      )
    if there:
      found[what] = there[0]
  return found


def _files(
  tree: trees.Tree, folder: str, table: Table, column: str
) -> dict[str, dict[str, str]]:
  """Returns the row of each file of the tree."""
  known = {composed(name): name for name in tree.names}
  found: dict[str, dict[str, str]] = {}
  missing = []
  for row in table.rows:
    if not any(row.values()):
      continue
    name = known.get(path_in(folder, row[column]))
    if name is None:
      missing.append(row[column])
    elif found.setdefault(name, row) != row:
      raise errors.UsageError(
        f'{table.name} has two different rows for {row[column]!r}.'
      )
  if missing:
    start = f'{folder}/' if folder else ''
    there = [n.removeprefix(start) for n in tree.names if n.startswith(start)]
    example = next((n for n in there if not is_beside(n)), '')
    raise errors.UsageError(
      f'Files that {table.name} names and that are not there (paths begin at '
      f'its own folder; expected as in {example!r}): {checks.some(missing)}.'
    )
  return found


def path_in(folder: str, text: str) -> str:
  r"""Converts a path in a table to one form for all systems.

  >>> path_in('a', '.\\b.png'), path_in('', './a/b.png')
  ('a/b.png', 'a/b.png')
  """
  path = posixpath.join(folder, text.replace('\\', '/'))
  return composed(posixpath.normpath(path))


def composed(name: str) -> str:
  """Composes accents, which may be part of a character or one of their own."""
  return unicodedata.normalize('NFC', name)
