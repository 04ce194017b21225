"""Memory that is freed stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_CODE = """
import ctypes, resource, sys
from dp_diffusion import host_memory
assert not sys.argv[1:] or host_memory.keep_freed()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for _ in range(20):
  block = libc.malloc(ctypes.c_size_t(64 << 20))
  ctypes.memset(block, 1, 64 << 20)
  libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


@pytest.mark.skipif(
  platform.libc_ver()[0] != 'glibc', reason='needs the GNU C library'
)
def test_pages_are_cleared_once(subprocess_environment) -> None:
  faults = [
    int(
      subprocess.run(
        [sys.executable, '-c', _CODE, *arguments],
        env=dict(subprocess_environment),
        capture_output=True,
        text=True,
        check=True,
      ).stdout
    )
    for arguments in ([], ['keep'])
  ]
  assert faults[1] < faults[0] / 4
