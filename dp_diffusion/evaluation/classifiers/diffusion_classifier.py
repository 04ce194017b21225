"""Classifies images by a diffusion model itself, without training anything.

Noise is added to an image, and the network removes it once under each class.
The class under which it does this best is the answer (arXiv 2303.16203). The
squared error of the predicted noise, integrated over the log of the
signal-to-noise ratio, is the variational bound of the model (arXiv 2107.00630
eq. 17),

  log p(x | class) >= constant - 1/2 integral ||eps - eps_hat||^2 d log SNR,

with a constant that all classes share. The answer is therefore Bayes' rule
under classes of equal frequency.

For a private model this is post-processing. It needs no synthetic image, and so
measures what the model has learned of the classes rather than what its samples
show of it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import schedules
from dp_diffusion.models import unet
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

NUM_LEVELS = 24
# At noisier levels, or with less noise than rounding to 256 values leaves,
# classes can hardly be told apart.
_LOG_SNR_RANGE = (-2.0, 10.0)


def timesteps(
  diffusion: schedules.DiffusionProcess, num_levels: int = NUM_LEVELS
) -> np.ndarray:
  """Returns the timesteps closest to even steps of the log-SNR from -2 to 10.

  >>> timesteps(schedules.DiffusionProcess(schedule='cosine'), 5)
  array([  2,  18,  78, 262, 620], dtype=int32)

  Args:
    diffusion: the process, which has T timesteps.
    num_levels: number of noise levels L.

  Returns:
    int32[L] in [0, T), not falling.
  """
  checks.check_at_least('num_levels', num_levels, 1)
  log_snr = np.log(schedules.snr(diffusion).astype(np.float64))
  low, high = _LOG_SNR_RANGE
  wanted = high - (high - low) * (np.arange(num_levels) + 0.5) / num_levels
  distance = np.abs(log_snr[None] - wanted[:, None])
  return np.argmin(distance, axis=1).astype(np.int32)


def noise_errors(
  denoise_fn: types.DenoiseFn,
  diffusion: schedules.DiffusionProcess,
  x0: types.Array,
  keys: types.Key,
  timestep: types.Array,
  label: types.Array,
) -> types.Array:
  """Squared errors of the predicted noise, one draw for each image.

  Args:
    denoise_fn: the network with its weights bound.
    diffusion: the process that it was trained on.
    x0: float32[B, H, W, C] in [-1, 1].
    keys: typed PRNG keys [B], consumed; the same for all classes.
    timestep: int32[B].
    label: int32[B].

  Returns:
    float32[B], sums over H, W and C.
  """
  draw = jax.vmap(lambda key: jax.random.normal(key, x0.shape[1:]))
  noise = draw(keys)
  x_t = parameterization.q_sample(diffusion, x0, timestep, noise)
  output = denoise_fn(x_t, timestep, label).astype(jnp.float32)
  found = parameterization.to_x0_eps(diffusion, x_t, timestep, output)
  return jnp.sum(jnp.square(found.eps - noise), axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Classified:
  """Answers of a diffusion classifier on N images of K classes.

  Attributes:
    labels: int32[N], the likeliest class.
    log_probs: float64[N, K], logs of the probabilities of the classes, all of
      them equally frequent. They rank images and classes. As probabilities they
      are far too certain, as likelihoods of a model of pixels are.
  """

  labels: np.ndarray
  log_probs: np.ndarray

  def probabilities(self) -> np.ndarray:
    """Returns the probabilities of the classes, float32[N, K]."""
    return np.exp(self.log_probs).astype(np.float32)


def by_bounds(bounds: np.ndarray) -> Classified:
  """Returns the answers that follow from bounds, float64[N, K]."""
  return Classified(
    labels=np.argmax(bounds, axis=1).astype(np.int32),
    log_probs=special.log_softmax(bounds, axis=1),
  )


class DiffusionClassifier:
  """A diffusion model as a classifier, on all devices of this process."""

  def __init__(
    self,
    network: unet.UNetConfig,
    params: types.Params,
    diffusion: schedules.DiffusionProcess,
    *,
    seed: int = 0,
    num_levels: int = NUM_LEVELS,
    batch_size: int = 200,
    check_stop: Callable[[], None] = lambda: None,
  ) -> None:
    """Puts the weights on the devices; compiles at the first call.

    Args:
      network: the denoiser.
      params: its weights.
      diffusion: the process that it was trained on.
      seed: public; gives the noise that is added.
      num_levels: noise levels per image, one draw each.
      batch_size: images times classes at a time, on all devices together.
      check_stop: called before every batch; raises to end.
    """
    devices = parallel.DataParallel()
    model = unet.UNet(network)
    self._num_classes = network.num_classes
    self._timesteps = timesteps(diffusion, num_levels)
    self._key = public_seed.Purpose.CLASSIFY_NOISE.key(seed)
    self._batch_size, self._check_stop = batch_size, check_stop
    self._replicas = devices.replicate(params)

    def errors(
      params: types.Params,
      images: types.Array,
      index: types.Array,
      level: types.Array,
      timestep: types.Array,
      label: types.Array,
    ) -> types.Array:
      denoise = unet.make_denoise_fn(model, params)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, index)
      keys = jax.vmap(jax.random.fold_in)(keys, level)
      x0 = augment.to_float(images)
      return noise_errors(denoise, diffusion, x0, keys, timestep, label)

    self._errors_fn = devices.pmap_map(errors)

  def classify(
    self,
    images: np.ndarray,
    advance: console.Advance = lambda steps=1: None,
  ) -> Classified:
    """Classifies images.

    Args:
      images: uint8[N, H, W, C]. An image's noise depends on its place in this
        array and on nothing else.
      advance: told how many images are done, after each batch.
    """
    return by_bounds(self.bounds(images, processes.Share(), advance))

  def bounds(
    self,
    images: np.ndarray,
    share: processes.Share,
    advance: console.Advance = lambda steps=1: None,
    numbers: np.ndarray | None = None,
  ) -> np.ndarray:
    """Bounds the log-likelihood of images under each class, up to a constant.

    Args:
      images: see `classify`.
      share: which of the processes computes its share of the batches.
      advance: told after each batch how many images are done, if the other
        processes are equally quick.
      numbers: int32[N], which determine the noise of each image; None for its
        place.

    Returns:
      float64[N, K]; 0 in the batches of other processes.
    """
    num_classes = self._num_classes
    rows = np.arange(len(images) * num_classes)  # One for image and class.
    if numbers is None:
      numbers = np.arange(len(images), dtype=np.int32)
    found = np.zeros(len(rows))
    for start in share.of(range(0, len(rows), self._batch_size)):
      part = rows[start : start + self._batch_size]
      found[part] = self._bounds(images, part, numbers)
      done = min(start + share.count * self._batch_size, len(rows))
      advance(done // num_classes - start // num_classes)
    return found.reshape(-1, num_classes)

  def _bounds(
    self, images: np.ndarray, rows: np.ndarray, numbers: np.ndarray
  ) -> np.ndarray:
    """Bounds on the log-likelihood up to a constant, float64[len(rows)]."""
    filled = np.resize(rows, self._batch_size)  # One shape, compiled once.
    index, label = np.divmod(filled.astype(np.int32), self._num_classes)
    total = np.zeros(len(rows))
    for level, timestep in enumerate(self._timesteps):
      self._check_stop()
      of_all = (np.full_like(index, level), np.full_like(index, timestep))
      errors = self._errors_fn(
        self._replicas, images[index], numbers[index], *of_all, label
      )
      total += errors[: len(rows)]
    low, high = _LOG_SNR_RANGE
    return -0.5 * (high - low) * total / len(self._timesteps)
