"""The user's cache folder, for data that take long to compute.

It may hold decoded sensitive images, so it must not be shared between users:
its entries have mode 700, their files mode 600. `forget` removes these images.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any
import uuid
import zipfile
import zlib

import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files

_LARGE = 'large.npy'
_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{32}\.tmp')
_UNREADABLE = (
  OSError,
  ValueError,
  EOFError,
  KeyError,
  zipfile.BadZipFile,
  zlib.error,
)


def folder(cache_dir: str) -> pathlib.Path:
  """Makes the cache folder; '' means $XDG_CACHE_HOME/dp_diffusion."""
  path = place(cache_dir)
  path.mkdir(mode=0o700, parents=True, exist_ok=True)
  return path


def place(cache_dir: str) -> pathlib.Path:
  """Returns the path of the cache folder, see `folder`, without making it."""
  if cache_dir:
    return pathlib.Path(cache_dir).expanduser()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(base).expanduser() / 'dp_diffusion'


def decoded(cache_dir: str) -> list[pathlib.Path]:
  """Lists the folders of decoded images, including any left by a killed run.

  Args:
    cache_dir: see `folder`.

  Returns:
    The folders that `forget` would remove, sorted.
  """
  path = place(cache_dir)
  if not path.is_dir():
    return []
  return sorted(
    entry
    for entry in path.iterdir()
    if entry.is_dir()
    and not entry.is_symlink()
    and (_TEMPORARY.fullmatch(entry.name) or (entry / _LARGE).is_file())
  )


def forget(cache_dir: str) -> list[pathlib.Path]:
  """Removes the decoded images of every dataset, sensitive or public.

  Args:
    cache_dir: see `folder`.

  Returns:
    The folders that were removed. Other files of the cache are kept.

  Raises:
    OSError: a folder could not be removed.
  """
  entries = decoded(cache_dir)
  for entry in entries:
    # If a kill leaves a part of it, its name says that it is to be removed.
    if not _TEMPORARY.fullmatch(entry.name):
      entry = entry.rename(_temporary(entry))
    shutil.rmtree(entry)
  return entries


def _temporary(entry: pathlib.Path) -> pathlib.Path:
  """Returns a name for an entry that is being made or removed."""
  return entry.with_name(f'.{entry.name}.{uuid.uuid4().hex}.tmp')


def key_of(**parameters: Any) -> str:
  """Returns a short hash of parameters (JSON values), for a file name.

  >>> key_of(a=1) == key_of(a=1), key_of(a=1) == key_of(a=2)
  (True, False)
  """
  text = json.dumps(parameters, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:24]


def arrays(
  cache_dir: str,
  name: str,
  make: Callable[[], dict[str, np.ndarray]],
  is_valid: Callable[[dict[str, np.ndarray]], bool],
) -> dict[str, np.ndarray]:
  """Returns small arrays from the cache; computes them if absent or damaged.

  Args:
    cache_dir: see `folder`.
    name: file name without its ending. It must contain everything that the
      arrays depend on.
    make: computes the arrays.
    is_valid: tells whether arrays from the cache have the right shapes.

  Returns:
    The arrays. If the folder cannot be written there is only a warning.
  """
  try:
    path = folder(cache_dir) / f'{name}.npz'
  except OSError as error:
    console.warn(f'cache folder cannot be used: {error}')
    return make()
  if path.exists():
    try:
      found = files.read_npz(path)
      if is_valid(found):
        return found
      raise ValueError('unexpected content')
    except _UNREADABLE as error:
      reason = errors.without_counts(error)
      console.warn(f'{path} is damaged and is made again: {reason}')
  made = make()
  try:
    files.write_npz(path, mode=0o600, **made)
  except OSError as error:
    console.warn(f'{path} could not be written: {error}')
  return made


def mapped(
  cache_dir: str,
  name: str,
  shape: tuple[int, ...],
  fill: Callable[[np.ndarray], dict[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Returns a large array, memory-mapped from the cache; makes it if absent.

  Args:
    cache_dir: see `folder`.
    name: folder name of the entry. It must contain everything that the entry
      depends on.
    shape: shape of the large array, which is uint8.
    fill: writes the large array in place and returns small arrays.

  Returns:
    (large array, read-only and memory-mapped; small arrays by name).

  Raises:
    OSError: the folder cannot be written.
  """
  entry = folder(cache_dir) / name
  if entry.exists():
    try:
      return _read_entry(entry, shape)
    except _UNREADABLE as error:
      reason = errors.without_counts(error)
      console.warn(f'{entry} is damaged and is made again: {reason}')
      shutil.rmtree(entry)
  temporary = _temporary(entry)
  temporary.mkdir(mode=0o700)
  try:
    large = np.lib.format.open_memmap(
      temporary / _LARGE, mode='w+', dtype=np.uint8, shape=shape
    )
    small = fill(large)
    large.flush()
    files.write_npz(temporary / 'small.npz', mode=0o600, **small)
    try:
      os.rename(temporary, entry)  # The entry appears whole or not at all.
    except OSError:
      if not entry.exists():  # Another process may have made it meanwhile.
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  files.sync_folder(entry.parent)
  return _read_entry(entry, shape)


def _read_entry(
  entry: pathlib.Path, shape: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  large = np.load(entry / _LARGE, mmap_mode='r')
  if large.shape != tuple(shape) or large.dtype != np.uint8:
    raise ValueError(f'found {checks.array_type(large.dtype, large.shape)}')
  return large, files.read_npz(entry / 'small.npz')
