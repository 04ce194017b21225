"""Computes norms and weighted sums of per-example gradients, on any platform.

`clipping` needs the norm of each example's gradient, and the sum of the
gradients times their clip factors. Both read as many numbers per example as the
network has parameters. Their memory access is therefore most of the cost of
privacy, beyond the gradients themselves.

A tree of gradients has leaves float32[B, ...], B examples. Both ways to compute
norms, that of a CPU and that of accelerators, agree up to rounding; both ways
to compute sums agree to the bit.

The clip factor follows from the norm, so the norm must not be too small.
Squares are added in rows, and the sums of rows in a tree, so that no number
takes part in more than `_num_additions` additions, whatever the order within a
row. Each addition has a relative rounding error of at most 2^-24.

Guarantees:
  * A norm is not too small by more than `norm_error`, whatever the gradients.
    `per_example_gradients_test.py::test_norms_are_hardly_too_small`,
    `::test_error_of_norms_is_small_for_networks`.
  * A sum is exactly that of its terms after rounding to a grid.
    `per_example_gradients_test.py::test_sums_are_those_of_terms_on_the_grid`.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from dp_diffusion import types
from dp_diffusion.privacy import fixed_point

_Pair: TypeAlias = tuple[types.Array, types.Array]

# Squares of finite float32 numbers times this factor do not overflow.
_TINY = 2.0**-80
_EXAMPLES_AT_A_TIME = 4
_BLOCK = 64  # Length of rows of a leaf whose last axis is longer than:
_LONG_ROW = 512
_ROWS_AT_A_TIME = 32  # Number of sums of rows that a round adds.
_UNIT_ROUNDOFF = 2.0**-24
_FEW_NUMBERS = 8192  # Leaves with fewer numbers per example are joined.


def global_norms(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """Computes the l2 norm of each example's gradient, without overflow.

  The norm is over all leaves. The squares of elements above 2^63 overflow
  float32, so a second sum, of scaled squares, is used where the plain sum is
  not finite.

  Args:
    grads: leaves [B, ...].

  Returns:
    norms: float32[B], infinite if a norm exceeds float32.
    is_finite: bool[B], whether every element of the gradient is finite.
  """
  norms, is_finite = jax.lax.platform_dependent(
    grads, cpu=_norms_by_one_sum_or_two, default=_norms_by_two_sums
  )
  return norms, is_finite


def norm_error(grads: types.PyTree) -> float:
  """Returns the largest relative error by which a norm may be too small.

  It holds for all gradients. A sum of positive numbers, each of which takes
  part in n additions, is at least (1 - u)^n times the true sum, u = 2^-24
  (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), and the
  root halves the error. Squares too small for float32 are below 2^-126 each,
  which is negligible beside the smallest clip norm.

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
  """Sums weights[b] grads[b], rounded to integers, over the examples in use.

  Args:
    grads: leaves [B, ...]; values of unused examples do not matter.
    weights: float32[B], weights in units; no product exceeds 2^24.
    is_used: bool[B], whether the example is used.
    unit: value of one unit of the sum.

  Returns:
    The exact sum, with leaves [...].
  """
  words = jax.lax.platform_dependent(
    grads, weights, is_used, cpu=_sum_by_loop, default=_sum_by_reduction
  )
  return fixed_point.from_words(words, unit)


def masked_sum(values: types.Array, is_used: types.Array) -> types.Array:
  """Sums values float32[B] over the examples in use, to float32[]."""
  return jnp.sum(jnp.where(is_used, values.astype(jnp.float32), 0.0))


def _norms_by_two_sums(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """Computes `global_norms` with both sums in one reduction per leaf.

  The reduction reads each leaf once. It first sums the rows of each leaf, then
  the sums of all leaves together. No leaf is copied, and sums of sums have
  smaller rounding errors.
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
  """Sums [B, R] over R in blocks, in as many rounds as needed.

  XLA would merge two successive reductions into one, for which the bound of
  rounding errors does not hold. A barrier prevents this on accelerators, where
  this function is used.
  """
  while x.shape[1] > _ROWS_AT_A_TIME:
    x = jax.lax.optimization_barrier(x)
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % _ROWS_AT_A_TIME)))
    x = jnp.sum(x.reshape(x.shape[0], -1, _ROWS_AT_A_TIME), axis=2)
  return jnp.sum(jax.lax.optimization_barrier(x), axis=1)


def _sum_in_loops(x: types.Array) -> types.Array:
  """Sums [B, R] over R, at most _ROWS_AT_A_TIME terms in a round.

  It is for CPUs, whose compiler drops barriers but does not merge loops.
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
  """Returns the largest number of additions that a square takes part in."""
  leaves = jax.tree.leaves(grads)
  count = max((_row_size(leaf) for leaf in leaves), default=1)
  num_rows = _num_rows(leaves)
  while num_rows > 1:
    count += min(num_rows, _ROWS_AT_A_TIME)
    num_rows = -(-num_rows // _ROWS_AT_A_TIME)
  return count


def _num_rows(leaves: Sequence[types.Array]) -> int:
  """Returns an upper bound of the number of rows of all leaves.

  Joined leaves are cut into rows of _BLOCK, which may be more than their own.
  """
  sizes = (
    (math.prod(leaf.shape[1:]), _BLOCK if _is_small(leaf) else _row_size(leaf))
    for leaf in leaves
  )
  return sum(numbers // row_size + 1 for numbers, row_size in sizes)


def _norms_by_one_sum_or_two(
  grads: types.PyTree,
) -> tuple[types.Array, types.Array]:
  """Computes `global_norms`, with the second sum only if an example overflows.

  On a CPU the second sum would take twice as long as the first.
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
  """Computes `global_norms` from the plain and the scaled sums of squares."""
  norms = jnp.where(
    jnp.isfinite(plain), jnp.sqrt(plain), jnp.sqrt(scaled) / _TINY
  )
  return norms, jnp.isfinite(scaled)


def _sum_of_squares(
  grads: types.PyTree, factor: float | None = None
) -> types.Array:
  """Sums (factor g)^2 over all leaves and elements, to float32[B]."""
  sums = []
  for leaf in jax.tree.leaves(grads):
    g = _in_rows(leaf)
    g = g if factor is None else g * factor
    sums.append(_rows(jnp.sum(jnp.square(g), axis=-1)))
  return _sum_in_loops(jnp.concatenate(sums, axis=1))


def _row_size(leaf: types.Array) -> int:
  """Returns the length of the rows of a leaf."""
  last = leaf.shape[-1] if leaf.ndim > 1 else 1
  return max(last, _BLOCK) if last <= _LONG_ROW else _BLOCK


def _in_rows(leaf: types.Array) -> types.Array:
  """Reshapes a leaf to rows, float32[B, ..., at most _LONG_ROW].

  If its last axis is longer, zeros are appended to fill rows of _BLOCK.
  """
  g = leaf.astype(jnp.float32)
  if g.ndim == 1:
    return g[:, None]
  if g.shape[-1] <= _LONG_ROW:
    return g
  lengths = [(0, 0)] * (g.ndim - 1)
  g = jnp.pad(g, [*lengths, (0, -g.shape[-1] % _BLOCK)])
  return g.reshape(*g.shape[:-1], -1, _BLOCK)


def _rows(leaf: types.Array) -> types.Array:
  """Reshapes a leaf to float32[B, numbers per example]."""
  return leaf.astype(jnp.float32).reshape(leaf.shape[0], -1)


def _add_pairs(a: _Pair, b: _Pair) -> _Pair:
  return a[0] + b[0], a[1] + b[1]


def _few_leaves(leaves: Sequence[types.Array]) -> list[types.Array]:
  """Returns the large leaves, and all small ones joined, [B, blocks, _BLOCK].

  Two thirds of a U-Net's leaves are vectors of a few hundred numbers, together
  a thousandth of its weights. On a GPU, 200 reductions of them take 20 times as
  long as a single one; everywhere they take longer to compile.
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
  """Computes `weighted_sum` by one reduction, which reads each leaf once.

  A matrix product would round float32 to TensorFloat-32 on GPUs, and could not
  round each term by itself.
  """
  leaves, treedef = jax.tree.flatten(grads)
  sums: list[fixed_point.Words] = []
  for g in _few_leaves(leaves):
    if sums:
      # The barrier keeps leaves apart. XLA would make one kernel of all leaves
      # of the same shape, which is slow because it needs too many registers.
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
  """Computes `weighted_sum` of a leaf, with as many terms as a word holds."""

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
  """Inverts `_few_leaves` for sums over the examples."""
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
  """Computes `weighted_sum` in a loop over a few examples at a time.

  On a CPU, XLA's reduction over the first axis takes 20 to 30 times as long.
  """
  leaves, treedef = jax.tree.flatten(grads)
  words = _loop_over_groups(_few_leaves(leaves), weights, is_used)
  high, low = (
    jax.tree.unflatten(treedef, _all_leaves(part, leaves)) for part in words
  )
  return high, low


def _loop_over_groups(
  grads: types.PyTree, weights: types.Array, is_used: types.Array
) -> fixed_point.Words:
  """Computes the words of `_sum_by_loop`; does not join small leaves."""
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
  """Sums examples [start, start + count), at most 64, to a tree of int32.

  With several examples at a time the sum is read and written less often.
  """
  size = math.gcd(count, _EXAMPLES_AT_A_TIME)
  pick = functools.partial(
    jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False
  )

  def add_examples(k: types.Array, total: types.PyTree) -> Any:
    numbers = [start + size * k + j for j in range(size)]
    chosen = [(i, pick(weights, i), pick(is_used, i)) for i in numbers]

    def add(part: types.Array, g: types.Array) -> types.Array:
      for i, weight, is_in in chosen:
        term = weight * pick(g, i).astype(jnp.float32)
        part += fixed_point.cut(jnp.where(is_in, term, 0.0))
      return part

    return jax.tree.map(add, total, grads)

  zero = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], jnp.int32), grads)
  return jax.lax.fori_loop(0, count // size, add_examples, zero)
