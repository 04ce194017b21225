"""The distribution from which training draws take their timestep.

Each of the K draws of an example calls `sample` with its own key, so the draws
see different timesteps; K draws at one timestep would tell less.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import schedules


def probabilities(config: schedules.DiffusionProcess) -> np.ndarray:
  """Returns the probability of each timestep, float64[T], adding up to 1."""
  if not config.mixture_boundaries:
    return np.full(config.num_timesteps, 1 / config.num_timesteps)
  widths = np.diff(config.mixture_boundaries)
  return np.repeat(np.asarray(config.mixture_weights) / widths, widths)


def sample(config: schedules.DiffusionProcess, key: types.Key) -> types.Array:
  """Draws the timestep of ONE training draw.

  Without a mixture, the timestep is uniform over [0, T). With a mixture, an
  interval is drawn by the weights, then a timestep uniformly within it (arXiv
  2302.13861 section 4.2). The loss is not divided by the probability of the
  timestep.

  Args:
    config: `mixture_boundaries` and `mixture_weights` give the distribution.
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
