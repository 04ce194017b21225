"""The user's cache folder: what is costly to make and may be made again.

Never shared between users: the folder has mode 700, its files mode 600, for
decoded sensitive images may lie in it.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import json
import os
import pathlib
from typing import Any
import zipfile
import zlib

import numpy as np

from dp_diffusion import console
from dp_diffusion import files

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
  if cache_dir:
    path = pathlib.Path(cache_dir).expanduser()
  else:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    path = pathlib.Path(base).expanduser() / 'dp_diffusion'
  path.mkdir(mode=0o700, parents=True, exist_ok=True)
  return path


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
