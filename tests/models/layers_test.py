"""Tests of the layers against NumPy."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import layers


def _normal(seed, *shape):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def _randomised(module, *inputs):
  """Variables of a module, none of them zero."""
  variables = jax.jit(module.init)(jax.random.key(0), *inputs)
  return jax.tree.map(
    lambda leaf: leaf + 0.3 * _normal(leaf.size, *leaf.shape), variables
  )


def _naive_group_norm(x, scale, bias, num_groups):
  x = np.asarray(x, np.float64)
  out = np.empty_like(x)
  size = x.shape[-1] // num_groups
  for b in range(x.shape[0]):
    for g in range(num_groups):
      part = x[b, ..., g * size : (g + 1) * size]
      out[b, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
        part.var() + 1e-5
      )
  return out * np.asarray(scale) + np.asarray(bias)


@pytest.mark.parametrize('num_groups', [1, 2, 6])
def test_group_norm_equals_naive(num_groups):
  x = 3 * _normal(0, 2, 4, 5, 6) + 1
  module = layers.GroupNorm(num_groups)
  variables = _randomised(module, x)
  params = variables['params']
  want = _naive_group_norm(x, params['scale'], params['bias'], num_groups)
  got = jax.jit(module.apply)(variables, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_group_norm_shift_and_scale():
  x, shift, scale = _normal(0, 2, 4, 4, 4), _normal(1, 2, 4), _normal(2, 2, 4)
  module = layers.GroupNorm(2)
  variables = _randomised(module, x)
  plain = module.apply(variables, x)
  got = module.apply(variables, x, (shift, scale))
  want = plain * (1 + scale[:, None, None]) + shift[:, None, None]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_group_norm_statistics_are_float32():
  """In bfloat16 the mean of 4096 values near 100 would be off by several."""
  x = (100 + _normal(0, 1, 64, 64, 1)).astype(jnp.bfloat16)
  module = layers.GroupNorm(1, jnp.bfloat16)
  y = module.apply(module.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  y = np.asarray(y, np.float64)
  assert abs(y.mean()) < 0.01
  assert abs(y.std() - 1) < 0.01


def test_group_norm_names_both_numbers():
  with pytest.raises(ValueError, match='num_groups=4 to divide channels=6'):
    layers.GroupNorm(4).init(jax.random.key(0), jnp.zeros((1, 2, 2, 6)))


def test_pointwise_convolution_is_a_product():
  x = _normal(0, 2, 4, 4, 3)
  for stride in (1, 2):
    module = layers.Conv(5, kernel_size=1, stride=stride)
    variables = _randomised(module, x)
    params = variables['params']
    want = x[:, ::stride, ::stride] @ params['kernel'][0, 0]
    want = want + params['bias'][None, None, None]
    got = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_convolution_computes_in_dtype_with_float32_parameters():
  x = _normal(0, 1, 4, 4, 2)
  module = layers.Conv(2, dtype=jnp.bfloat16)
  variables = module.init(jax.random.key(0), x)
  assert module.apply(variables, x).dtype == jnp.bfloat16
  grads = jax.grad(lambda v: module.apply(v, x).astype(jnp.float32).sum())(
    variables
  )
  for leaf in jax.tree.leaves((variables, grads)):
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize('name', ['conv', 'dense'])
def test_a_bias_gradient_of_bfloat16_is_summed_in_float32(name):
  """8192 terms of one sign, in bfloat16, would stop growing at 256."""
  if name == 'conv':
    module, x = layers.Conv(2, dtype=jnp.bfloat16), _normal(0, 8, 32, 32, 2)
  else:
    module, x = layers.Dense(2, dtype=jnp.bfloat16), _normal(0, 8192, 2)
  variables = module.init(jax.random.key(0), x)
  cotangent = (0.5 + _normal(1, *x.shape)).astype(jnp.bfloat16)
  _, pullback = jax.vjp(lambda v: module.apply(v, x), variables)
  (gradients,) = pullback(cotangent)
  want = np.asarray(cotangent, np.float64).reshape(-1, 2).sum(0)
  got = gradients['params']['bias']
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=0.01)


def test_dense_is_that_of_flax():
  x = _normal(0, 5, 3)
  ours, theirs = layers.Dense(4), nn.Dense(4)
  variables = theirs.init(jax.random.key(1), x)
  mine = ours.init(jax.random.key(1), x)
  jax.tree.map(np.testing.assert_array_equal, mine, variables)
  np.testing.assert_allclose(
    ours.apply(mine, x), theirs.apply(variables, x), rtol=1e-6
  )


def test_zero_init_gives_zero():
  module = layers.Conv(2, is_zero_init=True)
  x = _normal(0, 1, 4, 4, 2)
  assert not module.apply(module.init(jax.random.key(0), x), x).any()


@pytest.mark.parametrize('change', [{'kernel_size': 5}, {'stride': 3}])
def test_convolution_refuses(change):
  name = next(iter(change))
  with pytest.raises(ValueError, match=name):
    layers.Conv(2, **change).init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))


def test_attention_equals_naive():
  x = _normal(0, 2, 2, 3, 4)
  module = layers.Attention(head_channels=2, num_groups=2)
  variables = _randomised(module, x)
  params = jax.tree.map(np.asarray, variables['params'])
  h = _naive_group_norm(x, params['norm']['scale'], params['norm']['bias'], 2)
  h = h @ params['qkv']['kernel'][0, 0] + params['qkv']['bias']
  q, k, v = np.split(h.reshape(2, 6, 12), 3, axis=-1)
  out = np.empty((2, 6, 4))
  for b in range(2):
    for head in (slice(0, 2), slice(2, 4)):
      logits = q[b][:, head] @ k[b][:, head].T / np.sqrt(2)
      weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
      out[b][:, head] = weights @ v[b][:, head]
  out = out @ params['proj']['kernel'][0, 0] + params['proj']['bias']
  want = np.asarray(x) + out.reshape(2, 2, 3, 4)
  got = jax.jit(module.apply)(variables, x)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_attention_starts_as_identity():
  x = _normal(0, 1, 2, 2, 4)
  module = layers.Attention(head_channels=4, num_groups=2)
  variables = module.init(jax.random.key(0), x)
  np.testing.assert_array_equal(module.apply(variables, x), x)
  with pytest.raises(ValueError, match='head_channels=3 to divide channels=4'):
    layers.Attention(3, 2).init(jax.random.key(0), x)


def test_resampling():
  x = _normal(0, 2, 4, 6, 3)
  down = layers.Downsample(with_conv=False).apply({}, x)
  want = np.asarray(x).reshape(2, 2, 2, 3, 2, 3).mean((2, 4))
  np.testing.assert_allclose(down, want, atol=1e-6)
  up = layers.Upsample(with_conv=False).apply({}, x)
  np.testing.assert_array_equal(up, np.asarray(x).repeat(2, 1).repeat(2, 2))
  for module, sides in (
    (layers.Downsample(), (2, 3)),
    (layers.Upsample(), (8, 12)),
  ):
    y = module.apply(module.init(jax.random.key(0), x), x)
    assert y.shape == (2, *sides, 3)
  with pytest.raises(ValueError, match='sides 3x4 to be even'):
    layers.Downsample().init(jax.random.key(0), jnp.zeros((1, 3, 4, 1)))


def test_timestep_embedding():
  got = layers.timestep_embedding(jnp.array([0, 7]), 8)
  frequency = 10_000.0 ** (-np.arange(4) / 4)
  angle = np.array([0, 7])[:, None] * frequency
  want = np.concatenate([np.cos(angle), np.sin(angle)], -1)
  np.testing.assert_allclose(got, want, atol=1e-6)
  with pytest.raises(ValueError, match='features=7 to be even'):
    layers.timestep_embedding(jnp.array([0]), 7)


def test_label_embedding():
  module = layers.LabelEmbedding(num_classes=3, features=4)
  variables = module.init(jax.random.key(0), jnp.array([0]))
  params = variables['params']
  rows = module.apply(variables, jnp.array([2, -1, 0, 3, -2]))
  np.testing.assert_array_equal(rows[0], params['classes'][2])
  np.testing.assert_array_equal(rows[1], params['null'])
  np.testing.assert_array_equal(rows[2], params['classes'][0])
  assert np.isnan(rows[3:]).all()  # No such class: cannot go unnoticed.
  assert params['classes'].shape == (3, 4)
  assert not (params['classes'] == params['null'][None]).all(-1).any()


def test_null_label_trains_only_the_null_row():
  module = layers.LabelEmbedding(num_classes=3, features=4)
  variables = module.init(jax.random.key(0), jnp.array([0]))
  grad = jax.grad(lambda v: module.apply(v, jnp.array([-1])).sum())(variables)
  np.testing.assert_array_equal(grad['params']['classes'], np.zeros((3, 4)))
  np.testing.assert_array_equal(grad['params']['null'], np.ones(4))


class _WithBatchNorm(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(2)(x)
    return nn.BatchNorm(use_running_average=False, name='coupled')(x)


class _WithSpectralNorm(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.SpectralNorm(nn.Dense(2), name='coupled')(x, update_stats=True)


class _WithMeanOfBatches(nn.Module):
  @nn.compact
  def __call__(self, x):
    mean = self.variable('seen', 'mean', jnp.zeros, (3,))
    mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
    return x - mean.value[None]


@pytest.mark.parametrize(
  ('module', 'words'),
  [
    (_WithBatchNorm(), 'batch_stats in coupled'),
    (nn.Sequential([_WithBatchNorm()]), 'batch_stats in layers_0/coupled'),
    (_WithSpectralNorm(), 'batch_stats in coupled'),
    (_WithMeanOfBatches(), 'seen in .:'),
  ],
)
def test_batch_coupled_layer_is_refused(module, words):
  x, key = jnp.zeros((2, 3)), jax.random.key(0)
  with pytest.raises(ValueError, match=words):
    layers.check_private_safe(module.init(key, x))
  with pytest.raises(ValueError, match=words):
    layers.check_private_safe(jax.eval_shape(lambda: module.init(key, x)))
  layers.check_private_safe(nn.Dense(2).init(key, x))


@pytest.mark.parametrize(('height', 'width'), [(4, 6), (5, 4), (3, 7)])
def test_halving_repeats_the_last_pixels(height, width):
  x = np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1)
  got = np.asarray(layers.halve(jnp.asarray(x)))[0, ..., 0]
  for i, j in np.ndindex(got.shape):
    rows = np.minimum([2 * i, 2 * i + 1], height - 1)
    columns = np.minimum([2 * j, 2 * j + 1], width - 1)
    assert got[i, j] == x[0, rows][:, columns].mean()
  assert got.shape == (-(-height // 2), -(-width // 2))


def test_patches_hold_neighbouring_pixels():
  """Each 2x2 pixels of three channels become one pixel of twelve, and back."""
  x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
  patches = np.asarray(layers.to_patches(jnp.asarray(x), 2))
  assert patches.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(patches[1, 1, 2], x[1, 2:4, 4:6].reshape(12))
  np.testing.assert_array_equal(layers.from_patches(jnp.asarray(patches), 2), x)
