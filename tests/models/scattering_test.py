"""Scattering coefficients: of simple images, and of each image by itself."""

from __future__ import annotations

import functools
import math

import jax
import numpy as np
import pytest

from dp_diffusion.models import scattering

# Of the Fourier transforms of the wavelets of kymatio 0.3.0 along an axis
# (Scattering2D(J=2, shape=(24, 24), L=8), of 32 pixels after padding): element
# k, for each scale. There, the norm is made with 3.1415 for pi.
KYMATIO = {
  0: {2: 0.125844, 8: 0.740709, 12: 0.968912, 16: 0.805961, 28: -0.059829},
  1: {2: 0.315139, 6: 0.971392, 8: 0.813701, 12: 0.169091, 28: -0.069645},
}


def random_images(num, size, channels=1, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.uniform(-1, 1, (num, size, size, channels))
  return images.astype(np.float32)


@functools.cache
def compiled():
  return jax.jit(scattering.features)


def maps_of(images):
  """Averages of channels and of maps, without the logarithm of these."""
  size, channels = images.shape[1], images.shape[3]
  found = np.asarray(compiled()(images))
  assert found.shape == (
    len(images),
    scattering.num_features(size, channels),
  )
  side = min(6, size // 3)
  found = found.reshape((len(images), -1, side, side))
  maps = np.exp(found[:, channels:]) - 1e-3
  return found[:, :channels], maps


def grating(size, axis, frequency):
  waves = np.cos(frequency * np.arange(size))
  shape = (1, size, 1, 1) if axis == 0 else (1, 1, size, 1)
  image = np.broadcast_to(waves.reshape(shape), (1, size, size, 1))
  return image.astype(np.float32)


@pytest.mark.parametrize('scale', [0, 1])
def test_wavelets_are_those_of_a_reference(scale):
  found = scattering._filters(32)[scale]
  for k, wanted in KYMATIO[scale].items():
    for element in (found[0, k, 0], found[4, 0, k]):
      assert element == pytest.approx(wanted * 3.1415 / math.pi, abs=2e-6)
  assert np.abs(found[:, 0, 0]).max() < 1e-12


@pytest.mark.parametrize(('size', 'channels'), [(8, 1), (14, 3), (24, 1)])
def test_grey_images_have_no_texture(size, channels):
  """Every average is the grey value, every map is zero."""
  grey = np.full((2, size, size, channels), 0.25, np.float32)
  means, maps = maps_of(grey)
  np.testing.assert_allclose(means, 0.25, atol=1e-6)
  np.testing.assert_allclose(maps, 0, atol=1e-5)


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('scale', [0, 1])
def test_a_grating_is_seen_by_the_wavelet_of_its_direction(axis, scale):
  image = grating(24, axis, 0.75 * math.pi / 2**scale)
  _, maps = maps_of(image)
  first = maps[0].mean(axis=(1, 2))
  # Maps: 8 angles of the fine scale, those of 64 pairs, 8 of the coarse scale.
  number = 4 * axis + (0 if scale == 0 else 72)
  singles = [*range(8), *range(72, 80)]
  assert max(singles, key=lambda i: first[i]) == number
  assert first[number] > 0.4


def test_a_modulated_grating_is_seen_by_a_pair():
  """A fine grating whose strength varies in rows: |x * psi| shows the rows."""
  steady = grating(24, 1, 0.75 * math.pi)
  rows = 1 + grating(24, 0, 0.75 * math.pi / 2)
  pairs = [maps_of(image)[1][0, 8:72] for image in (steady, steady * rows)]
  means = [pair.reshape((8, 8, -1)).mean(axis=2) for pair in pairs]
  # The fine one of columns, then of rows.
  assert (means[1] - means[0])[4].argmax() == 0
  assert means[1][4, 0] > 10 * means[0][4, 0]


def test_a_place_is_seen_in_its_cell():
  image = np.full((1, 24, 24, 1), -1, np.float32)
  image[0, 9, 17] = 1  # Cells have 4 pixels.
  means, maps = maps_of(image)
  for found in (means[0, 0], maps[0, :8].sum(axis=0)):
    assert np.unravel_index(found.argmax(), (6, 6)) == (2, 4)


def test_windows_are_around_the_cells():
  """Gaussians of std 0.4 cells: a third of the weight is of other cells."""
  image = np.zeros((1, 24, 24, 1), np.float32)
  image[0, 8:12] = 1  # The third row of cells.
  means, _ = maps_of(image)
  pixels = np.arange(-4, 28)
  wanted = [
    np.sum(weights[(pixels >= 8) & (pixels < 12)]) / np.sum(weights)
    for centre in 4 * np.arange(6) + 1.5
    for weights in [np.exp(-0.5 * ((pixels - centre) / 1.6) ** 2)]
  ]
  np.testing.assert_allclose(means[0, 0, :, 3], wanted, atol=1e-6)
  assert wanted[1] == pytest.approx(wanted[3]) and 0.1 < wanted[1] < 0.2


def test_edges_are_mirrored():
  ramp = np.broadcast_to(
    np.arange(24).reshape((1, 24, 1, 1)) / 24, (1, 24, 24, 1)
  ).astype(np.float32)
  means, _ = maps_of(ramp)
  mirrored = np.pad(ramp[0, :, 0, 0], 4, mode='reflect')
  weights = np.exp(-0.5 * ((np.arange(-4, 28) - 1.5) / 1.6) ** 2)
  wanted = np.sum(weights * mirrored) / np.sum(weights)
  assert means[0, 0, 0, 0] == pytest.approx(wanted, abs=1e-6)


def test_a_turned_image_has_turned_coefficients():
  image = random_images(1, 24)
  means, maps = maps_of(image)
  turned_means, turned = maps_of(image.swapaxes(1, 2))
  np.testing.assert_allclose(
    turned_means, means.swapaxes(2, 3), rtol=0, atol=1e-5
  )
  # Angle k of 8 becomes angle 4 - k.
  order = [(4 - angle) % 8 for angle in range(8)]
  np.testing.assert_allclose(
    turned[:, order], maps[:, :8].swapaxes(2, 3), rtol=0, atol=1e-4
  )


def test_a_mirrored_image_has_mirrored_coefficients():
  image = random_images(1, 24)
  means, maps = maps_of(image)
  mirrored_means, mirrored = maps_of(image[:, :, ::-1])
  np.testing.assert_allclose(
    mirrored_means, means[..., ::-1], rtol=0, atol=1e-5
  )
  order = [-angle % 8 for angle in range(8)]
  np.testing.assert_allclose(
    mirrored[:, order], maps[:, :8, :, ::-1], rtol=0, atol=1e-4
  )


@pytest.mark.parametrize('size', [1, 2, 5, 13])
def test_small_images_have_coefficients_too(size):
  found = np.asarray(scattering.features(random_images(2, size, 3)))
  assert found.shape == (2, scattering.num_features(size, 3))
  assert np.isfinite(found).all()


def test_maps_are_of_the_mean_of_the_channels():
  images = random_images(3, 14, channels=3)
  means, maps = maps_of(images)
  grey_means, grey = maps_of(images.mean(axis=3, keepdims=True))
  np.testing.assert_allclose(maps, grey, rtol=0, atol=1e-4)
  np.testing.assert_allclose(
    means.mean(axis=1, keepdims=True), grey_means, rtol=0, atol=1e-5
  )
  assert np.ptp(means, axis=1).max() > 0.1


@pytest.mark.parametrize(('size', 'channels'), [(8, 3), (24, 1)])
def test_an_image_is_read_by_itself(size, channels):
  """To the bit, wherever it lies and whatever lies beside it."""
  images = random_images(17, size, channels)
  found = np.asarray(compiled()(images))
  order = np.random.default_rng(0).permutation(17)
  np.testing.assert_array_equal(compiled()(images[order]), found[order])
  for num in (1, 5):
    np.testing.assert_array_equal(compiled()(images[:num]), found[:num])
  images[3] = np.nan
  others = np.arange(17) != 3
  np.testing.assert_array_equal(compiled()(images)[others], found[others])
