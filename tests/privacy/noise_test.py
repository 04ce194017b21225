"""The noise has the std asked for, and is new at each step and leaf."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise

STREAMS = key_streams.KeyStreams(
  secret=key_streams.Secret.insecure(0), run_id='noise'
)
SHAPES = {'a': (100, 200), 'b': (30,), 'c': (100, 200), 'd': ()}
UNIT = fixed_point.unit_of(1.0)


@jax.jit
def add_noise(tree, keys, std):
  """`noise.add_noise` to the sum that has these values."""
  units = jax.tree.map(lambda x: x / UNIT, tree)
  return noise.add_noise(fixed_point.from_units(units, UNIT), keys, std)


def zeros():
  return {name: jnp.zeros(shape) for name, shape in SHAPES.items()}


def std_is_accepted(samples, std):
  """Chi-square test of the std of normal samples of mean 0."""
  samples = np.asarray(samples, np.float64).ravel()
  tail = stats.chi2.cdf(np.sum((samples / std) ** 2), samples.size)
  return 1e-4 < tail < 1 - 1e-4


@pytest.mark.parametrize('std', [1e-3, 1.0, 37.5])
def test_std_is_accepted_at_sigma_only(std):
  noised = add_noise(zeros(), STREAMS.noise_keys(0), std)
  for name in ('a', 'c'):
    assert std_is_accepted(noised[name], std)
    assert not std_is_accepted(noised[name], 0.9 * std)
    assert not std_is_accepted(noised[name], 1.1 * std)


def test_four_keys_have_unit_variance():
  """And the distribution is normal, not only its variance right."""
  noised = add_noise(zeros(), STREAMS.noise_keys(1), 1.0)
  samples = np.concatenate([np.ravel(noised['a']), np.ravel(noised['c'])])
  assert std_is_accepted(samples, 1.0)
  assert abs(samples.mean()) < 4 / np.sqrt(samples.size)
  assert stats.kstest(samples, 'norm').pvalue > 1e-4


def test_equals_the_formula():
  """Sum of four normals, one per key, halved; leaf after leaf."""
  noised = add_noise(zeros(), STREAMS.noise_keys(2), 3.0)
  size = sum(x.size for x in noised.values())
  draws = [
    jax.random.normal(key, (size,), jnp.float32)
    for key in STREAMS.noise_keys(2)
  ]
  expected = 3.0 * np.sum(draws, axis=0) / 2
  actual = np.concatenate([np.ravel(x) for x in jax.tree.leaves(noised)])
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_adds_to_the_sum():
  keys = STREAMS.noise_keys
  pure = add_noise(zeros(), keys(3), 2.0)
  ones = jax.tree.map(lambda x: x + 1, zeros())
  noised = add_noise(ones, keys(3), 2.0)
  for name in SHAPES:
    np.testing.assert_allclose(noised[name], pure[name] + 1, atol=1e-5)


def test_unique_per_step_and_leaf():
  seen = []
  for step in range(3):
    noised = add_noise(zeros(), STREAMS.noise_keys(step), 1.0)
    seen += [np.ravel(noised['a']), np.ravel(noised['c'])]
  correlation = np.corrcoef(seen) - np.eye(len(seen))
  assert np.max(np.abs(correlation)) < 5 / np.sqrt(seen[0].size)


def test_elements_are_independent():
  x = np.asarray(add_noise(zeros(), STREAMS.noise_keys(0), 1.0)['a'])
  for shifted, rest in ((x[1:], x[:-1]), (x[:, 1:], x[:, :-1])):
    correlation = np.corrcoef(shifted.ravel(), rest.ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(shifted.size)


def test_noise_does_not_repeat_within_a_leaf():
  """At no distance of 2^k elements, where a counter would wrap around."""
  size = 2**18 + 3
  tree = {'a': jnp.zeros(size // 2), 'b': jnp.zeros(size - size // 2)}
  noised = add_noise(tree, STREAMS.noise_keys(0), 1.0)
  x = np.concatenate([np.asarray(noised['a']), np.asarray(noised['b'])])
  for exponent in range(18):
    shift = 2**exponent
    correlation = np.mean(x[shift:] * x[:-shift])
    assert abs(correlation) < 6 / np.sqrt(size - shift), shift
  assert len(np.unique(x)) > 0.9 * size


@pytest.mark.parametrize('which', range(4))
def test_every_key_matters(which):
  """Knowing three keys leaves noise of half the std."""
  data = np.asarray(jax.random.key_data(STREAMS.noise_keys(0)))
  other = data.copy()
  other[which] = np.asarray(jax.random.key_data(STREAMS.noise_keys(1)))[which]
  one, two = (
    add_noise(zeros(), jax.random.wrap_key_data(jnp.asarray(d)), 1.0)['a']
    for d in (data, other)
  )
  assert std_is_accepted(np.asarray(one) - np.asarray(two), np.sqrt(2) / 2)


def test_no_noise_leaves_the_sum_as_it_is():
  tree = {'a': jnp.arange(6.0)}
  noised = add_noise(tree, STREAMS.noise_keys(0), 0.0)
  np.testing.assert_array_equal(noised['a'], tree['a'])


def test_needs_four_keys():
  keys = jax.random.split(jax.random.key(0), 3)
  with pytest.raises(ValueError, match=r'\(3,\)'):
    noise.add_noise(fixed_point.zeros(zeros(), UNIT), keys, 1.0)


def test_is_added_to_the_exact_sum():
  """A sum that noise nearly cancels is left to the last unit.

  The noise is rounded to the grid, and float32 holds it exactly; of a sum that
  became float32 before, what is left would be 0 or 128 units.
  """
  std = 2.0**6
  pure = add_noise(zeros(), STREAMS.noise_keys(4), std)
  units = {name: np.round(np.float64(x) / UNIT) for name, x in pure.items()}
  assert np.abs(units['a']).max() > 2**30
  parts = {
    name: fixed_point.from_host((5 - x) * UNIT, UNIT)
    for name, x in units.items()
  }
  exact = fixed_point.from_words(
    (
      {name: part.high for name, part in parts.items()},
      {name: part.low for name, part in parts.items()},
    ),
    UNIT,
  )
  left = jax.jit(noise.add_noise)(exact, STREAMS.noise_keys(4), std)
  for x in left.values():
    np.testing.assert_array_equal(x, np.full(x.shape, 5 * UNIT))


def test_too_much_noise_is_refused():
  """The words would not hold it."""
  total = fixed_point.zeros(zeros(), UNIT)
  with pytest.raises(ValueError, match='noise_std=300000.0'):
    noise.add_noise(total, STREAMS.noise_keys(5), 3e5)
