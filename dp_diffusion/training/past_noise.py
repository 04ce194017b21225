"""The noise of earlier steps, on which correlated noise depends.

The past noise is a function of the step and of the keys of all earlier steps.
It is kept in memory from one step to the next and never written to a disk. A
resumed run computes it again by drawing the noise of all earlier steps, which
takes a small part of the time of these steps.

Guarantees:
  * The past noise computed again equals that kept in memory, to the bit.
    `past_noise_test.py::test_computed_again_is_what_was_kept`.
  * Resumed steps equal uninterrupted ones.
    `past_noise_test.py::test_resumed_equals_uninterrupted`.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
import numpy as np

from dp_diffusion import types
from dp_diffusion.privacy import correlated_noise
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import noise
from dp_diffusion.training import parallel


def none(params: types.Params, step: int) -> tuple[types.Array, ...]:
  """Returns no past noise, for `private_step.apply` with independent noise."""
  del params, step
  return ()


class PastNoise:
  """Computes the past noise before any step of a run."""

  def __init__(
    self,
    strategy: Sequence[float],
    streams: key_streams.KeyStreams,
    devices: parallel.DataParallel,
  ) -> None:
    """Prepares the filter without drawing noise.

    Args:
      strategy: noise strategy of the mechanism, at least two coefficients.
      streams: secret randomness of the run.
      devices: devices on which the noise is added.
    """
    self._strategy = strategy
    self._streams = streams
    self._devices = devices
    fn = functools.partial(advance, strategy=tuple(strategy))
    self._advance = devices.pmap(fn, in_axes=(0, None), donate_argnums=(0,))
    self._step = -1
    self._past: types.Array | None = None

  def __call__(
    self, params: types.Params, step: int
  ) -> tuple[types.Array, ...]:
    """Returns the past noise before a step.

    Args:
      params: trained parameters on devices; only their shapes are used.
      step: number of the step.

    Returns:
      float32[D, b - 1, size] on devices, as a tuple of one.
    """
    if self._past is None or self._step > step:
      size = sum(int(np.prod(x.shape[1:])) for x in jax.tree.leaves(params))
      start = correlated_noise.start(self._strategy, size)
      self._past, self._step = self._devices.replicate(start), 0
    while self._step < step:
      keys = self._streams.noise_keys(self._step)
      self._past = self._advance(self._past, keys)
      self._step += 1
    return (self._past,)


def advance(
  past: types.Array, noise_keys: types.Key, *, strategy: Sequence[float]
) -> types.Array:
  """Returns the past noise after the step that has these noise keys."""
  fresh = noise.unit_noise(noise_keys, past.shape[1])
  return correlated_noise.push(
    past, correlated_noise.correlate(fresh, past, strategy)
  )
