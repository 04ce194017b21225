"""DP-MERF: mean embeddings of random Fourier features, noised once.

Harder et al. 2021, arXiv 2002.11603. The features approximate a Gaussian
kernel, so the generator is fitted by a maximum mean discrepancy; no public
data is used at all.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from dp_diffusion import checks
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpMerfConfig:
  """Random Fourier features.

  Attributes:
    num_features: F, even: half cosines, half sines.
    length_scale: of the Gaussian kernel, in units of the distance between two
      images that differ by 1 (half of the range) in every pixel.
  """

  num_features: int
  length_scale: float

  def __post_init__(self) -> None:
    checks.check_at_least('num_features', self.num_features, 2)
    checks.check_positive('length_scale', self.length_scale)
    checks.check_finite('length_scale', self.length_scale)
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
  """Draws the frequencies: public, and blind to the data.

  Equation 5 of arXiv 2002.11603: sqrt(2 / F) [cos(w_j x), sin(w_j x)] with
  w_j ~ N(0, I / length_scale^2); its norm is 1 for every x.

  Args:
    config: how many, and of which kernel.
    image_shape: (H, W, C).
    key: typed key[], of the public seed.

  Returns:
    float32[B, H, W, C] in [-1, 1] -> float32[B, F] of norm 1.
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
