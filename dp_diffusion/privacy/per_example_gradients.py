"""Norms and weighted sums of per-example gradients, quick on every platform.

`clipping` takes the norm of each example's gradient, and sums the gradients
times what the clip makes of them. Both read as many numbers as the network has
parameters for each example, so how they are read is what privacy costs once the
gradients are there.

A tree of gradients has leaves float32[B, ...], B examples. Both ways to compute
norms, that of a CPU and that of accelerators, agree up to rounding; both ways
to compute sums agree to the bit.

A norm decides how much of a gradient is kept, so it must not come out too
small. Squares are added in rows, then sums of rows in a tree, so that no number
passes through more than `_num_additions` additions whatever the order inside a
row is: each loses at most 2^-24 of it.

Guarantees:
  * A norm is not too small by more than `norm_error`, whatever the gradients.
    `per_example_gradients_test.py::test_norms_are_hardly_too_small`,
    `::test_error_of_norms_is_small_for_networks`.
  * A sum is that of its terms cut to a grid, exactly.
    `per_example_gradients_test.py::test_sums_are_those_of_terms_on_the_grid`.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from dp_diffusion import types
from dp_diffusion.privacy import fixed_point

_Pair: TypeAlias = tuple[types.Array, types.Array]

# Squares of gradients times this number overflow for no finite float32.
_TINY = 2.0**-80
_EXAMPLES_AT_A_TIME = 4
_BLOCK = 64  # Numbers in a row where the leaf has no short axis at its end.
_LONG_ROW = 512  # At most, as the leaf has them.
_ROWS_AT_A_TIME = 32  # Of which the sums are summed in a round.
_UNIT_ROUNDOFF = 2.0**-24
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


def norm_error(grads: types.PyTree) -> float:
  """How much too small a norm may be, of itself, whatever the gradients.

  A sum of positive numbers in which each passes n additions is at least
  (1 - u)^n of the true one, u = 2^-24 (Higham, Accuracy and Stability of
  Numerical Algorithms, section 4.2), and the root halves that. Squares too
  small for float32 are below 2^-126 each, next to nothing beside the smallest
  clip norm.

  Args:
    grads: leaves [B, ...], or their shapes.
  """
  return _num_additions(grads) / 2 * _UNIT_ROUNDOFF


def weighted_sum(
  grads: types.PyTree,
  weights: types.Array,
  is_used: types.Array,
  unit: float,
) -> fixed_point.FixedPointSum:
  """Sums weights[b] grads[b], cut to whole numbers, over the examples in use.

  Args:
    grads: leaves [B, ...]; where an example is not used they may be anything.
    weights: float32[B], in units: no product is over 2^24.
    is_used: bool[B].
    unit: what one unit of the sum is worth.

  Returns:
    A tree of [...], exact.
  """
  words = jax.lax.platform_dependent(
    grads, weights, is_used, cpu=_sum_by_loop, default=_sum_by_reduction
  )
  return fixed_point.from_words(words, unit)


def masked_sum(values: types.Array, is_used: types.Array) -> types.Array:
  """Sums values[B] of the examples that are used: float32[]."""
  return jnp.sum(jnp.where(is_used, values.astype(jnp.float32), 0.0))


def _norms_by_two_sums(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """`global_norms`; both sums in one reduction, which reads each leaf once.

  Over rows, of all leaves one after another, then over what is left of all of
  them together: no leaf is moved, and sums of sums round less.
  """
  zero = jnp.zeros(())
  pairs = []
  for leaf in _few_leaves(jax.tree.leaves(grads)):
    g = _in_rows(leaf)
    terms = jnp.square(g), jnp.square(g * _TINY)
    pairs.append(jax.lax.reduce(terms, (zero, zero), _add_pairs, (g.ndim - 1,)))
  plain, scaled = (
    _sum_in_blocks(jnp.concatenate([_rows(part) for part in parts], axis=1))
    for parts in zip(*pairs, strict=True)
  )
  return _norms_of(plain, scaled)


def _sum_in_blocks(x: types.Array) -> types.Array:
  """Sums [B, R] over R, a block of it at a time, in as many rounds as needed.

  XLA would make one reduction of two that follow each other, and the bound of
  its rounding would be lost; it does not look through a barrier on an
  accelerator, the only place for this.
  """
  while x.shape[1] > _ROWS_AT_A_TIME:
    x = jax.lax.optimization_barrier(x)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % _ROWS_AT_A_TIME)))
    x = jnp.sum(x.reshape(x.shape[0], -1, _ROWS_AT_A_TIME), axis=2)
  return jnp.sum(jax.lax.optimization_barrier(x), axis=1)


def _sum_in_loops(x: types.Array) -> types.Array:
  """Sums [B, R] over R, at most _ROWS_AT_A_TIME of them in a round.

  For a CPU, whose compiler drops barriers but makes no two loops one.
  """
  while x.shape[1] > 1:
    count = min(x.shape[1], _ROWS_AT_A_TIME)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % count)))
    parts = x.reshape(x.shape[0], count, -1)
    x = jax.lax.fori_loop(
      1, count, lambda i, total, p=parts: total + p[:, i], parts[:, 0]
    )
  return x[:, 0] if x.shape[1] else jnp.zeros(x.shape[0])


def _num_additions(grads: types.PyTree) -> int:
  """Most additions that a square passes on its way, by either way to sum."""
  leaves = jax.tree.leaves(grads)
  rows = [math.prod(leaf.shape[1:]) // _row_size(leaf) + 1 for leaf in leaves]
  count = max((_row_size(leaf) for leaf in leaves), default=1)
  num_rows = sum(rows)  # Small leaves side by side have no more of them.
  while num_rows > 1:
    count += min(num_rows, _ROWS_AT_A_TIME)
    num_rows = -(-num_rows // _ROWS_AT_A_TIME)
  return count


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
  sums = []
  for leaf in jax.tree.leaves(grads):
    g = _in_rows(leaf)
    g = g if factor is None else g * factor
    sums.append(_rows(jnp.sum(jnp.square(g), axis=-1)))
  return _sum_in_loops(jnp.concatenate(sums, axis=1))


def _row_size(leaf: types.Array) -> int:
  """Numbers in a row of `_in_rows`, or of small leaves side by side."""
  last = leaf.shape[-1] if leaf.ndim > 1 else 1
  return max(last, _BLOCK) if last <= _LONG_ROW else _BLOCK


def _in_rows(leaf: types.Array) -> types.Array:
  """float32[B, ..., at most _LONG_ROW]; zeros are added where none is short."""
  g = leaf.astype(jnp.float32)
  if g.ndim == 1:
    return g[:, None]
  if g.shape[-1] <= _LONG_ROW:
    return g
  lengths = [(0, 0)] * (g.ndim - 1)
  g = jnp.pad(g, [*lengths, (0, -g.shape[-1] % _BLOCK)])
  return g.reshape(*g.shape[:-1], -1, _BLOCK)


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
) -> fixed_point.Words:
  """`weighted_sum`, compiled to one reduction that reads each leaf once.

  A matrix product would round float32 to TensorFloat-32 on GPUs, and would not
  cut each term by itself.
  """
  leaves, treedef = jax.tree.flatten(grads)
  sums: list[fixed_point.Words] = []
  for g in _few_leaves(leaves):
    if sums:
      # One leaf after another: XLA would make a single kernel of all leaves of
      # one shape, with too many registers to run at speed.
      weights, is_used, _ = jax.lax.optimization_barrier(
        (weights, is_used, sums[-1])
      )
    sums.append(_sum_of_leaf(g, weights, is_used))
  high, low = (
    jax.tree.unflatten(treedef, _all_leaves(words, leaves))
    for words in zip(*sums, strict=True)
  )
  return high, low


def _sum_of_leaf(
  g: types.Array, weights: types.Array, is_used: types.Array
) -> fixed_point.Words:
  """`weighted_sum` of one leaf, by reductions of as many as a word holds."""

  def spread(x: types.Array) -> types.Array:
    return jnp.reshape(x, x.shape + (1,) * (g.ndim - 1))

  terms = spread(weights) * g.astype(jnp.float32)
  terms = fixed_point.cut(jnp.where(spread(is_used), terms, 0.0))
  size = fixed_point.MAX_GROUP
  parts = [
    jnp.sum(terms[start : start + size], axis=0, dtype=jnp.int32)
    for start in range(0, len(terms), size)
  ]
  words = fixed_point.split(parts[0])
  for part in parts[1:]:
    words = fixed_point.add_to_low(words, part)
  return words


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
) -> fixed_point.Words:
  """`weighted_sum`, a few examples after another.

  On a CPU, XLA's reduction over a first axis takes 20 to 30 times as long.
  """
  count, most = weights.shape[0], fixed_point.MAX_GROUP
  num_groups, rest = divmod(count, most)
  if count <= most:
    return fixed_point.split(_group_sum(grads, weights, is_used, 0, count))

  def add_group(k: types.Array, words: fixed_point.Words) -> Any:
    part = _group_sum(grads, weights, is_used, most * k, most)
    return fixed_point.add_to_low(words, part)

  zero = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], jnp.int32), grads)
  words = jax.lax.fori_loop(0, num_groups, add_group, (zero, zero))
  if rest:
    part = _group_sum(grads, weights, is_used, count - rest, rest)
    words = fixed_point.add_to_low(words, part)
  return words


def _group_sum(
  grads: types.PyTree,
  weights: types.Array,
  is_used: types.Array,
  start: int | types.Array,
  count: int,
) -> types.PyTree:
  """Sums of examples [start, start + count), at most 64: a tree of int32.

  More than one example at a time spares reading and writing the sum in between.
  """
  size = math.gcd(count, _EXAMPLES_AT_A_TIME)

  def add_examples(k: types.Array, total: types.PyTree) -> Any:
    def add(part: types.Array, g: types.Array) -> types.Array:
      for i in (start + size * k + j for j in range(size)):
        term = weights[i] * g[i].astype(jnp.float32)
        part += fixed_point.cut(jnp.where(is_used[i], term, 0.0))
      return part

    return jax.tree.map(add, total, grads)

  zero = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], jnp.int32), grads)
  return jax.lax.fori_loop(0, count // size, add_examples, zero)
