"""Precision and recall against a naive implementation and known cases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import prdc


def compare(reference, synthetic, k=3, block_size=100):
  return prdc.compare(
    reference,
    synthetic,
    features_name='pixels',
    reference_name='train',
    num_neighbors=k,
    block_size=block_size,
  )


def on_manifold(points, manifold, k):
  """Share of points in a ball of the manifold, one by one."""
  hits = 0
  for p in points:
    for i, m in enumerate(manifold):
      others = np.delete(manifold, i, axis=0)
      radius = np.sort([np.linalg.norm(m - o) for o in others])[k - 1]
      if np.linalg.norm(p - m) <= radius:
        hits += 1
        break
  return hits / len(points)


@given(
  st.integers(4, 9), st.integers(4, 9), st.integers(1, 3), st.integers(1, 10),
  st.integers(0, 99),
)  # fmt: skip
def test_against_a_naive_implementation(m, n, k, block_size, seed):
  rng = np.random.default_rng(seed)
  # Integers of few values: equal distances, and exact ones.
  reference = rng.integers(0, 5, (m, 2)).astype(np.float64)
  synthetic = rng.integers(0, 5, (n, 2)).astype(np.float64) + 1
  found = compare(
    reference.astype(np.uint8), synthetic.astype(np.uint8), k, block_size
  )
  assert found.precision == on_manifold(synthetic, reference, k)
  assert found.recall == on_manifold(reference, synthetic, k)


def test_a_collapsed_generator_is_precise_and_recalls_little():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=(200, 2))
  synthetic = reference[:1] + 1e-3 * rng.normal(size=(200, 2))
  result = compare(reference, synthetic)
  assert result.precision == 1
  assert result.recall < 0.02


def test_a_blurred_generator_recalls_and_is_imprecise():
  rng = np.random.default_rng(0)
  reference = rng.normal(size=(200, 2))
  result = compare(reference, 10 * rng.normal(size=(200, 2)))
  assert result.precision < 0.2
  assert result.recall > 0.8


def test_equal_distributions_score_high_on_both():
  x, y = np.random.default_rng(0).normal(size=(2, 300, 2))
  result = compare(x, y)
  assert min(result.precision, result.recall) > 0.85
  assert result.to_dict()['num_neighbors'] == 3


def test_too_few_images_are_refused():
  with pytest.raises(ValueError, match='num_neighbors=3'):
    compare(np.zeros((3, 2)), np.zeros((9, 2)))


def test_intervals_are_by_person_where_persons_are_known():
  rng = np.random.default_rng(0)
  reference, measured = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
  of_reference, of_measured = np.arange(60) // 20, np.arange(40) // 10

  def intervals(persons):
    found = prdc.compare(
      reference,
      measured,
      features_name='pixels',
      reference_name='train',
      persons=persons,
    )
    return found.precision_interval, found.recall_interval

  precision, recall = intervals((None, None))
  found = compare(reference, measured)
  assert precision == scoring.wilson_interval(40 * found.precision, 40)
  assert precision[0] < found.precision < precision[1]
  assert recall[0] < found.recall < recall[1]
  by_person = intervals((of_reference, of_measured))
  assert np.diff(by_person[0]) > np.diff(precision)
  assert np.diff(by_person[1]) > np.diff(recall)
  assert intervals((None, of_measured)) == (by_person[0], recall)
