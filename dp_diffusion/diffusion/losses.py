"""The training loss of ONE draw of ONE example.

The stages combine `draw_loss` with a model and an augmentation into the
`loss_fn` whose gradients are clipped and summed. There is no loss over a batch:
a gradient that depends on two sensitive images cannot be clipped per example.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import schedules
from dp_diffusion.diffusion import timesteps

NULL_LABEL = -1  # Means "no class"; real classes start at 0.

_MIN_SNR_GAMMA = 5.0  # The default of arXiv 2303.09556.


def loss_weights(config: schedules.DiffusionProcess) -> np.ndarray:
  """Weight of the squared error at each timestep, float32[T] in (0, 5].

  'none' gives 1 everywhere. 'min_snr' weighs the squared error of x0 by
  min(SNR, 5) (arXiv 2303.09556 section 3.4). The squared error of eps is SNR
  times that of x0, and the squared error of v is SNR + 1 times that of x0, so
  the weight is divided by that factor.

  Args:
    config: gives the schedule, the prediction and the kind of weighting.
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
  """Computes the loss of ONE draw of ONE example.

  The timestep, the noise and the label drop are drawn from `key`. The loss is
  the mean over H, W and C of the squared error of the prediction (arXiv
  2006.11239 eq. 14), times the weight of the timestep (`loss_weights`).

  With `antithetic_noise` it is the mean of the losses of the noise and of its
  negative (antithetic variates). Much of a gradient is odd in the noise and
  cancels, so the gradient of an example is nearer to its expectation than that
  of two independent noises. Both see the same timestep and label.

  Args:
    denoise_fn: the network with its weights bound; called with a batch of one,
      or of two with `antithetic_noise`.
    config: the forward process and the prediction.
    x0: float32[H, W, C] in [-1, 1], already augmented.
    label: int32[], a class, or NULL_LABEL.
    key: typed PRNG key of this draw, consumed.

  Returns:
    float32[], at least 0.
  """
  timestep_key, noise_key, drop_key = jax.random.split(key, 3)
  timestep = timesteps.sample(config, timestep_key)
  noise = jax.random.normal(noise_key, x0.shape, jnp.float32)
  if config.label_drop_prob:
    is_dropped = jax.random.bernoulli(drop_key, config.label_drop_prob)
    label = jnp.where(is_dropped, NULL_LABEL, label)
  label = jnp.asarray(label, jnp.int32)
  noises = [noise, -noise] if config.antithetic_noise else [noise]
  noise, num = jnp.stack(noises), len(noises)
  x0, label = jnp.stack([x0] * num), jnp.stack([label] * num)
  at = jnp.stack([timestep] * num)
  x_t = parameterization.q_sample(config, x0, at, noise)
  output = denoise_fn(x_t, at, label)
  error = output.astype(jnp.float32) - parameterization.target(
    config, x0, at, noise
  )
  weight = jnp.asarray(loss_weights(config))[timestep]
  return weight * jnp.mean(jnp.square(error))
