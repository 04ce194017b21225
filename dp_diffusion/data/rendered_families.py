"""Families of rendered images, one function for each class.

Each function takes a random generator and a `Painter`, and paints all images of
the painter. Sizes are in units of half the image. The textures and shapes are
common in pictures from microscopes and scanners and on paper; none imitates a
particular image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dp_diffusion.data import rendered_colours as colours
from dp_diffusion.data import rendered_shapes as shapes

_FLAT_CELLS = 0.6  # Share of cells on plain black or white.
_NOTCHED = 0.25  # Share of cells that a neighbour was cut away from.
Painter = colours.Painter
Family = Callable[[np.random.Generator, Painter], None]


def _clouds(rng: np.random.Generator, painter: Painter) -> None:
  _texture(rng, painter, shapes.uniform(rng, painter.plane, 2.0, 2.8))


def _grain(rng: np.random.Generator, painter: Painter) -> None:
  _texture(rng, painter, shapes.uniform(rng, painter.plane, 0.3, 1.3))


def _fibres(rng: np.random.Generator, painter: Painter) -> None:
  plane = painter.plane
  _texture(
    rng,
    painter,
    shapes.uniform(rng, plane, 1.2, 2.2),
    shapes.uniform(rng, plane, 3, 8),
  )


def _texture(
  rng: np.random.Generator,
  painter: Painter,
  exponent: np.ndarray,
  elongation: np.ndarray | float = 1.0,
) -> None:
  """Paints noise between the colours of background and body."""
  field = shapes.noise(rng, painter.plane, exponent, elongation)
  painter.paint(colours.BACKGROUND, 1.0)
  painter.paint(colours.BODY, np.clip(0.5 + 0.3 * field, 0, 1))


def _grating(rng: np.random.Generator, painter: Painter) -> None:
  _waves(rng, painter, is_woven=False, steepness=(1, 4))


def _weave(rng: np.random.Generator, painter: Painter) -> None:
  _waves(rng, painter, is_woven=True, steepness=(1, 4))


def _stripes(rng: np.random.Generator, painter: Painter) -> None:
  _waves(rng, painter, is_woven=False, steepness=(8, 20), frequency=(1.0, 4.0))


def _waves(
  rng: np.random.Generator,
  painter: Painter,
  *,
  is_woven: bool,
  steepness: tuple[float, float],
  frequency: tuple[float, float] = (2.0, 8.0),
) -> None:
  """Paints straight or bent waves, or if `is_woven` the product of two."""
  plane = painter.plane
  number = shapes.uniform(rng, plane, *frequency)
  angle = shapes.uniform(rng, plane, 0, np.pi)
  bend = shapes.over_pixels(shapes.uniform(rng, plane, 0, 1.2))
  shift = bend * shapes.noise(rng, plane, 2.5)
  shift += shapes.over_pixels(shapes.uniform(rng, plane, 0, 2 * np.pi))
  wave = shapes.waves(plane, number, angle, shift)
  if is_woven:
    other = number * shapes.uniform(rng, plane, 0.6, 1.4)
    wave = wave * shapes.waves(plane, other, angle + np.pi / 2, shift)
  steep = shapes.over_pixels(shapes.uniform(rng, plane, *steepness))
  painter.paint(colours.BACKGROUND, 1.0)
  painter.paint(colours.BODY, 0.5 + 0.5 * np.tanh(steep * wave))


def _blobs(rng: np.random.Generator, painter: Painter) -> None:
  plane = painter.plane
  painter.background()
  for is_there in _some(rng, painter, 2, 7):
    y, x = rng.uniform(-1, 1, (2, plane.num_images))
    width = shapes.uniform(rng, plane, 0.1, 0.45)
    height = shapes.uniform(rng, plane, 0.4, 1.0) * is_there
    square = (plane.y - shapes.over_pixels(y)) ** 2
    square = square + (plane.x - shapes.over_pixels(x)) ** 2
    fall = np.exp(-square / shapes.over_pixels(2 * width * width))
    painter.paint(colours.BODY, shapes.over_pixels(height) * fall)


def _disc(rng: np.random.Generator, painter: Painter) -> None:
  painter.background(_FLAT_CELLS)
  _paint_disc(rng, painter)


def _spotted_disc(rng: np.random.Generator, painter: Painter) -> None:
  painter.background(_FLAT_CELLS)
  disc = _paint_disc(rng, painter)
  _paint_spot(rng, painter, disc)


def _speckled_disc(rng: np.random.Generator, painter: Painter) -> None:
  painter.background(_FLAT_CELLS)
  disc = _paint_disc(rng, painter)
  for is_there in _some(rng, painter, 2, 6):
    _paint_spot(rng, painter, disc, is_there)


def _nucleated_disc(rng: np.random.Generator, painter: Painter) -> None:
  plane = painter.plane
  painter.background(_FLAT_CELLS)
  disc = _paint_disc(rng, painter)
  y, x = _within(rng, disc, 0.25)
  share = shapes.uniform(rng, plane, 0.35, 0.6)
  nucleus = shapes.Ellipse(
    center_y=y, center_x=x, radius=disc.radius * share, eccentricity=0.5
  )
  soft = shapes.uniform(rng, plane, 0.02, 0.08)
  alpha = shapes.cover(nucleus.distance(rng, plane), soft, plane)
  strength = shapes.uniform(rng, plane, 0, 0.1)
  texture = shapes.over_pixels(strength) * shapes.noise(rng, plane, 1.2)
  painter.paint(colours.DETAIL, alpha, texture)


def _paint_disc(rng: np.random.Generator, painter: Painter) -> shapes.Ellipse:
  """Paints a cell, which mostly fills the image, with rim and texture."""
  plane, num = painter.plane, painter.plane.num_images
  is_large = rng.random(num) < 0.8
  radius = np.where(
    is_large, rng.uniform(0.6, 0.95, num), rng.uniform(0.3, 0.6, num)
  )
  y, x = np.where(
    is_large, rng.normal(0, 0.06, (2, num)), rng.uniform(-0.3, 0.3, (2, num))
  )
  disc = shapes.Ellipse(center_y=y, center_x=x, radius=radius)
  distance = disc.distance(rng, plane)
  strength = shapes.over_pixels(0.12 * rng.random(num) ** 2)
  texture = strength * shapes.noise(rng, plane, 2.0)
  rim = shapes.over_pixels(shapes.uniform(rng, plane, -0.15, 0.1))
  width = shapes.over_pixels(radius * 0.5)
  texture += rim * np.exp(-((distance / width) ** 2))
  slope = rng.normal(0, 0.06, (2, num))
  texture += shapes.over_pixels(slope[0]) * plane.y
  texture += shapes.over_pixels(slope[1]) * plane.x
  soft = 0.01 + 0.09 * rng.random(num) ** 4  # Few cells are out of focus.
  alpha = shapes.cover(distance, soft, plane) * _uncut(rng, painter, disc)
  painter.paint(colours.BODY, alpha, texture)
  return disc


def _uncut(
  rng: np.random.Generator, painter: Painter, disc: shapes.Ellipse
) -> np.ndarray:
  """float32[M, S, S], share of each pixel that no neighbour cuts away."""
  plane, num = painter.plane, painter.plane.num_images
  angle = shapes.uniform(rng, plane, 0, 2 * np.pi)
  away = disc.radius * rng.uniform(1.0, 1.6, num)
  neighbour = shapes.Ellipse(
    center_y=disc.center_y + away * np.sin(angle),
    center_x=disc.center_x + away * np.cos(angle),
    radius=disc.radius * rng.uniform(0.25, 0.7, num),
  )
  alpha = shapes.cover(neighbour.distance(rng, plane), 0.02, plane)
  return 1 - alpha * shapes.over_pixels(rng.random(num) < _NOTCHED)


def _within(
  rng: np.random.Generator, disc: shapes.Ellipse, share: float
) -> tuple[np.ndarray, np.ndarray]:
  """Draws points (y, x), float64[M] each, within a share of a disc's radius."""
  num = len(disc.radius)
  angle = rng.uniform(0, 2 * np.pi, num)
  away = disc.radius * rng.uniform(0, share, num)
  return disc.center_y + away * np.sin(angle), disc.center_x + away * np.cos(
    angle
  )


def _paint_spot(
  rng: np.random.Generator,
  painter: Painter,
  disc: shapes.Ellipse,
  is_there: np.ndarray | float = 1.0,
) -> None:
  """Paints a small spot or ring in a disc; dark in a light disc."""
  plane, num = painter.plane, painter.plane.num_images
  y, x = _within(rng, disc, 0.75)
  spot = shapes.Ellipse(
    center_y=y,
    center_x=x,
    radius=shapes.uniform(rng, plane, 0.05, 0.2),
    eccentricity=0.5,
    wobble=0.15,
  )
  distance = spot.distance(rng, plane)
  soft = 0.01 + 0.06 * rng.random(num) ** 2
  alpha = shapes.cover(distance, soft, plane)
  is_ring = (rng.random(num) < 0.25)[:, None, None]
  ring = np.exp(-((distance / np.float32(0.05)) ** 2))
  body = painter.levels[:, colours.BODY]
  contrast = shapes.uniform(rng, plane, 0.2, 0.6)
  is_dark = body > np.where(rng.random(num) < 0.8, 0.3, 0.7)
  level = np.clip(body + np.where(is_dark, -contrast, contrast), 0, 1)
  strength = shapes.uniform(rng, plane, 0.7, 1.0) * is_there
  painter.paint(
    colours.DETAIL,
    np.where(is_ring, ring, alpha) * shapes.over_pixels(strength),
    level=level,
  )


def _touching_discs(rng: np.random.Generator, painter: Painter) -> None:
  plane, num = painter.plane, painter.plane.num_images
  painter.background()
  for is_there in _some(rng, painter, 2, 6):
    y, x = rng.uniform(-1, 1, (2, num))
    disc = shapes.Ellipse(
      center_y=y, center_x=x, radius=shapes.uniform(rng, plane, 0.25, 0.6)
    )
    distance = disc.distance(rng, plane)
    rim = shapes.over_pixels(shapes.uniform(rng, plane, -0.2, 0.1))
    texture = rim * np.exp(-((distance / np.float32(0.1)) ** 2))
    alpha = shapes.cover(distance, 0.03, plane)
    level = painter.levels[:, colours.BODY] + rng.normal(0, 0.08, num)
    painter.paint(
      colours.BODY, alpha * shapes.over_pixels(is_there), texture, level
    )


def _rings(rng: np.random.Generator, painter: Painter) -> None:
  plane = painter.plane
  painter.background()
  for is_there in _some(rng, painter, 1, 4):
    y, x = rng.normal(0, 0.4, (2, plane.num_images))
    ring = shapes.Ellipse(
      center_y=y, center_x=x, radius=shapes.uniform(rng, plane, 0.2, 0.9)
    )
    width = shapes.over_pixels(shapes.uniform(rng, plane, 0.04, 0.15))
    alpha = np.exp(-((ring.distance(rng, plane) / width) ** 2))
    painter.paint(colours.BODY, alpha * shapes.over_pixels(is_there))


def _strokes(rng: np.random.Generator, painter: Painter) -> None:
  """Paints one to three bent strokes of one width, as with a pen."""
  plane = painter.plane
  painter.background()
  width = shapes.uniform(rng, plane, 0.05, 0.14)
  for is_there in _some(rng, painter, 1, 4):
    corners = rng.uniform(-0.75, 0.75, (plane.num_images, 4, 2))
    path = shapes.curve_points(corners, 13)
    distance = shapes.path_distance(path, plane) - shapes.over_pixels(width)
    alpha = shapes.cover(distance, 0.02, plane)
    painter.paint(colours.BODY, alpha * shapes.over_pixels(is_there))


def _lines(rng: np.random.Generator, painter: Painter) -> None:
  """Paints thin lines from side to side over a texture, like vessels."""
  plane, num = painter.plane, painter.plane.num_images
  painter.background()
  for is_there in _some(rng, painter, 2, 6):
    angle = rng.uniform(0, 2 * np.pi, num)
    turn = angle + np.pi + rng.normal(0, 0.6, num)
    ends = np.stack([np.sin(angle), np.cos(angle)], axis=1) * 1.4
    others = np.stack([np.sin(turn), np.cos(turn)], axis=1) * 1.4
    middles = rng.normal(0, 0.4, (num, 2, 2))
    corners = np.stack([ends, middles[:, 0], middles[:, 1], others], axis=1)
    path = shapes.curve_points(corners, 9)
    width = shapes.over_pixels(shapes.uniform(rng, plane, 0.0, 0.05))
    alpha = shapes.cover(shapes.path_distance(path, plane) - width, 0.02, plane)
    strength = shapes.uniform(rng, plane, 0.5, 1.0) * is_there
    painter.paint(colours.BODY, alpha * shapes.over_pixels(strength))


def _polygons(rng: np.random.Generator, painter: Painter) -> None:
  plane, num = painter.plane, painter.plane.num_images
  painter.background()
  for is_there in _some(rng, painter, 1, 5):
    center = rng.uniform(-0.6, 0.6, (2, num))
    radius = shapes.uniform(rng, plane, 0.2, 0.7)
    num_sides = rng.integers(3, 7, num)
    distance = shapes.polygon_distance(
      rng, plane, (center[0], center[1]), radius, num_sides
    )
    level = painter.levels[:, colours.BODY] + rng.normal(0, 0.2, num)
    alpha = shapes.cover(distance, 0.02, plane)
    painter.paint(
      colours.BODY, alpha * shapes.over_pixels(is_there), 0.0, level
    )


def _layers(rng: np.random.Generator, painter: Painter) -> None:
  """Paints nested ellipses, like slices through a body, perhaps with a lump."""
  plane, num = painter.plane, painter.plane.num_images
  painter.background()
  radius = shapes.uniform(rng, plane, 0.7, 0.98)
  middle = rng.normal(0, 0.05, (2, num))
  for k, is_there in enumerate(_some(rng, painter, 2, 6)):
    y, x = middle + rng.normal(0, 0.04, (2, num))
    ellipse = shapes.Ellipse(
      center_y=y, center_x=x, radius=radius, wobble=0.05 + 0.05 * k
    )
    alpha = shapes.cover(ellipse.distance(rng, plane), 0.02, plane)
    strength = shapes.over_pixels(shapes.uniform(rng, plane, 0, 0.1))
    texture = strength * shapes.noise(rng, plane, 1.8)
    level = rng.random(num)
    painter.paint(
      colours.BODY, alpha * shapes.over_pixels(is_there), texture, level
    )
    radius = radius * shapes.uniform(rng, plane, 0.55, 0.93)
  y, x = rng.uniform(-0.45, 0.45, (2, num))
  lump = shapes.Ellipse(
    center_y=y, center_x=x, radius=shapes.uniform(rng, plane, 0.1, 0.28)
  )
  alpha = shapes.cover(lump.distance(rng, plane), 0.03, plane)
  has_lump = rng.random(num) < 0.5
  painter.paint(colours.DETAIL, alpha * shapes.over_pixels(has_lump))


def _nuclei(rng: np.random.Generator, painter: Painter) -> None:
  _tissue(rng, painter, 4, 14, (0.08, 0.2))


def _crowded_nuclei(rng: np.random.Generator, painter: Painter) -> None:
  _tissue(rng, painter, 18, 32, (0.08, 0.18))


def _tissue(
  rng: np.random.Generator,
  painter: Painter,
  fewest: int,
  most: int,
  radius: tuple[float, float],
) -> None:
  """Paints nuclei scattered over a texture."""
  plane = painter.plane
  _stroma(rng, painter)
  for is_there in _some(rng, painter, fewest, most):
    y, x = rng.uniform(-1.1, 1.1, (2, plane.num_images))
    _paint_nucleus(rng, painter, (y, x), radius, is_there)


def _glands(rng: np.random.Generator, painter: Painter) -> None:
  """Paints nuclei around a hollow, like a section through a gland."""
  plane, num = painter.plane, painter.plane.num_images
  _stroma(rng, painter)
  middle_y, middle_x = rng.normal(0, 0.3, (2, num))
  around = shapes.uniform(rng, plane, 0.35, 0.85)
  hollow = shapes.Ellipse(
    center_y=middle_y,
    center_x=middle_x,
    radius=around * shapes.uniform(rng, plane, 0.5, 0.8),
    wobble=0.15,
  )
  alpha = shapes.cover(hollow.distance(rng, plane), 0.04, plane)
  painter.paint(colours.BACKGROUND, alpha)
  number = rng.integers(8, 19, num)
  for k in range(18):
    angle = 2 * np.pi * k / number + rng.normal(0, 0.1, num)
    away = around * rng.uniform(0.9, 1.15, num)
    place = middle_y + away * np.sin(angle), middle_x + away * np.cos(angle)
    _paint_nucleus(rng, painter, place, (0.07, 0.16), k < number)


def _stroma(rng: np.random.Generator, painter: Painter) -> None:
  """Paints the texture between nuclei, from background to body."""
  plane = painter.plane
  texture = shapes.noise(
    rng,
    plane,
    shapes.uniform(rng, plane, 1, 2),
    shapes.uniform(rng, plane, 1, 3),
  )
  painter.paint(colours.BACKGROUND, 1.0)
  painter.paint(colours.BODY, np.clip(0.5 + 0.25 * texture, 0, 1))


def _paint_nucleus(
  rng: np.random.Generator,
  painter: Painter,
  center: tuple[np.ndarray, np.ndarray],
  radius: tuple[float, float],
  is_there: np.ndarray | float,
) -> None:
  plane = painter.plane
  nucleus = shapes.Ellipse(
    center_y=center[0],
    center_x=center[1],
    radius=shapes.uniform(rng, plane, *radius),
    eccentricity=0.6,
    wobble=0.0,
  )
  alpha = shapes.cover(nucleus.distance(rng, plane), 0.03, plane)
  strength = shapes.uniform(rng, plane, 0.6, 1.0) * is_there
  painter.paint(colours.DETAIL, alpha * shapes.over_pixels(strength))


def _some(
  rng: np.random.Generator, painter: Painter, fewest: int, end: int
) -> list[np.ndarray]:
  """Draws how often a shape occurs in each image, `fewest` to `end` - 1 times.

  Returns:
    For each possible occurrence, bool[M], the images in which it is present.
  """
  number = rng.integers(fewest, end, painter.plane.num_images)
  return [k < number for k in range(end - 1)]


FAMILIES: dict[str, Family] = {
  'clouds': _clouds,
  'grain': _grain,
  'fibres': _fibres,
  'grating': _grating,
  'weave': _weave,
  'stripes': _stripes,
  'blobs': _blobs,
  'disc': _disc,
  'spotted_disc': _spotted_disc,
  'speckled_disc': _speckled_disc,
  'nucleated_disc': _nucleated_disc,
  'touching_discs': _touching_discs,
  'rings': _rings,
  'strokes': _strokes,
  'lines': _lines,
  'polygons': _polygons,
  'layers': _layers,
  'nuclei': _nuclei,
  'crowded_nuclei': _crowded_nuclei,
  'glands': _glands,
}
