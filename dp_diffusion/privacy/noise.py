"""Gaussian noise for a sum of clipped gradients.

The third part of a private step, called once per step: after the sum over
microbatches and devices, before the division by the expected batch size
(`training/private_step.py::apply`). The same keys on every replica give the
same noise, so the replicas stay equal.

Guarantees:
  * Every element gets noise of the std asked for, in units of the SUM.
    `noise_test.py::test_std_is_accepted_at_sigma_only`,
    `::test_four_keys_have_unit_variance`.
  * The noise of steps, leaves and elements is independent.
    `::test_unique_per_step_and_leaf`.
  * It is the sum of four independent draws, halved, from four keys of 64 bits
    each: 256 bits must be guessed, and a sum of four is less exposed to
    attacks on the floating-point grid of one normal sample (arXiv 2107.10138).
    `::test_every_key_matters`.
  * It is added before the exact sum becomes a float32 number.
    `::test_is_added_to_the_exact_sum`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.privacy import fixed_point

NUM_KEYS = 4


def add_noise(
  exact: fixed_point.FixedPointSum,
  noise_keys: types.Key,
  noise_std: float | types.Array,
  correlate: Callable[[types.Array], types.Array] | None = None,
) -> types.PyTree:
  """Adds independent Gaussian noise to every element.

  Args:
    exact: the sum over ALL examples of the step.
    noise_keys: typed keys[4], fresh for each step, equal on every replica.
    noise_std: std of the noise on the SUM: noise_multiplier x sensitivity.
    correlate: from the independent noise of the step, float32[size] of
      variance 1, to what is added; None for the noise itself.

  Returns:
    A tree of float32, of the shapes of the sum.

  Raises:
    ValueError: there are not four keys, or the std is more than the grid holds.
  """
  if noise_keys.shape != (NUM_KEYS,):
    raise ValueError(
      f'Expected noise_keys.shape={noise_keys.shape} to be ({NUM_KEYS},).'
    )
  most = fixed_point.MAX_NOISE_MULTIPLIER * 2**fixed_point.UNIT_BITS
  if isinstance(noise_std, float) and not noise_std <= most * exact.unit:
    raise ValueError(
      f'Expected noise_std={noise_std!r} to be <= {most * exact.unit!r}:'
      ' noise_multiplier is over 2^18; choose a larger epsilon.'
    )
  leaves, treedef = jax.tree.flatten(exact.high)
  ends = np.cumsum([leaf.size for leaf in leaves])
  drawn = unit_noise(noise_keys, int(ends[-1]))
  drawn = drawn if correlate is None else correlate(drawn)
  std_in_units = noise_std / exact.unit
  noise = [
    std_in_units * sample.reshape(leaf.shape)
    for leaf, sample in zip(leaves, jnp.split(drawn, ends[:-1]), strict=True)
  ]
  rounded = fixed_point.from_units(
    jax.tree.unflatten(treedef, noise), exact.unit
  )
  return (exact + rounded).to_floats()


def unit_noise(noise_keys: types.Key, size: int) -> types.Array:
  """Sum of four independent standard normals, halved: unit variance.

  One vector for all leaves, and a scan over the keys: a network has hundreds
  of leaves, and a generator for each would take minutes to compile.

  Args:
    noise_keys: typed keys[4].
    size: elements of all leaves together.

  Returns:
    float32[size].
  """

  def add_draw(total: types.Array, key: types.Key) -> tuple[types.Array, None]:
    return total + jax.random.normal(key, (size,), jnp.float32), None

  total, _ = jax.lax.scan(add_draw, jnp.zeros(size, jnp.float32), noise_keys)
  return total / NUM_KEYS**0.5
