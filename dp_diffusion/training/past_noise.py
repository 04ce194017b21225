"""The noise of earlier steps, where that of the next one depends on it.

It is on no disk: a function of the step and the keys of all steps before,
kept from one step to the next, and computed again at a resume. That draws the
noise of every step anew, which takes a small part of the time of the steps.

Guarantees:
  * What is computed again is what was kept, to the bit.
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
  """What `private_step.apply` gets where noise is independent: nothing."""
  del params, step
  return ()


class PastNoise:
  """State of the filter, at any step of one run."""

  def __init__(
    self,
    strategy: Sequence[float],
    streams: key_streams.KeyStreams,
    devices: parallel.DataParallel,
  ) -> None:
    """Prepares the filter; draws nothing yet.

    Args:
      strategy: of the mechanism, two coefficients or more.
      streams: of the run.
      devices: where the noise is added.
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
    """The state before a step.

    Args:
      params: trained ones, on devices; their shapes count.
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
  """The state after the step of these keys."""
  fresh = noise.unit_noise(noise_keys, past.shape[1])
  return correlated_noise.push(
    past, correlated_noise.correlate(fresh, past, strategy)
  )
