"""Clips and sums per-example gradients.

This is the second part of a private step. It computes the sum of the clipped
gradients of a microbatch. These sums are added over microbatches and devices
before `noise` is added once.

The gradient of an example is that of the MEAN loss over its K draws (arXiv
2302.13861, section 3; arXiv 2204.13650, section 3.2), clipped to l2 norm C: g_i
min(1, C / |g_i|) (arXiv 1607.00133, algorithm 1).

Deviation: the sum is divided by C (`rescale_to_unit_norm`, on by default), so
that the learning rate and Adam's eps do not depend on C. The noise is scaled
in the same way, because the sum has its sensitivity as an attribute.

Scales: a leaf of an example's gradient may be multiplied by a public constant s
before the clip (`gradient_scales`; arXiv 2507.01129 scales, clips and divides
again). The norm is over the whole scaled tree, and the sum is that of scaled
gradients. An example therefore adds a vector of norm C at most, whatever the
scales, and the proof is unchanged: what is clipped may be any function of the
example. The noise has the same std in every leaf. Divided by s again, which is
post-processing, its std is C / s of the multiplier, so s > 1 gives a leaf less
noise and a larger share of the norm.

Groups: with `clip_groups` the leaves are divided into groups, each with a
public share p_g, and the gradient of group g is clipped by itself, to
C sqrt(p_g). The shares sum to 1, so by Pythagoras the whole is at most
sqrt(sum_g p_g C^2) = C long: the sensitivity is C again, and so is the noise in
each leaf. A gradient that is not finite in one group adds zero in all.

Rounding: a clipped gradient is rounded toward zero to a grid of 2^-24 C and
then summed exactly (`fixed_point`), so the result does not depend on the order.
Before that, rounding in float32 of the norm, the factor and the product can
make a gradient longer by a relative `_rounding_margin` at most. Gradients are
clipped to a norm that is shorter by this margin, so the sensitivity is C
(docs/privacy.md). The margin also holds if a compiler squares first and then
multiplies by s^2: that costs 2.5 more roundings, and squares below 2^-126 that
are lost have a norm of 2^-63 s each, which is negligible for s <= 2^36 C
(`grid_limits.check_scales`), for up to 2^30 parameters. With groups each group
has its own margin and is at most C sqrt(p_g) long; C is then the smallest bound
of a group in what `grid_limits` checks.

Guarantees:
  * Whatever the loss, the data and the parameters are, an example changes the
    sum by at most `ClippedSum.l2_sensitivity` in l2 norm, also for many leaves
    and many examples.
    `clipping_test.py::test_every_contribution_is_bounded`,
    `::test_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_enormous_gradients_are_clipped`,
    `::test_long_sums_move_by_at_most_the_sensitivity`,
    `::test_what_a_norm_loses_is_paid_for`,
    `per_example_gradients_test.py::test_norms_are_hardly_too_small`.
  * The sum has the same bits for every order of its terms and every microbatch
    size. Adding or removing a record, which moves others to other slots,
    therefore changes only its own term.
    `::test_any_slots_and_microbatches_give_equal_bits`.
  * An example whose gradient is not finite adds zero to the sum.
    `::test_non_finite_gradient_adds_zero`.
  * The term of an example depends only on the example and its keys.
    `::test_masking_one_example_removes_its_term_only`.
  * The content of a padding slot does not matter, not even NaN.
    `::test_padding_bytes_never_matter`.
  * Microbatches and draw chunks change the memory, not the sum.
    `::test_independent_of_microbatches`, `::test_independent_of_draw_chunks`.
  * The K draws are averaged before the clip.
    `::test_mean_over_draws_before_the_clip`.
  * Scales change what is clipped, not how far an example moves the sum; a
    scaled gradient that is not finite adds zero.
    `::test_scaled_contributions_are_bounded`,
    `::test_scaled_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_scales_are_applied_before_the_clip`,
    `::test_scaled_leaf_alone_is_clipped_to_the_norm`,
    `::test_gradient_that_overflows_when_scaled_adds_zero`.
  * Groups do not change how far an example moves the sum; each moves it by its
    own bound at most.
    `::test_contributions_in_groups_are_bounded`,
    `::test_neighbours_in_groups_differ_by_at_most_the_sensitivity`,
    `::test_non_finite_group_adds_zero_everywhere`,
    `::test_groups_give_equal_bits_in_any_microbatches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple, TypeAlias

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import leaf_patterns
from dp_diffusion import types
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import per_example_gradients

# Rounding errors other than those of the norm's sum, in units of 2^-24: 1/2 for
# the squares, 4 for the root, 4 for the quotient, 1 for its numerator and the
# product, 2 for the std of the noise and its product with a sample, 2.5 for
# scales; doubled and rounded up.
_FEW_ROUNDINGS = 32 * 2.0**-24

_ExampleGradFn: TypeAlias = Callable[
  [types.Params, types.PyTree, types.Key],
  tuple[types.Array, types.PyTree],
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradConfig:
  """How per-example gradients are computed, clipped and summed.

  >>> GradConfig(l2_clip_norm=0.1).l2_sensitivity
  1.0
  >>> GradConfig(l2_clip_norm=0.1, rescale_to_unit_norm=False).l2_sensitivity
  0.1

  Attributes:
    l2_clip_norm: clip norm C, the largest l2 norm of an example's gradient, in
      [1e-9, 1e30].
    num_draws: number K of draws averaged in an example's gradient (augmult).
    rescale_to_unit_norm: whether the sum is divided by C (see `Deviation`).
    draw_chunk_size: draws differentiated at a time, a divisor of K; None for
      all K. A smaller number needs less memory.
    batch_has_draw_axis: whether batch leaves are [B, K, ...], with a slice of
      the example for each draw. If a record is a person, each draw shows one of
      their images.
    gradient_axes: maps the shape of a parameter to the order of axes in which
      its per-example gradients are stored; None keeps the parameter's order.
      The order affects the time of norms and sums, not their values.
    gradient_scales: constants by which leaves are multiplied before the clip;
      leaves that no rule matches keep their gradient.
    clip_groups: groups of leaves that are clipped by themselves, with their
      shares of C^2; () clips the whole gradient.

  Raises:
    ValueError: C is below 1e-9 (the squares of such small gradients underflow),
      or above 1e30 (a sum of many examples would be infinite in float32), or
      a scale is beyond `grid_limits`, or shares do not sum to 1, or the chunks
      do not divide the draws.
  """

  l2_clip_norm: float
  num_draws: int = 1
  rescale_to_unit_norm: bool = True
  draw_chunk_size: int | None = None
  batch_has_draw_axis: bool = False
  gradient_axes: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
  gradient_scales: tuple[leaf_patterns.Rule, ...] = ()
  clip_groups: tuple[leaf_patterns.Rule, ...] = ()

  def __post_init__(self) -> None:
    grid_limits.check_clip_norm(self.l2_clip_norm)
    grid_limits.check_leaves(
      [rule.value for rule in self.gradient_scales],
      [rule.value for rule in self.clip_groups],
      self.l2_clip_norm,
    )
    checks.check_at_least('num_draws', self.num_draws, 1)
    if self.draw_chunk_size is not None and (
      self.draw_chunk_size < 1 or self.num_draws % self.draw_chunk_size
    ):
      raise ValueError(
        f'Expected draw_chunk_size={self.draw_chunk_size!r} to divide'
        f' num_draws={self.num_draws!r}.'
      )

  @property
  def l2_sensitivity(self) -> float:
    """Largest l2 norm by which one example changes the sum."""
    return 1.0 if self.rescale_to_unit_norm else float(self.l2_clip_norm)

  def group_bounds(self) -> list[float]:
    """Returns the largest norm of each group after the clip, in units of C.

    Their squares sum to 1 up to the rounding of float64.
    """
    total = math.fsum(rule.value for rule in self.clip_groups)
    return [math.sqrt(rule.value / total) for rule in self.clip_groups]


class GradStats(struct.PyTreeNode):
  """Un-noised statistics of a sum. They may be written to `private/` only.

  Attributes:
    loss_sum: float32[], sum over examples of their mean loss over K draws.
    norm_sum: float32[], sum of the gradient norms before the clip.
    num_clipped: int32[], number of examples whose norm exceeded the clip norm,
      in one group at least.
    num_non_finite: int32[], number of examples left out because their loss or
      gradient was not finite. They count in `num_examples`, not in the sums.
    num_examples: int32[], number of examples without padding.
  """

  loss_sum: types.Array
  norm_sum: types.Array
  num_clipped: types.Array
  num_non_finite: types.Array
  num_examples: types.Array


class ClippedSum(struct.PyTreeNode):
  """A sum of clipped gradients, with its sensitivity.

  Attributes:
    exact: the sum on its grid, in the shapes of the parameters.
    stats: statistics of the same examples; private.
    l2_sensitivity: largest l2 norm, over the whole tree, of what one example
      adds to `exact`; static.
  """

  exact: fixed_point.FixedPointSum
  stats: GradStats
  l2_sensitivity: float = struct.field(pytree_node=False)

  @property
  def grad_sum(self) -> types.PyTree:
    """Returns the sum rounded to float32, for inspection only.

    Noise is added to `exact`.
    """
    return self.exact.to_floats()

  def __add__(self, other: ClippedSum) -> ClippedSum:
    """Adds the sum of other examples.

    Raises:
      ValueError: the sums were clipped differently.
    """
    if self.l2_sensitivity != other.l2_sensitivity:
      raise ValueError(
        f'Expected l2_sensitivity={other.l2_sensitivity!r} to be'
        f' {self.l2_sensitivity!r}, as in the sum that it is added to.'
      )
    return self.replace(
      exact=self.exact + other.exact,
      stats=jax.tree.map(jnp.add, self.stats, other.stats),
    )


def check_leaves(params: types.Params, config: GradConfig) -> None:
  """Checks that the rules of a config are rules for these parameters.

  Raises:
    UsageError: a scale or a group has no leaf, or a leaf has no group.
  """
  _scales(params, config)
  _parts(params, config)


def zeros(params: types.Params, config: GradConfig) -> ClippedSum:
  """Returns the sum over no example, from which accumulation starts.

  Args:
    params: parameters, which give the shapes.
    config: of the sums that are added to it.
  """
  unit = fixed_point.unit_of(config.l2_sensitivity)
  return ClippedSum(
    exact=fixed_point.zeros(params, unit),
    stats=GradStats(
      loss_sum=jnp.zeros((), jnp.float32),
      norm_sum=jnp.zeros((), jnp.float32),
      num_clipped=jnp.zeros((), jnp.int32),
      num_non_finite=jnp.zeros((), jnp.int32),
      num_examples=jnp.zeros((), jnp.int32),
    ),
    l2_sensitivity=config.l2_sensitivity,
  )


def clipped_grad_sum(
  loss_fn: types.LossFn,
  params: types.Params,
  batch: types.PyTree,
  draw_keys: types.Key,
  is_padding: types.Array,
  *,
  config: GradConfig,
) -> ClippedSum:
  """Sums the clipped gradients of the examples of one microbatch.

  Two examples whose gradients are the examples themselves; the first is longer
  than the clip norm:

  >>> total = clipped_grad_sum(
  ...   lambda params, example, key: params @ example,
  ...   jnp.zeros(2),
  ...   jnp.array([[3.0, 4.0], [0.0, 0.25]]),
  ...   jax.random.split(jax.random.key(0), (2, 1)),
  ...   jnp.array([False, False]),
  ...   config=GradConfig(l2_clip_norm=0.5, rescale_to_unit_norm=False),
  ... )
  >>> [round(float(x), 3) for x in total.grad_sum], total.l2_sensitivity
  ([0.3, 0.65], 0.5)

  Args:
    loss_fn: loss of one draw of one example, differentiated with respect to
      `params`. Parameters that are not trained belong in its closure.
    params: tree of float32; the norm is taken over the whole tree.
    batch: leaves [B, ...], or [B, K, ...] with `config.batch_has_draw_axis`.
    draw_keys: typed keys[B, K].
    is_padding: bool[B]; the content of a padding slot does not matter.
    config: number of draws and clip norm.

  Returns:
    The sums over the examples without padding.

  Raises:
    ValueError: shapes do not agree.
    UsageError: a scale or a group has no leaf, or a leaf has no group.
  """
  _check_shapes(batch, draw_keys, is_padding, config)
  axes = _gradient_axes(params, config)

  def moved_loss(
    params: types.Params, example: types.Example, draw_key: types.Key
  ) -> types.Array:
    return loss_fn(_move_back(params, axes), example, draw_key)

  losses, grads = jax.vmap(
    _example_grad_fn(moved_loss, config), in_axes=(None, 0, 0)
  )(jax.tree.map(jnp.transpose, params, axes), batch, draw_keys)
  parts = _parts(_scaled(grads, config), config)
  norms, are_finite = zip(
    *(per_example_gradients.global_norms(p.leaves) for p in parts),
    strict=True,
  )
  is_finite = functools.reduce(
    jnp.logical_and, are_finite, jnp.isfinite(losses)
  )
  is_used = is_finite & ~is_padding
  sums = [
    _sum_of_part(part, norm, is_used, config)
    for part, norm in zip(parts, norms, strict=True)
  ]
  is_clipped = functools.reduce(
    jnp.logical_or,
    (_is_clipped(part, n, config) for part, n in zip(parts, norms)),
  )
  exact = _joined(parts, sums, jax.tree.structure(grads))
  return ClippedSum(
    exact=exact.replace(
      high=_move_back(exact.high, axes), low=_move_back(exact.low, axes)
    ),
    stats=GradStats(
      loss_sum=per_example_gradients.masked_sum(losses, is_used),
      norm_sum=per_example_gradients.masked_sum(
        functools.reduce(jnp.hypot, norms), is_used
      ),
      num_clipped=jnp.sum(is_used & is_clipped, dtype=jnp.int32),
      num_non_finite=jnp.sum(~is_finite & ~is_padding, dtype=jnp.int32),
      num_examples=jnp.sum(~is_padding, dtype=jnp.int32),
    ),
    l2_sensitivity=config.l2_sensitivity,
  )


class _Part(NamedTuple):
  """The leaves that are clipped together.

  Attributes:
    places: their places among all leaves.
    leaves: their gradients [B, ...].
    bound: their norm after the clip, in units of C, at most.
  """

  places: list[int]
  leaves: list[types.Array]
  bound: float


def _parts(grads: types.PyTree, config: GradConfig) -> list[_Part]:
  """Returns the groups of leaves, or all leaves if there are no groups.

  Raises:
    UsageError: a leaf is in no group, or a group has no leaf.
  """
  leaves = jax.tree.leaves(grads)
  if not config.clip_groups:
    return [_Part(list(range(len(leaves))), leaves, 1.0)]
  chosen = leaf_patterns.places('clip_groups', grads, config.clip_groups)
  if None in chosen:
    paths = leaf_patterns.paths(grads)
    alone = [path for path, group in zip(paths, chosen) if group is None]
    raise errors.UsageError(
      f'Expected clip_groups to have a group for {checks.some(alone)}, as for'
      " every leaf that is trained; the last group may be '*=SHARE'."
    )
  parts = []
  for group, bound in enumerate(config.group_bounds()):
    places = [i for i, g in enumerate(chosen) if g == group]
    parts.append(_Part(places, [leaves[i] for i in places], bound))
  return parts


def _sum_of_part(
  part: _Part, norms: types.Array, is_used: types.Array, config: GradConfig
) -> fixed_point.FixedPointSum:
  """Sums the clipped gradients of a part; its trees are lists of leaves."""
  # It is min(1, C bound / norm) 2^24 / C, written without C / norm, which could
  # underflow: a number with few bits may be twice too large.
  one = 2.0**fixed_point.UNIT_BITS
  bound = part.bound * (1 - _rounding_margin(part.leaves))
  coefficients = jnp.minimum(one / config.l2_clip_norm, one * bound / norms)
  return per_example_gradients.weighted_sum(
    part.leaves,
    coefficients,
    is_used,
    fixed_point.unit_of(config.l2_sensitivity),
  )


def _is_clipped(
  part: _Part, norms: types.Array, config: GradConfig
) -> types.Array:
  """Tells for each example whether its gradient of a part is shortened."""
  bound = part.bound * (1 - _rounding_margin(part.leaves))
  return norms > config.l2_clip_norm * bound


def _joined(
  parts: Sequence[_Part],
  sums: Sequence[fixed_point.FixedPointSum],
  treedef: Any,
) -> fixed_point.FixedPointSum:
  """Returns the sum of all leaves, from those of the parts."""
  order = np.argsort([place for part in parts for place in part.places])

  def join(words: Iterable[list[types.Array]]) -> types.PyTree:
    leaves = [leaf for part in words for leaf in part]
    return jax.tree.unflatten(treedef, [leaves[i] for i in order])

  words = join(s.high for s in sums), join(s.low for s in sums)
  return fixed_point.from_words(words, sums[0].unit)


def _scaled(grads: types.PyTree, config: GradConfig) -> types.PyTree:
  """Multiplies leaves [B, ...] by their scales; others keep their bits."""
  return jax.tree.map(
    lambda g, s: g if s == 1 else g * s, grads, _scales(grads, config)
  )


def _scales(tree: types.PyTree, config: GradConfig) -> types.PyTree:
  """The scale of each leaf."""
  return leaf_patterns.values(
    'gradient_scales', tree, config.gradient_scales, 1.0
  )


def _gradient_axes(params: types.Params, config: GradConfig) -> types.PyTree:
  """The order of axes of each parameter, by `config.gradient_axes`."""
  axes_of = config.gradient_axes or (lambda shape: tuple(range(len(shape))))
  return jax.tree.map(lambda x: axes_of(x.shape), params)


def _move_back(moved: types.PyTree, axes: types.PyTree) -> types.PyTree:
  """The inverse of `jnp.transpose`, leaf by leaf."""
  return jax.tree.map(
    lambda x, order: jnp.moveaxis(x, range(len(order)), order), moved, axes
  )


def _rounding_margin(grads: types.PyTree) -> float:
  """Returns the relative error in length of a gradient clipped in float32."""
  return per_example_gradients.norm_error(grads) + _FEW_ROUNDINGS


def _check_shapes(
  batch: types.PyTree,
  draw_keys: types.Key,
  is_padding: types.Array,
  config: GradConfig,
) -> None:
  """Raises ValueError unless all arguments have the same B (and K)."""
  if draw_keys.ndim != 2 or draw_keys.shape[1] != config.num_draws:
    raise ValueError(
      f'Expected draw_keys.shape={draw_keys.shape} to be (B, K), with'
      f' K = num_draws = {config.num_draws}.'
    )
  if is_padding.shape != draw_keys.shape[:1] or is_padding.dtype != jnp.bool_:
    raise ValueError(
      f'Expected is_padding={is_padding.dtype}{list(is_padding.shape)} to be'
      f' bool[{draw_keys.shape[0]}].'
    )
  leading = draw_keys.shape[: 1 + config.batch_has_draw_axis]
  for leaf in jax.tree.leaves(batch):
    if leaf.shape[: len(leading)] != leading:
      raise ValueError(
        f'Expected a leaf of the batch, of shape {leaf.shape}, to begin with'
        f' {leading}.'
      )


def _example_grad_fn(
  loss_fn: types.LossFn, config: GradConfig
) -> _ExampleGradFn:
  """Returns a function (params, example, keys[K]) -> (mean loss, gradient)."""
  example_axis = 0 if config.batch_has_draw_axis else None
  draw_losses = jax.vmap(loss_fn, in_axes=(None, example_axis, 0))

  def mean_loss(
    params: types.Params,
    example: types.PyTree,
    keys: types.Key,
  ) -> types.Array:
    return jnp.mean(draw_losses(params, example, keys).astype(jnp.float32))

  loss_and_grad = jax.value_and_grad(mean_loss)
  num_chunks = config.num_draws // (config.draw_chunk_size or config.num_draws)
  if num_chunks == 1:
    return loss_and_grad
  return _in_chunks(loss_and_grad, num_chunks, config.batch_has_draw_axis)


def _in_chunks(
  loss_and_grad: _ExampleGradFn, num_chunks: int, batch_has_draw_axis: bool
) -> _ExampleGradFn:
  """Averages over chunks of draws, one chunk at a time, to save memory."""

  def split(x: types.Array) -> types.Array:
    return x.reshape((num_chunks, -1) + x.shape[1:])

  def mean_over_chunks(
    params: types.Params,
    example: types.PyTree,
    keys: types.Key,
  ) -> tuple[types.Array, types.PyTree]:
    impl = jax.random.key_impl(keys)

    def add_chunk(total: Any, part: Any) -> tuple[Any, None]:
      part_keys = jax.random.wrap_key_data(part[0], impl=impl)
      part_example = part[1] if batch_has_draw_axis else example
      result = loss_and_grad(params, part_example, part_keys)
      return jax.tree.map(jnp.add, total, result), None

    # Keys are raw data here, since the check of key reuse rejects a batched
    # scan over typed keys.
    parts = (
      split(jax.random.key_data(keys)),
      jax.tree.map(split, example) if batch_has_draw_axis else None,
    )
    start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    total, _ = jax.lax.scan(add_chunk, start, parts)
    return jax.tree.map(lambda x: x / num_chunks, total)

  return mean_over_chunks
