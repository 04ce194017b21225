"""A Gaussian of images for each class, which a release may contain.

Where an image is mostly noise, all that a denoiser can know of it is the mean
and the covariance of its class. So sampling may start from an image that was
drawn from a Gaussian and noised, at a timestep below the last, and the network
takes it from there: a truncated diffusion (arXiv 2202.09671) whose first
distribution is a Gaussian. `baselines.class_gaussians` estimates it privately.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassGaussians:
  """Mean image and covariance of each class, the latter of few pixels.

  An image of class k is means[k] plus the sum over r of z_r factors[k, r],
  which is enlarged to the size of the image, with standard normal z.

  Attributes:
    means: float32[K, H, W, C] in [-1, 1].
    factors: float32[K, R, S, S, C].
  """

  means: np.ndarray
  factors: np.ndarray

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(H, W, C)."""
    return self.means.shape[1:]

  @property
  def num_classes(self) -> int:
    """K."""
    return len(self.means)

  def draw(self, keys: types.Array, labels: types.Array) -> types.Array:
    """Draws an image for each label; it may be traced.

    Args:
      keys: typed PRNG keys [B], one per image.
      labels: int32[B] in [0, K).

    Returns:
      float32[B, H, W, C] in [-1, 1].
    """
    factors = jnp.asarray(self.factors)[labels]
    draw_fn = jax.vmap(
      lambda key: jax.random.normal(key, factors.shape[1:2], jnp.float32)
    )
    few = jnp.einsum('br,brhwc->bhwc', draw_fn(keys), factors)
    shape = (len(labels), *self.image_shape)
    many = jax.image.resize(few, shape, 'linear')
    return jnp.clip(jnp.asarray(self.means)[labels] + many, -1.0, 1.0)

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ClassGaussians:
    """Returns the Gaussians of these arrays, by name.

    Raises:
      ValueError: the arrays are no finite means and factors of fitting shapes.
    """
    shapes = {name: np.shape(value) for name, value in arrays.items()}
    is_whole = set(shapes) == {'means', 'factors'} and all(
      a.dtype == np.float32 and np.isfinite(a).all() for a in arrays.values()
    )
    if (
      not is_whole
      or (len(shapes['means']), len(shapes['factors'])) != (4, 5)
      or shapes['means'][0] != shapes['factors'][0]
      or shapes['means'][-1] != shapes['factors'][-1]
      or np.max(np.abs(arrays['means']), initial=0.0) > 1
    ):
      raise ValueError(
        'Expected class Gaussians, means [K, H, W, C] in [-1, 1] and factors'
        f' [K, R, S, S, C], not {shapes}.'
      )
    return cls(**arrays)
