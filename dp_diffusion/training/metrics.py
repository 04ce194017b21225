"""Writes the metrics of training, private and public ones to their own folders.

Losses, gradient norms and batch sizes of sensitive images have no noise, so
they may be written below `private/` only. The metrics of public images are
written below `public/`, as lines of JSON and, if TensorFlow is installed, for
TensorBoard. A writer refuses a folder of the other kind.

Guarantees:
  - Metrics of sensitive images never leave `private/`:
    `metrics_test.py::test_each_kind_has_its_folder`.
  - Other users cannot read them:
    `metrics_test.py::test_private_file_is_its_owners`.
  - `read_public`, for trackers of experiments, gives those of public images
    alone: `metrics_test.py::test_a_tracker_gets_public_metrics_alone`.
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

FILE_NAME = 'metrics.jsonl'
_KINDS = ('private', 'public')
# TensorFlow takes seconds and 400 MB to import, so only long runs import it.
_SECS_BEFORE_TENSORBOARD = 60.0
_REMOTE_WRITES_AT_ONCE = 100  # An object store cannot append to a file.


class _Lines:
  """Appends rows to a file of JSON lines; only process 0 writes."""

  _kind: str
  _mode: int

  def __init__(self, folder: epath.PathLike) -> None:
    """Opens the file for appending, and removes an incomplete last line.

    Args:
      folder: folder of the file; it is made if it does not exist.

    Raises:
      ValueError: the folder is not in `private` or `public`, whichever the
        writer requires.
    """
    folder = epath.Path(folder)
    _check_kind(folder, self._kind)
    self.path = folder / FILE_NAME
    self._is_writer = jax.process_index() == 0
    self._pending: list[str] = []
    self._batch_size = 1 if files.is_local(folder) else _REMOTE_WRITES_AT_ONCE
    if self._is_writer:
      folder_mode = 0o700 if self._kind == 'private' else 0o755
      folder.mkdir(parents=True, exist_ok=True, mode=folder_mode)
      if files.is_local(folder):
        _remove_torn_line(self.path)

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes one row; a local file holds it when the call returns.

    Args:
      step: number of steps done before the values were computed.
      values: scalars by name. NaN and infinity are written as strings.
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
  """Writes metrics of public images, also for TensorBoard.

  TensorBoard reads `<folder>/tensorboard`, which is written if TensorFlow is
  installed and the run takes longer than a minute.
  """

  _kind = 'public'
  _mode = 0o644

  def __init__(
    self, folder: epath.PathLike, *, use_tensorboard: bool = True
  ) -> None:
    """Opens the file, see `_Lines`; `use_tensorboard` needs TensorFlow."""
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
  """Reads the rows of a file, in the order of their steps.

  A resumed run repeats the steps since its last checkpoint, so of several rows
  of a step the last is returned. An incomplete last line is left out.

  Args:
    path: a file of a writer of this module; a missing file has no rows.
  """
  path = epath.Path(path)
  rows: dict[int, dict[str, Any]] = {}
  text = path.read_text() if path.exists() else ''
  for line in text[: text.rfind('\n') + 1].splitlines():
    row = json.loads(line)
    rows[row['step']] = row
  return [rows[step] for step in sorted(rows)]


def read_public(folder: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the metrics of public images, which may be sent to a tracker.

  >>> read_public('runs/scans/private')
  Traceback (most recent call last):
  ...
  ValueError: Expected folder='runs/scans/private' to be 'public' or below ...

  Args:
    folder: the folder `public/` of a run.

  Returns:
    The rows, see `read`; 'step' and finite numbers by name.

  Raises:
    ValueError: the folder is another one, or leads to another one.
  """
  path = epath.Path(folder) / FILE_NAME
  places = [path.parent]
  if files.is_local(path):
    places.append(epath.Path(os.path.realpath(path)).parent)
  for place in places:
    _check_kind(place, 'public')
  return [
    {name: value for name, value in row.items() if not isinstance(value, str)}
    for row in read(path)
  ]


def _check_kind(folder: epath.Path, kind: str) -> None:
  """Raises ValueError unless the folder is `kind` or below it.

  The innermost folder named `private` or `public` decides.
  """
  named = [part for part in folder.parts if part in _KINDS]
  if not named or named[-1] != kind:
    raise ValueError(
      f'Expected folder={str(folder)!r} to be {kind!r} or below it: '
      f'{kind} metrics may go nowhere else.'
    )


def _remove_torn_line(path: epath.Path) -> None:
  """Removes an incomplete last line, the trace of an interrupted write."""
  if path.exists():
    data = path.read_bytes()
    if data and not data.endswith(b'\n'):
      os.truncate(path, data.rfind(b'\n') + 1)


def _number(value: Any) -> int | float | str:
  number = np.asarray(value).item()
  return number if math.isfinite(number) else str(number)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
  """Returns the values as floats, including those that `_number` made str."""
  return {name: float(value) for name, value in values.items()}


def _open_board(folder: epath.Path) -> Any:
  """Returns a writer for TensorBoard; TensorFlow does not use accelerators."""
  import tensorflow as tf

  tf.config.set_visible_devices([], 'GPU')
  tf.config.set_visible_devices([], 'TPU')
  from clu import metric_writers

  return metric_writers.SummaryWriter(str(folder))
