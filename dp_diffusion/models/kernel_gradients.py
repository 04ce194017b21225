"""Computes the kernel gradient of a 3x3 convolution, in one of several forms.

A 3x3 convolution is a sum over nine shifts of its input, each times one
[Ci, Co] block of the kernel. The kernel gradient is therefore a matrix product
over the P pixels. The forms differ in which factor is shifted:
  'stock'  neither: the gradient of `jax.lax.conv_general_dilated`.
  'x9'     the input, nine times:           [P, 9 Ci]^T [P, Co].
  'd9'     the output gradient, nine times: [P, Ci]^T [P, 9 Co].
  'x3d3'   the input three times along the width, the output gradient three
           times along the height:          [P, 3 Ci]^T [P, 3 Co].
  'box_sums'
           for an image whose pixels are repeated: the output gradient is summed
           over 2x2 pixels, and the product runs over the pixels of the small
           image, three times               [P / 4, Ci]^T [P / 4, 3 Co].
Every form computes the same sum in another order. All take images
x[G, B, H, W, Ci] and output gradients dy[G, B, H', W', Co] of G groups (the
examples of a private step, each with its B draws), and return
[G, 3, 3, Ci, Co]. `convolution` uses them for its derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp

from dp_diffusion.models import upsampling

_Join = Callable[[Sequence[jax.Array]], jax.Array]
_Sides = tuple[int, int]

FORMS = ('stock', 'x9', 'd9', 'x3d3', 'box_sums')
_MIN_CHANNELS = 8  # A factor with fewer channels is shifted nine times.
_MANY_PIXELS = 512


def choose_form(
  x_shape: Sequence[int], features: int, stride: float, platform: str
) -> str:
  """Chooses the fastest form of a kernel gradient.

  The choice on a CPU was measured (`experiments/benchmarks`). 'x3d3' moves the
  fewest numbers. Where one factor has few channels it is cheaper to shift that
  factor nine times. At stride 2 'x3d3' multiplies as many zeros as pixels,
  which costs time in large images. On accelerators, a gradient that is not per
  example is left to the vendor's library. Repeated pixels use 'box_sums' on
  every platform.

  Args:
    x_shape: (groups, B, H, W, Ci); groups is 1 outside of `vmap(grad)`.
    features: output channels Co.
    stride: 1, 2 or `upsampling.STRIDE`.
    platform: 'cpu', 'cuda', 'tpu', ...

  Returns:
    One of FORMS.
  """
  groups, _, height, width, channels = x_shape
  if stride == upsampling.STRIDE:
    return 'box_sums'
  if groups == 1 and platform != 'cpu':
    return 'stock'
  if channels < _MIN_CHANNELS:
    return 'x9'
  if features < _MIN_CHANNELS:
    return 'd9'
  if stride == 2 and (groups == 1 or height * width >= _MANY_PIXELS):
    return 'x9'
  return 'x3d3'


def gradient_axes(shape: Sequence[int]) -> tuple[int, ...]:
  """Returns the order of axes in which the matrix product yields a gradient.

  Per-example gradients that are kept in this order need not be transposed,
  which would move every gradient of every example.

  >>> gradient_axes((3, 3, 64, 32)), gradient_axes((3, 3, 1, 32))
  ((1, 2, 0, 3), (0, 1, 2, 3))
  >>> gradient_axes((128, 64)), gradient_axes((64,))
  ((1, 0), (0,))

  Args:
    shape: shape of a parameter.

  Returns:
    A permutation for `transpose`: the order of 'x3d3' for a kernel that uses
    it, [out, in] for a matrix, and the parameter's own order otherwise.
  """
  is_kernel = len(shape) == 4 and tuple(shape[:2]) == (3, 3)
  if is_kernel and min(shape[2:]) >= _MIN_CHANNELS:
    return (1, 2, 0, 3)
  if len(shape) == 2:
    return (1, 0)
  return tuple(range(len(shape)))


def stock(x: jax.Array, kernel: jax.Array, stride: float) -> jax.Array:
  """Convolves with a 3x3 kernel by JAX alone; see `convolution.conv3x3`."""
  x, step = _repeated(x, stride)
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(step, step),
    padding=((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def compute(
  form: str, x: jax.Array, dy: jax.Array, stride: float, platform: str = 'cpu'
) -> jax.Array:
  """Computes the kernel gradient of each group, in the given form.

  Args:
    form: one of FORMS; 'box_sums' works with `upsampling.STRIDE` only.
    x: float[G, B, H, W, Ci].
    dy: float[G, B, H', W', Co].
    stride: 1, 2 or `upsampling.STRIDE`.
    platform: platform to optimise for; the result is the same on each.

  Returns:
    float[G, 3, 3, Ci, Co].
  """
  x, step = (x, 1) if form == 'box_sums' else _repeated(x, stride)
  shifts_x = form in ('x9', 'x3d3')
  join: _Join = _join_by_sum
  if platform == 'cpu':
    x = _widen_after(x, dy) if shifts_x else x
  else:
    # The barrier delays the shifts of x until dy is there, as in
    # `_widen_after`. `which` differs per convolution, since XLA would merge all
    # shifts that share it into one kernel and keep all their images until then.
    x, dy, which = lax.optimization_barrier((x, dy, lax.iota(jnp.int32, 3)))
    x = _pad(x, (0, 0), (1, 1)) if shifts_x else x
    join = functools.partial(_join_on_accelerator, which=which)
  return _GRADIENTS[form](x, dy, step, join)


def _repeated(x: jax.Array, stride: float) -> tuple[jax.Array, int]:
  """Returns the image after any repetition of pixels, and an integer stride."""
  if stride == upsampling.STRIDE:
    return upsampling.repeat(x), 1
  return x, int(stride)


def _gradient_stock(
  x: jax.Array, dy: jax.Array, stride: int, join: _Join
) -> jax.Array:
  del join
  shape = (3, 3, x.shape[-1], dy.shape[-1])

  def one_group(x: jax.Array, dy: jax.Array) -> jax.Array:
    transpose = jax.linear_transpose(
      lambda kernel: stock(x, kernel, stride),
      jax.ShapeDtypeStruct(shape, x.dtype),
    )
    return transpose(dy)[0]

  if x.shape[0] == 1:
    return one_group(x[0], dy[0])[None]
  return jax.vmap(one_group)(x, dy)


def _gradient_x9(
  x: jax.Array, dy: jax.Array, stride: int, join: _Join
) -> jax.Array:
  """Computes 'x9'; x has a column of padding on either side."""
  groups, _, _, _, channels = x.shape
  _, _, height, width, features = dy.shape
  x = _pad(x, (1, 1), (0, 0))
  x9 = join(
    [
      _window(_window(x, 2, i, height, stride), 3, j, width, stride)
      for i in range(3)
      for j in range(3)
    ]
  )
  return _product(x9, dy).reshape(groups, 3, 3, channels, features)


def _gradient_d9(
  x: jax.Array, dy: jax.Array, stride: int, join: _Join
) -> jax.Array:
  groups, _, height, width, channels = x.shape
  features = dy.shape[-1]
  dy = _dilate(dy, (stride, stride), (height, width))
  dy = _pad(dy, (1, 1), (1, 1))
  d9 = join(
    [
      _window(_window(dy, 2, 2 - i, height), 3, 2 - j, width)
      for i in range(3)
      for j in range(3)
    ]
  )
  product = _product(x, d9).reshape(groups, channels, 3, 3, features)
  return product.transpose(0, 2, 3, 1, 4)


def _gradient_x3d3(
  x: jax.Array, dy: jax.Array, stride: int, join: _Join
) -> jax.Array:
  """Computes 'x3d3'; x has a column of padding on either side."""
  groups, _, height, _, channels = x.shape
  width, features = dy.shape[3:]
  dy = _dilate(dy, (stride, 1), (height, width))
  x3 = join([_window(x, 3, j, width, stride) for j in range(3)])
  d3 = join([_pad(dy, (i, 2 - i), (0, 0)) for i in range(3)])
  d3 = _window(d3, 2, 1, height)  # Drops the rows where x is padding.
  product = _product(x3, d3).reshape(groups, 3, channels, 3, features)
  return product.transpose(0, 3, 1, 2, 4)


def _gradient_box_sums(
  x: jax.Array, dy: jax.Array, stride: int, join: _Join
) -> jax.Array:
  """Computes 'box_sums'; x is the small image."""
  del stride
  groups, channels, features = x.shape[0], x.shape[-1], dy.shape[-1]
  products = [
    _product(x, join(upsampling.box_sums(column, 2)))
    for column in upsampling.box_sums(dy, 3)
  ]
  product = jnp.stack(products, axis=1)
  product = product.reshape(groups, 3, channels, 3, features)
  return product.transpose(0, 3, 1, 2, 4)


_GRADIENTS = {
  'stock': _gradient_stock,
  'x9': _gradient_x9,
  'd9': _gradient_d9,
  'x3d3': _gradient_x3d3,
  'box_sums': _gradient_box_sums,
}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiplies [G, B, H, W, M] and [G, B, H, W, N] over pixels to [G, M, N].

  The pixels are first joined into one axis: with several contracted axes XLA
  copies an operand into another layout on the CPU.
  """
  groups = a.shape[0]
  a = a.reshape(groups, -1, a.shape[-1])
  b = b.reshape(groups, -1, b.shape[-1])
  if groups == 1:
    return lax.dot_general(a[0], b[0], (((0,), (0,)), ((), ())))[None]
  return lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))))


def _join_on_accelerator(
  parts: Sequence[jax.Array], which: jax.Array
) -> jax.Array:
  """Concatenates channels in one pass over memory on a GPU.

  For three parts, each element is selected from one of them: XLA fuses that
  and the shifts into one pass, where a concatenation of three takes two. A
  concatenation of nine takes one pass.

  Args:
    parts: three or nine images of the same shape.
    which: int32[3], the indices 0, 1, 2 of three parts.
  """
  if len(parts) > 3:
    return jnp.concatenate(parts, axis=-1)
  shape = (*parts[0].shape[:-1], len(parts), parts[0].shape[-1])
  spread = [jnp.broadcast_to(part[..., None, :], shape) for part in parts]
  number = lax.broadcast_in_dim(which, shape, (len(shape) - 2,))
  return lax.select_n(number, *spread).reshape(*shape[:-2], -1)


def _join_by_sum(parts: Sequence[jax.Array]) -> jax.Array:
  """Concatenates channels as a sum of zero-padded parts.

  On a CPU the sum is vectorised, while a concatenation copies element by
  element. On a GPU every element would be a sum over all parts, which takes a
  sixth of a step of the 80M network.
  """
  channels = parts[0].shape[-1]
  lengths = [(0, 0)] * (parts[0].ndim - 1)
  padded = []
  for i, part in enumerate(parts):
    after = (len(parts) - 1 - i) * channels
    padded.append(jnp.pad(part, [*lengths, (i * channels, after)]))
  return functools.reduce(jnp.add, padded)


def _pad(x: jax.Array, rows: _Sides, columns: _Sides) -> jax.Array:
  """Zero-pads the sides of [G, B, H, W, C], before and after."""
  return jnp.pad(x, ((0, 0), (0, 0), rows, columns, (0, 0)))


def _widen_after(x: jax.Array, dy: jax.Array) -> jax.Array:
  """Pads x by a column of zeros on either side, once dy has been computed.

  Otherwise XLA may prepare the shifts of x in the forward pass and keep them,
  three to nine images instead of one. XLA drops barriers before it schedules
  for a CPU, so the zeros on the left are computed from dy. Adding zeros made
  of dy to all of x would take up to a fifth of the gradient's time. A dy that
  is not finite makes the gradient of its group non-finite in any case.
  """
  shape = (*x.shape[:3], 1, x.shape[4])
  left = jnp.broadcast_to(0 * dy[:, :1, :1, :1, :1], shape)
  return jnp.concatenate([left, x, jnp.zeros(shape, x.dtype)], axis=3)


def _dilate(
  dy: jax.Array, strides: tuple[int, int], sides: tuple[int, int]
) -> jax.Array:
  """Puts zeros between the pixels of [G, B, H', W', C], to the given sides."""
  if strides == (1, 1):
    return dy
  config = [(0, 0, 0)] * 5
  for axis, stride, side in zip((2, 3), strides, sides, strict=True):
    high = side - (stride * (dy.shape[axis] - 1) + 1)
    config[axis] = (0, high, stride - 1)
  return lax.pad(dy, jnp.zeros((), dy.dtype), config)


def _window(
  x: jax.Array, axis: int, start: int, size: int, stride: int = 1
) -> jax.Array:
  """Returns x[start::stride][:size] along an axis."""
  limit = start + (size - 1) * stride + 1
  return lax.slice_in_dim(x, start, limit, stride, axis)
