"""Samples images from a model, on all devices of this process, batch by batch.

The stage `sample` and `released_model` use it. An image is a function of (seed,
its number, its label) only, so each image can be sampled by itself, in any
order and on any number of devices.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import jax
import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.models import unet
from dp_diffusion.training import parallel

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

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return (self.image_size, self.image_size, self.network.image_channels)


class ImageSampler:
  """A sampler compiled for all devices, with the weights on each of them."""

  def __init__(
    self,
    plan: SamplingPlan,
    params: types.Params,
    seed: int,
    devices: parallel.DataParallel,
    check_stop: Callable[[], None] = lambda: None,
  ) -> None:
    """Puts the weights on the devices; compiles at the first call.

    Args:
      plan: what images depend on.
      params: weights of the network.
      seed: public, in [0, MAX_SEED].
      devices: of this process.
      check_stop: called before every step or batch; raises to end.
    """
    self._plan, self._devices, self._check_stop = plan, devices, check_stop
    self._key = public_seed.Purpose.SAMPLE_NOISE.key(seed)
    self._model = unet.UNet(plan.network)
    self._replicas = devices.replicate(params)
    self._init_fn = devices.pmap_local(self._init)
    self._step_fn = devices.pmap_local(
      self._step, (0, 0, 0, None), donate_argnums=(1,)
    )
    self._finish_fn = devices.pmap_local(
      lambda state: samplers.to_uint8(state.x)
    )
    self._whole_fn = devices.pmap_local(self._whole)

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
    per_call = self._devices.num_devices * self._plan.batch_size
    batches = []
    for start in range(0, len(labels), per_call):
      part = labels[start : start + per_call]
      batches.append(self._batch(part, first + start))
      advance(len(part))
    return np.concatenate(batches)

  def _batch(self, labels: np.ndarray, first: int) -> np.ndarray:
    """At most one batch on each device; the rest of them is filled up."""
    devices, batch_size = self._devices, self._plan.batch_size
    padded = np.resize(labels, devices.num_devices * batch_size)
    padded = devices.shard(padded.reshape(devices.num_devices, batch_size))
    starts = first + batch_size * np.arange(devices.num_devices, dtype=np.int32)
    starts = devices.shard(starts.astype(np.int32))
    if jax.default_backend() == 'cpu':
      # XLA runs a convolution inside a loop 5 to 10 times slower on CPUs.
      state = self._init_fn(starts)
      for i in range(self._plan.sampler.num_steps):
        self._check_stop()
        state = self._step_fn(self._replicas, state, padded, np.int32(i))
      images = self._finish_fn(state)
    else:
      self._check_stop()
      images = self._whole_fn(self._replicas, padded, starts)
    images = np.asarray(jax.device_get(images))
    return images.reshape((-1, *self._plan.image_shape))[: len(labels)]

  def _init(self, first_index: types.Array) -> samplers.SamplerState:
    shape = (self._plan.batch_size, *self._plan.image_shape)
    return samplers.init_state(self._key, shape, first_index=first_index)

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
    first_index: types.Array,
  ) -> types.Array:
    x = samplers.sample(
      unet.make_denoise_fn(self._model, params),
      self._plan.sampler,
      self._plan.diffusion,
      self._key,
      labels,
      self._plan.image_shape,
      first_index=first_index,
    )
    return samplers.to_uint8(x)
