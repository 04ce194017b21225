"""Draws pictures for the release and the report as PNG files.

Small images are enlarged by whole pixels, without blur. Equal images give equal
bytes: a file holds neither a date nor a version.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import io
import os

import matplotlib
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

_MIN_TILE = 48  # Smallest length of a tile's longer side, in pixels.
_GAP = 4  # Pixels between tiles.
_FONT_SIZE = 20
_MAX_NAME = 24  # Letters of a class name in the margin.
_INK = (32, 36, 44)
_PAPER = (255, 255, 255)
_BETWEEN = (178, 184, 193)  # Colour between tiles; images may be white.
_NOTHING = (238, 240, 243)  # Colour of a tile for which there is no image.


def png(image: np.ndarray) -> bytes:
  """Encodes uint8[H, W, C], C = 1 or 3, as a PNG file."""
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  buffer = io.BytesIO()
  Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, 'PNG')
  return buffer.getvalue()


def pick_per_class(
  labels: np.ndarray, num_classes: int, per_class: int, seed: int | None = None
) -> list[np.ndarray]:
  """Chooses images of each class.

  Args:
    labels: int32[N].
    num_classes: number of classes.
    per_class: largest number of images per class.
    seed: seed of a random choice within each class. None takes the first
      images, which may look alike if they are in the order of file names.

  Returns:
    Indices int64[<= per_class] for each class.
  """
  rows = [np.flatnonzero(labels == label) for label in range(num_classes)]
  if seed is not None:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(row) for row in rows]
  return [row[:per_class] for row in rows]


def class_grid(
  images: np.ndarray,
  labels: np.ndarray,
  class_names: Sequence[str],
  *,
  per_class: int = 10,
  max_classes: int = 40,
  with_names: bool = True,
  seed: int | None = None,
) -> bytes:
  """Draws a row of images for each class, with its name in the margin.

  Args:
    images: uint8[N, H, W, C], C = 1 or 3; may be memory-mapped.
    labels: int32[N] in [0, len(class_names)).
    class_names: one per label; a name may be empty.
    per_class: images in a row; a class with fewer images has grey squares.
    max_classes: largest number of rows; the first classes are shown.
    with_names: whether there is a margin with names.
    seed: see `pick_per_class`.

  Returns:
    A PNG file.
  """
  names = [_shorten(name) for name in class_names[:max_classes]]
  rows = pick_per_class(labels, len(names), per_class, seed)
  height, width = images.shape[1:3]
  scale = max(1, -(-_MIN_TILE // max(height, width)))
  height, width = height * scale, width * scale
  margin = _margin(names) if with_names else _GAP
  canvas = Image.new(
    'RGB',
    (
      margin + per_class * (width + _GAP),
      _GAP + len(names) * (height + _GAP),
    ),
    _PAPER,
  )
  draw = ImageDraw.Draw(canvas)
  grid = (margin - _GAP, 0, canvas.width - 1, canvas.height - 1)
  draw.rectangle(grid, fill=_BETWEEN)
  for row, (name, indices) in enumerate(zip(names, rows)):
    top = _GAP + row * (height + _GAP)
    if with_names:
      middle = (margin - 3 * _GAP, top + height // 2)
      draw.text(middle, name, fill=_INK, font=_font(), anchor='rm')
    for column in range(per_class):
      left = margin + column * (width + _GAP)
      if column < len(indices):
        tile = _tile(images[indices[column]], scale)
        canvas.paste(tile, (left, top))
      else:
        box = (left, top, left + width - 1, top + height - 1)
        draw.rectangle(box, fill=_NOTHING)
  buffer = io.BytesIO()
  canvas.save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


def _tile(image: np.ndarray, scale: int) -> Image.Image:
  """Enlarges uint8[H, W, C] by whole pixels."""
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  return Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))


def _shorten(name: str) -> str:
  return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + '…'


def _margin(names: Sequence[str]) -> int:
  """Returns the width in pixels of the longest name."""
  widest = max((_font().getlength(name) for name in names), default=0)
  return round(widest) + 6 * _GAP


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
  """Returns DejaVu Sans from matplotlib, the same on every machine."""
  path = os.path.join(
    matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'
  )
  return ImageFont.truetype(path, _FONT_SIZE)
