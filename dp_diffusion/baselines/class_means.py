"""Noised mean images of the classes, from which a training can start.

The method is that of DP-FETA and FETA-Pro (arXiv 2601.06368): a diffusion model
first learns the mean of each class, and then single images. The means are
computed from one noised statistic, the sum over all records of

  u(image) = (a x / sqrt(D), c),  x in [-1, 1]^D,  a^2 + c^2 = 1,

in the row of the image's class. The last element counts the images, so the
size of a class is as noised as the rest: mean = sqrt(D) c / a times the noised
sum divided by the noised count.

Sensitivity. Since |x / sqrt(D)| <= 1, |u|^2 <= a^2 + c^2 = 1. A record of
several images contributes the mean of its terms, each in the row of its own
class; the norm of a mean is at most the largest norm of its terms. Adding or
removing a record changes the sum by its own term alone, so the l2 sensitivity
of the whole statistic, pixels and counts of all classes together, is 1
(`mean_embedding.L2_SENSITIVITY`).

The weight of the count. Noise of std s on every element leaves an error of
D s^2 / a^2 in the pixels of a mean, in all, and an error of about s^2 / c^2 in
the common factor of its D pixels, both divided by the squared class size and
multiplied by D. Their sum is smallest at c^2 / a^2 = 1 / sqrt(D).

Deviation: FETA-Pro computes each mean from a Poisson subset of the images, and
its predecessor divides by a guessed class size. Here all images are summed. At
the same epsilon, the mean of n subset means has about the noise of the mean of
n sums of everything, without the error of the selection; the event is a plain
Gaussian one.

Guarantees:
  * One record, even a person with many images and classes, moves all sums and
    counts together by at most 1.
    `class_means_test.py::test_neighbours_differ_by_at_most_the_sensitivity`.
  * Pixels and counts have the noise of the mechanism.
    `class_means_test.py::test_noise_std`.
  * Class sizes are used with noise only.
    `class_means_test.py::test_means_depend_on_the_noised_sum_alone`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding


def weights(num_pixels: int) -> tuple[float, float]:
  """Returns the weights (a, c) of pixels and count, with a^2 + c^2 = 1.

  >>> a, c = weights(16)
  >>> round(c**2 / a**2, 6), round(a**2 + c**2, 6)
  (0.25, 1.0)

  Args:
    num_pixels: D, number of values of an image.
  """
  ratio = num_pixels**-0.5
  return (1 / (1 + ratio)) ** 0.5, (ratio / (1 + ratio)) ** 0.5


def make_feature_fn(
  image_shape: tuple[int, int, int],
) -> mean_embedding.FeatureFn:
  """Returns u, whose noised sum `means` reads.

  Args:
    image_shape: (H, W, C), D = H W C.

  Returns:
    A function from float32[B, H, W, C] in [-1, 1] to float32[B, D + 1], whose
    rows have norm at most 1.
  """
  num_pixels = int(np.prod(image_shape))
  a, c = weights(num_pixels)

  def features(images: types.Array) -> types.Array:
    pixels = images.reshape((len(images), num_pixels)) * (a / num_pixels**0.5)
    ones = jnp.full((len(images), 1), c, pixels.dtype)
    return jnp.concatenate([pixels, ones], axis=1)

  return features


def means(
  noised: np.ndarray, image_shape: tuple[int, int, int], noise_std: float
) -> np.ndarray:
  """Computes the mean images from noised sums, which is post-processing.

  Args:
    noised: float32[n, num_classes, D + 1], the result of
      `mean_embedding.noised_sums` for `make_feature_fn`.
    image_shape: (H, W, C).
    noise_std: std of the noise in each element.

  Returns:
    uint8[n, num_classes, H, W, C]. A class whose noised count is below its
    noise is divided by the std of the noise, which leaves it nearly grey.
  """
  num_pixels = int(np.prod(image_shape))
  a, c = weights(num_pixels)
  sums = np.asarray(noised, np.float64)
  least = max(noise_std / c, 1.0)
  counts = np.maximum(sums[..., -1:] / c, least)
  found = sums[..., :-1] * (num_pixels**0.5 / a) / counts
  pixels = np.round((np.clip(found, -1, 1) + 1) * 127.5).astype(np.uint8)
  return pixels.reshape((*pixels.shape[:-1], *image_shape))
