"""Samples images from noise with ancestral, DDIM or DPM-Solver++(2M) steps.

Every method takes a step of the same form,

  x <- coefficients.x * x + coefficients.x0 * x0_hat
       + coefficients.previous_x0 * (x0_hat of the step before)
       + coefficients.noise * noise,

with factors that `sampler_steps` computes beforehand, on the host, in float64;
a new method of this form is a name and its coefficients there. A step is
therefore a pure function of a state and a step number, and the number may be
traced: a loop on the host compiles the step once, and `sample` puts it into one
`fori_loop`.

Guarantees:
  - Sample j depends on the key and j, not on its batch, shard or device
    (`test_image_does_not_depend_on_its_batch`).
  - Each step's noise is new
    (`test_noise_of_each_step_is_new_and_standard_normal`).
  - A start from images has them with the noise of its timestep
    (`test_a_start_from_images_has_the_noise_of_its_timestep`).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import struct
import jax
import jax.numpy as jnp

from dp_diffusion import types
from dp_diffusion.diffusion import losses
from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import sampler_steps
from dp_diffusion.diffusion import schedules

SAMPLERS = sampler_steps.SAMPLERS
SPACINGS = sampler_steps.SPACINGS
SamplerConfig = sampler_steps.SamplerConfig
num_evaluations = sampler_steps.num_evaluations
timestep_sequence = sampler_steps.timestep_sequence
coefficients = sampler_steps.coefficients
_START = 2**32 - 1  # Position of the keys of images to start from.

# Maps typed keys [B] and labels int32[B] to images, float32[B, H, W, C].
DrawFn = Callable[[types.Array, types.Array], types.Array]


@struct.dataclass
class SamplerState:
  """A batch of samples between two steps.

  Attributes:
    x: float32[B, H, W, C], noisy images; after the last step, images that
      `finalize` clips.
    keys: typed keys [B], one per sample, the same at every step.
    previous_x0: float32[B, H, W, C], the estimate made by the step before.
  """

  x: types.Array
  keys: types.Array
  previous_x0: types.Array


def init_state(
  key: types.Key,
  shape: tuple[int, int, int, int],
  *,
  first_index: types.Array | int = 0,
) -> SamplerState:
  """Draws the noise from which a batch of samples starts.

  Args:
    key: typed PRNG key of the whole set of samples.
    shape: (B, H, W, C).
    first_index: int32[], index of this batch's first sample in the whole set:
      row j is sample first_index + j, which is the same in any batch. Or
      int32[B], the index of every sample.

  Returns:
    The state before step 0.
  """
  index = jnp.asarray(first_index, jnp.int32)
  if not index.ndim:
    index += jnp.arange(shape[0], dtype=jnp.int32)
  keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
  x = _noise(keys, 0, shape[1:])
  return SamplerState(x=x, keys=keys, previous_x0=jnp.zeros_like(x))


def start_from_images(
  state: SamplerState,
  labels: types.Array,
  draw_fn: DrawFn,
  config: SamplerConfig,
  diffusion: schedules.DiffusionProcess,
) -> SamplerState:
  """Lets sampling start from noised images instead of pure noise.

  Args:
    state: of `init_state`.
    labels: int32[B], classes that `draw_fn` knows.
    draw_fn: draws the images, of which x_t is computed by arXiv 2006.11239
      eq. 4.
    config: gives `first_timestep` t.
    diffusion: the process that the network was trained on.

  Returns:
    The state before step 0.
  """
  fold_fn = jax.vmap(jax.random.fold_in, in_axes=(0, None))
  images = draw_fn(fold_fn(state.keys, jnp.uint32(_START)), labels)
  timestep = config.first_timestep
  signal = schedules.signal_scale(diffusion)[timestep]
  noise = schedules.noise_scale(diffusion)[timestep]
  return dataclasses.replace(state, x=signal * images + noise * state.x)


def _noise(
  keys: types.Array,
  position: types.Array | int,
  image_shape: tuple[int, ...],
) -> types.Array:
  """Draws standard normal noise, float32[B, H, W, C].

  Position 0 is the noise that sampling starts from; position i + 1 is the noise
  of step i.
  """

  def one(key: types.Key) -> types.Array:
    step_key = jax.random.fold_in(key, position)
    return jax.random.normal(step_key, image_shape, jnp.float32)

  return jax.vmap(one)(keys)


def _guided_output(
  denoise_fn: types.DenoiseFn,
  weight: float,
  x: types.Array,
  timestep: types.Array,
  labels: types.Array,
) -> types.Array:
  """Returns the network's output under guidance, arXiv 2207.12598 eq. 6.

  One formula serves eps, x0 and v: its weights add up to 1, and each of the
  three is an affine function of each other. The conditional and the
  unconditional half go through the network as one batch.

  Args:
    denoise_fn: the network with its weights bound.
    weight: the guidance weight w, 0 for no guidance.
    x: float32[B, H, W, C].
    timestep: int32[].
    labels: int32[B].

  Returns:
    float32[B, H, W, C].
  """
  if not weight:
    timesteps = jnp.full(labels.shape, timestep, jnp.int32)
    return denoise_fn(x, timesteps, labels).astype(jnp.float32)
  both_labels = jnp.concatenate(
    [labels, jnp.full_like(labels, losses.NULL_LABEL)]
  )
  output = denoise_fn(
    jnp.concatenate([x, x]),
    jnp.full(both_labels.shape, timestep, jnp.int32),
    both_labels,
  )
  conditional, unconditional = jnp.split(output.astype(jnp.float32), 2)
  return (1 + weight) * conditional - weight * unconditional


def step_fn(
  denoise_fn: types.DenoiseFn,
  config: SamplerConfig,
  diffusion: schedules.DiffusionProcess,
) -> Callable[[SamplerState, types.Array, types.Array | int], SamplerState]:
  """Makes the function that takes one step.

  Args:
    denoise_fn: the network with its weights bound.
    config: the method, the number of steps and the guidance.
    diffusion: the process that the network was trained on.

  Returns:
    A pure function that maps (state, labels int32[B], i int32[] in
    [0, num_steps)) to the next state. `i` may be traced.

  Raises:
    ValueError: if there are more steps than timesteps.
  """
  table = coefficients(config, diffusion)

  def step(
    state: SamplerState,
    labels: types.Array,
    i: types.Array | int,
  ) -> SamplerState:
    timestep = jnp.asarray(table.timestep)[i]
    output = _guided_output(
      denoise_fn, config.guidance_weight, state.x, timestep, labels
    )
    x0 = parameterization.to_x0_eps(diffusion, state.x, timestep, output).x0
    if config.clip_x0:
      x0 = jnp.clip(x0, -1.0, 1.0)
    x = jnp.asarray(table.x)[i] * state.x + jnp.asarray(table.x0)[i] * x0
    if table.previous_x0.any():
      x += jnp.asarray(table.previous_x0)[i] * state.previous_x0
    if table.noise.any():
      noise = _noise(state.keys, i + 1, state.x.shape[1:])
      x += jnp.asarray(table.noise)[i] * noise
    return dataclasses.replace(state, x=x, previous_x0=x0)

  return step


def sample(
  denoise_fn: types.DenoiseFn,
  config: SamplerConfig,
  diffusion: schedules.DiffusionProcess,
  key: types.Key,
  labels: types.Array,
  image_shape: tuple[int, int, int],
  *,
  first_index: types.Array | int = 0,
) -> types.Array:
  """Samples a batch in one compiled loop.

  The function is pure; wrap it in `jit` or `pmap`.

  Args:
    denoise_fn: the network with its weights bound.
    config: the method, the number of steps and the guidance.
    diffusion: the process that the network was trained on.
    key: typed PRNG key of the whole set of samples.
    labels: int32[B], classes, or -1 for no class.
    image_shape: (H, W, C).
    first_index: int32[], index of the first of these samples in the whole set,
      or int32[B], that of each.

  Returns:
    float32[B, H, W, C] in [-1, 1].

  Raises:
    ValueError: the config starts from images, which `start_from_images` needs.
  """
  if config.first_timestep:
    raise ValueError(
      f'Expected first_timestep={config.first_timestep} to be 0: sampling'
      ' starts from pure noise here.'
    )
  state = init_state(
    key, (labels.shape[0], *image_shape), first_index=first_index
  )
  return sample_from(state, denoise_fn, config, diffusion, labels)


def sample_from(
  state: SamplerState,
  denoise_fn: types.DenoiseFn,
  config: SamplerConfig,
  diffusion: schedules.DiffusionProcess,
  labels: types.Array,
) -> types.Array:
  """Takes all steps in one compiled loop, from a state before step 0.

  Args:
    state: of `init_state` or `start_from_images`.
    denoise_fn: the network with its weights bound.
    config: the method, the number of steps and the guidance.
    diffusion: the process that the network was trained on.
    labels: int32[B], classes, or -1 for no class.

  Returns:
    float32[B, H, W, C] in [-1, 1].
  """
  step = step_fn(denoise_fn, config, diffusion)
  state = jax.lax.fori_loop(
    0, config.num_steps, lambda i, carry: step(carry, labels, i), state
  )
  return finalize(state.x)


def finalize(x: types.Array) -> types.Array:
  """Clips samples, float32[..., H, W, C], to the range [-1, 1] of images."""
  return jnp.clip(x, -1.0, 1.0)


def to_uint8(x: types.Array) -> types.Array:
  """Rounds images from float32[...] in [-1, 1] to uint8[...] in [0, 255].

  This inverts `image / 127.5 - 1`. Values outside [-1, 1] are clipped.

  >>> to_uint8(jnp.array([-1.0, 0.0, 1.0, 2.0])).tolist()
  [0, 128, 255, 255]
  """
  return jnp.round((finalize(x) + 1.0) * 127.5).astype(jnp.uint8)
