"""Tests of the denoiser: sizes, labels, dtypes, and no coupling of examples."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import layers
from dp_diffusion.models import unet

CIFAR10 = unet.UNetConfig()
MNIST = unet.UNetConfig(
  channels=64,
  channel_multipliers=(1, 2, 2),
  num_blocks=1,
  attention_resolutions=(14,),
  image_channels=1,
)
TINY = unet.UNetConfig(
  channels=8,
  channel_multipliers=(1, 2),
  num_blocks=1,
  attention_resolutions=(4,),
  head_channels=8,
  num_groups=4,
  num_classes=3,
  image_channels=1,
)
NUM_LABELS = TINY.num_classes + 1


def _with(**changes):
  return dataclasses.replace(TINY, **changes)


def _shapes(config, side):
  image = jax.ShapeDtypeStruct(
    (2, side, side, config.image_channels), 'float32'
  )
  integers = jax.ShapeDtypeStruct((2,), 'int32')
  return image, integers, integers


def _count(config, side):
  return unet.num_parameters(config, side, side)


@pytest.fixture(scope='module')
def first(images):
  """Parameters of TINY at its start."""
  zeros = jnp.zeros(NUM_LABELS, jnp.int32)
  return jax.jit(unet.UNet(TINY).init)(jax.random.key(0), images, zeros, zeros)


@pytest.fixture(scope='module')
def params(first):
  """Parameters of TINY, none of them zero."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype('float32'),
    first,
  )


@pytest.fixture(scope='module')
def apply():
  return jax.jit(unet.UNet(TINY).apply)


@pytest.fixture(scope='module')
def images():
  values = np.random.default_rng(1).normal(size=(NUM_LABELS, 8, 8, 1))
  return jnp.asarray(values, jnp.float32)


def test_cifar10_network_has_80_million_parameters():
  assert _count(CIFAR10, 32) == pytest.approx(80.4e6, rel=0.01)
  imagenet32 = dataclasses.replace(CIFAR10, num_classes=1000)
  assert _count(imagenet32, 32) == pytest.approx(80.4e6, rel=0.01)


def test_mnist_network_has_4_million_parameters():
  assert _count(MNIST, 28) == pytest.approx(4.4e6, rel=0.01)
  on_32_pixels = dataclasses.replace(MNIST, attention_resolutions=(16,))
  assert _count(on_32_pixels, 32) == _count(MNIST, 28)


def test_attention_stands_where_the_config_says():
  shapes = jax.eval_shape(
    unet.UNet(MNIST).init, jax.random.key(0), *_shapes(MNIST, 28)
  )['params']
  names = {name for name in shapes if 'attention' in name}
  assert names == {
    'down_1_attention_0',
    'middle_attention',
    'up_1_attention_0',
    'up_1_attention_1',
  }


@pytest.mark.parametrize(
  'change',
  [
    {'scale_shift': True},
    {'conv_resample': False},
    {'num_classes': 5},
    {'num_blocks': 2},
    {'attention_resolutions': (8, 4)},
  ],
)
def test_option_changes_the_parameters(change):
  assert _count(_with(**change), 8) != _count(TINY, 8)


@pytest.mark.parametrize('compute_dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('config', [TINY, _with(scale_shift=True, dropout=0.1)])
def test_float32_in_parameters_and_output(config, compute_dtype):
  config = dataclasses.replace(config, compute_dtype=compute_dtype)
  out, variables = jax.eval_shape(
    unet.UNet(config).init_with_output, jax.random.key(0), *_shapes(config, 8)
  )
  assert out == jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }


def test_bfloat16_computes_in_bfloat16(params, apply, images):
  config = _with(compute_dtype='bfloat16')
  args = (images, jnp.full(NUM_LABELS, 500), jnp.arange(NUM_LABELS) - 1)
  want = np.asarray(apply(params, *args))
  got = np.asarray(jax.jit(unet.UNet(config).apply)(params, *args))
  assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_starts_at_zero(first, apply, images):
  zeros = jnp.zeros(NUM_LABELS, jnp.int32)
  assert not np.asarray(apply(first, images, zeros, zeros)).any()


def test_null_label_differs_from_every_class(params, apply, images):
  same_image = jnp.broadcast_to(images[:1], images.shape)
  labels = jnp.arange(NUM_LABELS) - 1  # -1 is null.
  out = np.asarray(apply(params, same_image, jnp.full(NUM_LABELS, 9), labels))
  for i in range(NUM_LABELS):
    for j in range(i):
      assert np.abs(out[i] - out[j]).max() > 1e-3


def test_null_label_ignores_the_classes(params, apply, images):
  null = jnp.full(NUM_LABELS, unet.NULL_LABEL)
  steps = jnp.arange(NUM_LABELS)
  other = jax.tree.map(lambda leaf: leaf, params)
  other['params']['label'] = {
    **params['params']['label'],
    'classes': params['params']['label']['classes'] + 7,
  }
  np.testing.assert_array_equal(
    apply(params, images, steps, null), apply(other, images, steps, null)
  )


def test_depends_on_the_timestep(params, apply, images):
  labels = jnp.zeros(NUM_LABELS, jnp.int32)
  early, late = (
    np.asarray(apply(params, images, jnp.full(NUM_LABELS, t), labels))
    for t in (1, 900)
  )
  assert np.abs(early - late).max() > 1e-3


def test_examples_are_not_coupled(params, apply, images):
  steps, labels = jnp.arange(NUM_LABELS), jnp.arange(NUM_LABELS) - 1
  alone = apply(params, images, steps, labels)
  changed = apply(
    params,
    images.at[1].multiply(-5.0),
    steps.at[1].set(77),
    labels.at[1].set(2),
  )
  np.testing.assert_array_equal(alone[0], changed[0])
  np.testing.assert_array_equal(alone[2:], changed[2:])
  assert np.abs(alone[1] - changed[1]).max() > 1e-3
  layers.check_private_safe(params)


def test_dropout_acts_in_training_only(params, apply, images):
  net = unet.UNet(_with(dropout=0.5))
  args = (images, jnp.arange(NUM_LABELS), jnp.arange(NUM_LABELS) - 1)

  @jax.jit
  def train(key):
    return net.apply(params, *args, True, rngs={'dropout': key})

  first, second = train(jax.random.key(0)), train(jax.random.key(1))
  assert np.abs(first - second).max() > 1e-3
  np.testing.assert_allclose(
    jax.jit(net.apply)(params, *args), apply(params, *args), atol=1e-5
  )


@pytest.mark.parametrize(
  'shape,message',
  [
    ((7, 8, 1), '7x8 to be multiples of 2'),
    ((8, 8, 3), 'images of 3 channels to have image_channels=1'),
    ((16, 16, 1), r'attention_resolutions=\(4,\) to name a side'),
  ],
)
def test_refuses_images_that_it_cannot_take(shape, message):
  with pytest.raises(ValueError, match=message):
    TINY.check_image_shape(*shape)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      unet.UNet(TINY).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, *shape), 'float32'),
      *_shapes(TINY, 8)[1:],
    )


@pytest.mark.parametrize(
  'change,message',
  [
    ({'channels': 0}, 'channels=0'),
    ({'channels': 9, 'num_groups': 3}, 'channels=9 to be even'),
    ({'num_groups': 3}, 'num_groups=3 to divide channels=8'),
    ({'head_channels': 5}, 'head_channels=5 to divide .*=16'),
    ({'channel_multipliers': ()}, r'channel_multipliers=\(\)'),
    ({'channel_multipliers': (1, 0)}, r'channel_multipliers=\(1, 0\)'),
    ({'num_blocks': 0}, 'num_blocks=0'),
    ({'num_classes': 0}, 'num_classes=0'),
    ({'dropout': 1.0}, 'dropout=1.0'),
    ({'compute_dtype': 'float16'}, "compute_dtype='float16'"),
    ({'num_heads': 5}, 'num_heads=5 to divide .*=16'),
    ({'num_heads': -1}, 'num_heads=-1'),
    ({'norm_eps': 0.0}, 'norm_eps=0.0'),
    ({'time_scale': 0.0}, 'time_scale=0.0'),
    ({'time_offset': float('nan')}, 'time_offset=nan'),
  ],
)
def test_refuses_a_network_that_cannot_be(change, message):
  with pytest.raises(ValueError, match=message):
    _with(**change)


def test_heads_by_number_and_by_width_are_the_same(params, apply, images):
  """8 channels a head: 1 head of 8 channels, 2 heads of 16."""
  args = (images, jnp.arange(NUM_LABELS), jnp.arange(NUM_LABELS) - 1)

  def run(**changes):
    return jax.jit(unet.UNet(_with(**changes)).apply)(params, *args)

  by_width = apply(params, *args)
  by_number = run(head_channels=5, num_heads=2)
  np.testing.assert_array_equal(by_number, by_width)
  assert np.abs(run(num_heads=1) - by_width).max() > 1e-3
  assert np.abs(run(norm_eps=0.1) - by_width).max() > 1e-3


def test_timesteps_of_another_length(params, apply, images):
  steps, labels = jnp.arange(NUM_LABELS), jnp.zeros(NUM_LABELS, jnp.int32)
  network = unet.UNet(_with(time_scale=4.0, time_offset=3.0))
  np.testing.assert_array_equal(
    jax.jit(network.apply)(params, images, steps, labels),
    apply(params, images, 4 * steps + 3, labels),
  )


@pytest.mark.parametrize('conv_resample', [True, False])
@pytest.mark.parametrize('resblock_updown', [True, False])
def test_odd_sides_are_rounded_up(conv_resample, resblock_updown):
  """28 pixels at four levels are 28, 14, 7 and 4."""
  config = _with(
    channel_multipliers=(1, 1, 1, 1),
    attention_resolutions=(4,),
    conv_resample=conv_resample,
    resblock_updown=resblock_updown,
    crop_odd_sides=True,
  )
  assert config.sides(28) == (28, 14, 7, 4)
  shapes = unet.param_shapes(config, 28, 28)
  assert 'down_3_attention_0' in shapes
  same = dataclasses.replace(config, crop_odd_sides=False)
  assert shapes == unet.param_shapes(same, 32, 32)
  with pytest.raises(ValueError, match='crop_odd_sides=True'):
    same.check_image_shape(28, 28, 1)
  out = jax.eval_shape(
    unet.UNet(config).apply, {'params': shapes}, *_shapes(config, 28)
  )
  assert out.shape == (2, 28, 28, 1)


def test_blocks_that_halve_and_double():
  """Such a block has the parameters of any other."""
  config = _with(resblock_updown=True)
  shapes = unet.param_shapes(config, 8, 8)
  for name, same in (
    ('down_0_sample', 'down_0_block_0'),
    ('up_1_sample', 'middle_block_1'),
  ):
    assert shapes[name] == shapes[same]


def test_a_release_holds_the_fields_in_their_first_order():
  """The same network gives the same bytes, whichever version has written it."""
  names = list(unet.UNetConfig().to_dict())
  assert set(names) == {f.name for f in dataclasses.fields(unet.UNetConfig)}
  at = names.index('num_classes')
  assert names[at - 1 : at + 3] == [
    *('conv_resample', 'num_classes', 'image_channels', 'compute_dtype'),
  ]


def test_patches_make_the_network_smaller():
  """In patches of 2x2 it is the network of images of half the side."""
  config = _with(patch_size=2)
  small = _with(image_channels=4 * config.image_channels)
  assert unet.param_shapes(config, 16, 16) == unet.param_shapes(small, 8, 8)
  assert config.sides(16) == small.sides(8)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda s: jnp.asarray(rng.normal(0.1, 0.1, s.shape), s.dtype),
    unet.param_shapes(small, 8, 8),
  )
  x = jax.random.normal(jax.random.key(1), (2, 16, 16, config.image_channels))
  step, label = jnp.asarray([3, 7]), jnp.asarray([0, -1])
  got = unet.UNet(config).apply({'params': params}, x, step, label)
  want = unet.UNet(small).apply(
    {'params': params}, layers.to_patches(x, 2), step, label
  )
  np.testing.assert_array_equal(got, layers.from_patches(want, 2))


def test_sides_that_are_no_patches_are_refused():
  """The line names the patch's side, whatever crop_odd_sides says."""
  config = _with(patch_size=2, crop_odd_sides=True)
  with pytest.raises(ValueError, match='multiples of patch_size=2'):
    config.check_image_shape(15, 16, config.image_channels)
