"""A 3x3 convolution whose per-example kernel gradients are cheap.

Every network of `models` uses it. The private step computes one gradient per
example (`jax.vmap(jax.grad(...))`). JAX's own kernel gradient then becomes a
grouped convolution, the slowest operation of the whole step. Here the kernel
gradient is ONE matrix product per example (three after an upsampling), in one
of the forms of `kernel_gradients`.

The gradient is a primitive of its own so that this module decides what `vmap`
does with it. An axis that the kernel lacks (the draws of one example, mapped
inside `grad`) is joined with the pixels of the product: there is one kernel
gradient per EXAMPLE, never one per draw. An axis outside `grad` (the examples)
becomes an axis of groups, and the product a batched one.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad
from jax.interpreters import batching
from jax.interpreters import mlir
import jax.numpy as jnp

from dp_diffusion import checks
from dp_diffusion.models import kernel_gradients
from dp_diffusion.models import upsampling
from dp_diffusion.models import winograd

_Pair = tuple[jax.Array, jax.Array]
_Axes = tuple[int | None, int | None]

FORMS = ('auto', *kernel_gradients.FORMS)
STRIDES = (1, 2, upsampling.STRIDE)


def conv3x3(
  x: jax.Array, kernel: jax.Array, stride: float = 1, form: str = 'auto'
) -> jax.Array:
  """Convolves with a 3x3 kernel and one pixel of zero padding on each side.

  It can be differentiated once, in forward or in reverse mode.

  Args:
    x: float[B, H, W, Ci].
    kernel: float[3, 3, Ci, Co], the dtype of x.
    stride: 1, 2 or 0.5; output side = ceil(side / stride). With 0.5 every
      pixel is first repeated to 2x2 pixels.
    form: how the kernel gradient is computed, one of FORMS. 'auto' lets
      `kernel_gradients.choose_form` choose by the shapes and the backend.

  Returns:
    float[B, ceil(H / stride), ceil(W / stride), Co], the dtype of x.

  Raises:
    ValueError: an unknown form or stride, or a form that the stride lacks.
  """
  checks.check_one_of('form', form, FORMS)
  if stride not in STRIDES:
    raise ValueError(f'Expected stride={stride} to be 1, 2 or 0.5.')
  if form == 'box_sums' and stride != upsampling.STRIDE:
    raise ValueError(f'Expected stride={stride} to be 0.5 with form={form!r}.')
  return _conv3x3(x, kernel, stride, form)


# A function that is not differentiated calls this one, and one that is calls
# `_conv3x3_jvp`. In a gradient `winograd` saves little, and takes as long again
# to compile.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv3x3(
  x: jax.Array, kernel: jax.Array, stride: float, form: str
) -> jax.Array:
  del form
  if stride == 1:
    return _forward_p.bind(x, kernel)
  return _forward(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: float) -> jax.Array:
  if stride == upsampling.STRIDE:
    return upsampling.convolve_repeated(x, kernel)
  return kernel_gradients.stock(x, kernel, stride)


def _conv3x3_jvp(
  stride: float,
  form: str,
  primals: _Pair,
  tangents: _Pair,
) -> _Pair:
  """Adds conv(x', kernel) and conv(x, kernel'); the latter is a primitive."""
  x, kernel = primals
  x_dot, kernel_dot = tangents
  symbolic_zero = jax.custom_derivatives.SymbolicZero
  y = _forward(x, kernel, stride)
  y_dot = None
  if not isinstance(x_dot, symbolic_zero):
    if stride == upsampling.STRIDE:
      y_dot = upsampling.convolve_by_product(x_dot, kernel)
    else:
      y_dot = kernel_gradients.stock(x_dot, kernel, stride)
  if not isinstance(kernel_dot, symbolic_zero):
    term = _tangent_p.bind(x, kernel_dot, stride=stride, form=form)
    y_dot = term if y_dot is None else y_dot + term
  return y, jnp.zeros_like(y) if y_dot is None else y_dot


_conv3x3.defjvp(_conv3x3_jvp, symbolic_zeros=True)


# The convolution of stride 1, which is never differentiated, so that the
# platform decides how it is computed.
_forward_p = core.Primitive('conv3x3')


def _stock(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return kernel_gradients.stock(x, kernel, 1)


def _forward_on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
  if winograd.is_faster(x.shape, kernel.shape[-1], x.dtype):
    return winograd.convolve(x, kernel)
  return _stock(x, kernel)


def _forward_abstract(x: Any, kernel: Any) -> Any:
  return x.update(shape=(*x.shape[:-1], kernel.shape[-1]))


def _forward_batch(args: _Pair, axes: _Axes) -> tuple[jax.Array, int]:
  x, kernel = args
  x_axis, kernel_axis = axes
  if kernel_axis is not None:
    return jax.vmap(_stock, axes)(x, kernel), 0
  assert x_axis is not None
  x = jnp.moveaxis(x, x_axis, 0)
  y = _forward_p.bind(x.reshape(-1, *x.shape[2:]), kernel)
  return y.reshape(*x.shape[:2], *y.shape[1:]), 0


# The tangent conv(x, kernel) is linear in the kernel. Leading axes are groups:
# x[*groups, B, H, W, Ci], kernel[*groups, 3, 3, Ci, Co].
_tangent_p = core.Primitive('conv3x3_kernel_tangent')


@functools.partial(jax.jit, static_argnames=('stride', 'form'))
def _tangent(
  x: jax.Array, kernel: jax.Array, *, stride: float, form: str
) -> jax.Array:
  del form
  conv = functools.partial(_forward, stride=stride)
  for _ in range(x.ndim - 4):
    conv = jax.vmap(conv)
  return conv(x, kernel)


def _tangent_abstract(x: Any, kernel: Any, *, stride: float, form: str) -> Any:
  del form
  *groups, batch, height, width, _ = x.shape
  sides = (int(-(-side // stride)) for side in (height, width))
  return x.update(shape=(*groups, batch, *sides, kernel.shape[-1]))


def _tangent_batch(
  args: _Pair, axes: _Axes, *, stride: float, form: str
) -> tuple[jax.Array, int]:
  x, kernel = args
  x_axis, kernel_axis = axes
  if kernel_axis is None:  # An axis of draws of one example joins the batch.
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
  y_bar: Any, x: Any, kernel: Any, *, stride: float, form: str
) -> tuple[None, Any]:
  if ad.is_undefined_primal(x):
    raise NotImplementedError('conv3x3 can be differentiated once only.')
  if isinstance(y_bar, ad.Zero):
    return None, ad.Zero(kernel.aval)
  return None, _gradient_p.bind(x, y_bar, stride=stride, form=form)


# The transpose of the tangent is the kernel gradient [*groups, 3, 3, Ci, Co] of
# x[*groups, B, H, W, Ci] and dy[*groups, B, H', W', Co].
_gradient_p = core.Primitive('conv3x3_kernel_gradient')


def _gradient_abstract(x: Any, dy: Any, *, stride: float, form: str) -> Any:
  del stride, form
  shape = (*x.shape[:-4], 3, 3, x.shape[-1], dy.shape[-1])
  return x.update(shape=shape)


def _gradient_batch(
  args: _Pair, axes: _Axes, *, stride: float, form: str
) -> tuple[jax.Array, int]:
  x, dy = _leading(args, axes)
  return _gradient_p.bind(x, dy, stride=stride, form=form), 0


def _leading(args: _Pair, axes: _Axes) -> list[jax.Array]:
  """Moves the mapped axis of both arguments to the front.

  An argument that lacks the axis is repeated along it.
  """
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
  """Returns the function that computes kernel gradients on a platform."""

  def gradient(
    x: jax.Array, dy: jax.Array, *, stride: float, form: str
  ) -> jax.Array:
    groups = x.shape[:-4]
    x = x.reshape(-1, *x.shape[-4:])
    dy = dy.reshape(-1, *dy.shape[-4:])
    if form == 'auto':
      form = kernel_gradients.choose_form(
        x.shape, dy.shape[-1], stride, platform
      )
    kernel_bar = kernel_gradients.compute(form, x, dy, stride, platform)
    return kernel_bar.reshape(*groups, *kernel_bar.shape[1:])

  return gradient


_forward_p.def_impl(jax.jit(_forward_p.bind))
_forward_p.def_abstract_eval(_forward_abstract)
batching.primitive_batchers[_forward_p] = _forward_batch
mlir.register_lowering(
  _forward_p, mlir.lower_fun(_stock, multiple_results=False)
)
mlir.register_lowering(
  _forward_p,
  mlir.lower_fun(_forward_on_cpu, multiple_results=False),
  platform='cpu',
)
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
