"""Names of the parts of a division that data bring: train, val, test.

What is not the training part is held out. Where images lie on one side alone
they are divided by content, and the terminal says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import functools

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors

# Of Hugging Face and of well-known datasets; whether they are held out.
PARTS = {
  **dict.fromkeys(('train', 'training'), False),
  **dict.fromkeys(('val', 'valid', 'validation', 'dev'), True),
  **dict.fromkeys(('test', 'testing', 'eval', 'evaluation'), True),
}


def are_parts(names: Iterable[str]) -> bool:
  """Whether all are called as parts of a division, in any case of letters.

  >>> are_parts(['train', 'Valid']), are_parts(['train', 'plane'])
  (True, False)
  """
  return {name.casefold() for name in names} <= set(PARTS)


def is_held_out(name: str) -> bool:
  """Whether a part is, by its name in any case of letters."""
  return PARTS[name.casefold()]


def given(
  names: Iterable[str], class_names: Sequence[str], root: str
) -> dict[str, bool]:
  """Which names are held out, where they are parts of a division; else {}.

  >>> given(['train', 'Valid'], (), '')
  {'train': False, 'Valid': True}
  >>> given(['train', 'plane'], (), ''), given(['train'], (), '')
  ({}, {})

  Args:
    names: of folders or files, without what comes after the part.
    class_names: a class may be called 'train'.
    root: for messages.

  Raises:
    UsageError: two names of the training part.
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
  """Warns where images lie on one side of a division and none on the other.

  Args:
    names: of folders or files that `given` takes for no division.
    class_names: a class may be called 'train'.
    root: for the message.
  """
  found = sorted(set(names))
  if found and are_parts(found) and not set(found) & set(class_names):
    _warn_once(
      f'{root} has images in {checks.some(found)} alone, and none on the other '
      'side of a division into train, val and test: they are divided by content'
    )


def check_no_division(column: str, values: Iterable[str], table: str) -> None:
  """Refuses a column that divides images: it would be dropped unsaid.

  Args:
    column: its name, one that is not read.
    values: of all rows.
    table: for the message.

  Raises:
    UsageError: it says train of some images and test of others.
  """
  values = set(values)
  is_split = column.casefold() == 'split' or are_parts(values)
  if is_split and len(values) > 1:
    raise errors.UsageError(
      f'{table} has a column {column!r}, which is not read: put the images '
      'into folders train and test, or take the column away.'
    )


@functools.cache
def _warn_once(message: str) -> None:
  """A folder is opened several times in a run."""
  console.warn(message)
