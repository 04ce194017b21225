"""Numbers that training writes, and where each kind may go.

Losses, gradient norms and batch sizes of sensitive images carry no noise: they
may only be written below `private/`. Those of public images go below
`public/`, as lines of JSON and, where TensorFlow is installed, for
TensorBoard too. A writer refuses a folder of the other kind.

Guarantees:
  - Numbers of sensitive images never leave `private/`:
    `metrics_test.py::test_each_kind_has_its_folder`.
  - Others cannot read them: `metrics_test.py::test_private_file_is_its_owners`.
"""

from __future__ import annotations

from collections.abc import Mapping
import importlib.util
import json
import math
import os
import time
import types
from typing import Any, Self

from etils import epath
import jax
import numpy as np

from dp_diffusion import files

_FILE_NAME = 'metrics.jsonl'
_KINDS = ('private', 'public')
# TensorFlow takes seconds and 400 MB to import: only long runs pay for it.
_SECS_BEFORE_TENSORBOARD = 60.0
_REMOTE_WRITES_AT_ONCE = 100  # An object store has no append.


class _Lines:
  """Appends rows to a file of JSON lines; process 0 alone writes."""

  _kind: str
  _mode: int

  def __init__(self, folder: epath.PathLike) -> None:
    """Opens the file to append to, and mends its last line if it was torn.

    Args:
      folder: made if it is not there.

    Raises:
      ValueError: if the folder is not `private` or `public`, or below it, as
        the kind of the writer demands.
    """
    folder = epath.Path(folder)
    _check_kind(folder, self._kind)
    self.path = folder / _FILE_NAME
    self._is_writer = jax.process_index() == 0
    self._pending: list[str] = []
    self._batch_size = 1 if files.is_local(folder) else _REMOTE_WRITES_AT_ONCE
    if self._is_writer:
      folder_mode = 0o700 if self._kind == 'private' else 0o755
      folder.mkdir(parents=True, exist_ok=True, mode=folder_mode)
      if files.is_local(folder):
        _remove_torn_line(self.path)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one row; on return a local file holds it.

    Args:
      step: number of steps done when the values were taken.
      values: scalars by name. What is not finite is written as a string.
    """
    row: dict[str, Any] = {'step': int(step)}
    row.update((name, _number(value)) for name, value in values.items())
    if self._is_writer:
      self._pending.append(json.dumps(row, allow_nan=False) + '\n')
      if len(self._pending) >= self._batch_size:
        self.flush()

  def flush(self) -> None:
    """Writes what is waiting."""
    text, self._pending = ''.join(self._pending), []
    if not text:
      return
    if files.is_local(self.path):
      flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
      descriptor = os.open(self.path, flags, self._mode)
      with os.fdopen(descriptor, 'w', encoding='utf-8') as f:
        f.write(text)
    else:
      before = self.path.read_text() if self.path.exists() else ''
      self.path.write_text(before + text)

  def close(self) -> None:
    """Writes what is waiting; the writer is not used after it."""
    self.flush()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self.close()


class PrivateMetrics(_Lines):
  """Writes numbers of sensitive images to `private/.../metrics.jsonl`."""

  _kind = 'private'
  _mode = 0o600


class PublicMetrics(_Lines):
  """Writes numbers of public images, for TensorBoard as well.

  TensorBoard reads `<folder>/tensorboard`, which a run that lasts longer than
  a minute writes where TensorFlow is installed.
  """

  _kind = 'public'
  _mode = 0o644

  def __init__(
    self, folder: epath.PathLike, *, use_tensorboard: bool = True
  ) -> None:
    """See `_Lines`; `use_tensorboard` only matters with TensorFlow."""
    super().__init__(folder)
    has_tensorflow = importlib.util.find_spec('tensorflow') is not None
    self._wants_board = use_tensorboard and has_tensorflow and self._is_writer
    self._board: Any = None
    self._start = time.monotonic()

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """See `_Lines.write`."""
    super().write(step, values)
    if self._board is not None:
      self._board.write_scalars(int(step), _finite(values))
    elif self._wants_board and self._is_long():
      self.flush()
      self._board = _open_board(self.path.parent / 'tensorboard')
      for row in read(self.path):
        self._board.write_scalars(row.pop('step'), _finite(row))

  def flush(self) -> None:
    """Writes what is waiting."""
    super().flush()
    if self._board is not None:
      self._board.flush()

  def close(self) -> None:
    """Writes what is waiting; the writer is not used after it."""
    super().close()
    if self._board is not None:
      self._board.close()

  def _is_long(self) -> bool:
    return time.monotonic() - self._start >= _SECS_BEFORE_TENSORBOARD


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a file of rows, in the order of their steps.

  A resumed run repeats the steps since its last checkpoint: the last row of a
  step counts. A torn last line is left out.

  Args:
    path: a file that a writer here wrote, or one that is not there.
  """
  path = epath.Path(path)
  rows: dict[int, dict[str, Any]] = {}
  text = path.read_text() if path.exists() else ''
  for line in text[: text.rfind('\n') + 1].splitlines():
    row = json.loads(line)
    rows[row['step']] = row
  return [rows[step] for step in sorted(rows)]


def _check_kind(folder: epath.Path, kind: str) -> None:
  """Raises ValueError unless the nearest folder named for a kind is this."""
  named = [part for part in folder.parts if part in _KINDS]
  if not named or named[-1] != kind:
    raise ValueError(
      f'Expected folder={str(folder)!r} to be {kind!r} or below it: '
      f'{kind} metrics may go nowhere else.'
    )


def _remove_torn_line(path: epath.Path) -> None:
  """Cuts off what follows the last newline: a kill in the middle of a write."""
  if path.exists():
    data = path.read_bytes()
    if data and not data.endswith(b'\n'):
      os.truncate(path, data.rfind(b'\n') + 1)


def _number(value: Any) -> int | float | str:
  number = np.asarray(value).item()
  return number if math.isfinite(number) else str(number)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
  """The values as float; what `_number` wrote as a string is read back."""
  return {name: float(value) for name, value in values.items()}


def _open_board(folder: epath.Path) -> Any:
  """A writer for TensorBoard, with TensorFlow kept off the accelerators."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  tf.config.set_visible_devices([], 'TPU')
  from clu import metric_writers

  return metric_writers.SummaryWriter(str(folder))
