"""Small feature networks whose weights are in a .npz file.

LeNet-5 and the CIFAR ResNets replace Inception where it does not suit the
images (28x28 grey) or cannot be obtained. A distance in their features is never
called FID. The arrays have PyTorch's names and layouts, and these tell which
network it is and how deep. Both networks return their logits beside their
features, so that a stated accuracy can be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Weights = Mapping[str, jax.Array | np.ndarray]
# (weights, images, tap=...) -> (features, logits). `tap` is called with the
# activations of each layer.
Net = Callable[..., tuple[jax.Array, jax.Array]]
Tap = Callable[[jax.Array], object]

_IMAGE_SIZE = 32
_BATCH_NORM_EPSILON = 1e-5
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def kind_of(weights: Weights) -> tuple[str, Net]:
  """Finds out which network the arrays belong to.

  Args:
    weights: the arrays of an .npz file, by name.

  Returns:
    (name such as 'lenet5' or 'resnet56', network).

  Raises:
    ValueError: the arrays are of neither network.
  """
  if 'convnet.c1.weight' in weights and 'fc.f7.weight' in weights:
    return 'lenet5', lenet5
  if 'layer3.0.conv1.weight' in weights and 'linear.weight' in weights:
    depth = 2 + sum('.conv' in n and n.startswith('layer') for n in weights)
    return f'resnet{depth}', resnet
  found = ', '.join(sorted(weights)[:4])
  raise ValueError(
    'Expected the arrays of a LeNet-5 (convnet.c1.weight, ...) or of a CIFAR'
    f' ResNet (layer1.0.conv1.weight, ...); got {found}'
  )


def _no_tap(activation: jax.Array) -> None:
  """Ignores the activation."""


def lenet5(
  weights: Weights, images: jax.Array, tap: Tap = _no_tap
) -> tuple[jax.Array, jax.Array]:
  """Runs LeNet-5 with tanh, on grey pixels in [0, 1] at 32x32.

  Args:
    weights: arrays of the .npz.
    images: uint8 or float32[B, H, W, C] in [0, 255]. They are resized to 32x32
      and scaled to [0, 1]; of RGB the luma is taken.
    tap: called with the activations [B, ...] of every layer, in order.

  Returns:
    (features float32[B, 84] in [-1, 1], logits float32[B, num_classes]).
  """
  x = _fit(images, 1) / 255.0
  for name in ('c1', 'c3', 'c5'):
    if name != 'c1':
      x = _max_pool(x)
    x = _conv(x, weights[f'convnet.{name}.weight'], padding='VALID')
    x = jnp.tanh(x + _row(weights[f'convnet.{name}.bias'], 4))
    tap(x)
  x = x.reshape((x.shape[0], -1))
  x = jnp.tanh(_dense(x, weights, 'fc.f6'))
  tap(x)
  return x, _dense(x, weights, 'fc.f7')


def resnet(
  weights: Weights, images: jax.Array, tap: Tap = _no_tap
) -> tuple[jax.Array, jax.Array]:
  """Runs a CIFAR ResNet of He et al. 2015 (arXiv 1512.03385, section 4.2).

  Shortcuts that change the shape take every second pixel and pad the
  channels with zeros on both sides (option A).

  Args:
    weights: arrays of the .npz.
    images: uint8 or float32[B, H, W, C] in [0, 255]. A grey channel is repeated
      to three.
    tap: called with the activations [B, ...] of every block, in order.

  Returns:
    (features float32[B, 64], the mean over positions, logits float32[B,
    num_classes]).
  """
  x = _fit(images, 3) / 255.0
  x = (x - _row(_IMAGENET_MEAN, 4)) / _row(_IMAGENET_STD, 4)
  x = jax.nn.relu(_conv_norm(x, weights, 'conv1', 'bn1', 1))
  tap(x)
  for layer in ('layer1', 'layer2', 'layer3'):
    index = 0
    while f'{layer}.{index}.conv1.weight' in weights:
      block = f'{layer}.{index}'
      stride = 2 if index == 0 and layer != 'layer1' else 1
      x = _block(x, weights, block, stride)
      tap(x)
      index += 1
  x = jnp.mean(x, axis=(1, 2))
  return x, _dense(x, weights, 'linear')


def _block(x: jax.Array, weights: Weights, name: str, stride: int) -> jax.Array:
  y = _conv_norm(x, weights, f'{name}.conv1', f'{name}.bn1', stride)
  y = jax.nn.relu(y)
  y = _conv_norm(y, weights, f'{name}.conv2', f'{name}.bn2', 1)
  x = x[:, ::stride, ::stride]
  missing = y.shape[-1] - x.shape[-1]
  before = missing // 2
  x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, missing - before)))
  return jax.nn.relu(x + y)


def _conv_norm(
  x: jax.Array, weights: Weights, conv: str, norm: str, stride: int
) -> jax.Array:
  x = _conv(x, weights[f'{conv}.weight'], 'TORCH', stride)
  variance = jnp.asarray(weights[f'{norm}.running_var'])
  scale = weights[f'{norm}.weight'] / jnp.sqrt(variance + _BATCH_NORM_EPSILON)
  offset = weights[f'{norm}.bias'] - weights[f'{norm}.running_mean'] * scale
  return x * _row(scale, 4) + _row(offset, 4)


def _conv(
  x: jax.Array,
  kernel: jax.Array | np.ndarray,
  padding: str,
  stride: int = 1,
) -> jax.Array:
  """Convolves with an OIHW kernel.

  The padding 'TORCH' adds half the kernel's size on every side.
  """
  half = kernel.shape[-1] // 2
  pads = ((half, half), (half, half)) if padding == 'TORCH' else padding
  return jax.lax.conv_general_dilated(
    x,
    jnp.asarray(kernel),
    (stride, stride),
    pads,
    dimension_numbers=('NHWC', 'OIHW', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )


def _max_pool(x: jax.Array) -> jax.Array:
  window = (1, 2, 2, 1)
  return jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, window, window, 'VALID'
  )


def _dense(x: jax.Array, weights: Weights, name: str) -> jax.Array:
  kernel = jnp.asarray(weights[f'{name}.weight']).T
  y = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
  return y + _row(weights[f'{name}.bias'], 2)


def _row(
  values: tuple[float, ...] | jax.Array | np.ndarray, ndim: int
) -> jax.Array:
  """Reshapes [C] so that it broadcasts along the last of `ndim` axes."""
  return jnp.asarray(values, jnp.float32).reshape((1,) * (ndim - 1) + (-1,))


def _fit(images: jax.Array, channels: int) -> jax.Array:
  """Converts images to float32[B, 32, 32, channels] in [0, 255]."""
  x = images.astype(jnp.float32)
  if channels == 1 and x.shape[-1] == 3:
    x = jnp.sum(x * _row(_LUMA, 4), axis=-1, keepdims=True)
  elif channels == 3 and x.shape[-1] == 1:
    x = jnp.repeat(x, 3, axis=-1)
  shape = (x.shape[0], _IMAGE_SIZE, _IMAGE_SIZE, channels)
  return x if x.shape == shape else jax.image.resize(x, shape, 'bilinear')
