"""How a command ends: its exit code, and the one line that says why.

Lowest layer. 0: done; 1: failed; 2: bad usage, or what was given cannot work;
130: stopped by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable
import sys

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files


def run(work: Callable[[], None]) -> int:
  """Does the work of a command and says how it ended.

  Args:
    work: raises the errors of `errors` for what the user is to read.

  Returns:
    The exit code.
  """
  try:
    work()
  except errors.UsageError as error:
    _say(f'error: {one_line(error)}')
    return 2
  except OSError as error:
    if error.errno not in files.NO_SPACE:
      raise
    _say(
      f'error: {files.disk_failure(error)}'
      f' ({error.filename or "while writing a file"}). What is saved stays'
      ' good: make room and run the same command again.'
    )
    return 2
  except errors.Failed as error:
    _say(f'failed: {one_line(error)}')
    return 1
  except errors.Interrupted as error:
    console.say(str(error))
    return 130
  except KeyboardInterrupt:
    console.say('Stopped at once; what was saved before stays good.')
    return 130
  return 0


def one_line(error: Exception) -> str:
  """A message may quote a library's, which has lines of its own."""
  return ' '.join(line.strip() for line in str(error).splitlines())


def _say(line: str) -> None:
  sys.stderr.write(f'{line}\n')
