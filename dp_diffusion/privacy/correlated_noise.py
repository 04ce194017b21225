"""Correlated noise, which cancels part of the noise of earlier steps.

With a strategy c of b coefficients (`mechanism.TrainingMechanism`), the noise
of step t is w_t = (z_t - c_1 w_(t-1) - ... - c_(b-1) w_(t-b+1)) / c_0, where
z_t is the independent noise of the step. That is w = C^-1 z for the lower
triangular Toeplitz matrix C whose first column is c. The state of this filter
is the last b - 1 values of w; with one coefficient it is empty.

Guarantees:
  * It solves C w = z. `correlated_noise_test.py::test_is_the_inverse_matrix`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dp_diffusion import types


def start(strategy: Sequence[float], size: int) -> np.ndarray:
  """Returns the state before the first step, float32[b - 1, size]."""
  return np.zeros((len(strategy) - 1, size), np.float32)


def correlate(
  fresh: types.Array, past: types.Array, strategy: Sequence[float]
) -> types.Array:
  """Returns the correlated noise of one step.

  Args:
    fresh: float32[size], independent noise z_t of variance 1.
    past: float32[b - 1, size], noise w of the steps before, newest first.
    strategy: coefficients c, b of them.

  Returns:
    float32[size], the noise w_t.
  """
  weights = np.asarray(strategy, np.float32)
  return (fresh - jnp.sum(weights[1:, None] * past, axis=0)) / weights[0]


def push(past: types.Array, noise: types.Array) -> types.Array:
  """Returns the state after a step, without the oldest noise.

  Args:
    past: float32[b - 1, size], the state before the step.
    noise: float32[size], the noise w_t of the step.

  Returns:
    float32[b - 1, size], newest first.
  """
  return jnp.concatenate([noise[None], past])[: len(past)]
