"""Scattering coefficients: features of images that nobody has to learn.

A cascade of wavelets and absolute values (arXiv 1203.1513). With them a linear
model reads handwriting better than a network that is trained with noise
(arXiv 2011.11660). The filters are fixed, so the coefficients are a function of
the image alone.

With Morlet wavelets psi of `_NUM_SCALES` scales and `_NUM_ANGLES` angles, the
maps of an image x are

  |x * psi|                of every wavelet, and
  ||x * psi| * psi'|       where psi' has a larger scale than psi,

of the mean over the channels. They, and every channel itself, are averaged with
Gaussian windows around the cells of a grid. Of the averages of maps the
logarithm is taken, since textures differ by factors.

Guarantee:
  * The coefficients of an image have the same bits whichever images are beside
    it, for each is computed by itself.
    `tests/models/scattering_test.py::test_an_image_is_read_by_itself`.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types

_NUM_SCALES = 2
_NUM_ANGLES = 8
_MARGIN = 2**_NUM_SCALES  # Pixels that are mirrored at each edge.
_MOST_CELLS = 6  # Along a side of the grid.
_LEAST_CELL = 3  # Pixels along the side of a cell.
_WINDOW = 0.4  # Std of the Gaussian windows, in sides of a cell.
_FLOOR = 1e-3  # Added to averages before the logarithm.
_NUM_MAPS = _NUM_SCALES * _NUM_ANGLES + (
  math.comb(_NUM_SCALES, 2) * _NUM_ANGLES**2
)


def num_features(image_size: int, channels: int) -> int:
  """Returns F, the number of coefficients of an image."""
  return (_NUM_MAPS + channels) * _num_cells(image_size) ** 2


def features(images: types.Array) -> types.Array:
  """Computes the coefficients of images one by one; can be traced.

  Args:
    images: float32[N, S, S, C] in [-1, 1].

  Returns:
    float32[N, F].
  """
  size = images.shape[1]
  filters = jnp.asarray(_filters(size + 2 * _MARGIN), jnp.complex64)
  windows = jnp.asarray(_windows(size), jnp.float32)

  def averages(maps: types.Array) -> types.Array:
    return jnp.einsum(
      'ay,...yx,bx->...ab', windows, maps, windows, precision='highest'
    )

  def moduli(maps: types.Array, wavelets: types.Array) -> types.Array:
    """Filters float32[M, Y, X] by [A, Y, X]; returns float32[M * A, Y, X]."""
    found = jnp.fft.fft2(maps)[:, None] * wavelets[None]
    return jnp.abs(jnp.fft.ifft2(found)).reshape((-1, *maps.shape[1:]))

  def one(image: types.Array) -> types.Array:
    margins = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    padded = jnp.pad(image, margins, mode='reflect')
    grey = jnp.mean(padded, axis=2)[None]
    maps = []
    for scale in range(_NUM_SCALES):
      first = moduli(grey, filters[scale])
      maps.append(averages(first))
      for larger in range(scale + 1, _NUM_SCALES):
        maps.append(averages(moduli(first, filters[larger])))
    logs = jnp.log(jnp.concatenate(maps) + _FLOOR)
    means = averages(jnp.moveaxis(padded, 2, 0))
    return jnp.concatenate([means.ravel(), logs.ravel()])

  return jax.lax.map(one, images)


def _num_cells(image_size: int) -> int:
  """Number of cells along a side of the grid."""
  return max(1, min(_MOST_CELLS, image_size // _LEAST_CELL))


def _windows(image_size: int) -> np.ndarray:
  """Weights of padded rows (or columns) in the averages, float64[cells, Y]."""
  num_cells = _num_cells(image_size)
  cell = image_size / num_cells
  centres = _MARGIN - 0.5 + cell * (np.arange(num_cells) + 0.5)
  rows = np.arange(image_size + 2 * _MARGIN)
  distances = (rows - centres[:, None]) / (_WINDOW * cell)
  weights = np.exp(-0.5 * distances**2)
  return weights / weights.sum(axis=1, keepdims=True)


@functools.lru_cache(maxsize=1)
def _filters(size: int) -> np.ndarray:
  """Fourier transforms of the wavelets, complex128[scales, angles, Y, X]."""
  return np.stack(
    [
      np.stack(
        [
          np.fft.fft2(_morlet(size, scale, math.pi * angle / _NUM_ANGLES))
          for angle in range(_NUM_ANGLES)
        ]
      )
      for scale in range(_NUM_SCALES)
    ]
  )


def _morlet(size: int, scale: int, angle: float) -> np.ndarray:
  """Returns a Morlet wavelet of mean 0 on a torus, complex128[size, size].

  A wave of frequency 3/4 pi / 2^scale along the angle, under a Gaussian of std
  0.8 * 2^scale along it and twice as much across, minus the Gaussian times the
  factor that makes the mean 0.
  """
  std, frequency = 0.8 * 2**scale, 0.75 * math.pi / 2**scale
  slant = 4 / _NUM_ANGLES
  reach = math.ceil(10 * std / slant)  # Beyond, the Gaussian is 1e-22 of it.
  offsets = np.arange(-reach, reach + 1)
  y, x = np.meshgrid(offsets, offsets, indexing='ij')
  along = y * math.cos(angle) + x * math.sin(angle)
  across = x * math.cos(angle) - y * math.sin(angle)
  bump = np.exp(-(along**2 + (slant * across) ** 2) / (2 * std**2))
  wave = bump * np.exp(1j * frequency * along)

  def folded(values: np.ndarray) -> np.ndarray:
    found = np.zeros((size, size), values.dtype)
    np.add.at(found, (y % size, x % size), values)
    return found

  bump, wave = folded(bump), folded(wave)
  norm = 2 * math.pi * std**2 / slant
  return (wave - wave.sum() / bump.sum() * bump) / norm
