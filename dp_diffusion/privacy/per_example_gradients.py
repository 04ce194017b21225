"""Norms and weighted sums of per-example gradients, quick on every platform.

`clipping` takes the norm of each example's gradient, and sums the gradients
times what the clip makes of them. Both read as many numbers as the network has
parameters for each example, so how they are read is what privacy costs once the
gradients are there.

A tree of gradients has leaves float32[B, ...], B examples; both ways to compute
a result, that of a CPU and that of accelerators, agree up to rounding
(`per_example_gradients_test.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from dp_diffusion import types

_Pair: TypeAlias = tuple[types.Array, types.Array]

# Squares of gradients times this number overflow for no finite float32.
_TINY = 2.0**-80
_EXAMPLES_AT_A_TIME = 4
_BLOCK = 512
_FEW_NUMBERS = 8192  # Of a leaf of one example: read together with others.


def global_norms(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """L2 norm of each example's gradient, over all leaves, without overflow.

  Squares of elements over 2^63 would overflow float32, so a second sum, of
  scaled squares, stands in where the plain one is not finite.

  Args:
    grads: leaves [B, ...].

  Returns:
    norms: float32[B]; infinite where no float32 holds it.
    is_finite: bool[B], whether every element of the gradient is finite.
  """
  norms, is_finite = jax.lax.platform_dependent(
    grads, cpu=_norms_by_one_sum_or_two, default=_norms_by_two_sums
  )
  return norms, is_finite


def weighted_sum(
  grads: types.PyTree,
  weights: types.Array,
  is_used: types.Array,
) -> types.PyTree:
  """Sums weights[b] grads[b] over the examples that are used.

  Args:
    grads: leaves [B, ...]; where an example is not used they may be anything.
    weights: float32[B].
    is_used: bool[B].

  Returns:
    A tree of float32[...].
  """
  return jax.lax.platform_dependent(
    grads, weights, is_used, cpu=_sum_by_loop, default=_sum_by_reduction
  )


def masked_sum(values: types.Array, is_used: types.Array) -> types.Array:
  """Sums values[B] of the examples that are used: float32[]."""
  return jnp.sum(jnp.where(is_used, values.astype(jnp.float32), 0.0))


def _norms_by_two_sums(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """`global_norms`; both sums in one reduction, which reads each leaf once.

  Over the last axis alone, of all leaves one after another, then over what is
  left of all of them together: no leaf is moved, and sums of sums round less.
  """
  zero = jnp.zeros(())
  pairs = []
  for leaf in _few_leaves(jax.tree.leaves(grads)):
    g = leaf.astype(jnp.float32)
    terms = jnp.square(g), jnp.square(g * _TINY)
    pairs.append(jax.lax.reduce(terms, (zero, zero), _add_pairs, (g.ndim - 1,)))
  plain, scaled = (
    jnp.sum(jnp.concatenate([_rows(part) for part in parts], axis=1), axis=1)
    for parts in zip(*pairs, strict=True)
  )
  return _norms_of(plain, scaled)


def _norms_by_one_sum_or_two(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """`global_norms`, without the second sum where no example overflows.

  On a CPU it would take twice as long as the first.
  """
  plain = _sum_of_squares(grads)
  is_finite = jnp.isfinite(plain)
  norms, is_finite = jax.lax.cond(
    jnp.all(is_finite),
    lambda _: (jnp.sqrt(plain), is_finite),
    lambda grads: _norms_of(plain, _sum_of_squares(grads, _TINY)),
    grads,
  )
  return norms, is_finite


def _norms_of(
  plain: types.Array, scaled: types.Array
) -> tuple[types.Array, types.Array]:
  """`global_norms` from sums of squares and of squares of _TINY times that."""
  norms = jnp.where(
    jnp.isfinite(plain), jnp.sqrt(plain), jnp.sqrt(scaled) / _TINY
  )
  return norms, jnp.isfinite(scaled)


def _sum_of_squares(
  grads: types.PyTree, factor: float | None = None
) -> types.Array:
  """Sums (factor g)^2 over all leaves and elements: float32[B]."""
  total = jnp.zeros(())
  for leaf in jax.tree.leaves(grads):
    g = _rows(leaf) if factor is None else _rows(leaf) * factor
    total += jnp.sum(jnp.square(g), axis=1)
  return total


def _rows(leaf: types.Array) -> types.Array:
  """float32[B, numbers of an example]."""
  return leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)


def _add_pairs(a: _Pair, b: _Pair) -> _Pair:
  return a[0] + b[0], a[1] + b[1]


def _few_leaves(leaves: Sequence[types.Array]) -> list[types.Array]:
  """The large leaves, then all small ones side by side: [B, blocks, _BLOCK].

  Two thirds of a U-Net's leaves are vectors of a few hundred numbers, together
  a thousandth of its weights; on a GPU 200 reductions of them take 20 times as
  long as the one.
  """
  large = [leaf for leaf in leaves if not _is_small(leaf)]
  small = [_rows(leaf) for leaf in leaves if _is_small(leaf)]
  if not small:
    return large
  joined = jnp.concatenate(small, axis=1)
  joined = jnp.pad(joined, ((0, 0), (0, -joined.shape[1] % _BLOCK)))
  return [*large, joined.reshape(joined.shape[0], -1, _BLOCK)]


def _is_small(leaf: types.Array) -> bool:
  return math.prod(leaf.shape[1:]) <= _FEW_NUMBERS


def _sum_by_reduction(
  grads: types.PyTree,
  weights: types.Array,
  is_used: types.Array,
) -> types.PyTree:
  """`weighted_sum`, compiled to one reduction that reads each leaf once.

  A matrix product would round float32 to TensorFloat-32 on GPUs, and 0 * NaN is
  NaN.
  """

  def spread(x: types.Array, g: types.Array) -> types.Array:
    return jnp.reshape(x, x.shape + (1,) * (g.ndim - 1))

  leaves, treedef = jax.tree.flatten(grads)
  sums: list[types.Array] = []
  for g in _few_leaves(leaves):
    if sums:
      # One leaf after another: XLA would make a single kernel of all leaves of
      # one shape, with too many registers to run at speed.
      weights, is_used, _ = jax.lax.optimization_barrier(
        (weights, is_used, sums[-1])
      )
    terms = spread(weights, g) * g.astype(jnp.float32)
    sums.append(jnp.sum(jnp.where(spread(is_used, g), terms, 0.0), axis=0))
  return jax.tree.unflatten(treedef, _all_leaves(sums, leaves))


def _all_leaves(
  sums: Sequence[types.Array], leaves: Sequence[types.Array]
) -> list[types.Array]:
  """Undoes `_few_leaves` for sums over the examples."""
  large, joined, start = iter(sums), sums[-1].ravel(), 0
  found = []
  for leaf in leaves:
    if _is_small(leaf):
      size = math.prod(leaf.shape[1:])
      part = jax.lax.slice_in_dim(joined, start, start + size)
      found.append(part.reshape(leaf.shape[1:]))
      start += size
    else:
      found.append(next(large))
  return found


def _sum_by_loop(
  grads: types.PyTree,
  weights: types.Array,
  is_used: types.Array,
) -> types.PyTree:
  """`weighted_sum`, a few examples after another.

  On a CPU, XLA's reduction over a first axis takes 20 to 30 times as long. More
  than one example at a time spares reading and writing the sum in between.
  """
  size = math.gcd(weights.shape[0], _EXAMPLES_AT_A_TIME)

  def add_examples(k: types.Array, total: types.PyTree) -> Any:
    def add(part: types.Array, g: types.Array) -> types.Array:
      for i in (size * k + j for j in range(size)):
        term = weights[i] * g[i].astype(jnp.float32)
        part += jnp.where(is_used[i], term, 0.0)
      return part

    return jax.tree.map(add, total, grads)

  start = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], jnp.float32), grads)
  return jax.lax.fori_loop(0, weights.shape[0] // size, add_examples, start)
