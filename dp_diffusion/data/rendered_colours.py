"""Chooses colours of rendered images, and paints shapes with them.

Every image has levels in [0, 1], from dark to light, for its background, its
body and its details. In a grey image a level is the value of a pixel. In a
colour image it is a point on the line from a dark to a light colour, and each
layer may lie off that line. Colours are grey, tints of two colours, those of
stains on tissue, or arbitrary.
"""

from __future__ import annotations

import numpy as np

from dp_diffusion.data import rendered_shapes as shapes

BACKGROUND, BODY, DETAIL, OTHER = range(4)
_NUM_LAYERS = 4
_MIN_CONTRAST = 0.25  # Smallest contrast of body and background.
_DETAIL_CONTRAST = (0.12, 0.5)  # Range of the contrast of details and body.
FLAT_SHARE = 0.3  # Backgrounds of one colour, black or white, without noise.
_MAX_NOISE = 0.03  # Largest std of the noise, as a share of the pixel range.
_BLURRED_SHARE = 0.5
# Shares of the ways to colour: grey, two-colour tint, stain, free.
_WAYS = (0.2, 0.35, 0.25, 0.2)
_GREY, _TINT, _STAIN, _FREE = range(4)
# Dark and light ends of stains: haematoxylin and eosin, Giemsa, brown on blue.
_STAINS = (
  ((0.28, 0.12, 0.42), (0.98, 0.90, 0.96)),
  ((0.42, 0.20, 0.50), (0.97, 0.92, 0.88)),
  ((0.35, 0.20, 0.15), (0.90, 0.93, 0.98)),
)


class Painter:
  """M images that are painted layer by layer.

  Attributes:
    plane: number of images and their size.
    levels: float64[M, 4], levels of background, body, detail and another
      detail.
  """

  def __init__(
    self, rng: np.random.Generator, plane: shapes.Plane, channels: int
  ) -> None:
    """Chooses all colours.

    Args:
      rng: source of random colours, noise and blur.
      plane: number of images and their size.
      channels: 1 or 3.
    """
    self.plane = plane
    self.levels = levels(rng, plane.num_images)
    self._rng = rng
    self._is_flat = np.zeros(plane.num_images, bool)
    self._dark, self._light, self._moved = _ends(rng, plane.num_images)
    if channels == 1:
      self._dark, self._light = np.zeros((2, plane.num_images, 1))
      self._light = self._light + 1
      self._moved = np.zeros((plane.num_images, _NUM_LAYERS, 1))
    shape = (plane.num_images, plane.size, plane.size)
    self._image = np.zeros((*shape, channels), np.float32)
    self._covered = np.zeros(shape, np.float32)

  def background(self, flat_share: float = FLAT_SHARE) -> None:
    """Fills the images with one colour, or with faint texture and gradient.

    Args:
      flat_share: of images whose background is black or white and has no noise.
    """
    num, rng, plane = self.plane.num_images, self._rng, self.plane
    self._is_flat = rng.random(num) < flat_share
    strength = shapes.uniform(rng, plane, 0, 0.05)
    texture = shapes.noise(rng, plane, shapes.uniform(rng, plane, 1.5, 2.5))
    slope = rng.normal(0, 0.04, (2, num))
    field = shapes.over_pixels(strength) * texture
    field += shapes.over_pixels(slope[0]) * plane.y
    field += shapes.over_pixels(slope[1]) * plane.x
    self.paint(BACKGROUND, 1.0, field)
    self._covered[:] = 0
    ends = np.round(self.levels[self._is_flat, BACKGROUND])
    self._image[self._is_flat] = ends[:, None, None, None]

  def paint(
    self,
    layer: int,
    alpha: np.ndarray | float,
    texture: np.ndarray | float = 0.0,
    level: np.ndarray | None = None,
  ) -> None:
    """Paints a layer over the images.

    Args:
      layer: the layer that gives level and colour, a constant of this module.
      alpha: float32[M, S, S] in [0, 1], share of each pixel that is covered.
      texture: float32[M, S, S], added to the level.
      level: float[M], replaces the level of the layer.
    """
    level = self.levels[:, layer] if level is None else level
    whole = shapes.over_pixels(level) + texture
    whole = np.broadcast_to(whole, self._covered.shape)
    alpha = np.broadcast_to(np.float32(alpha), self._covered.shape)
    for channel in range(self._image.shape[-1]):
      dark, light = self._dark[:, channel], self._light[:, channel]
      colour = shapes.over_pixels(light - dark) * whole
      colour += shapes.over_pixels(dark + self._moved[:, layer, channel])
      colour -= self._image[..., channel]
      self._image[..., channel] += alpha * colour
    np.maximum(self._covered, alpha, out=self._covered)

  def finish(self) -> np.ndarray:
    """Adds blur and noise; returns uint8[M, S, S, C]."""
    rng, num = self._rng, self.plane.num_images
    blur = rng.random(num) * (rng.random(num) < _BLURRED_SHARE)
    weight = blur.astype(np.float32)[:, None, None, None]
    image = self._image + weight * (_blurred(self._image) - self._image)
    std = rng.uniform(0, _MAX_NOISE, num).astype(np.float32)[
      :, None, None, None
    ]
    # A background of one colour stays without noise.
    where = np.where(self._is_flat[:, None, None], self._covered, 1)
    noise = rng.standard_normal(image.shape, np.float32)
    image += std * where[..., None] * noise
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def levels(rng: np.random.Generator, num_images: int) -> np.ndarray:
  """Draws levels that differ enough to be visible.

  Args:
    rng: source of random numbers.
    num_images: number of images M.

  Returns:
    float64[M, 4] in [0, 1], levels of background, body, detail and another
    detail.
  """
  background = rng.random(num_images)
  body = rng.random(num_images)
  gap = body - background
  sign = np.where(gap == 0, 1, np.sign(gap))
  is_near = np.abs(gap) < _MIN_CONTRAST
  body = np.where(is_near, background + sign * _MIN_CONTRAST, body)
  is_out = (body < 0) | (body > 1)
  body = np.where(is_out, background - sign * _MIN_CONTRAST, body)
  details = [_beside(rng, body) for _ in range(2)]
  return np.stack([background, body, *details], axis=1)


def _beside(rng: np.random.Generator, body: np.ndarray) -> np.ndarray:
  """Draws levels lighter or darker than the body's, in [0, 1]."""
  step = rng.uniform(*_DETAIL_CONTRAST, len(body))
  step *= rng.choice([-1, 1], len(body))
  is_out = (body + step < 0) | (body + step > 1)
  return np.clip(np.where(is_out, body - step, body + step), 0, 1)


def _ends(
  rng: np.random.Generator, num_images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws the colours of levels 0 and 1, and each layer's offset from the line.

  Returns:
    (float64[M, 3], float64[M, 3], float64[M, 4, 3]).
  """
  way = rng.choice(len(_WAYS), num_images, p=_WAYS)[:, None]
  dark = rng.random((num_images, 3)) * 0.5
  light = 1 - rng.random((num_images, 3)) * 0.5
  stains = np.array(_STAINS)[rng.integers(len(_STAINS), size=num_images)]
  stains = stains + rng.normal(0, 0.06, stains.shape)
  free = rng.uniform(-0.4, 0.4, (num_images, _NUM_LAYERS, 3))
  near = free * 0.25
  dark = np.select([way == _GREY, way == _STAIN], [0, stains[:, 0]], dark)
  light = np.select([way == _GREY, way == _STAIN], [1, stains[:, 1]], light)
  moved = np.select(
    [way[..., None] == _GREY, way[..., None] == _FREE], [0, free], near
  )
  return dark, light, moved


def _blurred(image: np.ndarray) -> np.ndarray:
  """Blurs with weights 1 2 1 in rows and columns; the border is repeated."""
  out = image
  for axis in (1, 2):
    pad = [(1, 1) if a == axis else (0, 0) for a in range(image.ndim)]
    wide = np.pad(out, pad, mode='edge')
    size = image.shape[axis]
    before, middle, after = (
      wide.take(range(k, k + size), axis=axis) for k in range(3)
    )
    out = 0.25 * before + 0.5 * middle + 0.25 * after
  return out
