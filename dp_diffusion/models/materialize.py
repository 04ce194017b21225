"""Makes XLA compute a value once on a CPU, not once per operation that uses it.

The U-Net's blocks and convolutions mark values that many operations read, above
all the sum of the residuals and its gradient. Otherwise XLA's CPU compiler
fuses the whole chain of sums into each of these operations and computes it
again there, which takes a fifth of a step's time.

The mark is an optimization barrier. On a CPU, XLA drops barriers before it
fuses operations, unless `xla_flags.keep_barriers` was called for the process.
Without that, and on accelerators, `keep` and `keep_gradient` do nothing. The
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
  """Returns `x`; it and its gradient are computed once and kept in memory."""
  return _bind(x, forward=True, backward=True)


def keep_gradient(x: jax.Array) -> jax.Array:
  """Returns `x`; only its gradient is computed once and kept in memory."""
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
