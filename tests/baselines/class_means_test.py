"""Noised class means: sensitivity, an oracle, and small classes."""

from __future__ import annotations

import dataclasses

import dp_accounting
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.baselines import class_means
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.data import batching
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib
from tests.baselines import mean_embedding_test

SHAPE = (2, 2, 1)
FEATURES = class_means.make_feature_fn(SHAPE)
make_source = mean_embedding_test.make_source
subset = mean_embedding_test.subset


def exact(source, unit='image'):
  return mean_embedding_test.exact(source, unit, FEATURES)


def mechanism_of(noise_multiplier, count=1, sensitivity=1.0):
  return mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier,
    l2_sensitivity=sensitivity,
    purpose='means',
    count=count,
  )


def noised(source, mechanism, unit='image'):
  return mean_embedding.noised_sums(
    FEATURES,
    source,
    batching.make_records(source, unit),
    mechanism,
    mean_embedding_test.streams(),
    'means',
  )


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(
  st.lists(st.integers(0, 2), min_size=2, max_size=8),
  st.sampled_from(['black', 'white', 'any']),
  st.sampled_from(['image', 'person']),
)
def test_neighbours_differ_by_at_most_the_sensitivity(labels, kind, unit):
  """Pixels and counts of all classes together, for persons of many classes."""
  person = np.arange(len(labels)) // 4
  source = make_source(labels, person, len(labels))
  if kind != 'any':
    source.images[:] = 255 * (kind == 'white')
  gone = person == 0 if unit == 'person' else np.arange(len(labels)) == 0
  change = exact(source, unit)
  if not gone.all():
    change = change - exact(subset(source, ~gone), unit)
  moved = np.linalg.norm(change)
  assert moved <= mean_embedding.L2_SENSITIVITY
  if unit == 'image' and kind != 'any':
    assert moved > 1 - 1e-4  # The bound is reached: it is no looser than it is.


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_means_are_those_of_a_loop(unit):
  labels, person = np.array([0, 2, 2, 0, 0]), np.array([5, 5, 7, 5, 8])
  source = make_source(labels, person)
  (found,) = class_means.means(
    noised(source, mechanism_of(0.0), unit), SHAPE, 0.0
  )
  for label in (0, 2):
    shares = [
      (labels[i] == label) / (1 if unit == 'image' else (person == p).sum())
      for i, p in enumerate(person)
    ]
    mean = np.average(np.float64(source.images), axis=0, weights=shares)
    np.testing.assert_allclose(found[label], mean, atol=0.51)
  assert np.all(abs(found[1].astype(int) - 127.5) < 1)  # No image: grey.


def test_means_depend_on_the_noised_sum_alone():
  """Counts with noise enter: the same sum with a larger count is darker."""
  a, c = class_means.weights(4)
  sums = np.zeros((1, 3, 5), np.float32)
  sums[..., :4] = 100 * a / 2
  sums[0, :, 4] = np.array([100, 200, -50]) * c
  white, half, lost = class_means.means(sums, SHAPE, 10.0)[0]
  assert np.all(white == 255) and np.all(abs(half - 127.5 * 1.5) < 1)
  assert np.all(lost == 255)  # Divided by the noise: 10 / c images.
  rare = sums.copy()
  rare[..., :4] = 5 * a / 2
  rare = class_means.means(rare, SHAPE, 10.0)[0, 2]
  assert np.all(abs(rare - 127.5 * (1 + 5 * c / 10)) < 1)
  quiet = sums.copy()
  quiet[..., :4] /= 1000
  lost = class_means.means(quiet, SHAPE, 10.0)[0, 2]
  assert np.all(abs(lost - 127.5) < 2)


def test_each_release_has_noise_of_its_own():
  source = make_source([0, 1, 2, 0])
  found = noised(source, mechanism_of(2.0, count=3))
  assert found.shape == (3, 3, 5)
  without = noised(source, mechanism_of(0.0))[0]
  noise = (found - without).reshape(3, -1)
  assert np.all(abs(np.corrcoef(noise) - np.eye(3)) < 0.9)
  assert len(np.unique(noise)) == noise.size
  np.testing.assert_array_equal(found[:1], noised(source, mechanism_of(2.0)))


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma; pixels and counts."""
  sigma, source = 3.0, make_source([0, 1, 2, 0])
  names = tuple(str(i) for i in range(30))  # Most classes are empty.
  spec = dataclasses.replace(source.spec, class_names=names)
  source = dataclasses.replace(source, spec=spec)
  noise = noised(source, mechanism_of(sigma, count=8))
  noise = np.float64(noise - noised(source, mechanism_of(0.0)))
  for part in (noise[..., :-1], noise[..., -1:]):
    for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
      if part.size < 900:  # Too few to tell a tenth.
        factor = factor**3
      squares = np.sum((part / sigma / factor) ** 2)
      tail = stats.chi2.cdf(squares, part.size)
      assert (1e-3 < tail < 1 - 1e-3) == is_right


def test_a_smaller_sensitivity_than_that_of_the_sum_is_refused():
  with pytest.raises(ValueError, match='l2_sensitivity=0.5'):
    noised(make_source([0, 1]), mechanism_of(1.0, sensitivity=0.5))


def test_sums_of_all_are_no_worse_than_means_of_subsets():
  """At the epsilon of n subsets with share q and noise s, all have less noise.

  The mean of n subset means of q N / K images has noise s / (q N / K) / sqrt(n)
  a pixel, that of n sums of everything t / (N / K) / sqrt(n).
  """
  q, n, s, delta = 0.1, 5, 5.0, 1e-5
  subsets = dp_accounting.SelfComposedDpEvent(
    dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(s)), n
  )
  t = 1.02 * s / q  # Two per cent more noise keep to the same epsilon.
  spent = accounting.epsilon([mechanism_of(t, n).dp_event()], delta)
  assert spent <= accounting.epsilon([subsets], delta)
