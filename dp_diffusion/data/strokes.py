"""Draws variations of characters, given as pen strokes or as glyphs of fonts.

A shape is drawn many times. Each time its points are moved, bent by a smooth
field, stretched, slanted, rotated and drawn with another pen, as handwriting
varies. The results are bitmaps, which `handprint` scans.
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from scipy import interpolate
from scipy import ndimage

from dp_diffusion.data import handprint

CANVAS = 96  # Height and width of a bitmap, in pixels.
MAX_WIDTH = 72.0
_POINTS_PER_UNIT = 120  # Points of a stroke per height of the box.
_FONT_PIXELS = 88  # Height at which a font's glyph becomes points.
_NUM_PENS = 24
# Variation of handwriting, in units of half the box, in radians or as a ratio.
_WRITER_JITTER = 0.01  # The mean over writers is 4 times this.
# Standard deviations of the terms xy, xx, yy, xxy, xyy, yyy.
_BEND_STDS = np.array([0.10, 0.07, 0.10, 0.05, 0.08, 0.05], np.float32)
_WAVE_STD = 0.06
_WAVE_FREQUENCY_STD = 1.8
_ASPECT_STD = 0.25
_SLANT_MEAN, _SLANT_STD = 0.1, 0.22
_ANGLE_STD = 0.1
_PEN_SHARE, _PEN_SHARE_STD = 0.10, 0.35  # Stroke width over height.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """One way to write a character.

  Attributes:
    weight: how often the shape is chosen, relative to others.
    controls: float64[M, 2], control points (x, y) in the unit box; y points
      down.
    basis: float64[P, M], which maps the controls to points; None if the
      controls are the points.
    aspect: typical ratio of width to height.
  """

  weight: float
  controls: np.ndarray
  basis: np.ndarray | None
  aspect: float

  @property
  def is_font(self) -> bool:
    """Whether it is a glyph of a font, whose lines have a width."""
    return self.basis is None


def from_text(text: str, weight: float, aspect: float) -> Shape:
  """Parses strokes, whose points are given in percent of the box.

  Args:
    text: 'x,y x,y ... / x,y ...', where '/' separates strokes. A stroke is a
      smooth curve through its points, so it ends at a corner. A point that
      occurs twice is one control point, so the strokes stay joined there.
    weight: see `Shape`.
    aspect: see `Shape`.

  Returns:
    The shape.

  >>> from_text('0,0 100,0 / 100,0 40,100', weight=1, aspect=0.6).controls
  array([[0. , 0. ],
         [1. , 0. ],
         [0.4, 1. ]])
  """
  strokes = [
    [tuple(int(c) / 100 for c in point.split(',')) for point in stroke.split()]
    for stroke in text.split('/')
  ]
  controls = list(dict.fromkeys(p for stroke in strokes for p in stroke))
  bases = []
  for stroke in strokes:
    columns = np.eye(len(controls))[[controls.index(p) for p in stroke]]
    bases.append(_spline_basis(np.array(stroke)) @ columns)
  return Shape(
    weight=weight,
    controls=np.array(controls),
    basis=np.concatenate(bases),
    aspect=aspect,
  )


def _spline_basis(points: np.ndarray) -> np.ndarray:
  """Returns float64[P, M], which maps M points of a stroke to P along it."""
  knots = np.cumsum(np.hypot(*np.diff(points, axis=0, prepend=points[:1]).T))
  at = np.linspace(0, knots[-1], int(knots[-1] * _POINTS_PER_UNIT) + 2)
  eye: np.ndarray = np.eye(len(points))
  degree = min(3, len(points) - 1)
  if degree < 3:
    return interpolate.make_interp_spline(knots, eye, k=degree)(at)
  is_closed = np.array_equal(points[0], points[-1])
  if is_closed:
    eye[-1] = eye[0]
  ends = 'periodic' if is_closed else 'natural'
  return interpolate.CubicSpline(knots, eye, bc_type=ends)(at)


def from_font(path: pathlib.Path, character: str) -> list[Shape]:
  """Returns two shapes of a font's glyph: all of it, and its lines' core."""
  mask = _font_bitmap(path, character)
  depth = ndimage.distance_transform_edt(mask)
  deepest = ndimage.maximum_filter(depth, size=_FONT_PIXELS // 6)
  shapes = []
  for bitmap in (mask, mask & (depth >= 0.75 * deepest)):
    y, x = np.nonzero(bitmap)
    points = np.stack([x, y], axis=1)
    extent = np.maximum(np.ptp(points, axis=0), 1)
    shapes.append(
      Shape(
        weight=1.0,
        controls=(points - points.min(axis=0)) / extent,
        basis=None,
        aspect=extent[0] / extent[1],
      )
    )
  return shapes


def _font_bitmap(path: pathlib.Path, character: str) -> np.ndarray:
  """Draws one glyph, bool[H, W], about `_FONT_PIXELS` high, with a margin."""
  font = ImageFont.truetype(str(path), int(1.4 * _FONT_PIXELS))
  image = Image.new('L', (2 * _FONT_PIXELS, 2 * _FONT_PIXELS))
  corner = (_FONT_PIXELS // 4, 4)
  ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
  return np.asarray(image) > 127


def vary(
  shape: Shape, height: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Makes one variation of a shape for each height.

  Args:
    shape: a shape in the unit box.
    height: float64[B], height in pixels; it is reduced where the width would
      exceed MAX_WIDTH.
    rng: source of random numbers.

  Returns:
    float32[B, P, 2], (x, y) in pixels around the middle of the canvas.
  """
  num = len(height)
  points = np.broadcast_to(shape.controls, (num, *shape.controls.shape))
  if shape.basis is not None:
    care = rng.gamma(4.0, _WRITER_JITTER, size=(num, 1, 1))
    points = points + care * rng.normal(size=points.shape)
    points = np.einsum('pm,bmc->bpc', shape.basis, points)
  points = _bend(2 * points.astype(np.float32) - 1, rng)
  aspect = shape.aspect * np.exp(rng.normal(0, _ASPECT_STD, size=(num, 1)))
  slant = rng.normal(_SLANT_MEAN, _SLANT_STD, size=(num, 1))
  angle = rng.normal(0, _ANGLE_STD, size=(num, 1))
  y = points[..., 1]
  x = (points[..., 0] * aspect - slant * y).astype(np.float32)
  cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
  turned = np.stack([x * cos - y * sin, x * sin + y * cos], axis=-1)
  low, high = turned.min(axis=1), turned.max(axis=1)
  extent = np.maximum(high - low, 1e-6)
  scale = np.minimum(height / extent[:, 1], MAX_WIDTH / extent[:, 0])
  scale = scale.astype(np.float32)[:, None, None]
  return (turned - (low + high)[:, None] / 2) * scale + CANVAS / 2


def _bend(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Moves points in [-1, 1]^2 by a random field of cubic terms and waves."""
  x, y = points[..., 0], points[..., 1]
  num = len(points)
  xy, xx, yy = x * y, x * x, y * y
  terms = np.stack([xy, xx, yy, xx * y, x * yy, yy * y], axis=-1)
  weights = _normal(rng, (num, 6, 2)) * _BEND_STDS[:, None]
  moved = points + terms @ weights
  for _ in range(2):
    frequency = _normal(rng, (num, 2, 1)) * np.float32(_WAVE_FREQUENCY_STD)
    phase = rng.uniform(0, 2 * np.pi, size=(num, 1, 1)).astype(np.float32)
    size = _normal(rng, (num, 1, 2)) * np.float32(_WAVE_STD)
    moved = moved + np.sin(points @ frequency + phase) * size
  return moved


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return rng.standard_normal(shape, dtype=np.float32)


def scatter(canvas: np.ndarray, which: np.ndarray, points: np.ndarray) -> None:
  """Inks the pixels under points, in place.

  Args:
    canvas: bool[N, CANVAS, CANVAS].
    which: int[B], indices of the images to draw on.
    points: float[B, P, 2], (x, y) in pixels; a point outside is moved to the
      border.
  """
  pixel = np.clip(points.astype(int), 0, CANVAS - 1)
  canvas[which[:, None], pixel[..., 1], pixel[..., 0]] = True


def apply_pens(
  canvas: np.ndarray,
  height: np.ndarray,
  is_font: np.ndarray,
  rng: np.random.Generator,
) -> None:
  """Thickens the lines of every image with one of a few pens, in place.

  Args:
    canvas: bool[N, CANVAS, CANVAS].
    height: float64[N], height in pixels; the width of a pen is a share of it.
    is_font: bool[N], whether lines already have a width and need thinner pens.
    rng: source of random numbers.
  """
  size = rng.normal(np.log(_PEN_SHARE), _PEN_SHARE_STD, size=len(canvas))
  radius = np.clip(np.exp(size) * height / 2, 1.0, 7.0)
  radius = np.where(is_font, 0.6 * radius, radius)
  order = np.argsort(radius, kind='stable')
  for group in np.array_split(order, min(_NUM_PENS, len(order))):
    pen = max(1.0, float(radius[group].mean()))
    squeeze = float(np.exp(rng.normal(0, 0.12)))
    canvas[group] = handprint.draw_with_pen(
      canvas[group], pen * squeeze, pen / squeeze
    )
