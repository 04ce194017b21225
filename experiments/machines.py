"""Facts of the machine on which a result was computed."""

from __future__ import annotations

from importlib import metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

# Flags of /proc/cpuinfo, the widest first. Processors of the same name can
# differ in them, and therefore in speed.
_VECTORS = {
  'avx512f': 'AVX-512',
  'avx2': 'AVX2',
  'sve': 'SVE',
  'asimd': 'NEON',
}


def facts() -> dict[str, Any]:
  """Processor, cores, accelerators, Python and jax of this machine."""
  info = _cpu_info()
  return {
    'cpu': info.get('model name') or platform.processor() or platform.machine(),
    'vectors': vectors(info.get('flags') or info.get('Features', '')),
    'cores': _num_cores(),
    'devices': _devices(),
    'python': platform.python_version(),
    'jax': metadata.version('jax'),
  }


def vectors(flags: str) -> str:
  """The widest vector instructions of a processor; '' if none is known.

  >>> vectors('fpu avx avx2 avx512f'), vectors('fpu avx avx2'), vectors('fpu')
  ('AVX-512', 'AVX2', '')

  Args:
    flags: flags of /proc/cpuinfo.
  """
  found = set(flags.split())
  return next((name for flag, name in _VECTORS.items() if flag in found), '')


def _cpu_info() -> dict[str, str]:
  """Fields of the first core in /proc/cpuinfo; {} if there is no such file."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return {}
  lines = (line.partition(':') for line in text.split('\n\n')[0].split('\n'))
  return {key.strip(): value.strip() for key, _, value in lines}


def _num_cores() -> int | None:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))  # Cores that this process may use.
  return os.cpu_count()


def _devices() -> str:
  """Such as '8 x NVIDIA A100'; a process asks and then releases the devices."""
  code = 'import jax; d = jax.devices(); print(len(d), "x", d[0].device_kind)'
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  return found.stdout.strip() or 'unknown'
