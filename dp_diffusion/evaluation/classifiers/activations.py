"""Pooled activations of a diffusion model, as features of images.

The activations of a network that has learned to remove noise tell classes apart
linearly (arXiv 2303.09769). They are read at little noise, without adding any,
under the null class, and pooled over the pixels of each map. For a private
model this is post-processing.
"""

from __future__ import annotations

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import schedules
from dp_diffusion.models import unet

_LOG_SNR = 8.5  # Where blood cells are told apart best, see experiments.
_NULL_CLASS = -1


def num_features(
  network: unet.UNetConfig,
  params: types.Params,
  diffusion: schedules.DiffusionProcess,
  image_size: int,
) -> int:
  """Returns F, without computing anything."""
  shape = (1, image_size, image_size, network.image_channels)
  found = jax.eval_shape(
    make_feature_fn(network, diffusion), params, jnp.zeros(shape)
  )
  return int(found.shape[1])


def make_feature_fn(
  network: unet.UNetConfig, diffusion: schedules.DiffusionProcess
) -> Callable[[types.Params, types.Array], types.Array]:
  """Returns a function of (weights, float32[B, H, W, C]) to float32[B, F].

  F is four times the number of channels that all residual blocks give: mean,
  standard deviation, largest and smallest value of each map.

  Args:
    network: the denoiser.
    diffusion: the process that it was trained on.
  """
  model = unet.UNet(network)
  log_snr = np.log(schedules.snr(diffusion))
  timestep = int(np.argmin(np.abs(log_snr - _LOG_SNR)))
  scale = float(schedules.signal_scale(diffusion)[timestep])

  def is_block(module: nn.Module, name: str) -> bool:
    return isinstance(module, unet.ResBlock) and name == '__call__'

  def features(params: types.Params, images: types.Array) -> types.Array:
    num = len(images)
    _, found = model.apply(
      {'params': params},
      scale * images,
      jnp.full(num, timestep, jnp.int32),
      jnp.full(num, _NULL_CLASS, jnp.int32),
      capture_intermediates=is_block,
      mutable=['intermediates'],
    )
    blocks = found['intermediates']
    pooled = []
    for name in sorted(blocks):
      (maps,) = jax.tree.leaves(blocks[name])
      maps = maps.astype(jnp.float32).reshape((num, -1, maps.shape[-1]))
      for pool in (jnp.mean, jnp.std, jnp.max, jnp.min):
        pooled.append(pool(maps, axis=1))
    return jnp.concatenate(pooled, axis=1)

  return features
