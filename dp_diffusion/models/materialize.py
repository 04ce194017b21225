"""Values that are computed once on a CPU, and not by each of their readers.

On the road: the U-Net's blocks and convolutions mark with it what many
operations read, the sum of the residuals and its gradient above all. XLA's CPU
compiler would fuse the whole chain of sums into each reader and compute it
again there, which takes a fifth of a step's time.

The mark is an optimization barrier. XLA drops barriers before it fuses on a CPU
unless it is told not to: `xla_flags.keep_barriers`, for a whole process.
Without that, and on accelerators, `once` and `gradient_once` do nothing; the
values are the same up to rounding in any case.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir


def once(x: jax.Array) -> jax.Array:
  """`x`, computed once; so is its gradient."""
  return _bind(x, forward=True, backward=True)


def gradient_once(x: jax.Array) -> jax.Array:
  """`x`, whose gradient is computed once."""
  return _bind(x, forward=False, backward=True)


_once_p = core.Primitive('once')


def _bind(x: jax.Array, *, forward: bool, backward: bool) -> jax.Array:
  return _once_p.bind(x, forward=forward, backward=backward)


def _on_cpu(x: jax.Array, *, forward: bool, backward: bool) -> jax.Array:
  del backward
  return lax.optimization_barrier(x) if forward else x


def _elsewhere(x: jax.Array, **params: Any) -> jax.Array:
  del params
  return x


def _transpose(cotangent: Any, x: Any, *, forward: bool, backward: bool) -> Any:
  del x
  return [_bind(cotangent, forward=backward, backward=forward)]


_once_p.def_impl(_elsewhere)
_once_p.def_abstract_eval(_elsewhere)
ad.deflinear2(_once_p, _transpose)
batching.defvectorized(_once_p)
mlir.register_lowering(
  _once_p, mlir.lower_fun(_elsewhere, multiple_results=False)
)
mlir.register_lowering(
  _once_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform='cpu'
)
