"""The errors that `main` prints as one line. It imports no module of ours."""

from __future__ import annotations

import re

_NUMBER = re.compile(r'(?<![\w/-])\d+(?:[.,]\d+)*(?![\w/-])')


def first_line(error: BaseException) -> str:
  """Returns the first line of a library's message, or the error's type.

  >>> first_line(ValueError('no array')), first_line(KeyError())
  ('no array', 'KeyError')
  """
  return (str(error).splitlines() or [''])[0] or type(error).__name__


def without_counts(error: BaseException) -> str:
  """Returns `first_line` with N for each number that stands alone.

  Libraries tell the lengths of arrays that they cannot read, which may be the
  number of sensitive images.

  >>> without_counts(ValueError('size 960 into shape (137, 8) of a-1/b2.npy'))
  'size N into shape (N, N) of a-1/b2.npy'
  """
  return _NUMBER.sub('N', first_line(error))


class UsageError(ValueError):
  """The user's input cannot work; the message is one line with the fix.

  `main` prints the message alone, without a traceback, and exits with 2.
  """


class Interrupted(Exception):
  """Ctrl-C (or SIGTERM), or the end of another process, stopped the run.

  The message says what is saved and how to continue; `main` prints it and exits
  with 130.
  """


class Failed(Exception):
  """The work is done, and the claim that it checked does not hold.

  `main` prints the message, one line, and exits with 1.
  """
