"""A cache folder for compiled steps, so that a second run starts at once.

The module is in the lowest layer. The folder must belong to the user alone:
somebody who can write to it chooses the code that runs here. A folder that
others may enter is not used.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform

_VARIABLE = 'JAX_COMPILATION_CACHE_DIR'


def enable() -> bool:
  """Tells JAX, before it is imported, to cache compiled programs.

  A folder that the user has named in JAX_COMPILATION_CACHE_DIR is kept.

  Returns:
    Whether there is a cache folder.
  """
  if _VARIABLE not in os.environ:
    path = folder()
    if path is None:
      return False
    os.environ[_VARIABLE] = str(path)
  return bool(os.environ[_VARIABLE])


def folder() -> pathlib.Path | None:
  """Makes the folder, $XDG_CACHE_HOME/dp_diffusion/compiled-MACHINE.

  The name contains the machine because several machines may share a home. JAX
  distinguishes programs for different processors, but not for different numbers
  of cores.

  Returns:
    The folder; None if there is no home, it cannot be written, or other users
    may enter it.
  """
  root = os.environ.get('XDG_CACHE_HOME', '')
  try:
    base = pathlib.Path(root) if root else pathlib.Path.home() / '.cache'
    path = base.absolute() / 'dp_diffusion' / f'compiled-{_machine()}'
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
  except (OSError, RuntimeError):
    return None
  is_mine = found.st_uid == os.getuid() and not found.st_mode & 0o077
  return path if is_mine and os.access(path, os.W_OK | os.X_OK) else None


def _machine() -> str:
  """Returns a short hash of the processor's features and number of cores."""
  facts = [platform.machine(), platform.processor(), platform.node()]
  if hasattr(os, 'sched_getaffinity'):
    facts.append(str(len(os.sched_getaffinity(0))))
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    facts += [line for line in lines if line.startswith(('flags', 'model'))][:3]
  except OSError:
    pass
  return hashlib.sha256('\n'.join(facts).encode()).hexdigest()[:12]
