"""Tests of the convolution with half of the multiplications."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import convolution
from dp_diffusion.models import winograd


def _inputs(height, width, channels, features, batch=2):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, height, width, channels))
  kernel = rng.normal(size=(3, 3, channels, features)) / np.sqrt(9 * channels)
  return x.astype(np.float32), kernel.astype(np.float32)


def _exact(x, kernel):
  """Sums nine shifts in float64."""
  _, height, width, _ = x.shape
  padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(
    padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
    for i in range(3)
    for j in range(3)
  )


@pytest.mark.parametrize('height', [1, 4, 7, 8, 10])
def test_equals_nine_shifts(height):
  x, kernel = _inputs(height, 5, 3, 4)
  got = jax.jit(winograd.convolve)(x, kernel)
  np.testing.assert_allclose(got, _exact(x, kernel), rtol=0, atol=5e-6)


def test_error_is_small_where_there_are_many_channels():
  x, kernel = _inputs(12, 12, 256, 64)
  want = _exact(x, kernel)
  got = jax.jit(winograd.convolve)(x, kernel)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_image_that_is_not_finite_changes_no_other():
  x, kernel = _inputs(8, 5, 3, 4, batch=3)
  convolve = jax.jit(winograd.convolve)
  want = convolve(x, kernel)
  x[1, 0, 0] = np.inf
  got = convolve(x, kernel)
  assert not np.isfinite(got[1]).all()
  np.testing.assert_array_equal(got[::2], want[::2])


def test_choice_is_by_image_and_not_by_batch():
  for batch in (1, 100):
    assert winograd.is_faster((batch, 12, 12, 48), 24, 'float32')
  assert not winograd.is_faster((100, 8, 8, 48), 24, 'float32')
  assert not winograd.is_faster((100, 2, 80, 48), 24, 'float32')
  assert not winograd.is_faster((100, 12, 12, 16), 24, 'float32')
  assert not winograd.is_faster((100, 12, 12, 48), 1, 'float32')
  assert not winograd.is_faster((100, 12, 12, 48), 24, 'bfloat16')


def _num_convolutions(fn, *args, platform='cpu'):
  lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
  return lowered.as_text().count('stablehlo.convolution')


def test_is_used_on_a_cpu_where_nothing_is_differentiated():
  x, kernel = _inputs(12, 12, 24, 24)
  assert _num_convolutions(convolution.conv3x3, x, kernel) == 6
  for platform in ('cuda', 'tpu'):
    count = _num_convolutions(convolution.conv3x3, x, kernel, platform=platform)
    assert count == 1

  def loss(x, kernel):
    return jnp.sum(jnp.square(convolution.conv3x3(x, kernel)))

  assert _num_convolutions(jax.grad(loss), x, kernel) == 2


def test_mapped_images_are_one_batch():
  x, kernel = _inputs(12, 12, 24, 24, batch=6)
  nested = x.reshape(3, 2, 1, 12, 12, 24)
  of_two = jax.vmap(convolution.conv3x3, in_axes=(0, None))
  mapped = jax.vmap(of_two, in_axes=(1, None), out_axes=1)
  assert _num_convolutions(mapped, nested, kernel) == 6
  got = jax.jit(mapped)(nested, kernel).reshape(6, 12, 12, 24)
  np.testing.assert_allclose(got, _exact(x, kernel), rtol=0, atol=1e-5)


def test_mapped_kernels_are_convolved_directly():
  x, kernel = _inputs(12, 12, 24, 24)
  kernels = jnp.stack([kernel, 2 * kernel])
  got = jax.jit(jax.vmap(convolution.conv3x3, (None, 0)))(x, kernels)
  want = _exact(x, kernel)
  np.testing.assert_allclose(got, [want, 2 * want], rtol=0, atol=2e-5)
