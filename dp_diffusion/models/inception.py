"""Inception-v3 as FID uses it: the TensorFlow graph of 2015.

It maps images to the 2048 features whose Frechet distance is FID. The modules
are named like the nodes of the graph, whose constants become their parameters
(`inception_weights`).

It differs from other versions of Inception-v3, and FID depends on it:
  * images are resized to 299 as TensorFlow 1 did (`resize_bilinear_tf1`);
  * pixels are scaled as (x - 128) * 0.0078125, not divided by 127.5;
  * batch normalisation has epsilon 1e-3;
  * average pools leave the padding out of the mean;
  * the pool branch of `mixed_10` takes the maximum.

Source: Szegedy et al. 2016 (arXiv 1512.00567); Heusel et al. 2017 (arXiv
1706.08500) for its use.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

IMAGE_SIZE = 299
NUM_FEATURES = 2048
BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Conv:
  """Convolution, batch normalisation and ReLU."""

  name: str
  channels: int
  kernel: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = 'SAME'


@dataclasses.dataclass(frozen=True)
class Pool:
  """3x3 pool; it has no parameters."""

  kind: str  # 'max' or 'avg'
  stride: int = 1
  padding: str = 'SAME'


@dataclasses.dataclass(frozen=True)
class Mixed:
  """Parallel branches, concatenated along the channels.

  A branch is (name, layers). Layers of the branch named '' have the name of
  the block alone. A branch may end in a nested `Mixed`.
  """

  name: str
  branches: tuple[tuple[str, tuple[Conv | Pool | Mixed, ...]], ...]


Layer = Conv | Pool | Mixed


def _block_35(name: str, pool_channels: int) -> Mixed:
  """Returns a block at 35x35 with branches 1x1, 5x5, two 3x3, and pool."""
  return Mixed(
    name,
    (
      ('', (Conv('conv', 64),)),
      ('tower', (Conv('conv', 48), Conv('conv_1', 64, (5, 5)))),
      (
        'tower_1',
        (
          Conv('conv', 64),
          Conv('conv_1', 96, (3, 3)),
          Conv('conv_2', 96, (3, 3)),
        ),
      ),
      ('tower_2', (Pool('avg'), Conv('conv', pool_channels))),
    ),
  )


def _block_17(name: str, inner: int) -> Mixed:
  """Returns a block at 17x17: 1x1, one and two factorised 7x7, and pool."""
  return Mixed(
    name,
    (
      ('', (Conv('conv', 192),)),
      (
        'tower',
        (
          Conv('conv', inner),
          Conv('conv_1', inner, (1, 7)),
          Conv('conv_2', 192, (7, 1)),
        ),
      ),
      (
        'tower_1',
        (
          Conv('conv', inner),
          Conv('conv_1', inner, (7, 1)),
          Conv('conv_2', inner, (1, 7)),
          Conv('conv_3', inner, (7, 1)),
          Conv('conv_4', 192, (1, 7)),
        ),
      ),
      ('tower_2', (Pool('avg'), Conv('conv', 192))),
    ),
  )


def _block_8(name: str, pool: str) -> Mixed:
  """Returns a block at 8x8: 1x1, 3x3, two 3x3, and pool.

  The 3x3 branches end in a 1x3 and a 3x1 convolution side by side.
  """
  fork = Mixed(
    'mixed',
    (
      ('', (Conv('conv', 384, (1, 3)),)),
      ('', (Conv('conv_1', 384, (3, 1)),)),
    ),
  )
  return Mixed(
    name,
    (
      ('', (Conv('conv', 320),)),
      ('tower', (Conv('conv', 384), fork)),
      ('tower_1', (Conv('conv', 448), Conv('conv_1', 384, (3, 3)), fork)),
      ('tower_2', (Pool(pool), Conv('conv', 192))),
    ),
  )


LAYERS: tuple[Layer, ...] = (
  Conv('conv', 32, (3, 3), 2, 'VALID'),
  Conv('conv_1', 32, (3, 3), 1, 'VALID'),
  Conv('conv_2', 64, (3, 3)),
  Pool('max', 2, 'VALID'),
  Conv('conv_3', 80, (1, 1), 1, 'VALID'),
  Conv('conv_4', 192, (3, 3), 1, 'VALID'),
  Pool('max', 2, 'VALID'),
  _block_35('mixed', 32),
  _block_35('mixed_1', 64),
  _block_35('mixed_2', 64),
  Mixed(
    'mixed_3',
    (
      ('', (Conv('conv', 384, (3, 3), 2, 'VALID'),)),
      (
        'tower',
        (
          Conv('conv', 64),
          Conv('conv_1', 96, (3, 3)),
          Conv('conv_2', 96, (3, 3), 2, 'VALID'),
        ),
      ),
      ('', (Pool('max', 2, 'VALID'),)),
    ),
  ),
  _block_17('mixed_4', 128),
  _block_17('mixed_5', 160),
  _block_17('mixed_6', 160),
  _block_17('mixed_7', 192),
  Mixed(
    'mixed_8',
    (
      ('tower', (Conv('conv', 192), Conv('conv_1', 320, (3, 3), 2, 'VALID'))),
      (
        'tower_1',
        (
          Conv('conv', 192),
          Conv('conv_1', 192, (1, 7)),
          Conv('conv_2', 192, (7, 1)),
          Conv('conv_3', 192, (3, 3), 2, 'VALID'),
        ),
      ),
      ('', (Pool('max', 2, 'VALID'),)),
    ),
  ),
  _block_8('mixed_9', 'avg'),
  _block_8('mixed_10', 'max'),
)


def conv_paths(
  layers: tuple[Layer, ...] = LAYERS, prefix: str = ''
) -> dict[str, Conv]:
  """Returns the convolutions by node path, such as 'mixed/tower/conv_1'.

  >>> len(conv_paths())
  94
  """
  found = {}
  for layer in layers:
    if isinstance(layer, Conv):
      found[prefix + layer.name] = layer
    elif isinstance(layer, Mixed):
      for branch, inner in layer.branches:
        names = f'{layer.name}/{branch}'.rstrip('/')
        found |= conv_paths(inner, f'{prefix}{names}/')
  return found


class ConvUnit(nn.Module):
  """Convolution without bias, batch normalisation by stored moments, ReLU.

  Attributes:
    spec: kernel size, stride and padding.
    channels: output channels; they replace those of `spec`.
  """

  spec: Conv
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float32[B, H, W, C] to float32[B, H', W', channels]."""
    shape = (self.channels,)
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (*self.spec.kernel, x.shape[-1], self.channels),
    )
    gamma = self.param('gamma', ones, shape)
    beta = self.param('beta', zeros, shape)
    mean = self.param('moving_mean', zeros, shape)
    variance = self.param('moving_variance', ones, shape)
    x = jax.lax.conv_general_dilated(
      x,
      kernel,
      (self.spec.stride, self.spec.stride),
      self.spec.padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      precision=jax.lax.Precision.HIGHEST,
    )
    scale = gamma * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)
    offset = beta - mean * scale
    return nn.relu(x * scale[None, None, None] + offset[None, None, None])


class InceptionV3(nn.Module):
  """The network up to `pool_3:0`.

  Attributes:
    channels: output channels by node path, where they differ from `LAYERS`
      (tests use a narrow network).
  """

  channels: Mapping[str, int] = dataclasses.field(default_factory=dict)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Computes the features.

    Args:
      x: float32[B, 299, 299, 3] from `preprocess`.

    Returns:
      float32[B, 2048], the mean over positions of `mixed_10`.
    """
    return jnp.mean(self._run(LAYERS, '', x), axis=(1, 2))

  def _run(
    self, layers: tuple[Layer, ...], prefix: str, x: jax.Array
  ) -> jax.Array:
    for layer in layers:
      if isinstance(layer, Pool):
        x = _pool(layer, x)
        continue
      path = prefix + layer.name
      if isinstance(layer, Conv):
        channels = self.channels.get(path, layer.channels)
        x = ConvUnit(layer, channels, name=module_name(path))(x)
      else:
        x = jnp.concatenate(
          [
            self._run(inner, f'{path}/{branch}'.rstrip('/') + '/', x)
            for branch, inner in layer.branches
          ],
          axis=-1,
        )
      self.sow('intermediates', f'{path}:0', x)  # Named as in TensorFlow.
    return x


def module_name(path: str) -> str:
  """Returns the name of a node's module, with '.' for '/', which Flax splits.

  >>> module_name('mixed/tower/conv_1')
  'mixed.tower.conv_1'
  """
  return path.replace('/', '.')


def preprocess(images: jax.Array) -> jax.Array:
  """Resizes and scales images as the graph does.

  Args:
    images: uint8 or float32[B, H, W, C] in [0, 255], with C 3 or 1. A grey
      channel is repeated to three; FID's authors do not define it for grey.

  Returns:
    float32[B, 299, 299, 3] in [-1, 1).
  """
  x = resize_bilinear_tf1(images.astype(jnp.float32), IMAGE_SIZE)
  if x.shape[-1] == 1:
    x = jnp.repeat(x, 3, axis=-1)
  return (x - 128.0) * 0.0078125


def resize_bilinear_tf1(x: jax.Array, size: int) -> jax.Array:
  """Resizes bilinearly, with align_corners and half_pixel_centers both false.

  The source coordinate is target * in / out, clamped at the last pixel, and
  shrinking does not smooth. `jax.image.resize` differs in both.

  Args:
    x: float32[B, H, W, C].
    size: height and width of the result.

  Returns:
    float32[B, size, size, C].
  """
  y_low, y_high, y_part = _source(x.shape[1], size)
  x_low, x_high, x_part = _source(x.shape[2], size)
  y_part, x_part = y_part[None, :, None, None], x_part[None, None, :, None]
  # The width is resized first, so that the smaller array is read twice.
  left, right = x[:, :, x_low], x[:, :, x_high]
  rows = left + (right - left) * x_part
  top, bottom = rows[:, y_low], rows[:, y_high]
  return top + (bottom - top) * y_part


def _source(size_in: int, size_out: int) -> tuple[np.ndarray, ...]:
  """Returns the two source pixels of each target, and the second's weight.

  The weights are computed in float32, as TensorFlow does.
  """
  scale = np.float32(size_in) / np.float32(size_out)
  at = np.arange(size_out, dtype=np.float32) * scale
  low = np.floor(at).astype(np.int32)
  high = np.minimum(low + 1, size_in - 1)
  return low, high, at - low.astype(np.float32)


def _pool(spec: Pool, x: jax.Array) -> jax.Array:
  strides = (spec.stride, spec.stride)
  if spec.kind == 'max':
    return nn.max_pool(x, (3, 3), strides, spec.padding)
  return nn.avg_pool(x, (3, 3), strides, spec.padding, count_include_pad=False)
