"""Clipped sums equal a loop over examples, and no example exceeds its bound."""

from __future__ import annotations

import dataclasses
import functools

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import leaf_patterns
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import per_example_gradients

CLIP = 0.7
NUM_DRAWS = 4
STEP_KEY = key_streams.KeyStreams(
  secret=key_streams.Secret.insecure(0), run_id='clipping'
).draw_key(0)


def smooth_loss(params, example, draw_key):
  """A small network whose target is the key itself (quick to compile)."""
  hidden = jnp.tanh(example['x'] @ params['w'] + params['b'])
  target = jax.random.key_data(draw_key).astype(jnp.float32) / 2.0**32
  return example['scale'] * jnp.sum(jnp.square(hidden - target))


def linear_loss(params, example, draw_key):
  """Its gradient is the example itself."""
  del draw_key
  leaves = zip(jax.tree.leaves(params), jax.tree.leaves(example))
  return sum(jnp.sum(p * g) for p, g in leaves)


def make_problem(num_examples=6, seed=0):
  """Parameters and a batch where some examples are clipped, some not."""
  rng = np.random.default_rng(seed)
  params = {
    'w': rng.normal(size=(3, 2)).astype(np.float32),
    'b': rng.normal(size=2).astype(np.float32),
  }
  batch = {
    'x': rng.normal(size=(num_examples, 3)).astype(np.float32),
    'scale': np.geomspace(0.1, 10, num_examples).astype(np.float32),
  }
  return params, batch


@functools.cache
def key_table():
  """Data of the draw keys of records 0 to 31: uint32[32, 50, 2]."""
  indices = jnp.arange(32, dtype=jnp.int32)
  keys = key_streams.draw_keys(STEP_KEY, indices, 50)
  return np.asarray(jax.random.key_data(keys))


@functools.cache
def jitted(loss_fn, **options):
  """`clipped_grad_sum` from key data; compiled once per shape."""
  config = clipping.GradConfig(**{'l2_clip_norm': CLIP} | options)

  @jax.jit
  def run(params, batch, key_data, is_padding):
    keys = jax.random.wrap_key_data(key_data)
    return clipping.clipped_grad_sum(
      loss_fn, params, batch, keys, is_padding, config=config
    )

  return run


def clipped_sum(
  loss_fn,
  params,
  batch,
  indices=None,
  is_padding=None,
  num_draws=NUM_DRAWS,
  **options,
):
  num_examples = len(jax.tree.leaves(batch)[0])
  if indices is None:
    indices = np.arange(num_examples)
  if is_padding is None:
    is_padding = np.zeros(num_examples, bool)
  key_data = key_table()[np.asarray(indices), :num_draws]
  run = jitted(loss_fn, num_draws=num_draws, **options)
  return run(params, batch, key_data, np.asarray(is_padding))


def norm(tree):
  """Global l2 norm, in float64."""
  leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
  return float(np.linalg.norm(np.concatenate(leaves)))


def value(total):
  """The sum as it is, before any float32: a tree of float64."""
  return jax.tree.map(
    lambda high, low: (np.float64(high) * 2**20 + low) * total.exact.unit,
    total.exact.high,
    total.exact.low,
  )


def assert_equal(actual, expected):
  """Equal to the bit, statistics of rounded sums apart."""
  jax.tree.map(np.testing.assert_array_equal, actual.exact, expected.exact)


def assert_close(actual, expected, tolerance=1e-5):
  if isinstance(actual, clipping.ClippedSum):
    actual = actual.grad_sum, actual.stats
    expected = expected.grad_sum, expected.stats
  jax.tree.map(
    functools.partial(
      np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    ),
    actual,
    expected,
  )


def loop_over_examples(params, batch, indices, has_draw_axis=False):
  """Oracle: gradient of each draw alone; mean, clip and sum in float64."""
  grad = jax.jit(jax.value_and_grad(smooth_loss))
  total = jax.tree.map(lambda x: np.zeros(x.shape), params)
  losses, norms = [], []
  for b, index in enumerate(indices):
    draws = []
    keys = jax.random.wrap_key_data(jnp.asarray(key_table()[index, :NUM_DRAWS]))
    for k, key in enumerate(keys):
      place = (b, k) if has_draw_axis else b
      example = jax.tree.map(lambda x, place=place: x[place], batch)
      draws.append(jax.device_get(grad(params, example, key)))
    losses.append(np.mean([loss for loss, _ in draws], dtype=np.float64))
    mean = jax.tree.map(
      lambda *g: np.mean(g, axis=0, dtype=np.float64), *[g for _, g in draws]
    )
    norms.append(norm(mean))
    factor = min(1.0, CLIP / norms[-1]) / CLIP
    total = jax.tree.map(lambda t, m, f=factor: t + f * m, total, mean)
  return total, np.array(losses), np.array(norms)


def test_equals_a_loop_over_examples():
  params, batch = make_problem()
  indices = [5, 0, 17, 3, 2, 9]
  expected, losses, norms = loop_over_examples(params, batch, indices)
  assert 0 < np.sum(norms > CLIP) < len(norms)  # Both kinds are tested.
  actual = clipped_sum(smooth_loss, params, batch, indices)
  assert_close(actual.grad_sum, expected)
  stats = actual.stats
  np.testing.assert_allclose(stats.loss_sum, losses.sum(), rtol=1e-5)
  np.testing.assert_allclose(stats.norm_sum, norms.sum(), rtol=1e-5)
  assert stats.num_clipped == np.sum(norms > CLIP)
  assert (stats.num_examples, stats.num_non_finite) == (6, 0)


def test_draws_with_their_own_images_equal_a_loop():
  params, _ = make_problem()
  rng = np.random.default_rng(1)
  batch = {
    'x': rng.normal(size=(3, NUM_DRAWS, 3)).astype(np.float32),
    'scale': rng.uniform(size=(3, NUM_DRAWS)).astype(np.float32),
  }
  expected, _, _ = loop_over_examples(params, batch, range(3), True)
  for chunk in (None, 2):
    actual = clipped_sum(
      smooth_loss,
      params,
      batch,
      batch_has_draw_axis=True,
      draw_chunk_size=chunk,
    )
    assert_close(actual.grad_sum, expected)


def test_without_rescaling_the_sum_is_in_units_of_the_gradient():
  params, batch = make_problem()
  unit = clipped_sum(smooth_loss, params, batch)
  plain = clipped_sum(smooth_loss, params, batch, rescale_to_unit_norm=False)
  assert (unit.l2_sensitivity, plain.l2_sensitivity) == (1.0, CLIP)
  scaled = jax.tree.map(lambda x: np.asarray(x) / CLIP, plain.grad_sum)
  assert_close(unit.grad_sum, scaled, 1e-6)


@pytest.mark.parametrize('chunk', [1, 2])
def test_independent_of_draw_chunks(chunk):
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  parts = clipped_sum(smooth_loss, params, batch, draw_chunk_size=chunk)
  assert_close(parts, whole)


@pytest.mark.parametrize('size', [1, 2])
def test_independent_of_microbatches(size):
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  total = clipping.zeros(params, clipping.GradConfig(l2_clip_norm=CLIP))
  for start in range(0, 6, size):
    rows = slice(start, start + size)
    part = jax.tree.map(lambda x, rows=rows: x[rows], batch)
    indices = np.arange(6)[rows]
    total = total + clipped_sum(smooth_loss, params, part, indices)
  assert_close(total, whole)


@pytest.mark.parametrize('garbage', [np.nan, np.inf, -np.inf, 3e38, 1.0])
def test_padding_bytes_never_matter(garbage):
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  padded = jax.tree.map(
    lambda x: np.concatenate([x, np.full_like(x[:3], garbage)]), batch
  )
  actual = clipped_sum(
    smooth_loss,
    params,
    padded,
    indices=[*range(6), 0, 0, 0],
    is_padding=[False] * 6 + [True] * 3,
  )
  assert_close(actual, whole)
  for x in jax.tree.leaves(actual):
    assert np.all(np.isfinite(x))


def test_all_padding_is_exactly_zero():
  params, batch = make_problem()
  total = clipped_sum(smooth_loss, params, batch, is_padding=[True] * 6)
  jax.tree.map(
    np.testing.assert_array_equal,
    total,
    clipping.zeros(params, clipping.GradConfig(l2_clip_norm=CLIP)),
  )


def test_masking_one_example_removes_its_term_only():
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  for b in range(6):
    rows = np.array([b])
    mask = np.arange(6) == b
    without = clipped_sum(smooth_loss, params, batch, is_padding=mask)
    part = jax.tree.map(lambda x, rows=rows: x[rows], batch)
    alone = clipped_sum(smooth_loss, params, part, indices=rows)
    assert_close(without + alone, whole)
    assert norm(alone.grad_sum) > 0.01


def test_order_of_examples_does_not_matter():
  params, batch = make_problem()
  order = np.array([3, 1, 5, 0, 2, 4])
  turned = jax.tree.map(lambda x: x[order], batch)
  actual = clipped_sum(smooth_loss, params, turned, indices=order)
  assert_close(actual, clipped_sum(smooth_loss, params, batch))


def accumulated(gradients, is_padding, size):
  """The sum over microbatches, of examples whose gradients are these."""
  params = np.zeros(gradients.shape[1:], np.float32)
  total = clipping.zeros(params, clipping.GradConfig(l2_clip_norm=1.0))
  add = jax.jit(lambda total, part: total + part)
  for start in range(0, len(gradients), size):
    rows = slice(start, start + size)
    indices = np.zeros(len(gradients[rows]), np.int32)
    part = clipped_sum(
      linear_loss,
      params,
      gradients[rows],
      indices,
      is_padding[rows],
      num_draws=1,
      l2_clip_norm=1.0,
    )
    total = add(total, part)
  return total


@pytest.mark.parametrize('size', [16_384, 64])
def test_long_sums_move_by_at_most_the_sensitivity(size):
  """With the first record the sum is over 2^13, where float32 has step 2^-10.

  So each later term, or the sum of a microbatch, of half a step is lost, while
  without that record each counts: a float32 sum moves by up to 5 clip norms.
  """
  num_terms = 1 if size == 16_384 else size  # Of which each half a step is.
  gradients = np.full((16_384, 1), -(2.0**-11) / num_terms, np.float32)
  gradients[:8193] = 10.0
  is_padding = np.zeros(16_384, bool)
  whole = accumulated(gradients, is_padding, size)
  without = accumulated(gradients, np.arange(16_384) == 0, size)
  assert 0.9999 < norm(value(whole) - value(without)) <= 1.0
  found = float(whole.grad_sum[0])
  expected = 8193 + gradients[8193:].sum(dtype=np.float64)
  assert found == pytest.approx(expected, rel=1e-5)


def test_any_slots_and_microbatches_give_equal_bits():
  rng = np.random.default_rng(0)
  gradients = rng.normal(size=(200, 7)).astype(np.float32)
  gradients *= np.geomspace(1e-3, 1e3, 200, dtype=np.float32)[:, None]
  used = np.zeros(200, bool)
  whole = accumulated(gradients, used, 200)
  for size in (1, 16, 64, 100, 150):
    order = rng.permutation(200)
    assert_equal(accumulated(gradients[order], used, size), whole)
  slots = rng.permutation(np.arange(256) % 200)
  _, first = np.unique(slots, return_index=True)
  is_padding = ~np.isin(np.arange(256), first)
  assert_equal(accumulated(gradients[slots], is_padding, 64), whole)


def test_slots_of_a_network_give_equal_bits():
  """Its gradients too are the same numbers in every slot of a program."""
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  for order in ([3, 1, 5, 0, 2, 4], [5, 4, 3, 2, 1, 0]):
    turned = jax.tree.map(lambda x, order=order: x[np.array(order)], batch)
    assert_equal(clipped_sum(smooth_loss, params, turned, order), whole)


def test_draws_have_keys_of_their_own():
  """The mean of K different standard normals has variance 1 / K."""

  def random_gradient(params, example, draw_key):
    del example
    return jnp.sum(params * jax.random.normal(draw_key, params.shape))

  params = np.zeros(2000, np.float32)
  total = clipped_sum(
    random_gradient,
    params,
    np.zeros((2, 1), np.float32),
    l2_clip_norm=100.0,
    rescale_to_unit_norm=False,
    num_draws=16,
  )
  variance = float(np.var(total.grad_sum))
  assert 0.9 * 2 / 16 < variance < 1.1 * 2 / 16  # Two examples differ too.


def test_timesteps_of_draws_differ():
  keys = jax.random.wrap_key_data(jnp.asarray(key_table()[:8, :16]))
  draw = jax.vmap(jax.vmap(lambda key: jax.random.randint(key, (), 0, 1000)))
  timesteps = np.asarray(draw(keys))
  assert len(np.unique(timesteps)) > 100
  assert all(len(np.unique(row)) > 10 for row in timesteps)
  assert all(len(np.unique(column)) > 4 for column in timesteps.T)


@pytest.mark.parametrize('num_draws', [1, 2, 8])
def test_mean_over_draws_before_the_clip(num_draws):
  gradient = np.array([[0.3, -0.4]], np.float32)
  total = clipped_sum(
    linear_loss,
    np.zeros(2, np.float32),
    gradient,
    num_draws=num_draws,
    l2_clip_norm=1.0,
  )
  np.testing.assert_allclose(total.grad_sum, gradient[0], rtol=1e-5)


def test_opposite_draws_cancel_before_the_clip():
  """Clipping each draw, or after the sum over examples, would not give 0."""
  draws = np.array([[[9.0, 0.0], [-9.0, 0.0]], [[0.0, 5.0], [0.0, 5.0]]])
  total = clipped_sum(
    linear_loss,
    np.zeros(2, np.float32),
    draws.astype(np.float32),
    num_draws=2,
    batch_has_draw_axis=True,
    l2_clip_norm=1.0,
  )
  np.testing.assert_allclose(total.grad_sum, [0.0, 1.0], atol=1e-5)


def contribution(gradient, **arguments):
  """What one example of this gradient adds: two leaves of the parameters."""
  gradient = np.asarray(gradient, np.float32)
  return clipped_sum(
    linear_loss,
    {'a': np.zeros(2, np.float32), 'b': np.zeros(3, np.float32)},
    {'a': gradient[None, :2], 'b': gradient[None, 2:]},
    num_draws=1,
    **arguments,
  )


any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)


@hypothesis.given(gradient=st_numpy.arrays(np.float32, 5, elements=any_float))
@hypothesis.example(gradient=[3e38] * 5)
@hypothesis.example(gradient=[0.0] * 5)
@hypothesis.example(gradient=[1e-45] * 5)
@hypothesis.example(gradient=[1e30, 1e-30, 1, 0, 0])
@hypothesis.example(gradient=[CLIP, 1e-7, 0, 0, 0])
def test_every_contribution_is_bounded(gradient):
  assert norm(value(contribution(gradient))) <= 1.0
  plain = contribution(gradient, rescale_to_unit_norm=False)
  assert norm(value(plain)) <= plain.l2_sensitivity == CLIP


@hypothesis.given(
  direction=st_numpy.arrays(np.float32, 5, elements=st.floats(-1, 1, width=32)),
  exponent=st.integers(-30, 37),
)
def test_clip_keeps_the_direction(direction, exponent):
  length = np.linalg.norm(direction)
  hypothesis.assume(length > 1e-3)
  gradient = (direction / length * 10.0**exponent).astype(np.float32)
  actual = contribution(gradient, rescale_to_unit_norm=False).grad_sum
  expected = gradient * min(1.0, CLIP / norm(gradient))
  actual = np.concatenate([actual['a'], actual['b']])
  unit = CLIP * 2.0**-24  # Each element is cut to a multiple of it.
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=unit)


@pytest.mark.parametrize('scale', [1e10, 1e25, 1e30, 1e37])
def test_enormous_gradients_are_clipped(scale):
  """They add the clip norm: neither infinity nor nothing."""
  total = contribution(np.full(5, scale))
  assert 0.9999 < norm(value(total)) <= 1.0
  assert total.stats.num_clipped == 1
  assert total.stats.num_non_finite == 0
  least = contribution(np.full(5, scale), l2_clip_norm=1e-9)
  assert 0.9999 < norm(value(least)) <= 1.0  # 1e-9 / 1e37 is no float32.


def test_what_a_norm_loses_is_paid_for():
  """Beside the sum of the first row, that of each other one is lost.

  So the norm is too small by 15 times 2^-24, and the sum no longer for it.
  """
  gradient = np.zeros((1, 32, 64), np.float32)
  gradient[0, :, 0] = 2 * 0.00024
  gradient[0, 0, 0] = 2
  total = clipped_sum(
    linear_loss,
    np.zeros((32, 64), np.float32),
    gradient,
    num_draws=1,
    l2_clip_norm=1.0,
  )
  assert total.stats.norm_sum == 2 < norm(gradient) * (1 - 14 * 2.0**-24)
  assert 0.9999 < norm(value(total)) <= 1.0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_non_finite_gradient_adds_zero(bad):
  params, batch = make_problem()
  mask = np.arange(6) == 2
  expected = clipped_sum(smooth_loss, params, batch, is_padding=mask)
  batch['scale'][2] = bad
  actual = clipped_sum(smooth_loss, params, batch)
  assert_close(actual.grad_sum, expected.grad_sum)
  assert actual.stats.num_non_finite == 1
  assert actual.stats.num_examples == 6
  np.testing.assert_allclose(
    actual.stats.loss_sum, expected.stats.loss_sum, rtol=1e-5
  )
  np.testing.assert_allclose(
    actual.stats.norm_sum, expected.stats.norm_sum, rtol=1e-5
  )


def test_a_loss_that_is_not_finite_adds_zero():
  """Although its gradient is finite: what it is of is not known."""
  params, batch = np.zeros(2, np.float32), np.eye(2, dtype=np.float32) / 2
  total = clipped_sum(
    lambda params, example, key: (
      linear_loss(params, example, key)
      + jnp.where(example[0] > 0, 0.0, jnp.inf)
    ),
    params,
    batch,
    num_draws=1,
    l2_clip_norm=1.0,
  )
  np.testing.assert_allclose(total.grad_sum, [0.5, 0.0], rtol=1e-5)
  assert total.stats.num_non_finite == 1
  assert np.isfinite(total.stats.loss_sum)


def test_one_bad_draw_leaves_the_example_out():
  draws = np.array([[[1.0, 0.0], [np.nan, 0.0]], [[0.0, 0.5], [0.0, 0.5]]])
  total = clipped_sum(
    linear_loss,
    np.zeros(2, np.float32),
    draws.astype(np.float32),
    num_draws=2,
    batch_has_draw_axis=True,
    l2_clip_norm=1.0,
  )
  np.testing.assert_allclose(total.grad_sum, [0.0, 0.5], rtol=1e-5)
  assert total.stats.num_non_finite == 1


@hypothesis.given(
  gradients=st_numpy.arrays(
    np.float32, (4, 5), elements=st.floats(-1e6, 1e6, width=32)
  ),
  left_out=st.integers(0, 3),
)
def test_neighbours_differ_by_at_most_the_sensitivity(gradients, left_out):
  batch = {'a': gradients[:, :2], 'b': gradients[:, 2:]}
  params = {'a': np.zeros(2, np.float32), 'b': np.zeros(3, np.float32)}
  run = functools.partial(clipped_sum, linear_loss, params, batch, num_draws=1)
  whole, without = run(), run(is_padding=np.arange(4) == left_out)
  difference = jax.tree.map(np.subtract, value(whole), value(without))
  assert norm(difference) <= whole.l2_sensitivity


def test_the_sensitivity_is_tight():
  """A bound off by 2, either way, would be wrong or would waste budget."""
  for rescale in (True, False):
    total = contribution([4.0, 0, 0, 3.0, 0], rescale_to_unit_norm=rescale)
    ratio = norm(value(total)) / total.l2_sensitivity
    assert 0.9999 < ratio <= 1.0


def test_a_person_with_many_images_moves_the_sum_by_one_clip_norm():
  """50 images of one person are K draws of one record."""
  images = np.random.default_rng(0).normal(size=(2, 50, 5)) * 100 + 50
  batch = images.astype(np.float32)
  run = functools.partial(
    clipped_sum,
    linear_loss,
    np.zeros(5, np.float32),
    batch,
    num_draws=50,
    batch_has_draw_axis=True,
  )
  whole, without = run(), run(is_padding=np.array([True, False]))
  assert 0.9999 < norm(value(whole) - value(without)) <= 1.0


def test_norms_of_large_leaves_are_accurate():
  """A running float32 sum of millions of squares would be off by percents."""
  size = 3_000_000
  gradient = np.full((1, size), 0.1, np.float32)
  total = clipped_sum(
    linear_loss, np.zeros(size, np.float32), gradient, num_draws=1
  )
  exact = np.float64(gradient[0, 0]) * np.sqrt(size)
  np.testing.assert_allclose(total.stats.norm_sum, exact, rtol=1e-6)
  lost = 2.0**-24 * np.sqrt(size)  # Each element is cut by less than a unit.
  assert 0.99999 - lost < norm(value(total)) <= 1.0


@pytest.mark.parametrize('rescale', [True, False])
@pytest.mark.parametrize(
  'clip', [0.0, -1.0, float('nan'), 1e-10, 1e31, float('inf')]
)
def test_bad_clip_norm(clip, rescale):
  with pytest.raises(ValueError, match='l2_clip_norm'):
    clipping.GradConfig(l2_clip_norm=clip, rescale_to_unit_norm=rescale)


def test_sums_of_different_clips_do_not_add():
  params, _ = make_problem()
  one = clipping.zeros(
    params, clipping.GradConfig(l2_clip_norm=1.0, rescale_to_unit_norm=False)
  )
  two = clipping.zeros(
    params, clipping.GradConfig(l2_clip_norm=2.0, rescale_to_unit_norm=False)
  )
  with pytest.raises(ValueError, match='l2_sensitivity=2.0'):
    _ = one + two


def test_the_margin_is_that_of_all_leaves_clipped_together(monkeypatch):
  params, batch = make_problem()
  keys = jax.random.wrap_key_data(jnp.asarray(key_table()[:6, :4]))
  margin, seen = clipping._rounding_margin, []

  def record(leaves):
    seen.append(len(leaves))
    return margin(leaves)

  monkeypatch.setattr(clipping, '_rounding_margin', record)
  for groups, num_leaves in (((), len(params)), (rules('*=1'), len(params))):
    clipping.clipped_grad_sum(
      smooth_loss,
      params,
      batch,
      keys,
      jnp.zeros(6, bool),
      config=clipping.GradConfig(
        l2_clip_norm=CLIP, num_draws=4, clip_groups=groups
      ),
    )
    assert seen and set(seen) == {num_leaves} and num_leaves > 1
    seen.clear()


def test_bad_shapes():
  params, batch = make_problem()
  keys = jax.random.wrap_key_data(jnp.asarray(key_table()[:6, :4]))
  config = clipping.GradConfig(l2_clip_norm=CLIP, num_draws=4)
  run = functools.partial(
    clipping.clipped_grad_sum, smooth_loss, params, config=config
  )
  good = jnp.zeros(6, bool)
  with pytest.raises(ValueError, match='is_padding'):
    run(batch, keys, jnp.zeros(5, bool))
  with pytest.raises(ValueError, match='bool'):
    run(batch, keys, jnp.zeros(6))
  with pytest.raises(ValueError, match='draw_keys.shape'):
    run(batch, keys[:, 0], good)
  with pytest.raises(ValueError, match='num_draws = 4'):
    too_few = jax.random.wrap_key_data(jnp.asarray(key_table()[:6, :3]))
    run(batch, too_few, good)
  with pytest.raises(ValueError, match='leaf of the batch'):
    run(jax.tree.map(lambda x: x[:5], batch), keys, good)
  with pytest.raises(ValueError, match='leaf of the batch'):
    by_draw = dataclasses.replace(config, batch_has_draw_axis=True)
    run(batch, keys, good, config=by_draw)


@pytest.mark.parametrize(
  'bad',
  [
    {'num_draws': 0},
    {'num_draws': 4, 'draw_chunk_size': 3},
    {'num_draws': 4, 'draw_chunk_size': 0},
  ],
)
def test_bad_draws(bad):
  with pytest.raises(ValueError, match=list(bad)[-1]):
    clipping.GradConfig(l2_clip_norm=1.0, **bad)


def test_roundings_beside_the_norm_are_paid_for():
  """16 units at least, by docs/privacy.md: the norm's own are others."""
  grads = {'w': jnp.ones((1, 3))}
  margin = clipping._rounding_margin(grads)
  norm = per_example_gradients.norm_error(grads)
  assert 16 * 2.0**-24 <= margin - norm <= 64 * 2.0**-24


def rules(*texts):
  return tuple(leaf_patterns.parse('rules', text) for text in texts)


@pytest.mark.parametrize('scale', [0.25, 2.0])
def test_scales_are_applied_before_the_clip(scale):
  """The sum is that of a loss whose leaf is `scale` times a parameter."""
  params, batch = make_problem()
  scales = {'w': 1.0, 'b': scale}

  def loss_of_scaled(params, example, draw_key):
    return smooth_loss(
      jax.tree.map(jnp.multiply, params, scales), example, draw_key
    )

  actual = clipped_sum(
    smooth_loss, params, batch, gradient_scales=rules(f'b={scale}')
  )
  inner = jax.tree.map(lambda x, s: x / np.float32(s), params, scales)
  expected = clipped_sum(loss_of_scaled, inner, batch)
  assert_close(actual, expected)
  assert 0 < actual.stats.num_clipped < 6
  assert actual.l2_sensitivity == 1.0


def test_scales_of_one_keep_the_bits():
  params, batch = make_problem()
  plain = clipped_sum(smooth_loss, params, batch)
  assert_equal(
    clipped_sum(smooth_loss, params, batch, gradient_scales=rules('*=1')), plain
  )


SCALES = rules('a=1e6', 'b=0.001')


@hypothesis.given(gradient=st_numpy.arrays(np.float32, 5, elements=any_float))
@hypothesis.example(gradient=[3e38] * 5)
@hypothesis.example(gradient=[1e33, 1e33, 0, 0, 0])
@hypothesis.example(gradient=[1e-22] * 5)  # Its square underflows.
@hypothesis.example(gradient=[CLIP * 1e-6, 1e-7, 0, 0, 0])
def test_scaled_contributions_are_bounded(gradient):
  total = contribution(gradient, gradient_scales=SCALES)
  assert norm(value(total)) <= 1.0
  least = contribution(gradient, gradient_scales=SCALES, l2_clip_norm=1e-4)
  assert norm(value(least)) <= 1.0


@hypothesis.given(
  gradients=st_numpy.arrays(
    np.float32, (4, 5), elements=st.floats(-1e6, 1e6, width=32)
  ),
  left_out=st.integers(0, 3),
)
def test_scaled_neighbours_differ_by_at_most_the_sensitivity(
  gradients, left_out
):
  batch = {'a': gradients[:, :2], 'b': gradients[:, 2:]}
  params = {'a': np.zeros(2, np.float32), 'b': np.zeros(3, np.float32)}
  run = functools.partial(
    clipped_sum,
    linear_loss,
    params,
    batch,
    num_draws=1,
    gradient_scales=SCALES,
  )
  whole, without = run(), run(is_padding=np.arange(4) == left_out)
  difference = jax.tree.map(np.subtract, value(whole), value(without))
  assert norm(difference) <= whole.l2_sensitivity


def test_scaled_leaf_alone_is_clipped_to_the_norm():
  """A tight bound: scaled after the clip, the leaf would add 50."""
  total = contribution([1.0, 0, 0, 0, 0], gradient_scales=rules('a=50'))
  assert 0.9999 < norm(value(total)) <= 1.0
  assert total.stats.num_clipped == 1


def test_gradient_that_overflows_when_scaled_adds_zero():
  total = contribution([1e37, 0, 1, 1, 1], gradient_scales=rules('a=1e6'))
  assert norm(value(total)) == 0
  assert total.stats.num_non_finite == 1


@pytest.mark.parametrize(
  ('scale', 'clip'), [(0.0, 1.0), (1e-4, 1.0), (1e7, 1.0), (1e6, 1e-9)]
)
def test_scales_that_float32_cannot_keep_are_refused(scale, clip):
  with pytest.raises(ValueError, match='gradient_scales'):
    clipping.GradConfig(l2_clip_norm=clip, gradient_scales=rules(f'a={scale}'))


def test_a_scale_of_no_leaf_is_refused():
  with pytest.raises(errors.UsageError, match="'c' of gradient_scales"):
    contribution([0.0] * 5, gradient_scales=rules('c=2'))


GROUPS = rules('a=0.36', '*=0.64')


def group_norms(total):
  tree = value(total)
  return norm(tree['a']), norm(tree['b'])


def test_groups_are_clipped_to_their_shares():
  """To the roots of their shares; each at its bound, the whole is at C."""
  total = contribution([3.0, 4, 0, 0, 9], clip_groups=GROUPS)
  found = group_norms(total)
  np.testing.assert_allclose(found, [0.6, 0.8], rtol=1e-5)
  assert found[0] <= 0.6 and found[1] <= 0.8
  assert 0.9999 < norm(value(total)) <= 1.0
  np.testing.assert_allclose(
    total.grad_sum['a'], np.array([0.6, 0.8]) * 0.6, rtol=1e-5
  )
  np.testing.assert_allclose(total.stats.norm_sum, 106**0.5, rtol=1e-6)
  assert total.stats.num_clipped == 1


def test_a_group_below_its_bound_is_kept():
  """A group has no use of what another leaves over."""
  total = contribution([0.2 * CLIP, 0, 5, 0, 0], clip_groups=GROUPS)
  np.testing.assert_allclose(group_norms(total), [0.2, 0.8], rtol=1e-5)
  empty = contribution([0, 0, 5, 0, 0], clip_groups=GROUPS)
  np.testing.assert_allclose(group_norms(empty), [0, 0.8], rtol=1e-5)
  assert contribution([0.1] * 5, clip_groups=GROUPS).stats.num_clipped == 0


def test_groups_equal_separate_clips():
  """Of scaled gradients; leaves that are not in order, and one group."""
  params, batch = make_problem()
  whole = clipped_sum(smooth_loss, params, batch)
  one = clipped_sum(smooth_loss, params, batch, clip_groups=rules('*=1'))
  assert_equal(one, whole)
  both = clipped_sum(
    smooth_loss,
    params,
    batch,
    clip_groups=rules('w=0.36', 'b=0.64'),
    gradient_scales=rules('b=2'),
  )
  for name, share in (('w', 0.36), ('b', 0.64)):

    def loss(part, example, draw_key, name=name):
      scale = 2 if name == 'b' else 1
      full = params | {name: params[name] + scale * part[name]}
      return smooth_loss(full, example, draw_key)

    start = {name: np.zeros_like(params[name])}
    alone = clipped_sum(loss, start, batch, l2_clip_norm=CLIP * share**0.5)
    np.testing.assert_allclose(
      both.grad_sum[name],
      np.asarray(alone.grad_sum[name]) * share**0.5,
      rtol=1e-4,
      atol=1e-6,
    )


@hypothesis.given(gradient=st_numpy.arrays(np.float32, 5, elements=any_float))
@hypothesis.example(gradient=[3e38] * 5)
@hypothesis.example(gradient=[3e38, 3e38, 0, 0, 0])
@hypothesis.example(gradient=[1e-45, 0, 1e30, 0, 0])
@hypothesis.example(gradient=[1e-22] * 5)
@hypothesis.example(gradient=[0.6 * CLIP, 1e-7, 0.8 * CLIP, 1e-7, 0])
def test_contributions_in_groups_are_bounded(gradient):
  total = contribution(gradient, clip_groups=GROUPS)
  first, second = group_norms(total)
  assert first <= 0.6 and second <= 0.8
  assert norm(value(total)) <= 1.0
  scaled = contribution(gradient, clip_groups=GROUPS, gradient_scales=SCALES)
  first, second = group_norms(scaled)
  assert first <= 0.6 and second <= 0.8


@hypothesis.given(
  gradients=st_numpy.arrays(
    np.float32, (4, 5), elements=st.floats(-1e6, 1e6, width=32)
  ),
  left_out=st.integers(0, 3),
)
def test_neighbours_in_groups_differ_by_at_most_the_sensitivity(
  gradients, left_out
):
  batch = {'a': gradients[:, :2], 'b': gradients[:, 2:]}
  params = {'a': np.zeros(2, np.float32), 'b': np.zeros(3, np.float32)}
  run = functools.partial(
    clipped_sum, linear_loss, params, batch, num_draws=1, clip_groups=GROUPS
  )
  whole, without = run(), run(is_padding=np.arange(4) == left_out)
  difference = jax.tree.map(np.subtract, value(whole), value(without))
  assert norm(difference) <= whole.l2_sensitivity


@pytest.mark.parametrize('place', [0, 2])
@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_non_finite_group_adds_zero_everywhere(place, bad):
  gradient = np.ones(5)
  gradient[place] = bad
  total = contribution(gradient, clip_groups=GROUPS)
  assert norm(value(total)) == 0
  assert total.stats.num_non_finite == 1


def test_groups_give_equal_bits_in_any_microbatches():
  rng = np.random.default_rng(0)
  gradients = rng.normal(size=(12, 5)).astype(np.float32)
  gradients *= np.geomspace(1e-2, 1e2, 12, dtype=np.float32)[:, None]
  params = {'a': np.zeros(2, np.float32), 'b': np.zeros(3, np.float32)}
  config = clipping.GradConfig(
    l2_clip_norm=CLIP, clip_groups=GROUPS, gradient_scales=SCALES
  )

  def total(order, size):
    found = clipping.zeros(params, config)
    for start in range(0, 12, size):
      rows = order[start : start + size]
      found = found + clipped_sum(
        linear_loss,
        params,
        {'a': gradients[rows, :2], 'b': gradients[rows, 2:]},
        num_draws=1,
        clip_groups=GROUPS,
        gradient_scales=SCALES,
      )
    return found

  whole = total(np.arange(12), 12)
  for size in (1, 4):
    assert_equal(total(rng.permutation(12), size), whole)


@pytest.mark.parametrize(
  ('groups', 'words'),
  [
    (['a=0.5'], 'to sum to 1, not to 0.5'),
    (['a=0.5', '*=0.6'], 'to sum to 1, not to 1.1'),
    (['a=-0.5', '*=1.5'], 'in .1e-06'),
    (['a=0', '*=1'], 'in .1e-06'),
    (['a=nan', '*=1'], 'in .1e-06'),
  ],
)
def test_shares_sum_to_one(groups, words):
  with pytest.raises(ValueError, match=words):
    clipping.GradConfig(l2_clip_norm=CLIP, clip_groups=rules(*groups))


def test_a_group_is_not_clipped_to_too_little():
  with pytest.raises(ValueError, match='smallest group of clip_groups'):
    clipping.GradConfig(l2_clip_norm=1e-9, clip_groups=rules('a=0.5', '*=0.5'))


@pytest.mark.parametrize(
  ('groups', 'words'),
  [
    (['b=1'], 'clip_groups to have a group for a, as for every leaf'),
    (['c=0.5', '*=0.5'], "'c' of clip_groups to match a leaf"),
    (['*=0.5', 'a=0.5'], 'a leaf that no earlier pattern has'),
  ],
)
def test_each_leaf_has_a_group_and_each_group_a_leaf(groups, words):
  with pytest.raises(errors.UsageError, match=words):
    contribution([0.0] * 5, clip_groups=rules(*groups))


@pytest.mark.parametrize('norm', [0.1, 1.0, 3.0])
def test_the_sensitivity_of_a_plain_sum_is_its_clip_norm(norm):
  plain = clipping.GradConfig(l2_clip_norm=norm, rescale_to_unit_norm=False)
  assert plain.l2_sensitivity == norm
  assert clipping.GradConfig(l2_clip_norm=norm).l2_sensitivity == 1
