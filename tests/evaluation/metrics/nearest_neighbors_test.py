"""Nearest neighbours against a naive search, and exactness for pixels."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion.evaluation.metrics import nearest_neighbors


def naive(queries, references, k, exclude_self=False):
  a = queries.reshape(len(queries), -1).astype(np.float64)
  b = references.reshape(len(references), -1).astype(np.float64)
  all_pairs = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
  if exclude_self:
    np.fill_diagonal(all_pairs, np.inf)
  order = np.argsort(all_pairs, axis=1, kind='stable')[:, :k]
  return np.take_along_axis(all_pairs, order, axis=1), order


@given(
  num_queries=st.integers(1, 9),
  num_references=st.integers(4, 9),
  k=st.integers(1, 3),
  block_size=st.integers(1, 10),
  seed=st.integers(0, 99),
)
def test_against_naive_search(num_queries, num_references, k, block_size, seed):
  rng = np.random.default_rng(seed)
  # Few values, so that distances tie.
  queries = rng.integers(0, 3, (num_queries, 2, 2)).astype(np.uint8)
  references = rng.integers(0, 3, (num_references, 2, 2)).astype(np.uint8)
  found = nearest_neighbors.nearest(
    queries, references, k, block_size=block_size
  )
  expected = naive(queries, references, k)
  np.testing.assert_array_equal(found[0], expected[0])
  np.testing.assert_array_equal(found[1][:, 0], expected[1][:, 0])
  for row, (near, numbers) in enumerate(zip(*found, strict=True)):
    assert len(set(numbers)) == k
    differences = queries[row].astype(int) - references[numbers]
    lengths = np.sqrt((differences**2).sum(axis=(1, 2)))
    np.testing.assert_array_equal(near, lengths)


@pytest.mark.parametrize('block_size', [3, 4, 100])
def test_a_point_is_not_its_own_neighbor_but_its_copy_is(block_size):
  points = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
  points[7] = points[2]
  found = nearest_neighbors.nearest(points, points, 2, True, block_size)
  expected = naive(points, points, 2, exclude_self=True)
  np.testing.assert_allclose(found[0], expected[0], atol=1e-7)
  np.testing.assert_array_equal(found[1], expected[1])
  assert found[1][7, 0] == 2


def test_pixels_are_exact():
  rng = np.random.default_rng(0)
  references = rng.integers(0, 256, (50, 32, 32, 3)).astype(np.uint8)
  queries = references[:2].copy()
  queries[1, 0, 0, 0] ^= 1  # One level of one pixel away.
  found, indices = nearest_neighbors.nearest(queries, references)
  np.testing.assert_array_equal(found[:, 0], [0, 1])
  np.testing.assert_array_equal(indices[:, 0], [0, 1])


def test_a_copy_of_floats_is_at_distance_zero():
  points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
  found, indices = nearest_neighbors.nearest(points, points)
  np.testing.assert_array_equal(found, 0)
  np.testing.assert_array_equal(indices[:, 0], np.arange(40))


def test_far_from_the_origin_floats_keep_their_digits():
  points = np.random.default_rng(0).normal(size=(20, 4)) * 1e-3 + 1e4
  found = nearest_neighbors.nearest(points[:5], points[5:])[0]
  np.testing.assert_allclose(found, naive(points[:5], points[5:], 1)[0], 1e-6)


def test_memory_does_not_grow_with_the_references():
  def peak(num):
    references = np.zeros((num, 64), np.uint8)
    tracemalloc.start()
    nearest_neighbors.nearest(references[:64], references, block_size=64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most

  assert peak(6400) < 1.5 * peak(640)


def test_each_query_is_told_once_and_each_tile_can_end_the_search():
  queries, references = np.zeros((7, 2)), np.ones((5, 2))
  told: list[int] = []
  nearest_neighbors.nearest(
    queries, references, block_size=3, advance=told.append
  )
  assert told == [0, 3, 0, 3, 0, 1]  # Two tiles for each three queries.

  def stop(_: int) -> None:
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    nearest_neighbors.nearest(queries, references, advance=stop)


def test_bad_arguments_are_refused():
  points = np.zeros((3, 2))
  with pytest.raises(ValueError, match='one shape'):
    nearest_neighbors.nearest(points, np.zeros((3, 4)))
  for k, exclude in ((0, False), (4, False), (3, True)):
    with pytest.raises(ValueError, match='num_neighbors'):
      nearest_neighbors.nearest(points, points, k, exclude)
