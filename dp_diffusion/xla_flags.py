"""What XLA must be told before JAX computes; imports nothing of JAX.

Lowest layer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

_FLAGS = 'XLA_FLAGS'
_OPTION = '--xla_disable_hlo_passes='
_PASS = 'cse_barrier_expander'  # XLA's name of what drops barriers.


def keep_barriers() -> bool:
  """Tells XLA to keep optimization barriers while it fuses.

  For `models.materialize`, on a CPU. Nothing is done where an accelerator may
  be used, whose compiler needs the pass, or where the user's XLA_FLAGS have
  the option already.

  Returns:
    Whether it was said.
  """
  flags = os.environ.get(_FLAGS, '')
  if _OPTION in flags or not _is_cpu_alone():
    return False
  os.environ[_FLAGS] = f'{flags} {_OPTION}{_PASS}'.strip()
  return True


def _is_cpu_alone() -> bool:
  """Whether JAX will find no other platform."""
  platforms = os.environ.get('JAX_PLATFORMS', '')
  if platforms:
    return platforms == 'cpu'
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return not plugins and importlib.util.find_spec('libtpu') is None
