"""Noised Gaussians of the classes, from which sampling can start.

At high noise the best denoiser is nearly that of a Gaussian with the mean and
the covariance of the images (arXiv 2311.10892). A network learns it slowly
under DP-SGD: where x_t is mostly noise, little of a clipped gradient is signal.
Mean and covariance themselves are sums over the records, which one noised
statistic gives for little of the budget. Sampling then starts from an image of
the class's Gaussian, noised to the timestep `sample.sampler.first_timestep`,
and the private steps can be spent on the timesteps below it
(`finetune.mixture_weights`).

The statistic is the sum over all records, in the row of the image's class, of

  u(image) = (a x / sqrt(D), b vec(y y^T) / d, c),  a^2 + b^2 + c^2 = 1,

with the image x in [-1, 1]^D, and the same image y in [-1, 1]^d, reduced to
S x S pixels. vec is the upper triangle, whose elements off the diagonal are
multiplied by sqrt(2), so that |vec(y y^T)| = |y|^2.

Sensitivity. |x| <= sqrt(D) and |y|^2 <= d, so |u|^2 <= a^2 + b^2 + c^2 = 1. A
record of several images contributes the mean of its terms, each in the row of
its own class, whose norm is at most the largest norm of its terms. Adding or
removing a record changes the sum by its own term alone, so the l2 sensitivity
of the whole statistic, means, products and counts of all classes together, is 1
(`mean_embedding.L2_SENSITIVITY`).

From noised sums to Gaussians, which is post-processing. The mean of a class has
noise of a known std, so it is moved towards the mean of all classes together,
of less noise, as far as the difference between the two can be noise
(James-Stein). The covariance of a class is E[y y^T] - E[y] E[y]^T. It is moved
in the same way, by the noise of the first term, which is by far the larger;
then eigenvalues below the largest that this noise alone would have (sqrt(2 d)
times the std of a diagonal element) are set to 0.

Guarantees:
  * One record, even a person with many images and classes, moves means,
    products and counts of all classes together by at most 1.
    `class_gaussians_test.py::test_neighbours_differ_by_at_most_the_sensitivity`.
  * The whole statistic has the noise of the mechanism.
    `class_gaussians_test.py::test_noise_std`.
  * Class sizes are used with noise only.
    `class_gaussians_test.py::test_gaussians_depend_on_the_noised_sum_alone`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.models import class_gaussians as gaussians_lib
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib

PURPOSE = 'means and covariances of the classes'
# a, b, c. The products have many more elements than the count, and need more
# precision than the pixels of a mean, which are averaged in sampling.
_OF_PIXELS, _OF_PRODUCTS, _OF_COUNT = 0.25**0.5, 0.65**0.5, 0.1**0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassGaussiansConfig:
  """Noised means and covariances of the classes, from which samples start."""

  noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on the sums of pixels and products, divided by their'
    ' sensitivity; 0: there are none.',
    '>= 0',
  )
  side: int = config_keys.key(
    6,
    'Height and width, in pixels, to which images are reduced for the'
    ' covariances. More pixels show finer detail, in more noise.',
    '[1, 8]',
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'finetune.class_gaussians.')
    name = 'finetune.class_gaussians.noise_multiplier'
    grid_limits.check_noise(name, self.noise_multiplier)

  @property
  def is_used(self) -> bool:
    """Whether there are Gaussians."""
    return self.noise_multiplier > 0

  @property
  def mechanism(self) -> mechanism_lib.GaussianMechanism:
    """Mechanism of the statistic, if it is used."""
    return mechanism_lib.GaussianMechanism(
      noise_multiplier=self.noise_multiplier,
      l2_sensitivity=mean_embedding.L2_SENSITIVITY,
      purpose=PURPOSE,
    )

  def entries(self) -> tuple[entries_lib.Entry, ...]:
    """Returns the ledger entry of the statistic; () if there is none."""
    if not self.is_used:
      return ()
    return (ledger_lib.GaussianEntry(mechanism=self.mechanism),)


def noise_of_products(
  noise_std: float, class_size: float, side: int, channels: int
) -> float:
  """Returns the std of the noise in the variance of a reduced pixel.

  >>> round(noise_of_products(2.0, 5000, 6, 1), 4)
  0.0179

  Args:
    noise_std: std of the noise in each element of the sum.
    class_size: number of records of the class.
    side: S, in pixels.
    channels: C.
  """
  return noise_std * side**2 * channels / (_OF_PRODUCTS * class_size)


def make_feature_fn(
  image_shape: tuple[int, int, int], side: int
) -> mean_embedding.FeatureFn:
  """Returns u, whose noised sum `estimate` reads.

  Args:
    image_shape: (H, W, C), D = H W C.
    side: S, d = S S C.

  Returns:
    A function from float32[B, H, W, C] in [-1, 1] to
    float32[B, D + d (d + 1) / 2 + 1], whose rows have norm at most 1.
  """
  num_pixels = int(np.prod(image_shape))
  num_few = side**2 * image_shape[-1]
  rows, columns = np.triu_indices(num_few)
  scale = np.where(rows == columns, 1.0, 2**0.5).astype(np.float32)
  scale *= _OF_PRODUCTS / num_few

  def features(images: types.Array) -> types.Array:
    pixels = images.reshape((len(images), num_pixels))
    few = _reduce(images, side).reshape((len(images), num_few))
    return jnp.concatenate(
      [
        pixels * (_OF_PIXELS / num_pixels**0.5),
        few[:, rows] * few[:, columns] * scale[None],
        jnp.full((len(images), 1), _OF_COUNT, pixels.dtype),
      ],
      axis=1,
    )

  return features


def _reduce(images: types.Array, side: int) -> types.Array:
  """Reduces float32[B, H, W, C] to [B, S, S, C]; each is a mean of pixels."""
  shape = (len(images), side, side, images.shape[-1])
  return jax.image.resize(images, shape, 'linear', antialias=True)


def estimate(
  noised: np.ndarray,
  image_shape: tuple[int, int, int],
  side: int,
  noise_std: float,
) -> gaussians_lib.ClassGaussians:
  """Computes the Gaussians from the noised sum, which is post-processing.

  Args:
    noised: float32[K, D + d (d + 1) / 2 + 1], the result of
      `mean_embedding.noised_sums` for `make_feature_fn`.
    image_shape: (H, W, C).
    side: S.
    noise_std: std of the noise in each element.

  Returns:
    The Gaussians, with at most d factors per class, in falling order, of which
    the last ones may be 0. A class whose noised count is below its noise counts
    as much as the noise.
  """
  sums = np.asarray(noised, np.float64)
  num_pixels = int(np.prod(image_shape))
  counts = np.maximum(sums[:, -1:] / _OF_COUNT, max(noise_std / _OF_COUNT, 1.0))
  scale = num_pixels**0.5 / _OF_PIXELS
  means = sums[:, :num_pixels] * scale / counts
  shares = counts / counts.sum()
  common = np.sum(shares * means, axis=0)
  noise = num_pixels * (noise_std * scale / counts[:, 0]) ** 2
  means, _ = _towards_common(means, common, noise, num_pixels)
  means = np.clip(means, -1.0, 1.0).astype(np.float32)
  means = means.reshape((-1, *image_shape))
  few = np.asarray(_reduce(jnp.asarray(means), side), np.float64)
  few = few.reshape((len(few), -1))
  products = _unpacked(sums[:, num_pixels:-1], few.shape[1])
  of_classes = products / counts[..., None] - few[:, :, None] * few[:, None]
  factors = _factors(of_classes, counts[:, 0], noise_std)
  used = max(1, int(np.sum(np.any(factors, axis=(0, 2)))))
  factors = factors[:, :used]  # The largest come first.
  shape = (*factors.shape[:2], side, side, image_shape[-1])
  return gaussians_lib.ClassGaussians(
    means=means, factors=factors.reshape(shape).astype(np.float32)
  )


def _unpacked(packed: np.ndarray, size: int) -> np.ndarray:
  """Returns sums of y y^T, float64[K, d, d], from their upper triangles."""
  rows, columns = np.triu_indices(size)
  scale = np.where(rows == columns, 1.0, 0.5**0.5) * (size / _OF_PRODUCTS)
  found = np.empty((len(packed), size, size))
  found[:, rows, columns] = found[:, columns, rows] = packed * scale
  return found


def _towards_common(
  values: np.ndarray, common: np.ndarray, noise: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Moves values towards a common one, as far as they differ by noise.

  The squared norm of noise is taken three standard deviations above what is
  expected, so that next to nothing of noise alone is kept.

  Args:
    values: float64[K, ...].
    common: float64[...].
    noise: float64[K], expected squared norm of the noise of each value.
    size: number of independent elements of a value.

  Returns:
    The moved values, float64[K, ...], and the shares of their differences that
    are kept, float64[K] in [0, 1].
  """
  own = values - common[None]
  axes = tuple(range(1, own.ndim))
  squares = np.sum(own**2, axis=axes)
  noise = noise * (1 + 3 * (2 / size) ** 0.5)
  is_larger = squares > noise
  shares = np.zeros_like(squares)
  shares[is_larger] = 1 - noise[is_larger] / squares[is_larger]
  return common + np.expand_dims(shares, axes) * own, shares


def _factors(
  covariances: np.ndarray, counts: np.ndarray, noise_std: float
) -> np.ndarray:
  """Removes noise from covariances, and takes their roots.

  Args:
    covariances: float64[K, d, d], symmetric.
    counts: float64[K], noised sizes of the classes.
    noise_std: std of the noise in each element of the noised sum.

  Returns:
    float64[K, d, d], F with F^T F = covariance, in falling order.
  """
  size, total = covariances.shape[1], counts.sum()
  together = np.tensordot(counts / total, covariances, 1)
  per_record = noise_std * size / _OF_PRODUCTS
  of_together = per_record * len(counts) ** 0.5 / total
  of_classes = per_record / counts
  # Elements off the diagonal have half the variance of those on it.
  num_elements = size * (size + 1) // 2
  noise = of_classes**2 * num_elements
  moved, shares = _towards_common(covariances, together, noise, num_elements)
  found = []
  for covariance, share, of_class in zip(
    moved, shares, of_classes, strict=True
  ):
    least = share * of_class + (1 - share) * of_together
    values, vectors = np.linalg.eigh(covariance)
    values = np.where(values > least * (2 * size) ** 0.5, values, 0.0)
    found.append((vectors * np.maximum(values, 0.0) ** 0.5).T[::-1])
  return np.stack(found)
