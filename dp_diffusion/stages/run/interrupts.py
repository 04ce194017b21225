"""Ctrl-C and SIGTERM ask a run to stop at its next step boundary."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import signal
from typing import Any

import jax

from dp_diffusion import console
from dp_diffusion import errors


class Stop:
  """Says whether the user asked to stop.

  Attributes:
    command: what continues the run.
  """

  def __init__(self, command: str) -> None:
    """Nobody has asked yet."""
    self.command = command
    self._is_asked = False

  def __call__(self) -> bool:
    """Whether to stop at this step boundary."""
    return self._is_asked

  def ask(self) -> None:
    """Asks the run to stop."""
    self._is_asked = True

  def raise_if_asked(self) -> None:
    """Ends the run here; the caller has saved everything.

    Raises:
      Interrupted: where the user asked to stop.
    """
    if self._is_asked:
      raise errors.Interrupted(
        f'Stopped; everything is saved. To continue: {self.command}'
      )


@contextlib.contextmanager
def catch(command: str) -> Iterator[Stop]:
  """Turns the first SIGINT or SIGTERM into a wish, the second into an end.

  A terminal and a scheduler send the signal to all processes of a run, to those
  of a GPU's compiler too: a step that was being compiled then fails, and that
  is no fault.

  Args:
    command: what continues the run.

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
