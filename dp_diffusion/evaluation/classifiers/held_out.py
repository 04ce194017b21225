"""The real test images, which no choice may see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib

from dp_diffusion import types


class HeldOut:
  """The real test images: closed while choices are made, read once, at the end.

  Nothing is loaded before `open`. Choices go inside `closed()`; opening the
  set in there raises, and so does making choices after it was opened, or
  opening it again.

  >>> held_out = HeldOut(lambda: 'the test set')
  >>> with held_out.closed():
  ...   pass  # Train classifiers, stop early, pick the best one.
  >>> held_out.open()
  'the test set'
  >>> held_out.open()
  Traceback (most recent call last):
  ...
  RuntimeError: The held-out images have been read already; they are read once.
  """

  def __init__(self, read_fn: Callable[[], types.DataSource]) -> None:
    """Keeps `read_fn` for later; it is not called here."""
    self._read_fn = read_fn
    self._is_open = False
    self._num_choosing = 0

  @contextlib.contextmanager
  def closed(self) -> Iterator[None]:
    """A block in which choices are made.

    Raises:
      RuntimeError: the held-out images have been read.
    """
    if self._is_open:
      raise RuntimeError(
        'The held-out images have been read; no choice may follow.'
      )
    self._num_choosing += 1
    try:
      yield
    finally:
      self._num_choosing -= 1

  def open(self) -> types.DataSource:
    """Reads the images, once.

    Raises:
      RuntimeError: read before, or choices are being made.
    """
    if self._num_choosing:
      raise RuntimeError(
        'The held-out images may not be read while choices are made.'
      )
    if self._is_open:
      raise RuntimeError(
        'The held-out images have been read already; they are read once.'
      )
    self._is_open = True
    return self._read_fn()
