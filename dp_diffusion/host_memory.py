"""Makes glibc keep the memory that compiled steps free.

The module is in the lowest layer. On a CPU each compiled step allocates its
temporary memory from the C library and frees it. glibc returns large blocks to
the system at once, and the system clears every page again at the next step,
which takes a quarter of the time of a small network's step. Other C libraries
are not changed.
"""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD = -1  # A parameter of mallopt(3).
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def total_bytes() -> int:
  """Returns the memory of this machine."""
  return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def keep_freed() -> bool:
  """Tells glibc to keep freed memory for this process; call it early.

  Returns:
    Whether the C library accepted the setting.
  """
  if platform.libc_ver()[0] != 'glibc':
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError):
    return False
  return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
