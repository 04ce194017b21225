"""The way of a CPU and that of accelerators: norms agree, sums are equal."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.privacy import per_example_gradients

NORMS = (
  per_example_gradients._norms_by_one_sum_or_two,
  per_example_gradients._norms_by_two_sums,
)
SUMS = (
  per_example_gradients._sum_by_loop,
  per_example_gradients._sum_by_reduction,
)


def make_grads(count):
  rng = np.random.default_rng(count)
  return {
    'a': rng.normal(size=(count, 3, 2)).astype(np.float32),
    'b': rng.normal(size=(count,)).astype(np.float32),
    'c': rng.normal(size=(count, 2500)).astype(np.float32),
  }


def norms_in_float64(grads):
  squares = [
    np.square(g.reshape(len(g), -1).astype(np.float64)).sum(1)
    for g in grads.values()
  ]
  return np.sqrt(np.sum(squares, axis=0))


@pytest.mark.parametrize('norms_fn', NORMS)
@pytest.mark.parametrize('factor', [1e-12, 1.0, 1e18])
def test_norms_equal_those_in_float64(norms_fn, factor):
  grads = {k: g * np.float32(factor) for k, g in make_grads(5).items()}
  norms, is_finite = jax.jit(norms_fn)(grads)
  np.testing.assert_allclose(norms, norms_in_float64(grads), rtol=1e-6)
  assert np.all(is_finite)


@pytest.mark.parametrize('norms_fn', NORMS)
def test_one_example_that_overflows_changes_no_other(norms_fn):
  """Nor does one that is not finite; what overflows is finite, and known."""
  grads = make_grads(6)
  alone = np.asarray(jax.jit(norms_fn)(grads)[0])
  grads['c'][1] *= 1e30
  grads['a'][2, 0, 1] = np.inf
  grads['b'][4] = np.nan
  norms, is_finite = jax.jit(norms_fn)(grads)
  np.testing.assert_array_equal(is_finite, [1, 1, 0, 1, 0, 1])
  others = [0, 3, 5]
  np.testing.assert_array_equal(np.asarray(norms)[others], alone[others])
  np.testing.assert_allclose(norms[1], norms_in_float64(grads)[1], rtol=1e-5)


def test_the_norms_of_this_platform_are_one_of_both():
  grads = make_grads(3)
  norms, is_finite = jax.jit(per_example_gradients.global_norms)(grads)
  np.testing.assert_allclose(norms, norms_in_float64(grads), rtol=1e-6)
  assert np.all(is_finite)


@pytest.mark.parametrize('norms_fn', NORMS)
@pytest.mark.parametrize('small', [0.00024, 0.0001])
def test_norms_are_hardly_too_small(norms_fn, small):
  """One large number, and many whose squares float32 loses beside it."""
  shapes = {'a': (4096,), 'b': (70, 64), 'c': (3, 3, 5, 8), 'd': (50, 1)}
  grads = {k: np.full((1, *s), small, np.float32) for k, s in shapes.items()}
  grads |= {f'{i:03}': np.float32([small]) for i in range(306)}
  grads['a'][0, 0] = grads['c'][0, 0, 0, 0, 0] = grads['000'][0] = 1.0
  exact = norms_in_float64(grads)[0]
  norms, _ = jax.jit(norms_fn)(grads)
  error = per_example_gradients.norm_error(grads)
  rounding = 5 * 2.0**-24  # Of the squares and of the root.
  assert norms[0] >= exact * (1 - error - rounding)
  assert norms[0] <= exact * (1 + error + rounding)
  assert error < 2.0**-17
  one_by_one = np.float32(1)
  for _ in range(10_000):
    one_by_one += np.float32(small) ** 2
  assert one_by_one == 1 < exact**2 - 4e-5  # What a running sum would say.


def test_error_of_norms_is_small_for_networks():
  """At most 2e-5 of the clip norm for 400 million parameters."""
  layers = [(3, 3, 1024, 1024), (1024,), (1024, 3)] * 40
  grads = [jax.ShapeDtypeStruct((8, *shape), 'float32') for shape in layers]
  assert 1e-6 < per_example_gradients.norm_error(grads) < 2e-5


def sum_of(sum_fn, grads, weights, is_used):
  """Whole numbers: a tree of int64."""
  high, low = jax.jit(sum_fn)(grads, weights, is_used)
  return jax.tree.map(lambda h, w: np.int64(h) * 2**20 + w, high, low)


@pytest.mark.parametrize('sum_fn', SUMS)
@pytest.mark.parametrize('count', [1, 7, 64, 65, 130])
def test_sums_are_those_of_terms_on_the_grid(sum_fn, count):
  """Each term is cut toward zero by itself; whole numbers are added."""
  grads = make_grads(count)
  rng = np.random.default_rng(0)
  weights = (2.0**22 * rng.uniform(size=count)).astype(np.float32)
  is_used = np.arange(count) % 3 != 1
  found = sum_of(sum_fn, grads, weights, is_used)
  for name, g in grads.items():
    w = weights.reshape((-1,) + (1,) * (g.ndim - 1))
    terms = np.trunc(w * g).astype(np.int64)
    np.testing.assert_array_equal(found[name], terms[is_used].sum(0))


@pytest.mark.parametrize('count', [1, 2, 7])
def test_sums_leave_out_whatever_is_not_used(count):
  grads = make_grads(count)
  weights = np.random.default_rng(0).uniform(size=count).astype(np.float32)
  weights *= np.float32(2**20)
  is_used = np.arange(count) % 3 != 1
  for leaf in grads.values():
    leaf[~is_used] = 0
  run = functools.partial(per_example_gradients.weighted_sum, unit=0.5)
  for fn in (*SUMS, lambda *args: (run(*args).high, run(*args).low)):
    expected = sum_of(fn, grads, weights, is_used)
    for garbage in (np.nan, np.inf, 1e30):
      broken = jax.tree.map(np.copy, grads)
      for leaf in broken.values():
        leaf[~is_used] = garbage
      actual = sum_of(fn, broken, weights, is_used)
      jax.tree.map(np.testing.assert_array_equal, actual, expected)
  total = jax.jit(run)(grads, weights, is_used)
  assert total.unit == 0.5
  for found, leaf in zip(
    jax.tree.leaves(total.to_floats()), jax.tree.leaves(grads), strict=True
  ):
    assert found.dtype == jnp.float32
    expected = 0.5 * np.tensordot(weights, leaf.astype(np.float64), axes=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0.5 * count)


def test_masked_sum():
  values = jnp.array([1.0, np.nan, 3.0])
  used = jnp.array([True, False, True])
  assert per_example_gradients.masked_sum(values, used) == 4.0


def test_accelerators_read_small_leaves_together():
  """One reduction for all of them, and one for each large leaf."""
  many = {f'{i:03}': np.ones((2, 1 + i, 3), np.float32) for i in range(50)}
  many['large'] = np.ones((2, 100, 100), np.float32)
  args = (many, np.ones(2, np.float32), np.ones(2, bool))
  for reads, fn, some in (
    ('reduce', per_example_gradients._norms_by_two_sums, args[:1]),
    ('reduce_sum', per_example_gradients._sum_by_reduction, args),
  ):
    names = [eqn.primitive.name for eqn in jax.make_jaxpr(fn)(*some).eqns]
    assert names.count(reads) == 2


def test_sums_go_back_to_their_leaves():
  """Small, large and scalar ones in any order."""
  rng = np.random.default_rng(0)
  shapes = ((), (3,), (100, 100), (2, 2), (0,), (90, 100), (5, 1))
  grads = [rng.normal(size=(4, *shape)).astype(np.float32) for shape in shapes]
  weights, is_used = np.full(4, 2.0**20, np.float32), np.ones(4, bool)
  sums = sum_of(
    per_example_gradients._sum_by_reduction, grads, weights, is_used
  )
  for found, leaf in zip(sums, grads, strict=True):
    assert found.shape == leaf.shape[1:]
    np.testing.assert_allclose(found, 2.0**20 * leaf.sum(0), rtol=1e-5, atol=10)


@pytest.mark.parametrize(
  ('shapes', 'num_additions'),
  [
    # Rows of 512, then 65,537 of them: 2,049, 65, 3, 1 in rounds of 32.
    ([(128, 512, 512)], 512 + 32 + 32 + 32 + 3),
    ([(3,), (3, 3)], 64 + 2),
    ([(40, 100), (7,)], 100 + 32 + 2),
  ],
)
def test_additions_of_every_round_count(shapes, num_additions):
  grads = [jax.ShapeDtypeStruct((1, *shape), 'float32') for shape in shapes]
  found = per_example_gradients.norm_error(grads)
  assert found == num_additions / 2 * 2.0**-24


@pytest.mark.parametrize(
  'shapes',
  [
    [(300,)] * 40,  # Four rows of 300 numbers are 19 of 64.
    [(65,), (512,), (2, 512), (64,)],
    [(3, 3, 96, 512), (513,), (512,)],
    [(1,), (), (8192,), (8193,)],
  ],
)
def test_rows_are_counted_however_leaves_are_joined(shapes):
  leaves = [jnp.zeros((1, *shape)) for shape in shapes]

  def num_rows(leaves):
    rows = [per_example_gradients._in_rows(leaf) for leaf in leaves]
    return sum(int(np.prod(r.shape[1:-1])) for r in rows)

  joined = per_example_gradients._few_leaves(leaves)
  counted = per_example_gradients._num_rows(leaves)
  assert counted >= max(num_rows(leaves), num_rows(joined))
