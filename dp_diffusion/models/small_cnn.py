"""A small classifier for images of 8 to 64 pixels, quick to train on a CPU."""

from __future__ import annotations

from flax import linen as nn
import jax
import jax.numpy as jnp

from dp_diffusion.models import layers


class SmallCNN(nn.Module):
  """Two stages of two 3x3 convolutions each, then a dense layer.

  Convolutions and norms are those of `layers`: the same functions as flax's,
  with gradients that take a third of the time on a CPU.

  Attributes:
    num_classes: number of logits.
    features: channels of the first stage; the second has twice as many.
    hidden: width of the dense layer before the logits.
  """

  num_classes: int
  features: int = 32
  hidden: int = 128

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps float32[B, H, W, C] in [-1, 1] to float32[B, num_classes].

    It also sows the intermediate 'features', float32[B, hidden].
    """
    del train  # There is neither dropout nor batch normalisation.
    for stage in range(2):
      for _ in range(2):
        x = layers.Conv(self.features * 2**stage)(x)
        x = nn.relu(layers.GroupNorm(num_groups=8, eps=1e-6)(x))
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = x.reshape((x.shape[0], -1))
    x = nn.relu(nn.Dense(self.hidden)(x))
    self.sow('intermediates', 'features', x)
    return nn.Dense(self.num_classes)(x).astype(jnp.float32)
