"""Tests of dp_diffusion.data.handprint."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from dp_diffusion.data import handprint


def _bitmaps(num=20, side=32, density=0.3, seed=0):
  return np.random.default_rng(seed).random((num, side, side)) < density


def _naive_stretch(bitmap):
  rows, columns = np.nonzero(bitmap)
  top, left = rows.min(), columns.min()
  height, width = rows.max() + 1 - top, columns.max() + 1 - left
  out = np.zeros((32, 32), bool)
  for i in range(32):
    for j in range(20):
      row = top + int(height * (i + 0.5) / 32)
      out[i, 6 + j] = bitmap[row, left + int(width * (j + 0.5) / 20)]
  return out


def _naive_remove_slant(bitmap):
  rows = np.flatnonzero(bitmap.any(axis=1))
  if not len(rows):
    return bitmap
  top, bottom = rows[0] + 2, rows[-1] - 2
  if bottom <= top or not bitmap[top].any() or not bitmap[bottom].any():
    return bitmap
  lean = np.flatnonzero(bitmap[top])[0] - np.flatnonzero(bitmap[bottom])[0]
  out = np.zeros_like(bitmap)
  for row in range(32):
    shift = round((row - 16) * lean / (bottom - top))
    for column in np.flatnonzero(bitmap[row]):
      if 0 <= column + shift < 32:
        out[row, column + shift] = True
  return out


def test_boxes_are_stretched_to_20_by_32():
  bitmaps = np.zeros((30, 50, 40), bool)
  rng = np.random.default_rng(0)
  for bitmap in bitmaps:
    top, left = rng.integers(0, 20, 2)
    height, width = rng.integers(1, 20, 2)
    bitmap[top : top + height, left : left + width] = True
    bitmap &= rng.random(bitmap.shape) < 0.5
    bitmap[top, left] = True
  found = handprint.stretch_boxes(bitmaps)
  np.testing.assert_array_equal(found, [_naive_stretch(b) for b in bitmaps])
  assert not found[:, :, :6].any() and not found[:, :, 26:].any()


def test_thin_and_thicken_are_morphology_with_4_neighbours():
  bitmaps = _bitmaps(density=0.8)
  for bitmap, thin, thick in zip(
    bitmaps, handprint.thin(bitmaps), handprint.thicken(bitmaps)
  ):
    np.testing.assert_array_equal(thin, ndimage.binary_erosion(bitmap))
    np.testing.assert_array_equal(thick, ndimage.binary_dilation(bitmap))


@pytest.mark.parametrize(
  'ink, expected',
  [
    (107, 'thicken twice'),
    (108, 'thicken'),
    (255, 'thicken'),
    (256, 'keep'),
    (412, 'keep'),
    (413, 'thin'),
    (560, 'thin'),
    (561, 'thin twice'),
  ],
)
def test_strokes_change_at_the_documented_amounts_of_ink(ink, expected):
  bitmap = np.zeros((1, 32 * 32), bool)
  bitmap[0, :ink] = True
  bitmap = bitmap.reshape(1, 32, 32)
  what, _, twice = expected.partition(' ')
  change = {
    'keep': lambda b: b,
    'thin': handprint.thin,
    'thicken': handprint.thicken,
  }[what]
  oracle = change(change(bitmap)) if twice else change(bitmap)
  found = handprint.normalize_strokes(bitmap)
  np.testing.assert_array_equal(found, oracle)


def test_slant_is_removed_as_row_by_row():
  sparse = _bitmaps(40, density=0.03)
  bars = np.zeros((2, 32, 32), bool)
  for row in range(32):
    bars[0, row, 5 + row // 2 : 8 + row // 2] = True  # Leans left.
  bars[1, 10] = True  # Too flat to measure.
  bitmaps = np.concatenate([sparse, bars])
  found = handprint.remove_slant(bitmaps)
  oracle = [_naive_remove_slant(bitmap) for bitmap in bitmaps]
  np.testing.assert_array_equal(found, oracle)


def test_a_leaning_bar_becomes_upright():
  bar = np.zeros((1, 32, 32), bool)
  for row in range(32):
    bar[0, row, 20 - row // 3 : 24 - row // 3] = True
  columns = np.flatnonzero(handprint.remove_slant(bar)[0].any(axis=0))
  assert len(columns) <= 6
  assert len(np.flatnonzero(bar[0].any(axis=0))) == 14


def test_counts_are_of_blocks_of_16_pixels():
  bitmaps = _bitmaps()
  oracle = [
    [
      [bitmap[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].sum() for j in range(8)]
      for i in range(8)
    ]
    for bitmap in bitmaps
  ]
  found = handprint.block_counts(bitmaps)
  np.testing.assert_array_equal(found, oracle)
  assert found.dtype == np.uint8
  assert np.all(handprint.block_counts(np.ones((1, 32, 32), bool)) == 16)


@pytest.mark.parametrize('radii', [(1.0, 1.0), (3.7, 2.2), (2.0, 5.9)])
def test_a_pen_is_a_filled_ellipse(radii):
  bitmaps = _bitmaps(density=0.01)
  radius_x, radius_y = radii
  dy, dx = np.mgrid[-6:7, -6:7]
  pen = (dx / radius_x) ** 2 + (dy / radius_y) ** 2 <= 1 + 1e-9
  found = handprint.draw_with_pen(bitmaps, radius_x, radius_y)
  oracle = [ndimage.binary_dilation(bitmap, pen) for bitmap in bitmaps]
  np.testing.assert_array_equal(found, oracle)
