"""Tests of the convolution and of every form of its kernel gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import convolution

B, K, H, W, CI, CO = 3, 2, 4, 6, 3, 4
CASES = [
  (form, stride)
  for form in convolution.FORMS
  for stride in convolution.STRIDES
  if form != 'box_sums' or stride == 0.5
]


def _normal(seed, *shape, dtype=jnp.float32):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, dtype)


def _repeated(x, stride):
  """What a stride of 0.5 means: the image, and the stride of the rest."""
  if stride == 0.5:
    return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2), 1
  return x, stride


def _side(side, stride):
  return -(-side * 2 // round(stride * 2))


def _stock(x, kernel, stride):
  x, stride = _repeated(x, stride)
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def _naive(x, kernel, stride):
  """NumPy oracle: loops over the taps of every output pixel."""
  x, stride = _repeated(x, stride)
  batch, height, width, _ = x.shape
  out = np.zeros(
    (batch, -(-height // stride), -(-width // stride), kernel.shape[-1])
  )
  padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  for h in range(out.shape[1]):
    for w in range(out.shape[2]):
      patch = padded[
        :, h * stride : h * stride + 3, w * stride : w * stride + 3
      ]
      out[:, h, w] = np.einsum('nijc,ijcd->nd', patch, np.asarray(kernel))
  return out


def _naive_kernel_gradient(x, dy, stride):
  """NumPy oracle of the kernel gradient."""
  x, stride = _repeated(x, stride)
  gradient = np.zeros((3, 3, x.shape[-1], dy.shape[-1]))
  padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  for h in range(dy.shape[1]):
    for w in range(dy.shape[2]):
      patch = padded[
        :, h * stride : h * stride + 3, w * stride : w * stride + 3
      ]
      gradient += np.einsum('nijc,nd->ijcd', patch, np.asarray(dy)[:, h, w])
  return gradient


def _nested(conv, stride):
  """The private path: vmap over examples of grad of a mean over draws."""

  def example_loss(kernel, x, dy):
    def draw_loss(x, dy):
      y = jnp.tanh(conv(x[None], kernel, stride))
      return jnp.vdot(y, dy[None]).astype(jnp.float32)

    return jnp.mean(jax.vmap(draw_loss)(x, dy))

  return jax.jit(
    jax.vmap(jax.grad(example_loss, argnums=(0, 1)), in_axes=(None, 0, 0))
  )


def _inputs(
  stride, height=H, width=W, channels=CI, features=CO, dtype='float32'
):
  x = _normal(0, B, K, height, width, channels, dtype=dtype)
  sides = (_side(height, stride), _side(width, stride))
  dy = _normal(1, B, K, *sides, features, dtype=dtype)
  kernel = _normal(2, 3, 3, channels, features, dtype=dtype)
  return kernel, x, dy


def _form(form):
  return lambda x, kernel, stride: convolution.conv3x3(x, kernel, stride, form)


def _assert_close(got, want, tolerance=1e-5):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize('stride', convolution.STRIDES)
@pytest.mark.parametrize('sides', [(4, 6), (5, 7), (6, 5), (1, 1)])
def test_equals_naive_loops(stride, sides):
  x = _normal(0, 2, *sides, CI)
  kernel = _normal(1, 3, 3, CI, CO)
  y, vjp = jax.vjp(
    lambda kernel: convolution.conv3x3(x, kernel, stride), kernel
  )
  np.testing.assert_allclose(y, _naive(x, kernel, stride), atol=1e-5)
  dy = _normal(2, *y.shape)
  want = _naive_kernel_gradient(x, dy, stride)
  np.testing.assert_allclose(vjp(dy)[0], want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize('form,stride', CASES)
def test_gradient_of_examples_and_draws_equals_stock(form, stride):
  args = _inputs(stride)
  got, want = (_nested(f, stride)(*args) for f in (_form(form), _stock))
  _assert_close(got, want)


@pytest.mark.parametrize(
  'height,width,channels,features,stride',
  [(7, 7, 1, 8, 1), (8, 8, 8, 1, 1), (2, 2, 16, 16, 1), (7, 5, 6, 6, 2)],
)
def test_chosen_form_equals_stock(height, width, channels, features, stride):
  args = _inputs(stride, height, width, channels, features)
  got, want = (_nested(f, stride)(*args) for f in (_form('auto'), _stock))
  _assert_close(got, want)


@pytest.mark.parametrize(
  'form,stride', [('x9', 1), ('d9', 1), ('x3d3', 1), ('box_sums', 0.5)]
)
def test_bfloat16_is_as_near_to_float32_as_stock(form, stride):
  args = _inputs(stride, dtype='bfloat16')
  got = _nested(_form(form), stride)(*args)
  want = _nested(_stock, stride)(*(a.astype(jnp.float32) for a in args))
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(got))
  _assert_close(got, want, tolerance=0.02)


@pytest.mark.parametrize('form,stride', CASES)
def test_ordinary_gradient_equals_stock(form, stride):
  kernel, x, dy = _inputs(stride)
  got, want = (
    jax.jit(jax.grad(lambda k, f=f: jnp.vdot(f(x[0], k, stride), dy[0])))(
      kernel
    )
    for f in (_form(form), _stock)
  )
  _assert_close(got, want)


@pytest.mark.parametrize('stride', [1, 0.5])
def test_forward_mode_and_mapped_kernels_equal_stock(stride):
  x = _normal(0, 2, H, W, CI)
  kernels, x_dot = _normal(1, 5, 3, 3, CI, CO), _normal(2, 2, H, W, CI)

  def tangent(conv):
    def of_kernel(kernel):
      return jax.jvp(
        lambda x, kernel: conv(x, kernel, stride),
        (x, kernel),
        (x_dot, kernel + 1),
      )

    return jax.vmap(of_kernel)(kernels)

  def gradient(conv):
    def loss(kernel):
      return jnp.sum(jnp.sin(conv(x, kernel, stride)))

    return jax.vmap(jax.grad(loss))(kernels)

  _assert_close(tangent(_form('auto')), tangent(_stock))
  _assert_close(gradient(_form('auto')), gradient(_stock))


def test_draws_share_one_kernel_gradient():
  """Nothing of shape [B, K, 3, 3, Ci, Co] is ever made."""
  num_draws, channels = 16, 32
  x = jnp.zeros((B, num_draws, 2, 2, channels))
  kernel = jnp.zeros((3, 3, channels, channels))
  fn = _nested(_form('auto'), 1)
  text = str(jax.make_jaxpr(fn)(kernel, x, x))
  assert f'f32[{B},3,3,{channels},{channels}]' in text
  assert f'f32[{B},{num_draws},3,3,' not in text
  memory = fn.lower(kernel, x, x).compile().memory_analysis()
  per_draw_bytes = 4 * B * num_draws * kernel.size
  assert memory.temp_size_in_bytes < per_draw_bytes / 2


@pytest.mark.parametrize('stride', [1, 0.5])
def test_infinite_gradient_stays_with_its_example(stride):
  kernel, x, dy = _inputs(stride)
  fn = jax.vmap(
    jax.grad(lambda k, x, dy: jnp.vdot(convolution.conv3x3(x, k, stride), dy)),
    in_axes=(None, 0, 0),
  )
  want = fn(kernel, x, dy)
  got = fn(kernel, x, dy.at[0, 0, 0, 0, 0].set(jnp.inf))
  assert not np.isfinite(got[0]).all()
  np.testing.assert_array_equal(got[1:], want[1:])


def test_refuses_unknown_form_and_stride():
  x, kernel = jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1))
  with pytest.raises(ValueError, match="form='x8' to be one of 'auto'"):
    convolution.conv3x3(x, kernel, form='x8')
  with pytest.raises(ValueError, match='stride=3 to be 1, 2 or 0.5'):
    convolution.conv3x3(x, kernel, stride=3)
  with pytest.raises(
    ValueError, match="stride=1 to be 0.5 with form='box_sums'"
  ):
    convolution.conv3x3(x, kernel, form='box_sums')


def test_repeated_pixels_are_never_made():
  """Neither the image nor a product is of the size of the output."""
  x, kernel = jnp.zeros((2, 16, 16, 32)), jnp.zeros((3, 3, 32, 32))
  count = {}
  for name, conv in (('ours', _form('auto')), ('stock', _stock)):
    vjp = jax.jit(
      lambda x, k, conv=conv: jax.vjp(lambda x, k: conv(x, k, 0.5), x, k)[0]
    )
    count[name] = vjp.lower(x, kernel).compile().cost_analysis()['flops']
  assert count['ours'] < 0.55 * count['stock']


@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('stride,expected', [(1, (1, 2)), (0.5, (4, 4))])
def test_lowers_for_accelerators(platform, stride, expected):
  """Per example a product; of a whole batch what the vendor's library does.

  After an upsampling it is three products in both. One more is that of vdot.
  """

  def num_products(fn, *args):
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    return lowered.as_text().count('stablehlo.dot_general')

  kernel, x, dy = _inputs(stride)
  grad = jax.grad(
    lambda k, x, dy: jnp.vdot(convolution.conv3x3(x, k, stride), dy)
  )
  ordinary = num_products(grad, kernel, x[0], dy[0])
  per_example = num_products(
    jax.vmap(grad, in_axes=(None, 0, 0)), kernel, x, dy
  )
  assert (ordinary, per_example) == expected
