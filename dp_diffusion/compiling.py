"""Compiles programs beside other work.

The module is in the lowest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib

import jax


def is_on_threads() -> bool:
  """Whether programs may be compiled on several threads.

  They may on the CPUs of one process. An accelerator tries programs out while
  it compiles them, and processes compile together: one after another there.
  """
  return jax.default_backend() == 'cpu' and jax.process_count() == 1


@contextlib.contextmanager
def beside(*calls: Callable[[], object]) -> Iterator[None]:
  """Makes calls that compile programs, each on a thread beside the block.

  The block ends when they have. Where programs may not be compiled on threads,
  no call is made: a program is then compiled when it is used.

  Args:
    *calls: independent of each other and of the block.

  Raises:
    Exception: that of the block, at once; otherwise that of a call.
  """
  if not is_on_threads():
    yield
    return
  pool = futures.ThreadPoolExecutor(len(calls))
  started = [pool.submit(call) for call in calls]
  try:
    yield
    for each in started:
      each.result()
  finally:  # A program that is being compiled cannot be cancelled.
    pool.shutdown(wait=False)
