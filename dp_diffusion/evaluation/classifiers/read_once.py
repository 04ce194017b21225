"""Makes sure that the real test images are read once, after every choice.

The sources in `data` decide which images these are; for own images without a
stated division, `data.division` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib

from dp_diffusion import types


class HeldOut:
  """The real test images, which can be read once, after all choices are made.

  `open` loads the images. Code that makes choices runs in a block
  `with closed():`. It is an error to open the set inside such a block, to enter
  a block after the set was opened, or to open the set twice.

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
    """Stores `read_fn`, which only `open` calls."""
    self._read_fn = read_fn
    self._is_open = False
    self._num_choosing = 0

  @contextlib.contextmanager
  def closed(self) -> Iterator[None]:
    """Marks a block in which choices are made.

    Raises:
      RuntimeError: the held-out images have been read before.
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
    """Reads and returns the images.

    Raises:
      RuntimeError: the images have been read before, or a `closed` block is
        active.
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
