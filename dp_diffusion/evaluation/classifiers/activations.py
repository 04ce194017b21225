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

from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.diffusion import schedules
from dp_diffusion.models import unet
from dp_diffusion.training import parallel

_LOG_SNR = 8.5  # Where blood cells are told apart best, see experiments.
_BATCH_SIZE = 250
_NULL_CLASS = -1


class Activations:
  """Computes the features on all devices of this process."""

  def __init__(
    self,
    network: unet.UNetConfig,
    params: types.Params,
    diffusion: schedules.DiffusionProcess,
    check_stop: Callable[[], None] = lambda: None,
  ) -> None:
    """Puts the weights on the devices; compiles at the first call.

    Args:
      network: the denoiser.
      params: its weights.
      diffusion: the process that it was trained on.
      check_stop: called before every batch; raises to end.
    """
    devices = parallel.DataParallel()
    self._check_stop = check_stop
    self._replicas = devices.replicate(params)
    feature_fn = make_feature_fn(network, diffusion)
    self._fn = devices.pmap_map(
      lambda weights, images: feature_fn(weights, augment.to_float(images))
    )

  def of(
    self,
    images: np.ndarray,
    advance: console.Advance = lambda steps=1: None,
  ) -> np.ndarray:
    """Returns the features of images, float32[N, F].

    Args:
      images: uint8[N, H, W, C]; may be memory-mapped.
      advance: told how many images are done, after each batch.
    """
    if not len(images):  # Only the shape is known.
      one = np.zeros((1, *images.shape[1:]), np.uint8)
      return self.of(one)[:0]
    found = []
    for start in range(0, len(images), _BATCH_SIZE):
      self._check_stop()
      rows = np.arange(start, start + _BATCH_SIZE)
      batch = np.asarray(images[np.minimum(rows, len(images) - 1)])
      part = self._fn(self._replicas, batch)[: len(images) - start]
      found.append(part)
      advance(len(part))
    return np.concatenate(found)


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
