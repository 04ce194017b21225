"""Frechet distances against closed forms, SciPy's root, and their bias."""

from __future__ import annotations

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.linalg

from dp_diffusion import errors
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.metrics import fid


class FakeExtractor:
  def __init__(self, num_features, is_inception=False):
    self.num_features = num_features
    self.is_inception = is_inception
    self.name = 'Inception-v3' if is_inception else 'pixels'


def of_gaussian(mean, covariance, num=1001):
  """Moments of a sample that has exactly these."""
  return fid.Moments(
    num=num,
    mean=np.asarray(mean, np.float64),
    scatter=np.asarray(covariance, np.float64) * (num - 1),
  )


def random_covariance(rng, size, rank=None):
  factors = rng.normal(size=(size, rank or size))
  return factors @ factors.T / size


def by_sqrtm(a, b):
  """The formula as FID's authors compute it."""
  root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
  shift = a.mean - b.mean
  return shift @ shift + np.trace(
    a.covariance + b.covariance - 2 * np.real(root)
  )


@given(
  st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(
    lambda s: sum(s) > 1
  ),
  st.integers(0, 99),
)
def test_streamed_moments_are_those_of_numpy(sizes, seed):
  rng = np.random.default_rng(seed)
  x = (rng.normal(size=(sum(sizes), 3)) + 1e3).astype(np.float32)
  found = fid.stream_moments(np.split(x, np.cumsum(sizes)[:-1]), 3)
  assert found.num == len(x)
  np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(0), 1e-12)
  expected = np.cov(x.astype(np.float64), rowvar=False)
  np.testing.assert_allclose(found.covariance, expected, 1e-6, 1e-9)


def test_equal_moments_have_distance_zero():
  a = of_gaussian([1, 2, 3], random_covariance(np.random.default_rng(0), 3))
  np.testing.assert_allclose(fid.frechet_distance(a, a), 0, atol=1e-12)


def test_one_dimension_has_a_closed_form():
  a, b = of_gaussian([1], [[4]]), of_gaussian([-2], [[25]])
  np.testing.assert_allclose(fid.frechet_distance(a, b), 9 + (2 - 5) ** 2)


def test_commuting_covariances_have_a_closed_form():
  rng = np.random.default_rng(0)
  basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  u, v = rng.uniform(0, 4, (2, 6))
  u[0] = v[1] = 0  # Singular.
  mean = rng.normal(size=6)
  a = of_gaussian(mean, basis * u @ basis.T)
  b = of_gaussian(0 * mean, basis * v @ basis.T)
  expected = mean @ mean + ((np.sqrt(u) - np.sqrt(v)) ** 2).sum()
  np.testing.assert_allclose(fid.frechet_distance(a, b), expected, rtol=1e-7)


def test_agrees_with_the_matrix_root():
  rng = np.random.default_rng(0)
  a = of_gaussian(rng.normal(size=40), random_covariance(rng, 40))
  b = of_gaussian(rng.normal(size=40), random_covariance(rng, 40))
  expected = by_sqrtm(a, b)
  np.testing.assert_allclose(fid.frechet_distance(a, b), expected, rtol=1e-8)
  np.testing.assert_allclose(fid.frechet_distance(b, a), expected, rtol=1e-8)


def test_singular_covariances_need_no_offset():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(5, 20)), rng.normal(size=(6, 20))
  found = fid.frechet_distance(fid.moments(x), fid.moments(y))
  # The nuclear norm of the product of the roots, by singular values.
  x_c, y_c = (x - x.mean(0)) / 2, (y - y.mean(0)) / np.sqrt(5)
  trace_root = np.linalg.svd(x_c @ y_c.T, compute_uv=False).sum()
  shift = x.mean(0) - y.mean(0)
  expected = shift @ shift + (x_c**2).sum() + (y_c**2).sum() - 2 * trace_root
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_covariance_divides_by_n_minus_1():
  found = fid.moments(np.float32([[0], [2]])).covariance
  np.testing.assert_array_equal(found, [[2]])
  with pytest.raises(ValueError, match='num=1'):
    _ = fid.moments(np.zeros((1, 2))).covariance


def test_extrapolation_takes_the_bias_away():
  rng = np.random.default_rng(0)
  size, num = 20, 400
  reference = of_gaussian(np.zeros(size), np.eye(size))
  truth, plain, at_infinity = 0.25 * size, [], []
  for seed in range(6):
    sample = rng.normal(size=(num, size)) + 0.5
    result = fid.compare(
      FakeExtractor(size), reference, sample, reference_name='', seed=seed
    )
    plain.append(result.value - truth)
    at_infinity.append(result.value_at_infinity - truth)
  # The bias of the covariance term is near F (F + 1) / 4 N, and the mean's
  # is F / N.
  bias = size * (size + 1) / (4 * num) + size / num
  assert abs(np.mean(plain) - bias) < 0.5 * bias
  assert abs(np.mean(at_infinity)) < 0.5 * bias


def test_curve_ends_with_the_distance_of_all():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(100, 3)).astype(np.float32)
  reference = fid.moments(rng.normal(size=(50, 3)))
  curve = fid.sample_size_curve(reference, x, num_points=5, seed=1)
  assert [n for n, _ in curve] == [10, 32, 55, 77, 100]
  expected = fid.frechet_distance(reference, fid.moments(x))
  np.testing.assert_allclose(curve[-1][1], expected, rtol=1e-9)
  assert curve == fid.sample_size_curve(reference, x, 5, seed=1)
  order = np.random.default_rng(1).permutation(100)[:32]
  expected = fid.frechet_distance(reference, fid.moments(x[order]))
  np.testing.assert_allclose(curve[1][1], expected, rtol=1e-9)


@pytest.mark.parametrize(
  ('num', 'size', 'first'),
  [(100, 3, 10), (100, 20, 21), (100, 49, 50), (100, 60, 50), (9, 1, 2)],
)
def test_the_smallest_sample_has_more_images_than_features(num, size, first):
  """If there are so many: a covariance of fewer is singular, and biased."""
  rng = np.random.default_rng(0)
  reference = of_gaussian(np.zeros(size), np.eye(size))
  curve = fid.sample_size_curve(reference, rng.normal(size=(num, size)), 4)
  assert curve[0][0] == first


@pytest.mark.parametrize('num_reference, num_synthetic', [(8, 9), (9, 8)])
def test_too_few_samples_are_refused_unless_allowed(
  num_reference, num_synthetic
):
  rng = np.random.default_rng(0)
  args = (
    FakeExtractor(8),
    fid.moments(rng.normal(size=(num_reference, 8))),
    rng.normal(size=(num_synthetic, 8)),
  )
  with pytest.raises(errors.UsageError, match='more than 8 [rs]'):
    fid.compare(*args, reference_name='train')
  result = fid.compare(*args, reference_name='train', allow_few=True)
  assert result.num_reference == num_reference
  assert result.num_synthetic == num_synthetic


def test_only_inception_gives_a_fid():
  rng = np.random.default_rng(0)
  reference, x = fid.moments(rng.normal(size=(9, 2))), rng.normal(size=(9, 2))
  for is_inception, name in (
    (True, 'FID'),
    (False, 'Frechet distance (pixels features)'),
  ):
    result = fid.compare(
      FakeExtractor(2, is_inception),
      reference,
      x,
      reference_name='digits train',
    )
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert result.name == stored['name'] == name
    assert stored['reference'] == 'digits train'
  assert not features.pixels((1, 1, 2)).is_inception


def test_features_of_two_kinds_are_refused():
  with pytest.raises(ValueError, match='one kind; got 2 and 3'):
    fid.frechet_distance(fid.moments(np.eye(2)), fid.moments(np.eye(3)))


def test_streaming_needs_no_more_than_a_few_matrices():
  """F = 256 stands for 2048: memory is matrices and one block, not N."""
  blocks = (np.ones((64, 256), np.float32) * i for i in range(200))
  tracemalloc.start()
  fid.stream_moments(blocks, 256)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 8 * 256 * 256 * 8


def test_jackknife_leaves_out_a_group_at_a_time():
  rng = np.random.default_rng(0)
  reference = fid.moments(rng.normal(size=(300, 3)))
  synthetic = rng.normal(size=(45, 3)).astype(np.float32)
  found = fid.jackknife_std_error(reference, synthetic, num_groups=5, seed=3)
  order = np.random.default_rng(3).permutation(45)
  values = [
    fid.frechet_distance(
      reference, fid.moments(synthetic[np.setdiff1d(order, left_out)])
    )
    for left_out in np.array_split(order, 5)
  ]
  mean = np.mean(values)
  expected = np.sqrt(4 / 5 * sum((v - mean) ** 2 for v in values))
  assert found == pytest.approx(expected)


def test_jackknife_is_as_wide_as_samples_differ():
  rng = np.random.default_rng(0)
  reference = fid.moments(rng.normal(size=(4000, 2)))
  samples = [rng.normal(size=(400, 2)) + 0.5 for _ in range(60)]
  values = [
    fid.frechet_distance(reference, fid.moments(sample)) for sample in samples
  ]
  std_errors = [
    fid.jackknife_std_error(reference, sample) for sample in samples
  ]
  assert np.mean(std_errors) == pytest.approx(np.std(values), rel=0.25)


def test_no_distance_is_negative_at_infinity(monkeypatch):
  rng = np.random.default_rng(0)
  monkeypatch.setattr(fid, 'extrapolate', lambda curve: -0.4)
  result = fid.compare(
    features.pixels((2, 2, 1)),
    fid.moments(rng.normal(size=(50, 4))),
    rng.normal(size=(40, 4)),
    reference_name='train',
  )
  assert result.value_at_infinity == 0
