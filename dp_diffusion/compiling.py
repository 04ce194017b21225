"""Compiles programs beside other work, or with less effort.

The module is in the lowest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import os
from typing import Any

import jax

_LEVEL = 'xla_backend_optimization_level'


def jit_for_one_call(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `jax.jit(function)` for a function that is called once.

  On a CPU it is optimised less, unless XLA_FLAGS say how much. First weights,
  with a generator for each leaf, are then compiled in less than half of the
  time and drawn nearly as quickly. At level 1 the bits are the same, at 0 they
  are not. The result cannot be called inside another program.
  """
  is_free = _LEVEL not in os.environ.get('XLA_FLAGS', '')
  is_less = is_free and jax.default_backend() == 'cpu'
  return jax.jit(function, compiler_options={_LEVEL: 1} if is_less else None)


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
