"""DP-MERF: mean embeddings of random Fourier features, noised once.

The method is that of Harder et al. 2021, arXiv 2002.11603. The features
approximate a Gaussian kernel, so fitting the generator minimises a maximum mean
discrepancy. It uses no public data.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpMerfConfig:
  """Settings of the random Fourier features."""

  num_features: int = config_keys.key(
    10_000, 'Number of features F, even: half cosines, half sines.', '>= 2'
  )
  length_scale: float = config_keys.key(
    0.5,
    'Length scale of the Gaussian kernel. Its unit is the distance between two'
    ' images that differ by 1 (half the range) in every pixel.',
    '> 0',
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.num_features % 2:
      raise ValueError(
        f'Expected num_features={self.num_features} to be even: half of them'
        ' are cosines, half sines.'
      )


def make_feature_fn(
  config: DpMerfConfig,
  image_shape: tuple[int, int, int],
  key: types.Key,
) -> mean_embedding.FeatureFn:
  """Draws the frequencies of the features from a public key.

  The features are those of arXiv 2002.11603 eq. 5, sqrt(2 / F) [cos(w_j x),
  sin(w_j x)] with w_j ~ N(0, I / length_scale^2). Their norm is 1 for every x.

  Args:
    config: settings of the features.
    image_shape: (H, W, C).
    key: typed PRNG key[] from the public seed.

  Returns:
    A function from float32[B, H, W, C] in [-1, 1] to float32[B, F], whose rows
    have norm 1.
  """
  height, width, channels = image_shape
  num_pixels = height * width * channels
  frequencies = jax.random.normal(key, (num_pixels, config.num_features // 2))
  frequencies = frequencies / (config.length_scale * num_pixels**0.5)

  def features(images: types.Array) -> types.Array:
    angles = images.reshape((len(images), -1)) @ frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return waves * (2 / config.num_features) ** 0.5

  return features
