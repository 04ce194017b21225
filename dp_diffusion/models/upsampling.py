"""A 3x3 convolution of an image whose pixels are repeated, at the small size.

`convolution` uses it in the upsampling half of the U-Net. Under the 3x3 kernel
lie 2x2 pixels of the small image, which ones depends on whether row and column
of the output are even or odd: four phases, each with the sums of the weights
that fall on the same pixel as its kernel. So 16 products of blocks [Ci, Co] for
each small pixel do the work of 36.
"""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp

from dp_diffusion.models import materialize

STRIDE = 0.5  # Of such a convolution: output side = side / stride.


def repeat(x: jax.Array) -> jax.Array:
  """Every pixel four times: [..., H, W, C] to [..., 2 H, 2 W, C]."""
  *lead, height, width, channels = x.shape
  shape = (*lead, height, 2, width, 2, channels)
  x = jnp.broadcast_to(x[..., :, None, :, None, :], shape)
  return x.reshape(*lead, 2 * height, 2 * width, channels)


@jax.jit
def convolve_repeated(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """3x3 convolution, zero-padded by 1, of `repeat(x)`.

  Compiled under its name, by which `stages.planning.flop_counts` counts it.

  Args:
    x: float[B, H, W, Ci].
    kernel: float[3, 3, Ci, Co], the dtype of x.

  Returns:
    float[B, 2 H, 2 W, Co], the dtype of x.
  """
  channels, features = kernel.shape[2:]
  phases = lax.conv_general_dilated(
    x,
    _phase_kernels(kernel).reshape(2, 2, channels, -1),
    window_strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return _interleave(phases, features)


def convolve_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`convolve_repeated` as one matrix product, for the sake of its transpose.

  The gradient of `x` is four times as fast on a CPU as by a transposed
  convolution; forwards that one is the faster.

  Args:
    x: float[B, H, W, Ci].
    kernel: float[3, 3, Ci, Co], the dtype of x.

  Returns:
    float[B, 2 H, 2 W, Co], the dtype of x.
  """
  height, width = x.shape[1:3]
  channels, features = kernel.shape[2:]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = [
    x[:, i : i + height + 1, j : j + width + 1]
    for i in range(2)
    for j in range(2)
  ]
  joined = materialize.keep(jnp.concatenate(windows, axis=-1))
  phases = jnp.dot(joined, _phase_kernels(kernel).reshape(4 * channels, -1))
  return _interleave(phases, features)


def box_sums(dy: jax.Array, axis: int) -> list[jax.Array]:
  """What each of the three weights along an axis meets of each small pixel.

  Args:
    dy: float[..., 2 n, ...], of the large image.
    axis: of the 2 n pixels, not the last one.

  Returns:
    Three of float[..., n, ...]: sums of two neighbours, where the image, moved
    by 1, 0 and -1 pixels, has the two copies of a small pixel.
  """
  size = dy.shape[axis] // 2
  pairs = dy.reshape(*dy.shape[:axis], size, 2, *dy.shape[axis + 1 :])
  even, odd = (
    lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2)
  )
  return [
    odd + _moved(even, axis, -1),
    even + odd,
    even + _moved(odd, axis, 1),
  ]


def _moved(x: jax.Array, axis: int, by: int) -> jax.Array:
  """The image moved along an axis by 1 or -1, zero where it comes from."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (by, -by, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def _phase_kernels(kernel: jax.Array) -> jax.Array:
  """[3, 3, Ci, Co] to [2, 2, Ci, 2, 2, Co]: rows, columns, Ci, phases, Co."""
  both = _halves(_halves(kernel.astype(jnp.float32), 0), 2)
  return both.transpose(1, 3, 4, 0, 2, 5).astype(kernel.dtype)


def _halves(kernel: jax.Array, axis: int) -> jax.Array:
  """[..., 3, ...] to [..., 2, 2, ...]: phase, and which of the two pixels."""
  first, middle, last = (
    lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3)
  )
  even = jnp.stack([first, middle + last], axis)
  odd = jnp.stack([first + middle, last], axis)
  return jnp.stack([even, odd], axis)


def _interleave(phases: jax.Array, features: int) -> jax.Array:
  """[B, H + 1, W + 1, 4 Co] to [B, 2 H, 2 W, Co].

  Phase (a, b) of the pixels around the small pixel (h, w) stands at
  (h + a, w + b): an even row sees the small row above, an odd one that below.
  """
  phases = materialize.keep(phases)
  batch, height, width = phases.shape[0], *(n - 1 for n in phases.shape[1:3])
  phases = phases.reshape(batch, height + 1, width + 1, 2, 2, features)
  rows = [
    jnp.stack(
      [phases[:, a : a + height, b : b + width, a, b] for b in range(2)], 3
    )
    for a in range(2)
  ]
  shape = (batch, 2 * height, 2 * width, features)
  return jnp.stack(rows, 2).reshape(shape)
