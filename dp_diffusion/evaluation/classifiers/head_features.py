"""What a class head reads of an image.

Pooled activations of the network (`activations`), which know what it has
learned, and after them, where asked for, scattering coefficients
(`models.scattering`), which need not be learned.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import activations
from dp_diffusion.models import scattering
from dp_diffusion.models import unet
from dp_diffusion.training import parallel

_BATCH_SIZE = 250


class HeadFeatures:
  """Computes the features on all devices of this process."""

  def __init__(
    self,
    network: unet.UNetConfig,
    params: types.Params,
    diffusion: schedules.DiffusionProcess,
    *,
    has_scattering: bool,
    check_stop: Callable[[], None] = lambda: None,
  ) -> None:
    """Puts the weights on the devices; compiles at the first call.

    Args:
      network: the denoiser.
      params: its weights.
      diffusion: the process that it was trained on.
      has_scattering: whether scattering coefficients follow the activations.
      check_stop: called before every batch; raises to end.
    """
    devices = parallel.DataParallel()
    self._check_stop = check_stop
    self._replicas = devices.replicate(params)
    activations_of = activations.make_feature_fn(network, diffusion)

    def features(weights: types.Params, images: types.Array) -> types.Array:
      pixels = augment.to_float(images)
      found = [activations_of(weights, pixels)]
      if has_scattering:
        found.append(scattering.features(pixels))
      return jnp.concatenate(found, axis=1)

    self._fn = devices.pmap_map(features)

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


def widths(
  network: unet.UNetConfig,
  params: types.Params,
  diffusion: schedules.DiffusionProcess,
  image_size: int,
  *,
  has_scattering: bool,
) -> tuple[int, ...]:
  """Returns how many features there are of each kind, computing nothing.

  The arguments are those of `HeadFeatures`, and the side of the images.
  """
  num = activations.num_features(network, params, diffusion, image_size)
  if not has_scattering:
    return (num,)
  return num, scattering.num_features(image_size, network.image_channels)
