"""Samples images from a model, on all devices of this process, batch by batch.

The stage `sample` and `released_model` use it. An image is a function of (seed,
its number, its label) only, so each image can be sampled by itself, in any
order and on any number of devices. This holds with `max_tries` too: an image
that the model itself takes for another class is drawn again, with the noise of
the next try.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.diffusion import sampler_steps
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import unet
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingPlan:
  """Everything that images depend on, except weights, seed and labels.

  Attributes:
    network: the denoiser.
    diffusion: the process that it was trained on.
    sampler: which sampler, with how many steps and which guidance.
    image_size: height and width, pixels.
    batch_size: images per device at a time.

  Raises:
    ValueError: the sampler cannot be used with this process or network.
  """

  network: unet.UNetConfig
  diffusion: schedules.DiffusionProcess
  sampler: samplers.SamplerConfig
  image_size: int
  batch_size: int

  def __post_init__(self) -> None:
    checks.check_at_least('batch_size', self.batch_size, 1)
    samplers.timestep_sequence(self.sampler, self.diffusion)
    weight = self.sampler.guidance_weight
    if weight and not self.diffusion.label_drop_prob:
      raise ValueError(
        f'Expected guidance_weight={weight:g} to be 0: the network was trained'
        ' without a null class, which guidance needs.'
      )
    self.sampler.check_classes(self.network.num_classes)

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return (self.image_size, self.image_size, self.network.image_channels)

  def draw_fn(
    self, gaussians: class_gaussians.ClassGaussians | None
  ) -> samplers.DrawFn | None:
    """Returns what draws the images to start from; None for pure noise.

    Args:
      gaussians: those of the classes, which a sampler without a
        `first_timestep` does not use.

    Raises:
      ValueError: the Gaussians are missing, or of other images.
    """
    if not self.sampler.first_timestep:
      return None
    if gaussians is None:
      raise ValueError(
        f'Expected first_timestep={self.sampler.first_timestep} to be 0: there'
        ' are no class Gaussians to start from.'
      )
    found = (gaussians.num_classes, *gaussians.image_shape)
    wanted = (self.network.num_classes, *self.image_shape)
    if found != wanted:
      raise ValueError(
        f'Expected class Gaussians of shape {wanted} (classes, height, width,'
        f' channels), not {found}.'
      )
    return gaussians.draw


class ImageSampler:
  """A sampler compiled for all devices, with the weights on each of them."""

  def __init__(
    self,
    plan: SamplingPlan,
    params: types.Params,
    seed: int,
    devices: parallel.DataParallel,
    check_stop: Callable[[], None] = lambda: None,
    gaussians: class_gaussians.ClassGaussians | None = None,
  ) -> None:
    """Puts the weights on the devices; compiles at the first call.

    Args:
      plan: what images depend on.
      params: weights of the network.
      seed: public, in [0, MAX_SEED].
      devices: of this process.
      check_stop: called before every step or batch; raises to end.
      gaussians: those that sampling starts from, where the sampler has a
        `first_timestep`.

    Raises:
      ValueError: the Gaussians are missing, or of other images.
    """
    self._plan, self._devices, self._check_stop = plan, devices, check_stop
    self._draw_fn = plan.draw_fn(gaussians)
    self._key = public_seed.Purpose.SAMPLE_NOISE.key(seed)
    self._key_again = public_seed.Purpose.SAMPLE_AGAIN_NOISE.key(seed)
    self._model = unet.UNet(plan.network)
    self._replicas = devices.replicate(params)
    self._init_fn = devices.pmap_local(self._init, (0, 0, None))
    self._step_fn = devices.pmap_local(
      self._step, (0, 0, 0, None), donate_argnums=(1,)
    )
    self._finish_fn = devices.pmap_local(
      lambda state: samplers.to_uint8(state.x)
    )
    self._whole_fn = devices.pmap_local(self._whole, (0, 0, 0, None))
    self._classifier = None
    if plan.sampler.max_tries > 1:
      self._classifier = diffusion_classifier.DiffusionClassifier(
        plan.network,
        params,
        plan.diffusion,
        seed=seed,
        num_levels=sampler_steps.OWN_CLASS_LEVELS,
        check_stop=check_stop,
      )

  def images(
    self,
    labels: np.ndarray,
    first: int,
    advance: console.Advance = lambda steps=1: None,
  ) -> np.ndarray:
    """Images with these labels, numbered from `first`.

    Args:
      labels: int32[N].
      first: number of the first image.
      advance: told how many images are done, after each batch.

    Returns:
      uint8[N, H, W, C].
    """
    found = np.empty((len(labels), *self._plan.image_shape), np.uint8)
    left = np.arange(len(labels))
    per_call = self._devices.num_devices * self._plan.batch_size
    for attempt in range(self._plan.sampler.max_tries):
      again = []
      for start in range(0, len(left), per_call):
        rows = left[start : start + per_call]
        numbers = (first + rows).astype(np.int32)
        found[rows] = self._batch(labels[rows], numbers, attempt)
        is_done = np.full(len(rows), True)
        if attempt + 1 < self._plan.sampler.max_tries:
          is_done = self._takes_for(found[rows], numbers) == labels[rows]
        again.append(rows[~is_done])
        advance(int(np.sum(is_done)))
      left = np.concatenate(again)
      if not left.size:
        break
    return found

  def _takes_for(self, images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Returns the classes for which the model takes images, int32[B]."""
    assert self._classifier is not None
    bounds = self._classifier.bounds(images, processes.Share(), numbers=numbers)
    return diffusion_classifier.by_bounds(bounds).labels

  def _batch(
    self, labels: np.ndarray, numbers: np.ndarray, attempt: int
  ) -> np.ndarray:
    """At most one batch on each device; the rest of them is filled up."""
    devices, batch_size = self._devices, self._plan.batch_size
    whole = (devices.num_devices, batch_size)
    padded = devices.shard(np.resize(labels, whole))
    index = devices.shard(np.resize(numbers, whole))
    again = np.int32(attempt)
    if jax.default_backend() == 'cpu':
      # XLA runs a convolution inside a loop 5 to 10 times slower on CPUs.
      state = self._init_fn(padded, index, again)
      for i in range(self._plan.sampler.num_steps):
        self._check_stop()
        state = self._step_fn(self._replicas, state, padded, np.int32(i))
      images = self._finish_fn(state)
    else:
      self._check_stop()
      images = self._whole_fn(self._replicas, padded, index, again)
    images = np.asarray(jax.device_get(images))
    return images.reshape((-1, *self._plan.image_shape))[: len(labels)]

  def _key_of(self, attempt: types.Array) -> types.Key:
    again = jax.random.fold_in(self._key_again, attempt)
    first, other = map(jax.random.key_data, (self._key, again))
    return jax.random.wrap_key_data(
      jnp.asarray(jnp.where(attempt == 0, first, other))
    )

  def _init(
    self, labels: types.Array, index: types.Array, attempt: types.Array
  ) -> samplers.SamplerState:
    plan = self._plan
    shape = (plan.batch_size, *plan.image_shape)
    key = self._key_of(attempt)
    state = samplers.init_state(key, shape, first_index=index)
    if self._draw_fn is None:
      return state
    return samplers.start_from_images(
      state, labels, self._draw_fn, plan.sampler, plan.diffusion
    )

  def _step(
    self,
    params: types.Params,
    state: samplers.SamplerState,
    labels: types.Array,
    i: types.Array,
  ) -> samplers.SamplerState:
    denoise = unet.make_denoise_fn(self._model, params)
    step = samplers.step_fn(denoise, self._plan.sampler, self._plan.diffusion)
    return step(state, labels, i)

  def _whole(
    self,
    params: types.Params,
    labels: types.Array,
    index: types.Array,
    attempt: types.Array,
  ) -> types.Array:
    x = samplers.sample_from(
      self._init(labels, index, attempt),
      unet.make_denoise_fn(self._model, params),
      self._plan.sampler,
      self._plan.diffusion,
      labels,
    )
    return samplers.to_uint8(x)
