"""Sets flags of XLA before JAX computes, without importing JAX.

The module is in the lowest layer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

_FLAGS = 'XLA_FLAGS'
_OPTION = '--xla_disable_hlo_passes='
_PASS = 'cse_barrier_expander'  # XLA's name of the pass that drops barriers.


def keep_barriers() -> bool:
  """Tells XLA to keep optimization barriers while it fuses.

  `models.materialize` needs it on a CPU. The flag is not set if an accelerator
  may be used, whose compiler needs the pass, or if the user's XLA_FLAGS have
  the option.

  Returns:
    Whether the flag was set.
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
