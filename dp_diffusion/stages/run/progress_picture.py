"""A picture of what a training has learned so far: `progress.png`.

At a checkpoint a few images of each class are sampled from the moving average
of the weights, from the same noise each time, in few steps. The public key of
the noise is used here alone, so the training computes the same with and without
pictures. All pictures together take at most a fiftieth of the time: trainings
of less than twelve minutes have none, and checkpoints that follow each other
quickly share one.

Guarantees:
  * The picture of a private training is written to `private/`, whole or not at
    all, with mode 600.
    `tests/stages/run/progress_picture_test.py::test_a_private_picture_is_private`.
  * It changes no bit of the training.
    `tests/stages/run/progress_picture_test.py::test_training_is_the_same_with_it`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import time

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import unet
from dp_diffusion.training import state as train_state

NAME = 'progress.png'
_SHARE = 0.02  # Largest share of the time of the training.
# Seconds of training before the first picture, whose program is compiled: 15
# seconds for a small network on two cores.
_FIRST_SECS = 750.0
_PER_CLASS = 8
_MOST_CLASSES = 20  # Rows; further classes are not shown.
_NUM_STEPS = 10
_MODE = 0o600


@dataclasses.dataclass(kw_only=True)
class ProgressPicture:
  """Writes the picture of one training, if there is time for it.

  Attributes:
    path: file to write.
    make: maps weights to uint8[B, H, W, C] samples.
    labels: int32[B] labels of the samples.
    class_names: names of the rows.
    clock: returns seconds; a parameter for tests.
  """

  path: epath.Path
  make: Callable[[types.Params], np.ndarray]
  labels: np.ndarray
  class_names: tuple[str, ...]
  clock: Callable[[], float] = time.monotonic

  def __post_init__(self) -> None:
    """Starts the clock of the training."""
    self._start = self.clock()
    self._spent = 0.0
    self._last = 0.0

  def write(self, step: int, state: train_state.TrainState) -> None:
    """Writes the picture unless it would take too long.

    Args:
      step: number of steps done; not shown.
      state: on the host.
    """
    del step
    start = self.clock()
    elapsed = start - self._start - self._spent
    if elapsed < _FIRST_SECS or self._spent + self._last > _SHARE * elapsed:
      return
    images = self.make(state.all_ema_params)
    picture = image_grids.class_grid(
      images, self.labels, self.class_names, per_class=_PER_CLASS
    )
    try:
      files.write_bytes(self.path, picture, mode=_MODE)
    except OSError as error:
      console.warn(f'{self.path} could not be written: {error}')
    self._last = self.clock() - start
    self._spent += self._last


def of_training(
  config: config_lib.Config,
  data: registry.DataConfig,
  diffusion: schedules.DiffusionProcess,
  folder: epath.Path,
  gaussians: class_gaussians.ClassGaussians | None = None,
) -> ProgressPicture:
  """Returns the writer of the picture of a training.

  Args:
    config: gives seed, model and the guidance of the samples.
    data: images of the training; gives their shape and classes.
    diffusion: process of the training.
    folder: where the picture lies.
    gaussians: what samples start from; None for pure noise.
  """
  class_names = data.class_names or ('all',)
  shown = class_names[:_MOST_CLASSES]
  labels = np.repeat(np.arange(len(shown), dtype=np.int32), _PER_CLASS)
  first = config.sample.sampler.first_timestep if gaussians else 0
  last = first or diffusion.num_timesteps - 1
  sampler = samplers.SamplerConfig(
    name='ddim',
    num_steps=min(_NUM_STEPS, last + 1),
    first_timestep=first,
    spacing='uniform',
    guidance_weight=config.sample.sampler.guidance_weight,
  )
  shape = (len(labels), *data.image_shape)
  model = unet.UNet(config.unet_config(data))

  @jax.jit
  def take(
    params: types.Params,
    state: samplers.SamplerState,
    rows: types.Array,
    i: types.Array,
  ) -> samplers.SamplerState:
    denoise = unet.make_denoise_fn(model, params)
    return samplers.step_fn(denoise, sampler, diffusion)(state, rows, i)

  def make(params: types.Params) -> np.ndarray:
    key = public_seed.Purpose.PROGRESS_PICTURE_NOISE.key(config.seed)
    rows, state = jnp.asarray(labels), samplers.init_state(key, shape)
    if gaussians is not None:
      state = samplers.start_from_images(
        state, rows, gaussians.draw, sampler, diffusion
      )
    for i in range(sampler.num_steps):
      state = take(params, state, rows, jnp.int32(i))
    return np.asarray(samplers.to_uint8(state.x))

  return ProgressPicture(
    path=folder / NAME, make=make, labels=labels, class_names=shown
  )
