"""Noisy images, training targets, and what a network's output says of x0.

A network predicts the noise eps, the image x0 or the velocity v. Given x_t,
each of the three determines the other two; the functions here convert between
them. They work on any image shape: `timestep` is int32[], or has the leading
axes of the images (int32[B] for float32[B, H, W, C]).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.diffusion import schedules


class X0Eps(NamedTuple):
  """The two parts of x_t = signal_scale x0 + noise_scale eps.

  Attributes:
    x0: float32[..., H, W, C], the image. An estimate by a network may lie
      outside [-1, 1].
    eps: float32[..., H, W, C], the noise, of unit variance.
  """

  x0: types.Array
  eps: types.Array


def at_timestep(
  table: np.ndarray, timestep: types.Array, ndim: int
) -> types.Array:
  """Returns the entries of `table`, shaped to multiply an array of rank `ndim`.

  Args:
    table: float32[T].
    timestep: int32[...] in [0, T).
    ndim: rank of the array to multiply, at least that of `timestep`.

  Returns:
    float32[..., 1, 1, 1], of rank `ndim`.
  """
  values = jnp.asarray(table)[timestep]
  return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def _scales(
  config: schedules.DiffusionProcess, timestep: types.Array, ndim: int
) -> tuple[types.Array, types.Array]:
  """Returns the signal and the noise scale at `timestep`, of rank `ndim`."""
  return (
    at_timestep(schedules.signal_scale(config), timestep, ndim),
    at_timestep(schedules.noise_scale(config), timestep, ndim),
  )


def q_sample(
  config: schedules.DiffusionProcess,
  x0: types.Array,
  timestep: types.Array,
  noise: types.Array,
) -> types.Array:
  """Adds the noise of a timestep to images: x_t of arXiv 2006.11239 eq. 4.

  Args:
    config: the forward process.
    x0: float32[..., H, W, C] in [-1, 1].
    timestep: int32[] or int32[...] in [0, T).
    noise: float32[..., H, W, C], standard normal.

  Returns:
    float32[..., H, W, C].
  """
  signal, noise_scale = _scales(config, timestep, x0.ndim)
  return signal * x0 + noise_scale * noise


def target(
  config: schedules.DiffusionProcess,
  x0: types.Array,
  timestep: types.Array,
  noise: types.Array,
) -> types.Array:
  """Returns what the network should output for `q_sample(config, x0, ...)`.

  Args:
    config: its `prediction` names the target: 'eps' is the noise, 'x0' the
      image, 'v' is signal_scale noise - noise_scale x0 (arXiv 2202.00512
      section 4).
    x0: float32[..., H, W, C] in [-1, 1].
    timestep: int32[] or int32[...] in [0, T).
    noise: float32[..., H, W, C], the noise in x_t.

  Returns:
    float32[..., H, W, C].
  """
  if config.prediction == 'eps':
    return noise
  if config.prediction == 'x0':
    return x0
  signal, noise_scale = _scales(config, timestep, x0.ndim)
  return signal * noise - noise_scale * x0


def to_x0_eps(
  config: schedules.DiffusionProcess,
  x_t: types.Array,
  timestep: types.Array,
  output: types.Array,
) -> X0Eps:
  """Computes the image and the noise that a network's output implies.

  This inverts `target`.

  Args:
    config: its `prediction` says what `output` estimates.
    x_t: float32[..., H, W, C], the input of the network.
    timestep: int32[] or int32[...] in [0, T), the timestep of x_t.
    output: float32[..., H, W, C], the output of the network.

  Returns:
    The image and the noise, float32[..., H, W, C], of which x_t is composed.
  """
  signal, noise_scale = _scales(config, timestep, x_t.ndim)
  if config.prediction == 'eps':
    return X0Eps(x0=(x_t - noise_scale * output) / signal, eps=output)
  if config.prediction == 'x0':
    return X0Eps(x0=output, eps=(x_t - signal * output) / noise_scale)
  return X0Eps(
    x0=signal * x_t - noise_scale * output,
    eps=noise_scale * x_t + signal * output,
  )
