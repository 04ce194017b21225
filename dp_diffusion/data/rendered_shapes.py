"""Computes shapes and textures by formulas, for many images at once.

The plane of an image is [-1, 1] x [-1, 1], whatever its size in pixels. A shape
is a distance function, negative inside, in units of the plane. `cover` converts
it to the share of each pixel that is covered, with an edge at least about a
pixel wide. The first axis of all arrays is the image: float32[M, S, S] over
pixels, [M] for one number per image.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

_SHARPEST_EDGE = 0.25  # Scale of the logistic: 10 % to 90 % in 1.1 pixels.
_SMALLEST = 1e-6
_FARTHEST = 30.0  # Argument at which the logistic is 0 or 1 in float32.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plane:
  """Number and size of the images to draw.

  Attributes:
    num_images: number of images M.
    size: height and width S in pixels.
  """

  num_images: int
  size: int

  @property
  def pixel(self) -> float:
    """Side of a pixel, in units of the plane."""
    return 2.0 / self.size

  @property
  def y(self) -> np.ndarray:
    """Centres of the rows, float32[1, S, 1]."""
    return _middles(self.size)[None, :, None]

  @property
  def x(self) -> np.ndarray:
    """Centres of the columns, float32[1, 1, S]."""
    return _middles(self.size)[None, None, :]


def _middles(size: int) -> np.ndarray:
  return ((np.arange(size) + 0.5) * (2.0 / size) - 1).astype(np.float32)


def over_pixels(values: np.ndarray) -> np.ndarray:
  """Reshapes [M] to float32[M, 1, 1], to be broadcast over pixels."""
  return np.asarray(values, np.float32)[:, None, None]


def uniform(
  rng: np.random.Generator, plane: Plane, low: float, high: float
) -> np.ndarray:
  """Draws a number in [low, high) for each image, float64[M]."""
  return rng.uniform(low, high, plane.num_images)


def cover(
  distance: np.ndarray, softness: np.ndarray | float, plane: Plane
) -> np.ndarray:
  """Computes the share of each pixel that a shape covers.

  Args:
    distance: float32[M, S, S], negative inside the shape.
    softness: float[M] or a number, width of the edge in units of the plane.
    plane: the plane; an edge is at least about one of its pixels wide.

  Returns:
    float32[M, S, S] in [0, 1].
  """
  scale = np.maximum(softness, _SHARPEST_EDGE * plane.pixel)
  steepness = over_pixels(np.broadcast_to(1.0 / scale, (plane.num_images,)))
  far = np.clip(distance * steepness, -_FARTHEST, _FARTHEST)
  return 1.0 / (1.0 + np.exp(far, dtype=np.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ellipse:
  """An ellipse for each image, with random rotation, eccentricity and wobble.

  Attributes:
    center_y, center_x: float[M], the centre.
    radius: float[M], the smaller radius.
    eccentricity: the larger radius is up to 1 + eccentricity times as large.
    wobble: std of the waves of the outline, divided by the radius.
  """

  center_y: np.ndarray
  center_x: np.ndarray
  radius: np.ndarray
  eccentricity: float = 0.25
  wobble: float = 0.08

  def distance(self, rng: np.random.Generator, plane: Plane) -> np.ndarray:
    """Returns the approximate distance from the outline, float32[M, S, S]."""
    angle = uniform(rng, plane, 0, np.pi)
    stretch = 1 + self.eccentricity * rng.random(plane.num_images)
    y = plane.y - over_pixels(self.center_y)
    x = plane.x - over_pixels(self.center_x)
    u = (x * _cos(angle) + y * _sin(angle)) / over_pixels(stretch)
    v = y * _cos(angle) - x * _sin(angle)
    length = np.sqrt(u * u + v * v)
    if not self.wobble:
      return length - over_pixels(self.radius)
    waves = self._waves(rng, plane, u, v, np.maximum(length, _SMALLEST))
    return length - over_pixels(self.radius) * (1 + waves)

  def _waves(
    self,
    rng: np.random.Generator,
    plane: Plane,
    u: np.ndarray,
    v: np.ndarray,
    length: np.ndarray,
  ) -> np.ndarray:
    """Returns the sum of two to four waves along the outline."""
    cos, sin = u / length, v / length
    cos_k, sin_k = cos, sin
    total = np.zeros_like(length)
    for k in (2, 3, 4):
      cos_k, sin_k = cos_k * cos - sin_k * sin, sin_k * cos + cos_k * sin
      height = rng.normal(0, self.wobble / k, plane.num_images)
      phase = uniform(rng, plane, 0, 2 * np.pi)
      total += over_pixels(height) * (_cos(phase) * cos_k - _sin(phase) * sin_k)
    return total


def polygon_distance(
  rng: np.random.Generator,
  plane: Plane,
  center: Sequence[np.ndarray],
  radius: np.ndarray,
  num_sides: np.ndarray,
) -> np.ndarray:
  """Returns the distance from regular polygons with random rotations.

  Args:
    rng: source of random rotations.
    plane: the plane.
    center: (y, x), float[M] each.
    radius: float[M], distance from the centre to a side.
    num_sides: int[M], at least 3.

  Returns:
    float32[M, S, S], exact inside and beside the sides.
  """
  y = plane.y - over_pixels(center[0])
  x = plane.x - over_pixels(center[1])
  turn = uniform(rng, plane, 0, 2 * np.pi)
  farthest = np.full((plane.num_images, plane.size, plane.size), -np.inf, 'f4')
  for side in range(int(num_sides.max())):
    # Polygons with fewer sides repeat some, which changes nothing.
    angle = turn + 2 * np.pi * (side % num_sides) / num_sides
    np.maximum(farthest, y * _sin(angle) + x * _cos(angle), out=farthest)
  return farthest - over_pixels(radius)


def curve_points(corners: np.ndarray, num_points: int) -> np.ndarray:
  """Returns points of cubic curves.

  Args:
    corners: float[M, 4, 2], (y, x) of start, two handles and end.
    num_points: number of points P.

  Returns:
    float64[M, P, 2].
  """
  t = np.linspace(0, 1, num_points)[None, :, None]
  a, b, c, d = (corners[:, None, k] for k in range(4))
  s = 1 - t
  return s**3 * a + 3 * s * s * t * b + 3 * s * t * t * c + t**3 * d


def path_distance(points: np.ndarray, plane: Plane) -> np.ndarray:
  """Returns the distance from a polyline, one for each image.

  Args:
    points: float[M, P, 2], (y, x) of its points, P >= 2.
    plane: the plane.

  Returns:
    float32[M, S, S], >= 0.
  """
  nearest = np.full((plane.num_images, plane.size, plane.size), np.inf, 'f4')
  for k in range(points.shape[1] - 1):
    start, step = points[:, k], points[:, k + 1] - points[:, k]
    y = plane.y - over_pixels(start[:, 0])
    x = plane.x - over_pixels(start[:, 1])
    dy, dx = over_pixels(step[:, 0]), over_pixels(step[:, 1])
    share = (y * dy + x * dx) / np.maximum(dy * dy + dx * dx, _SMALLEST)
    share = np.clip(share, 0, 1)
    gap_y, gap_x = y - share * dy, x - share * dx
    np.minimum(nearest, gap_y * gap_y + gap_x * gap_x, out=nearest)
  return np.sqrt(nearest)


def noise(
  rng: np.random.Generator,
  plane: Plane,
  exponent: np.ndarray | float,
  elongation: np.ndarray | float = 1.0,
) -> np.ndarray:
  """Returns noise whose amplitude falls with a power of the frequency.

  Args:
    rng: source of the noise, and of the direction if it is elongated.
    plane: the plane; the noise is periodic in it.
    exponent: float[M]; the amplitude is 1 / frequency^exponent, and 0 gives
      white noise.
    elongation: float[M], ratio of length to width of structures.

  Returns:
    float32[M, S, S] of mean 0 and standard deviation 1.
  """
  num, size = plane.num_images, plane.size
  rows = np.fft.fftfreq(size).astype(np.float32)[None, :, None] * size
  columns = np.fft.rfftfreq(size).astype(np.float32)[None, None, :] * size
  angle = uniform(rng, plane, 0, np.pi)
  along = columns * _cos(angle) + rows * _sin(angle)
  across = rows * _cos(angle) - columns * _sin(angle)
  stretch = over_pixels(np.broadcast_to(elongation, (num,)))
  square = (along * stretch) ** 2 + across * across
  square[:, 0, 0] = 1.0
  power = over_pixels(np.broadcast_to(exponent, (num,)))
  waves = np.fft.rfft2(
    rng.standard_normal((num, size, size), np.float32), axes=(1, 2)
  )
  waves *= square ** (-0.5 * power)
  waves[:, 0, 0] = 0
  field = np.fft.irfft2(waves, s=(size, size), axes=(1, 2)).astype(np.float32)
  std = field.std(axis=(1, 2), keepdims=True)
  return field / np.maximum(std, _SMALLEST)


def waves(
  plane: Plane, frequency: np.ndarray, angle: np.ndarray, shift: np.ndarray
) -> np.ndarray:
  """Returns straight waves.

  Args:
    plane: the plane.
    frequency: float[M], half waves per unit of the plane.
    angle: float[M], direction across the waves, in radians.
    shift: float32[M, S, S] or [M, 1, 1], phase in radians.

  Returns:
    float32[M, S, S] in [-1, 1].
  """
  place = plane.x * _cos(angle) + plane.y * _sin(angle)
  return np.sin(np.float32(np.pi) * over_pixels(frequency) * place + shift)


def _cos(angle: np.ndarray) -> np.ndarray:
  return over_pixels(np.cos(angle))


def _sin(angle: np.ndarray) -> np.ndarray:
  return over_pixels(np.sin(angle))
