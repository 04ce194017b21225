from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion.privacy import correlated_noise
from tests.privacy import banded_sgd_test

STRATEGY = banded_sgd_test.MECHANISM.noise_strategy


def test_is_the_inverse_matrix():
  num_steps, size = 12, 5
  fresh = np.random.default_rng(0).normal(size=(num_steps, size))
  fresh = fresh.astype(np.float32)
  past = correlated_noise.start(STRATEGY, size)
  found = []
  for z in fresh:
    found.append(np.asarray(correlated_noise.correlate(z, past, STRATEGY)))
    past = np.asarray(correlated_noise.push(past, found[-1]))
    assert past.shape == (len(STRATEGY) - 1, size)
  matrix = sum(c * np.eye(num_steps, k=-k) for k, c in enumerate(STRATEGY))
  expected = np.linalg.solve(matrix, fresh)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  # Later noise takes back part of the earlier.
  assert np.linalg.inv(matrix)[1, 0] < -0.3


@pytest.mark.parametrize('size', [1, 3])
def test_one_coefficient_has_no_state(size):
  assert correlated_noise.start((1.0,), size).shape == (0, size)
