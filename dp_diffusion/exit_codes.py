"""Converts errors to exit codes, and prints one line that says what happened.

Exit codes: 0 done; 1 failed; 2 bad usage or unusable input; 130 stopped by
Ctrl-C. This module is in the lowest layer.
"""

from __future__ import annotations

from collections.abc import Callable
import sys

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files


def run(work: Callable[[], None]) -> int:
  """Runs the work of a command, and prints a line if it fails.

  Args:
    work: function that raises errors of `errors` with messages for the user.

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
  """Joins the lines of a message, which may quote one of a library."""
  return ' '.join(line.strip() for line in str(error).splitlines())


def _say(line: str) -> None:
  sys.stderr.write(f'{line}\n')
