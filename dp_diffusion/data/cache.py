"""The user's cache folder: what is costly to make and may be made again.

Never shared between users: its entries have mode 700, their files mode 600, for
decoded sensitive images may lie in it. `forget` removes those.
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

from dp_diffusion import console
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
  """Where the cache folder is or would be, see `folder`; makes nothing."""
  if cache_dir:
    return pathlib.Path(cache_dir).expanduser()
  base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(base).expanduser() / 'dp_diffusion'


def decoded(cache_dir: str) -> list[pathlib.Path]:
  """Folders of decoded images, whole or left behind by a kill; makes nothing.

  Args:
    cache_dir: see `folder`.

  Returns:
    What `forget` would remove, sorted.
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
  """Removes all decoded images: of every dataset, sensitive or public.

  Args:
    cache_dir: see `folder`.

  Returns:
    What was removed. What else lies in the folder is left alone.

  Raises:
    OSError: something could not be removed.
  """
  entries = decoded(cache_dir)
  for entry in entries:
    shutil.rmtree(entry)
  return entries


def key_of(**parameters: Any) -> str:
  """Short hash of JSON-able parameters, for a file name.

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
  """Returns small arrays from the cache, made anew when absent or damaged.

  Args:
    cache_dir: see `folder`.
    name: file name without its ending; says everything that they depend on.
    make: makes them.
    is_valid: whether arrays read from the cache have the right form.

  Returns:
    The arrays. A folder that cannot be written is only warned of.
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
      console.warn(f'{path} is damaged and is made again: {error}')
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
  """Returns a large array memory-mapped from the cache, made when absent.

  Args:
    cache_dir: see `folder`.
    name: folder name of the entry; says everything that it depends on.
    shape: of the large array, uint8.
    fill: writes the large array in place and returns small ones.

  Returns:
    (uint8[shape], read-only and memory-mapped; the small arrays).

  Raises:
    OSError: the folder cannot be written.
  """
  entry = folder(cache_dir) / name
  if entry.exists():
    try:
      return _read_entry(entry, shape)
    except _UNREADABLE as error:
      console.warn(f'{entry} is damaged and is made again: {error}')
      shutil.rmtree(entry)
  temporary = entry.with_name(f'.{name}.{uuid.uuid4().hex}.tmp')
  temporary.mkdir(mode=0o700)
  try:
    large = np.lib.format.open_memmap(
      temporary / _LARGE, mode='w+', dtype=np.uint8, shape=shape
    )
    small = fill(large)
    large.flush()
    files.write_npz(temporary / 'small.npz', mode=0o600, **small)
    try:
      os.rename(temporary, entry)  # Whole or not at all.
    except OSError:
      if not entry.exists():  # Else another process was as quick.
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
    raise ValueError(f'found {large.dtype}{list(large.shape)}')
  return large, files.read_npz(entry / 'small.npz')
