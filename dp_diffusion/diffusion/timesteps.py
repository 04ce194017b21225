"""Which timestep a training draw sees.

Each of the K draws of an example calls `sample` with a key of its own: one
timestep repeated K times would waste the draws.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import schedules


def probabilities(config: schedules.DiffusionProcess) -> np.ndarray:
  """Probability of each timestep under `sample`, float64[T], sums to 1."""
  if not config.mixture_boundaries:
    return np.full(config.num_timesteps, 1 / config.num_timesteps)
  widths = np.diff(config.mixture_boundaries)
  return np.repeat(np.asarray(config.mixture_weights) / widths, widths)


def sample(config: schedules.DiffusionProcess, key: types.Key) -> types.Array:
  """Draws the timestep of ONE draw.

  Without a mixture, uniform over [0, T). With one, an interval is drawn with
  the mixture's weights, then a timestep uniformly within it (arXiv 2302.13861
  section 4.2). The loss is not divided by the resulting probability.

  Args:
    config: `mixture_boundaries` and `mixture_weights` say the distribution.
    key: typed PRNG key, consumed.

  Returns:
    int32[] in [0, T).
  """
  if not config.mixture_boundaries:
    return jax.random.randint(key, (), 0, config.num_timesteps, jnp.int32)
  interval_key, offset_key = jax.random.split(key)
  edges = jnp.asarray(config.mixture_boundaries, jnp.int32)
  weights = jnp.asarray(config.mixture_weights, jnp.float32)
  interval = jax.random.choice(interval_key, len(weights), p=weights)
  return jax.random.randint(
    offset_key, (), edges[interval], edges[interval + 1], jnp.int32
  )
