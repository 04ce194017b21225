"""Sums on a grid are exact, in every order, and never wrap around."""

from __future__ import annotations

import functools

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.privacy import fixed_point

UNIT = fixed_point.unit_of(1.0)
ONE = 2**fixed_point.UNIT_BITS  # Units of a term of norm 1.
any_term = st_numpy.arrays(
  np.int32, (7, 3), elements=st.integers(-ONE, ONE).map(np.int32)
)


def units_of(total):
  """Whole numbers of units: int64[...]."""
  high, low = np.asarray(total.high, np.int64), np.asarray(total.low, np.int64)
  assert np.all((low >= 0) & (low < 2**20))
  return high * 2**20 + low


def one_term(units):
  return fixed_point.from_words(fixed_point.split(jnp.asarray(units)), UNIT)


@hypothesis.settings(max_examples=20)
@hypothesis.given(any_term, st.permutations(range(7)), st.integers(1, 6))
def test_sums_are_exact_in_any_order(terms, order, cut):
  """One after another, or two groups, that are added to each other."""
  expected = terms.astype(np.int64).sum(0)
  parts = [fixed_point.zeros(jnp.zeros(3), UNIT) for _ in range(2)]
  for place, i in enumerate(order):
    parts[place < cut] += one_term(terms[i])
  np.testing.assert_array_equal(units_of(parts[0] + parts[1]), expected)
  group = one_term(terms.sum(0, dtype=np.int32))  # At most 64 in a word.
  np.testing.assert_array_equal(units_of(group), expected)
  assert fixed_point.zeros({'a': jnp.zeros(2)}, UNIT).unit == UNIT


def test_devices_are_summed_exactly():
  terms = np.random.default_rng(0).integers(-ONE, ONE, (8, 5), np.int32)
  added = jax.vmap(
    lambda term: fixed_point.psum(one_term(term), 'devices'),
    axis_name='devices',
  )
  for found in units_of(jax.jit(added)(terms)):
    np.testing.assert_array_equal(found, terms.astype(np.int64).sum(0))
  alone = one_term(terms[0])
  assert fixed_point.psum(alone, None) is alone


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  st_numpy.arrays(np.float32, 4, elements=st.floats(-ONE, ONE, width=32))
)
def test_cutting_never_lengthens(term):
  """Not even where rounding to the nearest would."""
  for x in (term, term + np.float32(0.75), -term - np.float32(0.75)):
    cut = np.asarray(fixed_point.cut(jnp.asarray(x)), np.int64)
    assert np.all(np.abs(cut) <= np.abs(x.astype(np.float64)))
    assert np.all(np.abs(cut - x.astype(np.float64)) < 1)
    on_host = fixed_point.cut_on_host(np.float64(x) * UNIT, UNIT)
    np.testing.assert_array_equal(on_host, cut)


@hypothesis.settings(max_examples=20)
@hypothesis.given(
  st_numpy.arrays(
    np.float32, 3, elements=st.floats(-(2.0**49), 2.0**49, width=32)
  ),
  st_numpy.arrays(np.int64, 3, elements=st.integers(-(2**50), 2**50)),
)
# Fractions, which are seldom drawn. Cut toward zero, twice as much noise would
# leave a sum as it is.
@hypothesis.example(np.float32([0.75, -0.75, 0.25]), np.array([0, 5, -5]))
@hypothesis.example(np.float32([-7.6, 1e6 + 0.75, -2e6]), np.array([9, 9, 9]))
def test_noise_is_rounded_with_the_sum(noise, exact):
  """X + round(z) = round(X + z), where float32 would lose what is small."""
  total = fixed_point.from_host(exact * UNIT, UNIT)
  found = total + fixed_point.from_units(jnp.asarray(noise), UNIT)
  expected = exact + np.round(noise.astype(np.float64)).astype(np.int64)
  np.testing.assert_array_equal(units_of(found), expected)
  np.testing.assert_allclose(
    found.to_floats(), expected * UNIT, rtol=2e-7, atol=2.0**20 * UNIT * 2e-7
  )


def test_largest_sums_fit():
  """MAX_RECORDS whole terms in one place, and the largest noise beside them."""
  group = fixed_point.MAX_GROUP * np.array([ONE, -ONE], np.int32)
  assert group[0] == 2**30
  np.testing.assert_array_equal(units_of(one_term(group)), group)
  most = fixed_point.MAX_RECORDS * ONE
  total = fixed_point.from_host(np.array([most, -most]) * UNIT, UNIT)
  noise = 191 * fixed_point.MAX_NOISE_MULTIPLIER * ONE
  total += fixed_point.from_units(jnp.float32([noise, -noise]), UNIT)
  np.testing.assert_array_equal(
    units_of(total), np.array([1, -1]) * (most + int(noise))
  )
  lows = np.full(fixed_point.MAX_DEVICES, 2**20 - 1)
  assert lows.sum() + 2**20 < 2**31


def test_too_many_records_are_refused():
  most = fixed_point.MAX_RECORDS * ONE
  with pytest.raises(ValueError, match='at most 67108864 records'):
    fixed_point.from_host(np.array([0.0, -most - 1.0]) * UNIT, UNIT)


def test_too_many_devices_are_refused():
  run = jax.vmap(
    functools.partial(fixed_point.psum, axis_name='devices'),
    axis_name='devices',
    axis_size=fixed_point.MAX_DEVICES + 1,
    in_axes=None,
  )
  with pytest.raises(ValueError, match='1024 devices, found 1025'):
    run(one_term(np.int32([1])))


def test_sums_of_different_grids_do_not_add():
  one = fixed_point.zeros(jnp.zeros(2), UNIT)
  with pytest.raises(ValueError, match='unit='):
    _ = one + one.replace(unit=2 * UNIT)
