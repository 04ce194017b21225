"""Convolves an image whose pixels are repeated, without repeating them.

`convolution` uses it in the upsampling half of the U-Net. Each 3x3 window of
the large image covers 2x2 pixels of the small one. Which weights meet the same
pixel depends on whether the row and the column are even or odd. These four
phases have a 2x2 kernel each, whose weights are sums of the 3x3 kernel's. Each
small pixel then needs 16 products with a [Ci, Co] block instead of 36.
"""

from __future__ import annotations

import jax
from jax import lax
import jax.numpy as jnp

from dp_diffusion.models import materialize

STRIDE = 0.5  # Stride of such a convolution; output side = side / stride.


def repeat(x: jax.Array) -> jax.Array:
  """Repeats every pixel 2x2: [..., H, W, C] to [..., 2 H, 2 W, C]."""
  *lead, height, width, channels = x.shape
  shape = (*lead, height, 2, width, 2, channels)
  x = jnp.broadcast_to(x[..., :, None, :, None, :], shape)
  return x.reshape(*lead, 2 * height, 2 * width, channels)


@jax.jit
def convolve_repeated(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves `repeat(x)` with a 3x3 kernel and one pixel of zero padding.

  It is compiled as a function of this name, by which
  `stages.planning.flop_counts` recognises it.

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
  """Computes `convolve_repeated` as one matrix product.

  It is used for the gradient of `x`, which is then four times as fast on a CPU
  as by a transposed convolution. The forward pass is slower than the other.

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
  """Sums the output gradient over the two copies of each small pixel.

  Args:
    dy: float[..., 2 n, ...], output gradient of the large image.
    axis: the axis of the 2 n pixels; it must not be the last one.

  Returns:
    Three arrays float[..., n, ...], one per weight along the axis: sums of two
    neighbours of dy, moved by 1, 0 and -1 pixels.
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
  """Moves the image along an axis by 1 or -1 and fills the gap with zeros."""
  config = [(0, 0, 0)] * x.ndim
  config[axis] = (by, -by, 0)
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def _phase_kernels(kernel: jax.Array) -> jax.Array:
  """Sums [3, 3, Ci, Co] to [2, 2, Ci, 2, 2, Co]: rows, columns, Ci, phases, Co.

  The 2x2 phases are those of an even or odd row and column of the output.
  """
  both = _halves(_halves(kernel.astype(jnp.float32), 0), 2)
  return both.transpose(1, 3, 4, 0, 2, 5).astype(kernel.dtype)


def _halves(kernel: jax.Array, axis: int) -> jax.Array:
  """Sums [..., 3, ...] to [..., 2, 2, ...]: phase, then pixel of the two."""
  first, middle, last = (
    lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3)
  )
  even = jnp.stack([first, middle + last], axis)
  odd = jnp.stack([first + middle, last], axis)
  return jnp.stack([even, odd], axis)


def _interleave(phases: jax.Array, features: int) -> jax.Array:
  """Interleaves the phases [B, H + 1, W + 1, 4 Co] to [B, 2 H, 2 W, Co].

  Phase (a, b) of the four output pixels of the small pixel (h, w) is at
  (h + a, w + b): an even output row uses the small row above, an odd row uses
  the small row below.
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
