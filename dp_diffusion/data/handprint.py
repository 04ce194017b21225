"""Reduces bitmaps of characters to 8x8 counts of ink, as a form scanner does.

The UCI set of handwritten characters was prepared with the public programs
of NIST's form-based handprint recognition system (Garris et al., NISTIR 5469,
1994): a character's box is stretched to 20x32 pixels in the middle of 32x32,
its strokes are thinned or thickened if it has too much or too little ink, its
slant is removed, and ink is counted in blocks of 4x4. This module applies the
same steps to many bitmaps at once, so that rendered characters are processed as
the real ones were.

Bitmaps are bool[N, H, W], True where there is ink.
"""

from __future__ import annotations

import numpy as np

SIDE = 32
BOX_WIDTH = 20
BLOCK = 4
# Numbers of inked pixels of 32x32 below or above which strokes are changed.
_THICKEN_TWICE_BELOW = 108
_THICKEN_BELOW = 256
_THIN_ABOVE = 412
_THIN_TWICE_ABOVE = 560
_SKIPPED_ROWS = 2  # Rows at top and bottom that do not count for the slant.


def stretch_boxes(bitmaps: np.ndarray) -> np.ndarray:
  """Stretches each bounding box of ink to 20x32, nearest pixel, in 32x32.

  Args:
    bitmaps: bool[N, H, W], each with some ink.

  Returns:
    bool[N, 32, 32].
  """
  rows = _nearest(np.asarray(bitmaps.any(axis=2)), SIDE)
  columns = _nearest(np.asarray(bitmaps.any(axis=1)), BOX_WIDTH)
  out = np.zeros((len(bitmaps), SIDE, SIDE), bool)
  left = (SIDE - BOX_WIDTH) // 2
  which = np.arange(len(bitmaps))[:, None, None]
  out[:, :, left : left + BOX_WIDTH] = bitmaps[
    which, rows[:, :, None], columns[:, None, :]
  ]
  return out


def _nearest(has_ink: np.ndarray, size: int) -> np.ndarray:
  """Returns the source index of each of `size` pixels, int[N, size].

  The pixels are spread evenly over the extent of True in bool[N, L].
  """
  first = has_ink.argmax(axis=1)
  last = has_ink.shape[1] - has_ink[:, ::-1].argmax(axis=1)
  centers = (np.arange(size) + 0.5) / size
  return (first[:, None] + (last - first)[:, None] * centers).astype(int)


def normalize_strokes(bitmaps: np.ndarray) -> np.ndarray:
  """Thins heavy characters and thickens light ones, by one or two pixels.

  Args:
    bitmaps: bool[N, 32, 32].

  Returns:
    bool[N, 32, 32].
  """
  ink = bitmaps.sum(axis=(1, 2))
  out = bitmaps.copy()
  for is_chosen, change in (
    (ink > _THIN_ABOVE, thin),
    (ink > _THIN_TWICE_ABOVE, thin),
    (ink < _THICKEN_BELOW, thicken),
    (ink < _THICKEN_TWICE_BELOW, thicken),
  ):
    out[is_chosen] = change(out[is_chosen])
  return out


def thicken(bitmaps: np.ndarray) -> np.ndarray:
  """Inks each pixel of bool[N, H, W] with ink among its 4 neighbours."""
  out = bitmaps.copy()
  out[:, 1:] |= bitmaps[:, :-1]
  out[:, :-1] |= bitmaps[:, 1:]
  out[:, :, 1:] |= bitmaps[:, :, :-1]
  out[:, :, :-1] |= bitmaps[:, :, 1:]
  return out


def thin(bitmaps: np.ndarray) -> np.ndarray:
  """Clears each pixel of bool[N, H, W] with a blank among its 4 neighbours."""
  blank = np.pad(~bitmaps, ((0, 0), (1, 1), (1, 1)), constant_values=True)
  return ~thicken(blank)[:, 1:-1, 1:-1]


def remove_slant(bitmaps: np.ndarray) -> np.ndarray:
  """Shifts rows so that the left edge near top and bottom is upright.

  Args:
    bitmaps: bool[N, H, W]. Rows are shifted by whole pixels around the middle
      row, and ink that leaves the image is lost.

  Returns:
    bool[N, H, W].
  """
  num, height, width = bitmaps.shape
  has_ink = np.asarray(bitmaps.any(axis=2))
  top = has_ink.argmax(axis=1) + _SKIPPED_ROWS
  bottom = height - 1 - has_ink[:, ::-1].argmax(axis=1) - _SKIPPED_ROWS
  which = np.arange(num)
  left = bitmaps.argmax(axis=2)
  is_measured = bottom - top >= 1
  top, bottom = np.clip(top, 0, height - 1), np.clip(bottom, 0, height - 1)
  is_measured &= has_ink[which, top] & has_ink[which, bottom]
  lean = left[which, top] - left[which, bottom]
  factor = np.where(is_measured, lean / np.maximum(bottom - top, 1), 0.0)
  rows = np.arange(height) - height // 2
  shift = np.round(factor[:, None] * rows[None]).astype(int)
  source = np.arange(width)[None, None] - shift[:, :, None]
  is_inside = (source >= 0) & (source < width)
  moved = np.take_along_axis(bitmaps, np.clip(source, 0, width - 1), axis=2)
  return moved & is_inside


def block_counts(bitmaps: np.ndarray) -> np.ndarray:
  """Counts ink in 4x4 blocks: bool[N, 32, 32] to uint8[N, 8, 8] in [0, 16]."""
  side = SIDE // BLOCK
  blocks = bitmaps.reshape(-1, side, BLOCK, side, BLOCK)
  return blocks.sum(axis=(2, 4), dtype=np.uint8)


def draw_with_pen(
  bitmaps: np.ndarray, radius_x: float, radius_y: float
) -> np.ndarray:
  """Dilates ink by a filled ellipse, as if a pen followed the thin lines.

  Args:
    bitmaps: bool[N, H, W].
    radius_x: half the pen's width in pixels, >= 0.
    radius_y: half the pen's height in pixels, >= 0.

  Returns:
    bool[N, H, W].
  """
  out = np.zeros_like(bitmaps)
  runs = [bitmaps]  # runs[w] is dilated by w pixels to the left and right.
  for width in range(1, int(radius_x) + 1):
    run = runs[-1].copy()
    run[:, :, width:] |= bitmaps[:, :, :-width]
    run[:, :, :-width] |= bitmaps[:, :, width:]
    runs.append(run)
  height = bitmaps.shape[1]
  for dy in range(-int(radius_y), int(radius_y) + 1):
    reach = radius_x * np.sqrt(1 - (dy / radius_y) ** 2) if dy else radius_x
    run = runs[int(reach)]
    out[:, max(0, dy) : height + min(0, dy)] |= run[
      :, max(0, -dy) : height + min(0, -dy)
    ]
  return out


def scan(bitmaps: np.ndarray, is_straightened: np.ndarray) -> np.ndarray:
  """Applies all steps from ink on a form to counts.

  Args:
    bitmaps: bool[N, H, W], each with some ink.
    is_straightened: bool[N], whether the slant of the bitmap is removed.

  Returns:
    uint8[N, 8, 8] in [0, 16].
  """
  normal = normalize_strokes(stretch_boxes(bitmaps))
  normal[is_straightened] = remove_slant(normal[is_straightened])
  return block_counts(normal)
