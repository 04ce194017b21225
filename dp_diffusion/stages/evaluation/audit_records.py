"""The records of an audit: public images, and canaries by secret coins.

No sensitive image is used.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.privacy import audit as audit_lib
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import key_streams
from dp_diffusion.training import gradient_canaries
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

_NUM_LOSS_DRAWS = 8  # Draws per image canary, equal before and after training.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """The records of the training, and all canaries.

  Attributes:
    images: uint8[n, H, W, C], public images, then included gradient canaries,
      then included image canaries. The image of a gradient canary does not
      matter.
    labels: int32[n].
    coordinates: int32[n], the coordinate of a gradient canary, or
      `gradient_canaries.NO_CANARY`.
    num_filler: number of public images.
    gradient_coins: bool[m], whether each gradient canary is included.
    image_coins: bool[num_image_canaries], whether each image canary is.
    image_canaries: uint8[num_image_canaries, H, W, C], all image canaries.
    image_labels: int32[num_image_canaries].
  """

  images: np.ndarray
  labels: np.ndarray
  coordinates: np.ndarray
  num_filler: int
  gradient_coins: np.ndarray
  image_coins: np.ndarray
  image_canaries: np.ndarray
  image_labels: np.ndarray

  def gather(self, indices: np.ndarray, step: int) -> dict[str, np.ndarray]:
    """Reads records, as `loop.PrivateSteps.gather`."""
    del step
    return {
      'image': self.images[indices],
      'label': self.labels[indices],
      'coordinate': self.coordinates[indices],
    }

  def participation(
    self, selector: batch_selection.PoissonSelector, num_steps: int
  ) -> np.ndarray:
    """Returns which gradient canary was selected at which step.

    It can be computed only with the secret.

    Args:
      selector: selector of the run.
      num_steps: number of steps T.

    Returns:
      bool[T, m], False for canaries that are not included.
    """
    canaries_in = np.flatnonzero(self.gradient_coins)
    last = self.num_filler + len(canaries_in)
    found = np.zeros((num_steps, len(self.gradient_coins)), np.bool_)
    for step in range(num_steps):
      selected = selector.select(step)
      places = selected[(selected >= self.num_filler) & (selected < last)]
      found[step, canaries_in[places - self.num_filler]] = True
    return found


def make_dataset(
  config: config_lib.Config,
  coordinates: np.ndarray,
  streams: key_streams.KeyStreams,
) -> Dataset:
  """Makes the dataset of public images and canaries.

  Args:
    config: its `data` are the public images.
    coordinates: int32[m], coordinates of the gradient canaries.
    streams: secret randomness, which gives the coins.
  """
  audit = config.audit
  source = processes.main_first(lambda: registry.load(config.data))
  num_filler = min(audit.num_filler, len(source.labels))
  rng = public_seed.Purpose.AUDIT_FILLER.rng(config.seed)
  filler = np.sort(rng.permutation(len(source.labels))[:num_filler])
  shape = source.images.shape[1:]
  rng = public_seed.Purpose.AUDIT_IMAGES.rng(config.seed)
  size = (audit.num_image_canaries, *shape)
  noise_images = rng.integers(0, 256, size, np.uint8)
  noise_labels = rng.integers(
    source.spec.num_classes, size=audit.num_image_canaries, dtype=np.int32
  )
  gradient_coins = audit_lib.coins(
    streams.seed_bytes('coins of gradient canaries', 0), audit.num_canaries
  )
  image_coins = audit_lib.coins(
    streams.seed_bytes('coins of image canaries', 0), audit.num_image_canaries
  )
  num_in = int(gradient_coins.sum())
  none = gradient_canaries.NO_CANARY
  return Dataset(
    images=np.concatenate(
      [
        np.asarray(source.images[filler]),
        np.zeros((num_in, *shape), np.uint8),
        noise_images[image_coins],
      ]
    ),
    labels=np.concatenate(
      [
        np.asarray(source.labels)[filler].astype(np.int32),
        np.zeros(num_in, np.int32),
        noise_labels[image_coins],
      ]
    ),
    coordinates=np.concatenate(
      [
        np.full(num_filler, none, np.int32),
        coordinates[gradient_coins],
        np.full(int(image_coins.sum()), none, np.int32),
      ]
    ),
    num_filler=num_filler,
    gradient_coins=gradient_coins,
    image_coins=image_coins,
    image_canaries=noise_images,
    image_labels=noise_labels,
  )


class ImageLosses:
  """Computes the mean loss of each image canary over fixed draws."""

  def __init__(
    self,
    config: config_lib.Config,
    dataset: Dataset,
    loss_fn: types.LossFn,
    devices: parallel.DataParallel,
    microbatch_size: int,
  ) -> None:
    self._dataset, self._devices = dataset, devices
    self._key = public_seed.Purpose.AUDIT_LOSS_DRAWS.key(config.seed)
    self._block = microbatch_size * devices.num_devices

    def mean_loss(params: Any, image: Any, label: Any, key: Any) -> Any:
      keys = jax.random.split(key, _NUM_LOSS_DRAWS)
      example = {'image': image, 'label': label}
      return jax.vmap(loss_fn, (None, None, 0))(params, example, keys).mean()

    self._mean_losses = devices.pmap_map(
      jax.vmap(mean_loss, in_axes=(None, 0, 0, 0))
    )

  def __call__(self, params: types.Params) -> np.ndarray:
    """Returns the losses, float64[num_image_canaries]."""
    images, labels = self._dataset.image_canaries, self._dataset.image_labels
    if not len(labels):
      return np.zeros(0)
    replicas = self._devices.replicate(params)
    keys = jax.random.split(jax.random.clone(self._key), len(labels))
    found = []
    for start in range(0, len(labels), self._block):
      rows = np.minimum(np.arange(start, start + self._block), len(labels) - 1)
      part = self._mean_losses(replicas, images[rows], labels[rows], keys[rows])
      found.append(part[: len(labels) - start])
    return np.concatenate(found).astype(np.float64)
