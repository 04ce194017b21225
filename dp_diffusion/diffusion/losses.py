"""The training loss: ONE draw of ONE example, and no other.

The stages join `draw_loss` with a model and augmentation into the `loss_fn` of
the clipped sum. No batch loss exists here: what touches two sensitive images at
once cannot be clipped per example.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import schedules
from dp_diffusion.diffusion import timesteps

NULL_LABEL = -1  # "No class", outside every real class of every dataset.

_MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556, their default.


def loss_weights(config: schedules.DiffusionProcess) -> np.ndarray:
  """What multiplies the squared error at each timestep, float32[T].

  'none' is 1 whatever the prediction. 'min_snr' is min(SNR, 5) as a weight of
  the error of x0, translated to the error of the prediction (arXiv 2303.09556
  section 3.4): the squared errors of eps and v are SNR and SNR + 1 times it.
  """
  snr = schedules.snr(config)
  if config.loss_weighting == 'none':
    return np.ones_like(snr, np.float32)
  divisor = {'x0': np.ones_like(snr), 'eps': snr, 'v': snr + 1}
  weights = np.minimum(snr, _MIN_SNR_GAMMA) / divisor[config.prediction]
  return weights.astype(np.float32)


def draw_loss(
  denoise_fn: types.DenoiseFn,
  config: schedules.DiffusionProcess,
  x0: types.Array,
  label: types.Array,
  key: types.Key,
) -> types.Array:
  """Loss of ONE draw of ONE example: own timestep, own noise, own label drop.

  The mean over H, W and C of the squared error of the prediction (arXiv
  2006.11239 eq. 14), times `loss_weights`.

  Args:
    denoise_fn: the network with its weights bound; called with a batch of one.
    config: the process.
    x0: float32[H, W, C] in [-1, 1], already augmented.
    label: int32[], a class, or NULL_LABEL.
    key: typed PRNG key of this draw, consumed.

  Returns:
    float32[].
  """
  timestep_key, noise_key, drop_key = jax.random.split(key, 3)
  timestep = timesteps.sample(config, timestep_key)
  noise = jax.random.normal(noise_key, x0.shape, jnp.float32)
  if config.label_drop_prob:
    is_dropped = jax.random.bernoulli(drop_key, config.label_drop_prob)
    label = jnp.where(is_dropped, NULL_LABEL, label)
  x_t = parameterization.q_sample(config, x0, timestep, noise)
  label = jnp.asarray(label, jnp.int32)
  output = denoise_fn(x_t[None], timestep[None], label[None])[0]
  error = output.astype(jnp.float32) - parameterization.target(
    config, x0, timestep, noise
  )
  weight = jnp.asarray(loss_weights(config))[timestep]
  return weight * jnp.mean(jnp.square(error))
