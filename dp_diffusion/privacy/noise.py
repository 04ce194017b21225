"""Adds Gaussian noise to a sum of clipped gradients.

This is the third part of a private step. It is called once per step, after the
sum over microbatches and devices and before the division by the expected batch
size (`training/private_step.py::apply`). The same keys on every replica give
the same noise, so the replicas stay equal.

Guarantees:
  * Every element gets noise of the given std, in units of the SUM.
    `noise_test.py::test_std_is_accepted_at_sigma_only`,
    `::test_four_keys_have_unit_variance`.
  * The noise of steps, leaves and elements is independent.
    `::test_unique_per_step_and_leaf`.
  * It is half the sum of four independent draws, from four keys of 64 bits
    each. An attacker must guess 256 bits, and attacks on the floating-point
    grid of one normal sample (arXiv 2107.10138) are harder on a sum of four.
    `::test_every_key_matters`.
  * It is added before the exact sum is converted to float32.
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
    noise_keys: typed keys[4], new for each step, equal on every replica.
    noise_std: std of the noise on the SUM, noise_multiplier * sensitivity.
    correlate: maps the independent noise of the step, float32[size] of variance
      1, to correlated noise; None keeps it.

  Returns:
    A tree of float32 in the shapes of the sum.

  Raises:
    ValueError: there are not four keys, or the std is too large for the grid.
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
  """Returns half the sum of four independent standard normals, of variance 1.

  It is one vector for all leaves, made in a scan over the keys, since a
  generator for each of hundreds of leaves would take minutes to compile.

  Args:
    noise_keys: typed keys[4].
    size: number of elements of all leaves.

  Returns:
    float32[size].
  """

  def add_draw(total: types.Array, key: types.Key) -> tuple[types.Array, None]:
    return total + jax.random.normal(key, (size,), jnp.float32), None

  total, _ = jax.lax.scan(add_draw, jnp.zeros(size, jnp.float32), noise_keys)
  return total / NUM_KEYS**0.5
