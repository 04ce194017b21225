"""Recognises the names of parts of a division: train, val, test.

Every part but the training part is held out. If there is only one of the two,
the images are divided by content, and the terminal says so. There is also a
warning about a column that, by its name, may hold persons and is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import functools
import re

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors

# Names of parts in well-known datasets -> whether the part is held out.
PARTS = {
  **dict.fromkeys(('train', 'training'), False),
  **dict.fromkeys(('val', 'valid', 'validation', 'dev'), True),
  **dict.fromkeys(('test', 'testing', 'eval', 'evaluation'), True),
}

# Names of columns that state a division, or persons, whatever they hold.
_DIVIDES = re.compile(
  r'(data)?_?splits?|is_?(train|test|val|valid|dev|held_?out)[a-z_]*'
)
_NAMES_PERSONS = re.compile(
  r'(persons?|people|patients?|subjects?|participants?|individuals?)'
  r'_?(ids?|no|nr|number|name|key|code|uid)?|pid'
)


def divides(column: str) -> bool:
  """Whether the name of a column is that of a division.

  >>> divides('Split'), divides('is_training_image'), divides('splitter')
  (True, True, False)
  """
  return bool(_DIVIDES.fullmatch(_plain(column)))


def names_persons(column: str) -> bool:
  """Whether the name of a column is that of persons.

  >>> names_persons('Patient ID'), names_persons('persons')
  (True, True)
  >>> names_persons('diagnosis'), names_persons('impatient')
  (False, False)
  """
  return bool(_NAMES_PERSONS.fullmatch(_plain(column)))


def _plain(column: str) -> str:
  return re.sub('[ -]+', '_', column.strip().casefold())


def are_parts(names: Iterable[str]) -> bool:
  """Whether all names are those of parts, in upper or lower case.

  >>> are_parts(['train', 'Valid']), are_parts(['train', 'plane'])
  (True, False)
  """
  return {name.casefold() for name in names} <= set(PARTS)


def is_held_out(name: str) -> bool:
  """Whether the part of this name, in upper or lower case, is held out."""
  return PARTS[name.casefold()]


def given(
  names: Iterable[str], class_names: Sequence[str], root: str
) -> dict[str, bool]:
  """Returns whether each name is held out; {} if they are no division.

  >>> given(['train', 'Valid'], (), '')
  {'train': False, 'Valid': True}
  >>> given(['train', 'plane'], (), ''), given(['train'], (), '')
  ({}, {})

  Args:
    names: names of folders or files, without what follows the part.
    class_names: class names, one of which may be 'train'.
    root: path of the data, for messages.

  Raises:
    UsageError: two names are those of the training part.
  """
  names = list(names)
  if set(names) & set(class_names) or not are_parts(names):
    return {}
  parts = {name: is_held_out(name) for name in names}
  trained = [name for name, held_out in parts.items() if not held_out]
  if not trained or len(trained) == len(names):
    return {}
  if len(trained) > 1:
    raise errors.UsageError(
      f'{root} has several training parts, {checks.some(trained)}: leave'
      ' one of them.'
    )
  return parts


def say_one_sided(
  names: Iterable[str], class_names: Sequence[str], root: str
) -> None:
  """Warns if only one of the training and the held-out part has images.

  Args:
    names: names of folders or files that, for `given`, are no division.
    class_names: class names, one of which may be 'train'.
    root: path of the data, for the message.
  """
  found = sorted(set(names))
  if found and are_parts(found) and not set(found) & set(class_names):
    warn_once(
      f'{root} has images in {checks.some(found)} alone, and none on the other '
      'side of a division into train, val and test: they are divided by content'
    )


def may_divide(column: str, values: set[str]) -> bool:
  """Whether a column divides images, by its name or by all that it says.

  Args:
    column: its name.
    values: of some rows; '' is no mark.
  """
  return divides(column) or are_parts(values - {''})


def check_no_division(column: str, values: Iterable[str], table: str) -> None:
  """Refuses a column that divides images: it would be dropped unsaid.

  One that says `train` of all, or `test` of all, is only warned of.

  Args:
    column: its name, one that is not read.
    values: of all rows.
    table: for the message.

  Raises:
    UsageError: it says train of some images and test of others.
  """
  values = {value.strip() for value in values}
  is_split = may_divide(column, values)
  if is_split and len(values) > 1:
    raise errors.UsageError(
      f'{table} has a column {column!r}, which is not read: put the images '
      'into folders train and test, or take the column away.'
    )
  if is_split and values - {''}:
    warn_once(
      f'{table} has a column {column!r} that says {checks.some([*values])} of '
      'all images, and names no other side of a division: they are divided by '
      'content'
    )


def say_unread_persons(columns: Iterable[str], table: str) -> None:
  """Warns of columns that may say who is on an image.

  Args:
    columns: names, none of which is read.
    table: for the message.
  """
  if found := [column for column in columns if names_persons(column)]:
    warn_once(
      f'{table} has a column {found[0]!r}, which is not read: if it says who '
      f'is on an image, set data.person_column={found[0]!r} and '
      'nobody is both trained on and held out'
    )


@functools.cache
def warn_once(message: str) -> None:
  """Warns, but not again: a folder is opened several times in a run."""
  console.warn(message)
