"""Applies a public network to images, to each by itself.

What a sensitive image votes for must not depend on which other images there
are, not even in its last bit, which may decide between two that are nearly
equal. A batched program may round a row by its place in the batch; `lax.map`
runs the same program on each image.

Guarantees:
  * The result for an image has the same bits in another place of another set.
    `private_evolution_test.py::test_a_vote_does_not_depend_on_other_images`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import jax
import numpy as np

from dp_diffusion import types
from dp_diffusion.data import augment

_BATCH_SIZE = 256


def apply(
  fn: Callable[[types.Array], types.Array], images: np.ndarray
) -> np.ndarray:
  """Computes a vector for each image.

  Args:
    fn: float32[1, H, W, C] in [-1, 1] -> float32[1, F].
    images: uint8[N, H, W, C]; may be memory-mapped.

  Returns:
    float32[N, F].
  """
  found = []
  for start in range(0, len(images), _BATCH_SIZE):
    rows = np.arange(start, start + _BATCH_SIZE)
    batch = np.asarray(images[np.minimum(rows, len(images) - 1)])
    part = np.asarray(_of_batch(fn, batch))
    found.append(part[: len(images) - start])
  if not found:  # Without images only the shape is known.
    empty = np.zeros((_BATCH_SIZE, *images.shape[1:]), np.uint8)
    found = [np.asarray(_of_batch(fn, empty))[:0]]
  return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _of_batch(
  fn: Callable[[types.Array], types.Array], batch: types.Array
) -> types.Array:
  return jax.lax.map(lambda x: fn(augment.to_float(x[None]))[0], batch)
