"""Values that are computed once on a CPU, and not by each of their readers.

The U-Net's blocks and convolutions mark the values that many operations read,
above all the sum of the residuals and its gradient. XLA's CPU compiler would
fuse the whole chain of sums into each reader and compute it again there, which
takes a fifth of a step's time.

The mark is an optimization barrier. XLA drops barriers before it fuses on a CPU
unless it is told not to: `xla_flags.keep_barriers`, for a whole process.
Without that, and on accelerators, `keep` and `keep_gradient` do nothing; the
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


def keep(x: jax.Array) -> jax.Array:
  """Keeps `x` in memory for all its readers, and its gradient too."""
  return _bind(x, forward=True, backward=True)


def keep_gradient(x: jax.Array) -> jax.Array:
  """Keeps the gradient of `x` in memory, and not `x`."""
  return _bind(x, forward=False, backward=True)


_keep_p = core.Primitive('keep')


def _bind(x: jax.Array, *, forward: bool, backward: bool) -> jax.Array:
  return _keep_p.bind(x, forward=forward, backward=backward)


def _on_cpu(x: jax.Array, *, forward: bool, backward: bool) -> jax.Array:
  del backward
  return lax.optimization_barrier(x) if forward else x


def _elsewhere(x: jax.Array, **params: Any) -> jax.Array:
  del params
  return x


def _transpose(cotangent: Any, x: Any, *, forward: bool, backward: bool) -> Any:
  del x
  return [_bind(cotangent, forward=backward, backward=forward)]


_keep_p.def_impl(_elsewhere)
_keep_p.def_abstract_eval(_elsewhere)
ad.deflinear2(_keep_p, _transpose)
batching.defvectorized(_keep_p)
mlir.register_lowering(
  _keep_p, mlir.lower_fun(_elsewhere, multiple_results=False)
)
mlir.register_lowering(
  _keep_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform='cpu'
)
