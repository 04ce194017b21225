"""CSV tables that say something of images."""

from __future__ import annotations

from collections.abc import Sequence
import csv
import dataclasses
import io

from dp_diffusion import checks
from dp_diffusion import errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Text in rows.

  Attributes:
    name: of its file, for messages.
    columns: their names.
    rows: column -> text, without spaces around it; '' where there is none.
  """

  name: str
  columns: tuple[str, ...]
  rows: list[dict[str, str]]

  def check_columns(self, wanted: Sequence[str], hint: str) -> None:
    """Raises UsageError unless it has the columns."""
    if set(wanted) <= set(self.columns):
      return
    if any(mark in ''.join(self.columns) for mark in ';\t'):
      hint = 'save it with commas between the columns'
    raise errors.UsageError(
      f'Expected {self.name} to have the columns {tuple(wanted)}, found '
      f'{list(self.columns)}: {hint}.'
    )


def parse(data: bytes, name: str) -> Table:
  """Reads a table.

  Args:
    data: the file.
    name: its path, for messages.

  Raises:
    UsageError: not text in UTF-8, or not a table.
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
      if any(row.get(None) or ()):  # Commas at the end do no harm.
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
