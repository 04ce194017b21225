"""The 3x3 convolution whose per-example kernel gradients are cheap.

On the road: every network of `models` is made of it, and the private step
takes its gradient example by example (`jax.vmap(jax.grad(...))`), where the
stock kernel gradient becomes a grouped convolution, the slowest operation of
the whole step. Here it is ONE matrix product per example.

A 3x3 convolution is nine shifts of its input, each times one [Ci, Co] block
of the kernel. A form of the kernel gradient says which side carries the
shifts into the product over the P pixels:

  'stock'  nothing: what `jax.lax.conv_general_dilated` does by itself.
  'x9'     all nine on the input:      [P, 9 Ci]^T [P, Co].
  'd9'     all nine on the output gradient: [P, Ci]^T [P, 9 Co].
  'x3d3'   three (horizontal) on the input, three (vertical) on the output
           gradient:                   [P, 3 Ci]^T [P, 3 Co].

Every form is the same sum in another order. The gradient is a primitive of
its own, for what `vmap` makes of it: an axis that the kernel does not have
(the draws of one example, inside its `grad`) joins P, so that there is one
kernel gradient per EXAMPLE, never one per draw; an axis outside the `grad`
(the examples) becomes an axis of groups, a batched product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

from dp_diffusion import array_types

_Pair = tuple[jax.Array, jax.Array]
_Axes = tuple[int | None, int | None]

FORMS = ('auto', 'stock', 'x9', 'd9', 'x3d3')


def conv3x3(
  x: jax.Array, kernel: jax.Array, stride: int = 1, form: str = 'auto'
) -> jax.Array:
  """3x3 convolution, one pixel of zero padding on each side.

  Differentiable once (in either mode).

  Args:
    x: float[B, H, W, Ci].
    kernel: float[3, 3, Ci, Co], the dtype of x.
    stride: 1 or 2; output side = ceil(side / stride).
    form: how the kernel gradient is computed, one of FORMS; 'auto' takes
      `choose_form` of what is differentiated, on the backend it runs on.

  Returns:
    float[B, ceil(H / stride), ceil(W / stride), Co], the dtype of x.

  Raises:
    ValueError: unknown form, or a stride other than 1 and 2.
  """
  array_types.check_one_of('form', form, FORMS)
  if stride not in (1, 2):
    raise ValueError(f'Expected stride={stride} to be 1 or 2.')
  return _conv3x3(x, kernel, stride, form)


def choose_form(
  x_shape: Sequence[int], features: int, stride: int, platform: str
) -> str:
  """The fastest form of a kernel gradient.

  On CPU by measurement (`experiments/benchmarks`): with few channels on one
  side that side carries all the shifts; at stride 2 and on images of a few
  pixels 'x3d3' would multiply padding. On accelerators a gradient that is not
  per example is left to the vendor's library.

  Args:
    x_shape: (groups, B, H, W, Ci); groups is 1 outside of `vmap(grad)`.
    features: Co.
    stride: 1 or 2.
    platform: 'cpu', 'cuda', 'tpu', ...

  Returns:
    One of FORMS, not 'auto'.
  """
  groups, _, height, width, channels = x_shape
  if groups == 1 and platform != 'cpu':
    return 'stock'
  if stride == 2:
    return 'x9'
  if features >= 2 * channels:
    return 'x9'
  if channels >= 2 * features:
    return 'd9'
  return 'x9' if height * width <= 16 else 'x3d3'


def _stock(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  return lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(stride, stride),
    padding=((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv3x3(
  x: jax.Array, kernel: jax.Array, stride: int, form: str
) -> jax.Array:
  del form
  return _stock(x, kernel, stride)


def _conv3x3_jvp(
  stride: int,
  form: str,
  primals: _Pair,
  tangents: _Pair,
) -> _Pair:
  """Adds conv(x', kernel) and, by a primitive, conv(x, kernel')."""
  x, kernel = primals
  x_dot, kernel_dot = tangents
  symbolic_zero = jax.custom_derivatives.SymbolicZero
  y = _stock(x, kernel, stride)
  y_dot = None
  if not isinstance(x_dot, symbolic_zero):
    y_dot = _stock(x_dot, kernel, stride)
  if not isinstance(kernel_dot, symbolic_zero):
    term = _tangent_p.bind(x, kernel_dot, stride=stride, form=form)
    y_dot = term if y_dot is None else y_dot + term
  return y, jnp.zeros_like(y) if y_dot is None else y_dot


_conv3x3.defjvp(_conv3x3_jvp, symbolic_zeros=True)


# The tangent: conv(x, kernel), linear in the kernel. Leading axes are groups:
# x[*groups, B, H, W, Ci], kernel[*groups, 3, 3, Ci, Co].
_tangent_p = core.Primitive('conv3x3_kernel_tangent')


@functools.partial(jax.jit, static_argnames=('stride', 'form'))
def _tangent(
  x: jax.Array, kernel: jax.Array, *, stride: int, form: str
) -> jax.Array:
  del form
  conv = functools.partial(_stock, stride=stride)
  for _ in range(x.ndim - 4):
    conv = jax.vmap(conv)
  return conv(x, kernel)


def _tangent_abstract(x: Any, kernel: Any, *, stride: int, form: str) -> Any:
  del form
  *groups, batch, height, width, _ = x.shape
  sides = (-(-height // stride), -(-width // stride))
  return x.update(shape=(*groups, batch, *sides, kernel.shape[-1]))


def _tangent_batch(
  args: _Pair, axes: _Axes, *, stride: int, form: str
) -> tuple[jax.Array, int]:
  x, kernel = args
  x_axis, kernel_axis = axes
  if kernel_axis is None:  # Draws of one example: they join the batch.
    assert x_axis is not None
    axis = x.ndim - 5
    x = jnp.moveaxis(x, x_axis, axis)
    size, batch = x.shape[axis : axis + 2]
    folded = x.reshape(*x.shape[:axis], size * batch, *x.shape[axis + 2 :])
    y = _tangent_p.bind(folded, kernel, stride=stride, form=form)
    y = y.reshape(*y.shape[:axis], size, batch, *y.shape[axis + 1 :])
    return y, axis
  x, kernel = _leading(args, axes)
  return _tangent_p.bind(x, kernel, stride=stride, form=form), 0


def _tangent_transpose(
  y_bar: Any, x: Any, kernel: Any, *, stride: int, form: str
) -> tuple[None, Any]:
  if ad.is_undefined_primal(x):
    raise NotImplementedError('conv3x3 can be differentiated once only.')
  if isinstance(y_bar, ad.Zero):
    return None, ad.Zero(kernel.aval)
  return None, _gradient_p.bind(x, y_bar, stride=stride, form=form)


# Its transpose: the kernel gradient of x[*groups, B, H, W, Ci] and
# dy[*groups, B, H', W', Co], kernel-shaped [*groups, 3, 3, Ci, Co].
_gradient_p = core.Primitive('conv3x3_kernel_gradient')


def _gradient_abstract(x: Any, dy: Any, *, stride: int, form: str) -> Any:
  del stride, form
  shape = (*x.shape[:-4], 3, 3, x.shape[-1], dy.shape[-1])
  return x.update(shape=shape)


def _gradient_batch(
  args: _Pair, axes: _Axes, *, stride: int, form: str
) -> tuple[jax.Array, int]:
  x, dy = _leading(args, axes)
  return _gradient_p.bind(x, dy, stride=stride, form=form), 0


def _leading(args: _Pair, axes: _Axes) -> list[jax.Array]:
  """Both arguments with the mapped axis in front, repeated where absent."""
  size = next(
    a.shape[axis]
    for a, axis in zip(args, axes, strict=True)
    if axis is not None
  )
  return [
    jnp.broadcast_to(a[None], (size, *a.shape))
    if axis is None
    else jnp.moveaxis(a, axis, 0)
    for a, axis in zip(args, axes, strict=True)
  ]


def _gradient_on(platform: str) -> Callable[..., jax.Array]:
  """The kernel gradient as computed on a platform."""

  def gradient(
    x: jax.Array, dy: jax.Array, *, stride: int, form: str
  ) -> jax.Array:
    groups = x.shape[:-4]
    x = x.reshape(-1, *x.shape[-4:])
    dy = dy.reshape(-1, *dy.shape[-4:])
    if form == 'auto':
      form = choose_form(x.shape, dy.shape[-1], stride, platform)
    # Makes the shifts of x wait for dy: XLA's CPU scheduler would prepare them
    # in the forward pass and keep them, three to nine images instead of one
    # (it drops optimization barriers before). A non-finite dy makes the
    # gradient non-finite in any case.
    x = x + 0 * dy[:, :1, :1, :1, :1]
    kernel_bar = _GRADIENTS[form](x, dy, stride)
    return kernel_bar.reshape(*groups, *kernel_bar.shape[1:])

  return gradient


def _gradient_stock(x: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
  shape = (3, 3, x.shape[-1], dy.shape[-1])

  def one_group(x: jax.Array, dy: jax.Array) -> jax.Array:
    transpose = jax.linear_transpose(
      lambda kernel: _stock(x, kernel, stride),
      jax.ShapeDtypeStruct(shape, x.dtype),
    )
    return transpose(dy)[0]

  if x.shape[0] == 1:
    return one_group(x[0], dy[0])[None]
  return jax.vmap(one_group)(x, dy)


def _gradient_x9(x: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
  groups, _, _, _, channels = x.shape
  _, _, height, width, features = dy.shape
  x = _pad(x, 1, 1, 1, 1)
  x9 = _join(
    [
      _window(_window(x, 2, i, height, stride), 3, j, width, stride)
      for i in range(3)
      for j in range(3)
    ]
  )
  return _product(x9, dy).reshape(groups, 3, 3, channels, features)


def _gradient_d9(x: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
  groups, _, height, width, channels = x.shape
  features = dy.shape[-1]
  dy = _pad(_dilate(dy, stride, height, width), 1, 1, 1, 1)
  d9 = _join(
    [
      _window(_window(dy, 2, 2 - i, height), 3, 2 - j, width)
      for i in range(3)
      for j in range(3)
    ]
  )
  product = _product(x, d9).reshape(groups, channels, 3, 3, features)
  return product.transpose(0, 2, 3, 1, 4)


def _gradient_x3d3(x: jax.Array, dy: jax.Array, stride: int) -> jax.Array:
  groups, _, height, width, channels = x.shape
  features = dy.shape[-1]
  dy = _dilate(dy, stride, height, width)
  x = _pad(x, 1, 1, 1, 1)
  x3 = _join([_window(x, 3, j, width) for j in range(3)])
  d3 = _join([_pad(dy, i, 2 - i, 0, 0) for i in range(3)])
  product = _product(x3, d3).reshape(groups, 3, channels, 3, features)
  return product.transpose(0, 3, 1, 2, 4)


_GRADIENTS = {
  'stock': _gradient_stock,
  'x9': _gradient_x9,
  'd9': _gradient_d9,
  'x3d3': _gradient_x3d3,
}


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
  """[G, B, H, W, M], [G, B, H, W, N] to [G, M, N], over all pixels.

  The pixels are one axis before the product: with several contracted axes XLA
  copies an operand into another layout on the CPU.
  """
  groups = a.shape[0]
  a = a.reshape(groups, -1, a.shape[-1])
  b = b.reshape(groups, -1, b.shape[-1])
  if groups == 1:
    return lax.dot_general(a[0], b[0], (((0,), (0,)), ((), ())))[None]
  return lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))))


def _join(parts: Sequence[jax.Array]) -> jax.Array:
  """Concatenates channels; as padded sums, which the CPU does vectorised."""
  channels = parts[0].shape[-1]
  lengths = [(0, 0)] * (parts[0].ndim - 1)
  padded = []
  for i, part in enumerate(parts):
    after = (len(parts) - 1 - i) * channels
    padded.append(jnp.pad(part, [*lengths, (i * channels, after)]))
  return functools.reduce(jnp.add, padded)


def _pad(
  x: jax.Array, top: int, bottom: int, left: int, right: int
) -> jax.Array:
  """Zero-pads the sides of [G, B, H, W, C]."""
  return jnp.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right), (0, 0)))


def _dilate(dy: jax.Array, stride: int, height: int, width: int) -> jax.Array:
  """Spreads [G, B, H', W', C] to the pixels it was computed at, of [H, W]."""
  if stride == 1:
    return dy
  high = [
    side - (stride * (n - 1) + 1)
    for side, n in zip((height, width), dy.shape[2:4], strict=True)
  ]
  config = ((0, 0, 0),) * 2 + tuple((0, h, stride - 1) for h in high)
  return lax.pad(dy, jnp.zeros((), dy.dtype), (*config, (0, 0, 0)))


def _window(
  x: jax.Array, axis: int, start: int, size: int, stride: int = 1
) -> jax.Array:
  """x[start::stride][:size] along an axis."""
  limit = start + (size - 1) * stride + 1
  return lax.slice_in_dim(x, start, limit, stride, axis)


_tangent_p.def_impl(_tangent)
_tangent_p.def_abstract_eval(_tangent_abstract)
batching.primitive_batchers[_tangent_p] = _tangent_batch
ad.primitive_transposes[_tangent_p] = _tangent_transpose
mlir.register_lowering(
  _tangent_p, mlir.lower_fun(_tangent, multiple_results=False)
)
_gradient_p.def_impl(
  jax.jit(_gradient_p.bind, static_argnames=('stride', 'form'))
)
_gradient_p.def_abstract_eval(_gradient_abstract)
batching.primitive_batchers[_gradient_p] = _gradient_batch
mlir.register_lowering(
  _gradient_p,
  mlir.lower_fun(_gradient_on('accelerator'), multiple_results=False),
)
mlir.register_lowering(
  _gradient_p,
  mlir.lower_fun(_gradient_on('cpu'), multiple_results=False),
  platform='cpu',
)
