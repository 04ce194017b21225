"""Prints messages and the progress of long work.

The module is in the lowest layer. On a terminal, progress is a bar with the
time left (rich); elsewhere it is a line every `SECS_BETWEEN_LINES`. Callers
must pass public information only: names, numbers of the plan and times of
public work. All processes but the first are silent (`silence`).
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import os
import sys
import time
from typing import Protocol, TextIO

import rich.console
import rich.progress

SECS_BETWEEN_LINES = 15.0
_state = {'silent': False}


class Advance(Protocol):
  """Reports that `steps` more steps are done."""

  def __call__(self, steps: int = 1) -> None:
    """Reports steps; must be called from the thread that opened `progress`."""


def silence(is_silent: bool = True) -> None:
  """Turns every message of this process off (or on again)."""
  _state['silent'] = is_silent


def say(message: str) -> None:
  """Prints one line to standard output at once."""
  if not _state['silent']:
    _write(message, sys.stdout)


def warn(message: str) -> None:
  """Prints one line to standard error at once."""
  if not _state['silent']:
    _write(f'warning: {message}', sys.stderr)


def _write(line: str, stream: TextIO) -> None:
  """Prints a line; ignores a reader that has gone (`| head`)."""
  try:
    print(line, file=stream, flush=True)
  except BrokenPipeError:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def progress(
  title: str, total: int, done: int = 0, is_private: bool = False
) -> Iterator[Advance]:
  """Shows the progress of long work.

  Args:
    title: a few words on the work.
    total: number of steps.
    done: number of steps that an earlier run has done.
    is_private: whether the work reads sensitive images. The time of a step then
      depends on the number of records selected, so no time is written to a log:
      a line is printed after every tenth of the work, with step numbers only.
      The bar on a terminal, which is not stored, still shows the time left.

  Yields:
    `advance(steps=1)`.
  """
  if _state['silent']:
    yield lambda steps=1: None
  elif sys.stdout.isatty():
    with _bar(title, total, done) as advance:
      yield advance
  else:
    yield (_count_lines if is_private else _lines)(title, total, done)


@contextlib.contextmanager
def progress_of(title: str, total: int) -> Iterator[Advance]:
  """Shows the share of private work that is done, without its amount.

  The text written depends only on the title: all percents are passed one by
  one, so that the sizes of the steps do not show.

  Args:
    title: a few words on the work.
    total: number of steps, which is private.

  Yields:
    `advance(steps=1)`.
  """
  done = shown = 0
  with progress(f'{title}, percent', 100, is_private=True) as show:

    def advance(steps: int = 1) -> None:
      nonlocal done, shown
      done += steps
      while shown < 100 * done // total:
        show()
        shown += 1

    yield advance
    for _ in range(shown, 100):  # There was nothing to do.
      show()


@contextlib.contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
  columns = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TextColumn('left'),
    rich.progress.TimeRemainingColumn(),
  )
  with rich.progress.Progress(
    *columns, console=rich.console.Console(file=sys.stdout)
  ) as bar:
    task = bar.add_task(title, total=total, completed=done)
    yield lambda steps=1: bar.advance(task, steps)


def _lines(title: str, total: int, done: int) -> Advance:
  start = last = time.monotonic()
  count = done
  say(f'{title}: {done}/{total}')

  def advance(steps: int = 1) -> None:
    nonlocal count, last
    count += steps
    now = time.monotonic()
    if now - last >= SECS_BETWEEN_LINES or count >= total:
      last = now
      left = (now - start) * (total - count) / max(1, count - done)
      say(f'{title}: {count}/{total}, {now - start:.0f} s, {left:.0f} s left')

  return advance


def _count_lines(title: str, total: int, done: int) -> Advance:
  say(f'{title}: {done}/{total}')
  count = done

  def advance(steps: int = 1) -> None:
    nonlocal count
    before, count = count, count + steps
    if 10 * count // total > 10 * before // total:
      say(f'{title}: {count}/{total}')

  return advance
