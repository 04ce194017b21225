"""Tests of dp_diffusion.data.rendered_shapes."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion.data import rendered_shapes as shapes

_PLANE = shapes.Plane(num_images=2, size=32)


def _rng():
  return np.random.default_rng(0)


def _places(size):
  middles = (np.arange(size) + 0.5) / size * 2 - 1
  return [(y, x) for y in middles for x in middles]


@pytest.mark.parametrize('size', [8, 31, 128])
def test_a_disc_covers_its_area(size):
  plane = shapes.Plane(num_images=2, size=size)
  radius = np.array([0.5, 0.8])
  disc = shapes.Ellipse(
    center_y=np.zeros(2),
    center_x=np.zeros(2),
    radius=radius,
    eccentricity=0,
    wobble=0,
  )
  covered = shapes.cover(disc.distance(_rng(), plane), 0.0, plane)
  area = covered.sum(axis=(1, 2)) * plane.pixel**2
  # A logistic edge of scale s adds pi^3 / 3 s^2.
  soft = np.pi**3 / 3 * (0.25 * plane.pixel) ** 2
  np.testing.assert_allclose(area, np.pi * radius**2 + soft, rtol=0.01)
  # An edge is about a pixel wide, whatever the size.
  edge = (covered > 0.1) & (covered < 0.9)
  width = edge.sum(axis=(1, 2)) * plane.pixel**2 / (2 * np.pi * radius)
  assert np.all(width < 2 * plane.pixel)


def test_a_wobble_keeps_the_middle_inside_and_the_corners_outside():
  plane = shapes.Plane(num_images=50, size=16)
  disc = shapes.Ellipse(
    center_y=np.zeros(50), center_x=np.zeros(50), radius=np.full(50, 0.6)
  )
  distance = disc.distance(_rng(), plane)
  assert distance[:, 7:9, 7:9].max() < 0
  assert distance[:, 0, 0].min() > 0


def test_waves_of_an_outline_follow_the_angle():
  plane = shapes.Plane(num_images=3, size=9)
  disc = shapes.Ellipse(
    center_y=np.zeros(3),
    center_x=np.zeros(3),
    radius=np.full(3, 0.5),
    eccentricity=0,
    wobble=0.1,
  )
  rng, oracle = _rng(), _rng()
  turn = oracle.uniform(0, np.pi, 3)
  oracle.random(3)
  distance = disc.distance(rng, plane)
  drawn = [
    (k, oracle.normal(0, 0.1 / k, 3), oracle.uniform(0, 2 * np.pi, 3))
    for k in (2, 3, 4)
  ]
  for image in range(3):
    for place, (y, x) in zip(np.ndindex(9, 9), _places(9)):
      length = np.hypot(y, x)
      if length < 0.1:
        continue  # There is no angle in the middle.
      angle = np.arctan2(y, x) - turn[image]
      wave = sum(h[image] * np.cos(k * angle + p[image]) for k, h, p in drawn)
      expected = length - 0.5 * (1 + wave)
      np.testing.assert_allclose(distance[image][place], expected, atol=1e-5)


def test_polygons_against_half_planes():
  radius, num_sides = np.array([0.4, 0.6]), np.array([3, 5])
  center = np.array([0.1, -0.2]), np.array([0.0, 0.3])
  distance = shapes.polygon_distance(_rng(), _PLANE, center, radius, num_sides)
  turn = _rng().uniform(0, 2 * np.pi, 2)
  for image in range(2):
    angles = [
      turn[image] + 2 * np.pi * k / num_sides[image]
      for k in range(num_sides[image])
    ]
    expected = [
      max(
        (y - center[0][image]) * np.sin(a) + (x - center[1][image]) * np.cos(a)
        for a in angles
      )
      - radius[image]
      for y, x in _places(32)
    ]
    np.testing.assert_allclose(distance[image].ravel(), expected, atol=1e-5)


def test_distance_from_a_path_against_many_points():
  points = _rng().uniform(-1, 1, (2, 4, 2))
  distance = shapes.path_distance(points, _PLANE)
  shares = np.linspace(0, 1, 2000)[:, None]
  for image in range(2):
    dense = np.concatenate(
      [
        (1 - shares) * points[image, k] + shares * points[image, k + 1]
        for k in range(3)
      ]
    )
    gaps = np.array(_places(32))[:, None] - dense[None]
    expected = np.hypot(gaps[..., 0], gaps[..., 1]).min(axis=1)
    np.testing.assert_allclose(distance[image].ravel(), expected, atol=2e-3)


def test_a_path_that_stands_still_is_a_point():
  points = np.zeros((2, 3, 2))
  distance = shapes.path_distance(points, _PLANE)
  expected = [np.hypot(y, x) for y, x in _places(32)]
  np.testing.assert_allclose(distance[0].ravel(), expected, atol=1e-5)


def test_a_curve_by_halving():
  corners = _rng().normal(size=(2, 4, 2))
  points = shapes.curve_points(corners, 9)
  a, b, c, d = (corners[:, k] for k in range(4))
  middle = (a + 3 * b + 3 * c + d) / 8  # de Casteljau at 1/2.
  np.testing.assert_allclose(points[:, 4], middle)
  np.testing.assert_allclose(points[:, [0, -1]], corners[:, [0, -1]])


@pytest.mark.parametrize('exponent', [0.0, 1.0, 2.5])
def test_noise_falls_with_its_power(exponent):
  plane = shapes.Plane(num_images=200, size=32)
  field = shapes.noise(_rng(), plane, exponent)
  np.testing.assert_allclose(field.mean(axis=(1, 2)), 0, atol=1e-4)
  np.testing.assert_allclose(field.std(axis=(1, 2)), 1, rtol=1e-3)
  power = np.mean(np.abs(np.fft.fft2(field)) ** 2, axis=0)
  falls = np.log(power[0, 2] / power[0, 8]) / np.log(4)
  assert abs(falls - 2 * exponent) < 0.35


def test_elongated_noise_has_a_direction():
  plane = shapes.Plane(num_images=100, size=32)

  def anisotropy(elongation):
    field = shapes.noise(_rng(), plane, 1.5, elongation)
    rows, columns = (
      np.diff(field, axis=axis).std(axis=(1, 2)) for axis in (1, 2)
    )
    return np.abs(np.log(rows / columns)).mean()

  assert anisotropy(6.0) > 2 * anisotropy(1.0)


def test_waves_against_one_pixel():
  frequency, angle = np.array([3.0, 5.0]), np.array([0.3, 2.0])
  shift = np.float32([[[0.5]], [[1.5]]])
  found = shapes.waves(_PLANE, frequency, angle, shift)
  y, x = _places(32)[5 * 32 + 7]
  for k in range(2):
    place = x * np.cos(angle[k]) + y * np.sin(angle[k])
    expected = np.sin(np.pi * frequency[k] * place + shift[k, 0, 0])
    np.testing.assert_allclose(found[k, 5, 7], expected, atol=1e-4)
