"""Wide residual networks (arXiv 1605.07146), the classifiers of the paper."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from dp_diffusion import checks

_NORMS = ('batch', 'group')


class _Norm(nn.Module):
  """Batch or group normalisation, then ReLU."""

  norm: str
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.norm == 'batch':
      x = nn.BatchNorm(use_running_average=not self.train, momentum=0.9)(x)
    else:
      x = nn.GroupNorm(num_groups=16)(x)
    return nn.relu(x)


class _Block(nn.Module):
  """Pre-activation block of two 3x3 convolutions."""

  features: int
  stride: int
  norm: str
  train: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    strides = (self.stride, self.stride)
    h = _Norm(self.norm, self.train)(x)
    if x.shape[-1] != self.features or self.stride != 1:
      x = nn.Conv(self.features, (1, 1), strides, use_bias=False)(h)
    h = nn.Conv(self.features, (3, 3), strides, use_bias=False)(h)
    h = _Norm(self.norm, self.train)(h)
    return x + nn.Conv(self.features, (3, 3), use_bias=False)(h)


class WideResNet(nn.Module):
  """The network WRN-depth-width; WRN-40-4 for 10 classes has 8.9M parameters.

  Attributes:
    num_classes: number of logits.
    depth: number of layers, 6 n + 4 for an integer n.
    width: factor by which the channels 16, 32, 64 are multiplied.
    norm: 'batch' for batch normalisation, or 'group' for group normalisation,
      which does not couple examples.
  """

  num_classes: int
  depth: int = 40
  width: int = 4
  norm: str = 'batch'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps float32[B, H, W, C] in [-1, 1] to float32[B, num_classes].

    It also sows the intermediate 'features', float32[B, 64 * width].
    """
    checks.check_one_of('norm', self.norm, _NORMS)
    if self.depth < 10 or (self.depth - 4) % 6:
      raise ValueError(f'Expected depth={self.depth!r} to be 6 n + 4, n >= 1.')
    x = nn.Conv(16, (3, 3), use_bias=False)(x)
    for stage in range(3):
      for block in range((self.depth - 4) // 6):
        stride = 2 if stage and not block else 1
        features = 16 * self.width * 2**stage
        x = _Block(features, stride, self.norm, train)(x)
    x = _Norm(self.norm, train)(x).mean(axis=(1, 2))
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes)(x).astype(jnp.float32)
