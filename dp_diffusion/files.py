"""Writes files whole or not at all.

The module is in the lowest layer. Every file that another run may read is
written by it, so that a crash at any moment leaves the old file or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import io
import json
import os
from typing import Any
import uuid
import zipfile
import zlib

from etils import epath
import numpy as np

from dp_diffusion import errors

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # `OSError.errno` for a full disk.


def write_bytes(path: epath.PathLike, data: bytes, mode: int = 0o644) -> None:
  """Writes `data` to `path` atomically (temporary file, fsync, rename).

  Args:
    path: local or remote path; parent folders are made.
    data: the whole content.
    mode: permission bits, for a local path.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if not is_local(path):
    path.write_bytes(data)  # Object stores publish an object whole.
    return
  with _temporary(path, data, mode) as temporary:
    os.replace(temporary, path)


def write_new_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a new local file atomically; replaces nothing.

  Args:
    path: local path in an existing folder.
    data: the whole content.

  Raises:
    OSError: the path exists already, or cannot be written.
  """
  path = epath.Path(path)
  with _temporary(path, data, 0o644) as temporary:
    try:
      os.link(temporary, path)  # A link fails if `path` exists.
    except OSError:
      if os.path.lexists(path):
        raise
      os.replace(temporary, path)  # The file system has no links.


def check_new(path: epath.PathLike) -> None:
  """Checks that `write_new_bytes` could write to `path`; leaves no file.

  Raises:
    OSError: the path exists already, or cannot be written.
  """
  path = epath.Path(path)
  if os.path.lexists(path):
    raise FileExistsError(errno.EEXIST, 'File exists', os.fspath(path))
  with _temporary(path, b'', 0o644):
    pass


@contextlib.contextmanager
def _temporary(
  path: epath.Path, data: bytes, mode: int
) -> Iterator[epath.Path]:
  """Writes a temporary file beside `path`; removes it if it is not renamed."""
  temporary = path.parent / f'.{path.name}.{uuid.uuid4().hex}.tmp'
  descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
  try:
    with os.fdopen(descriptor, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    yield temporary
  finally:
    temporary.unlink(missing_ok=True)
  sync_folder(path.parent)


def write_text(path: epath.PathLike, text: str, mode: int = 0o644) -> None:
  """Writes UTF-8 text atomically."""
  write_bytes(path, text.encode('utf-8'), mode)


def write_json(path: epath.PathLike, value: Any, mode: int = 0o644) -> None:
  """Writes JSON atomically: 2-space indent, key order kept, no NaN or Inf."""
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n', mode)


def read_json(path: epath.PathLike) -> Any:
  """Reads a JSON file."""
  return json.loads(epath.Path(path).read_text())


def read_whole_json(path: epath.PathLike) -> dict[str, Any]:
  """Reads a JSON object that this package has written.

  Raises:
    UsageError: the file is missing or damaged.
  """
  try:
    value = read_json(path)
    if not isinstance(value, dict):
      raise ValueError('it is no JSON object')
    return value
  except (OSError, ValueError) as error:
    raise _gone_or_damaged(path, error) from error


def write_npz(
  path: epath.PathLike, mode: int = 0o644, **arrays: np.ndarray
) -> None:
  """Writes a compressed .npz atomically; equal arrays give equal bytes."""
  buffer = io.BytesIO()
  # Zip entries are dated 1980-01-01.
  np.savez_compressed(buffer, allow_pickle=False, **arrays)
  write_bytes(path, buffer.getvalue(), mode)


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
  """Reads every array of a .npz; object arrays are refused.

  Raises:
    ValueError: the file is no zip or is damaged. (For the former NumPy would
      advise to allow pickles.)
  """
  data = epath.Path(path).read_bytes()
  if not data.startswith(b'PK'):
    raise ValueError('File is not a zip file')
  try:
    with np.load(io.BytesIO(data), allow_pickle=False) as f:
      return {name: f[name] for name in f.files}
  except (zipfile.BadZipFile, zlib.error, EOFError) as error:
    raise ValueError(str(error)) from error


def read_whole(path: epath.PathLike, *names: str) -> dict[str, np.ndarray]:
  """Reads every array of a .npz that this package has written.

  Args:
    path: path of the file.
    *names: arrays that it must have.

  Raises:
    UsageError: the file is missing or damaged, or lacks one of these.
  """
  try:
    arrays = read_npz(path)
    if missing := [name for name in names if name not in arrays]:
      raise KeyError(*missing)
    return arrays
  except (OSError, ValueError, KeyError) as error:
    raise _gone_or_damaged(path, error) from error


def _gone_or_damaged(
  path: epath.PathLike, error: Exception
) -> errors.UsageError:
  return errors.UsageError(
    f'{os.fspath(path)} is gone or damaged ({error}): restore it.'
  )


def sha256(path: epath.PathLike) -> str:
  """Returns the hex SHA-256 of a file, read in blocks."""
  digest = hashlib.sha256()
  with epath.Path(path).open('rb') as f:
    while block := f.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()


def list_files(folder: epath.PathLike) -> list[str]:
  """Returns the relative paths, with '/', of all files below, sorted."""
  folder = epath.Path(folder)
  return sorted(
    path.relative_to(folder).as_posix()
    for path in _walk(folder)
    if not path.is_dir()
  )


def remove_unfinished(folder: epath.PathLike) -> None:
  """Removes files below that a killed process left, named '.*.tmp'."""
  for path in list(_walk(epath.Path(folder))):
    if path.name.startswith('.') and path.name.endswith('.tmp'):
      if path.is_dir():
        path.rmtree()
      else:
        path.unlink(missing_ok=True)


def _walk(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields everything below a folder, the content of a folder before it.

  Local folders are listed by `os`: etils leaves out names that end in '~'.
  """
  if is_local(folder):
    paths = [folder / name for name in os.listdir(folder)]
  else:
    paths = list(folder.iterdir())
  for path in paths:
    if path.is_dir():
      yield from _walk(path)
    yield path


def is_local(path: epath.PathLike) -> bool:
  """Whether the path is on this machine rather than at gs://, s3://, ..."""
  return '://' not in os.fspath(path)


def sync_folder(path: epath.PathLike) -> None:
  """Writes renames in a local folder to the disk (fsync)."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_tree(path: epath.PathLike) -> None:
  """Writes every file below a folder, and its name, to the disk (fsync).

  It does nothing for a remote folder.
  """
  if not is_local(path):
    return
  for root, _, names in os.walk(path):
    for name in names:
      descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
      try:
        os.fsync(descriptor)
      finally:
        os.close(descriptor)
    sync_folder(root)
  sync_folder(os.path.dirname(os.path.abspath(path)))


def disk_failure(error: Exception) -> str:
  """Returns what is wrong with the disk; '' for an error of another kind.

  >>> disk_failure(OSError(28, 'No space left on device'))
  'the disk is full'
  >>> disk_failure(KeyError('x'))
  ''
  """
  # A library may turn an OSError into a ValueError that keeps its text.
  words = ('No space left on device', 'Disk quota exceeded')
  if getattr(error, 'errno', None) in NO_SPACE or any(
    w in str(error) for w in words
  ):
    return 'the disk is full'
  if isinstance(error, OSError):
    return error.strerror or str(error)
  return ''
