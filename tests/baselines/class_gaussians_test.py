"""Noised class Gaussians: sensitivity, a loop as oracle, and noise removed."""

from __future__ import annotations

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dp_diffusion import types
from dp_diffusion.baselines import class_gaussians
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.models import class_gaussians as gaussians_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from tests.baselines import mean_embedding_test

SHAPE = (4, 4, 2)
SIDE = 2
SIZE = SIDE**2 * SHAPE[-1]
FEATURES = class_gaussians.make_feature_fn(SHAPE, SIDE)


def make_source(
  labels, person=None, images: np.ndarray | None = None
) -> registry.ArraySource:
  if images is None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), *SHAPE), dtype=np.uint8)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name='x',
      image_shape=SHAPE,
      class_names=('a', 'b', 'c'),
      has_person=person is not None,
    ),
    images=images,
    labels=np.asarray(labels, np.int32),
    person=None if person is None else np.asarray(person, np.int32),
  )


def exact(source, unit='image'):
  return mean_embedding_test.exact(source, unit, FEATURES)


def noised(source, noise_multiplier: float, unit='image') -> np.ndarray:
  mechanism = mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier,
    l2_sensitivity=1.0,
    purpose=class_gaussians.PURPOSE,
  )
  (found,) = mean_embedding.noised_sums(
    FEATURES,
    source,
    batching.make_records(source, unit),
    mechanism,
    mean_embedding_test.streams(),
    class_gaussians.PURPOSE,
  )
  return found


def covariance(factors: np.ndarray) -> np.ndarray:
  flat = factors.reshape((len(factors), -1)).astype(np.float64)
  return flat.T @ flat


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
  st.lists(st.integers(0, 2), min_size=2, max_size=8),
  st.sampled_from(['black', 'white', 'any']),
  st.sampled_from(['image', 'person']),
)
def test_neighbours_differ_by_at_most_the_sensitivity(labels, kind, unit):
  """Means, products and counts together, for persons of many classes."""
  person = np.arange(len(labels)) // 4
  source = make_source(labels, person)
  if kind != 'any':
    source.images[:] = 255 * (kind == 'white')
  gone = person == 0 if unit == 'person' else np.arange(len(labels)) == 0
  change = exact(source, unit)
  if not gone.all():
    rest = mean_embedding_test.subset(source, ~gone)
    change = change - exact(rest, unit)
  moved = np.linalg.norm(change)
  assert moved <= mean_embedding.L2_SENSITIVITY
  if unit == 'image' and kind != 'any':
    assert moved > 1 - 1e-4  # The bound is reached: it is no looser than it is.


def test_features_need_no_bound_from_others():
  """The norm is at most 1 by itself, so nothing is shortened afterwards."""
  rng = np.random.default_rng(0)
  images = np.sign(rng.normal(size=(64, *SHAPE))).astype(np.float32)
  images[:2] = np.array([-1, 1])[:, None, None, None]  # Of the largest norm.
  norms = np.linalg.norm(np.float64(FEATURES(jnp.asarray(images))), axis=1)
  assert norms.max() <= 1 + 1e-6
  np.testing.assert_allclose(norms[:2], 1, atol=1e-6)


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma, for each of the parts."""
  sigma, source = 3.0, make_source([0, 1, 2, 0])
  names = tuple(str(i) for i in range(300))  # Most classes are empty.
  spec = dataclasses.replace(source.spec, class_names=names)
  source = dataclasses.replace(source, spec=spec)
  noise = np.float64(noised(source, sigma) - noised(source, 0.0))
  pixels = int(np.prod(SHAPE))
  for part in (noise[:, :pixels], noise[:, pixels:-1], noise[:, -1:]):
    for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
      if part.size < 900:  # Too few to tell a tenth.
        factor = factor**3
      squares = np.sum((part / sigma / factor) ** 2)
      tail = stats.chi2.cdf(squares, part.size)
      assert (1e-3 < tail < 1 - 1e-3) == is_right


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_gaussians_are_those_of_a_loop(unit):
  """Without noise, a person's images have the weight of one record."""
  rng = np.random.default_rng(1)
  labels, person = rng.integers(0, 3, 40), np.sort(rng.integers(0, 9, 40))
  source = make_source(labels, person)
  found = class_gaussians.estimate(noised(source, 0, unit), SHAPE, SIDE, 0.0)
  images = source.images / 127.5 - 1
  few = np.asarray(
    jax.image.resize(images, (40, SIDE, SIDE, 2), 'linear', antialias=True)
  ).reshape((40, SIZE))
  for label in range(3):
    shares = [
      (labels[i] == label) / (1 if unit == 'image' else (person == p).sum())
      for i, p in enumerate(person)
    ]
    mean = np.average(images, axis=0, weights=shares)
    np.testing.assert_allclose(found.means[label], mean, atol=1e-4)
    wanted = np.cov(few.T, aweights=shares, ddof=0)
    np.testing.assert_allclose(
      covariance(found.factors[label]), wanted, atol=1e-3
    )


def test_gaussians_depend_on_the_noised_sum_alone():
  """Counts with noise enter: twice the count halves the mean."""
  sums = noised(make_source([0] * 50 + [1] * 50), 0.0)
  sums[1] = sums[0]
  sums[1, -1] *= 2
  found = class_gaussians.estimate(sums, SHAPE, SIDE, 0.0)
  np.testing.assert_allclose(found.means[1], found.means[0] / 2, atol=1e-6)
  empty = class_gaussians.estimate(np.zeros_like(sums), SHAPE, SIDE, 5.0)
  assert not empty.means.any() and not empty.factors.any()


def test_a_count_below_its_noise_counts_as_the_noise():
  """Otherwise the mean of an empty class would be of full contrast."""
  sums = noised(make_source([0] * 50), 0.0)
  sums[1, :-1] = sums[0, :-1]
  sums[1, -1] = -1.0
  found = class_gaussians.estimate(sums, SHAPE, SIDE, 20.0)
  as_many = 20.0 / 0.1**0.5
  np.testing.assert_allclose(
    found.means[1], found.means[0] * max(50, as_many) / as_many, atol=1e-5
  )
  quiet = class_gaussians.estimate(sums / 100, SHAPE, SIDE, 20.0)
  assert np.max(np.abs(quiet.means)) < 0.02


def test_noise_is_told_from_covariance():
  """Noise alone gives hardly any covariance; a strong one is kept."""
  rng = np.random.default_rng(2)
  labels = np.repeat([0, 1, 2], 4000)
  direction = rng.normal(size=SHAPE)
  rolled = 0.4 * rng.normal(size=(len(labels), 1, 1, 1)) * direction
  images = np.clip(127.5 * (1 + rolled), 0, 255).astype(np.uint8)
  images[labels == 2] = 128
  source = make_source(labels, images=images)
  right = class_gaussians.estimate(noised(source, 0.0), SHAPE, SIDE, 0.0)
  found = class_gaussians.estimate(noised(source, 1.0), SHAPE, SIDE, 1.0)
  wanted = covariance(right.factors[0])
  error = covariance(found.factors[0]) - wanted
  assert np.linalg.norm(error) < 0.2 * np.linalg.norm(wanted)
  # Class 2 has none, and takes little from the others.
  assert np.trace(covariance(found.factors[2])) < 0.1 * np.trace(wanted)
  plain = make_source(labels, images=np.full_like(images, 128))
  found = class_gaussians.estimate(noised(plain, 2.0), SHAPE, SIDE, 2.0)
  assert np.trace(covariance(found.factors[0])) < 0.05 * np.trace(wanted)


def test_an_empty_class_takes_the_mean_and_covariance_of_all():
  """Its own would be noise, of full contrast."""
  rng = np.random.default_rng(4)
  labels = np.repeat([0, 1], 3000)
  images = 100 + 20 * rng.normal(size=(len(labels), 1, 1, 1)) * np.ones(SHAPE)
  source = make_source(labels, images=np.clip(images, 0, 255).astype(np.uint8))
  found = class_gaussians.estimate(noised(source, 5.0), SHAPE, SIDE, 5.0)
  assert np.max(np.abs(found.means)) <= 1
  first, last = (covariance(found.factors[i]) for i in (0, 2))
  assert np.max(np.abs(found.means[0] - found.means[2])) < 0.2
  assert 0.3 < np.trace(last) / np.trace(first) < 2
  values = np.linalg.norm(found.factors.reshape((3, -1, SIZE)), axis=2)
  assert np.all(np.diff(values, axis=1) <= 0)  # In falling order.
  assert values.shape[1] < SIZE  # Factors that no class has are left out.


def test_few_records_take_the_covariance_of_all():
  """It has less noise than their own."""
  rng = np.random.default_rng(3)
  labels = np.repeat([0, 1, 2], [3000, 3000, 60])
  images = rng.integers(0, 256, (len(labels), 1, 1, 1)) * np.ones(SHAPE)
  source = make_source(labels, images=images.astype(np.uint8))
  found = class_gaussians.estimate(noised(source, 1.0), SHAPE, SIDE, 1.0)
  first, last = (covariance(found.factors[i]) for i in (0, 2))
  assert np.linalg.norm(first - last) < 0.2 * np.linalg.norm(first)


def test_the_noise_of_products_is_that_of_a_variance():
  """With a class of N records: sigma d / (b N)."""
  source = make_source([0] * 100)
  sums = [noised(source, s) for s in (0.0, 2.0)]
  packed = [s[:, int(np.prod(SHAPE)) : -1] for s in sums]
  left, right = (class_gaussians._unpacked(p, SIZE) / 100 for p in packed)
  noise = np.diagonal(right - left, axis1=1, axis2=2)
  wanted = class_gaussians.noise_of_products(2.0, 100, SIDE, SHAPE[-1])
  assert np.std(noise) == pytest.approx(wanted, rel=0.5)


def test_draws_have_the_mean_and_the_covariance():
  factors = np.zeros((2, 3, 2, 2, 1), np.float32)
  factors[0, 0], factors[1, 1, 0] = 0.1, 0.2
  means = np.stack([np.full((4, 4, 1), v, np.float32) for v in (-0.5, 0.3)])
  given = gaussians_lib.ClassGaussians(means=means, factors=factors)
  keys = jax.random.split(jax.random.key(0), 4000)
  labels = jnp.arange(4000) % 2
  found = np.asarray(given.draw(keys, labels), np.float64)
  for label, std in ((0, 0.1), (1, 0.2)):
    mine = found[label::2]
    np.testing.assert_allclose(mine.mean(0), means[label], atol=0.02)
    assert np.std(mine[:, 0, 0, 0]) == pytest.approx(std, rel=0.1)
  assert np.std(found[1::2, 3, 3, 0]) == 0  # The lower pixels do not vary.


def test_draws_stay_in_the_range_of_images():
  factors = np.full((1, 1, 1, 1, 1), 5.0, np.float32)
  means = np.zeros((1, 2, 2, 1), np.float32)
  given = gaussians_lib.ClassGaussians(means=means, factors=factors)
  keys = jax.random.split(jax.random.key(0), 50)
  found = given.draw(keys, jnp.zeros(50, jnp.int32))
  assert np.max(np.abs(found)) == 1


@pytest.mark.parametrize(
  'arrays',
  [
    {},
    {'means': np.zeros((2, 4, 4, 1), np.float32)},
    {
      'means': np.zeros((2, 4, 4, 1), np.float32),
      'factors': np.zeros((3, 1, 2, 2, 1), np.float32),
    },
    {
      'means': np.full((2, 4, 4, 1), np.nan, np.float32),
      'factors': np.zeros((2, 1, 2, 2, 1), np.float32),
    },
    {
      'means': np.full((2, 4, 4, 1), 1.1, np.float32),
      'factors': np.zeros((2, 1, 2, 2, 1), np.float32),
    },
    {
      'means': np.zeros((2, 4, 4, 1)),
      'factors': np.zeros((2, 1, 2, 2, 1)),
    },
  ],
)
def test_arrays_of_other_shapes_are_refused(arrays):
  with pytest.raises(ValueError, match='Expected class Gaussians, means'):
    gaussians_lib.ClassGaussians.from_arrays(arrays)
