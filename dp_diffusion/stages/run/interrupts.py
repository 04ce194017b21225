"""Lets Ctrl-C and SIGTERM stop a run after the current step."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
from typing import Any

import jax

from dp_diffusion import console
from dp_diffusion import errors


class Stop:
  """Tells whether the user asked to stop.

  Attributes:
    command: the command that continues the run.
  """

  def __init__(self, command: str) -> None:
    """Stores the command; nobody has asked to stop yet."""
    self.command = command
    self._is_asked = False

  def __call__(self) -> bool:
    """Whether the user asked to stop."""
    return self._is_asked

  def ask(self) -> None:
    """Asks the run to stop."""
    self._is_asked = True

  def raise_if_asked(self) -> None:
    """Ends the run if the user asked to; the caller has saved everything.

    Raises:
      Interrupted: the user asked to stop.
    """
    if self._is_asked:
      raise errors.Interrupted(
        f'Stopped; everything is saved. To continue: {self.command}'
      )


@contextlib.contextmanager
def catch(command: str) -> Iterator[Stop]:
  """Makes the first SIGINT or SIGTERM ask to stop, and the second one stop.

  A terminal or a scheduler sends the signal to all processes of a run,
  including those of a GPU's compiler. A step that is being compiled then fails,
  which counts as an interruption and not as an error.

  Args:
    command: the command that continues the run.

  Raises:
    Interrupted: a step failed after the user had asked to stop.
  """
  stop = Stop(command)

  def handle(signum: int, frame: Any) -> None:
    del frame
    if stop():
      raise KeyboardInterrupt
    stop.ask()
    console.say(
      f'{signal.Signals(signum).name}: stopping at the next step boundary;'
      ' once more stops at once (what is saved stays good)'
    )

  before = {
    s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)
  }
  try:
    yield stop
  except jax.errors.JaxRuntimeError as error:
    if not stop():
      raise
    raise errors.Interrupted(
      'Stopped within a step; what was saved before stays good. To continue:'
      f' {command}'
    ) from error
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
