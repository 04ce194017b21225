"""Tests of dp_diffusion.data.strokes."""

from __future__ import annotations

import pathlib

import matplotlib
import numpy as np
import pytest

from dp_diffusion.data import strokes


def _points(shape):
  return shape.controls if shape.basis is None else shape.basis @ shape.controls


def test_strokes_run_through_their_points_and_stay_joined():
  shape = strokes.from_text(
    '0,0 100,0 / 100,0 90,40 60,70 40,100', weight=2, aspect=0.6
  )
  assert shape.controls.shape == (5, 2)  # The corner is one point.
  points = _points(shape)
  for control in shape.controls:
    gap = np.hypot(*(points - control).T).min()
    assert gap < 0.01
  steps = np.hypot(*np.diff(points, axis=0).T)
  assert steps.max() < 0.02  # No gap at the corner either.


def test_a_closed_stroke_has_no_corner():
  circle = [
    (50 + 50 * np.sin(t), 50 - 50 * np.cos(t))
    for t in np.linspace(0, 2 * np.pi, 9)
  ]
  text = ' '.join(f'{round(x)},{round(y)}' for x, y in circle)
  shape = strokes.from_text(text, weight=1, aspect=1)
  assert len(shape.controls) == 8
  radius = np.hypot(*(_points(shape) - 0.5).T)
  assert np.all(np.abs(radius - 0.5) < 0.01)


def test_a_moved_point_moves_only_what_is_near():
  shape = strokes.from_text('0,0 100,0 / 100,0 40,100', weight=1, aspect=1)
  moved = shape.controls.copy()
  moved[2] += 0.3
  change = np.abs(shape.basis @ moved - _points(shape)).max(axis=1)
  is_first = np.abs(_points(shape)[:, 1]) < 1e-9
  assert np.all(change[is_first] < 1e-9)
  assert change.max() == pytest.approx(0.3)


def test_a_font_gives_its_glyph_and_a_thinner_core():
  path = pathlib.Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')
  full, core = strokes.from_font(path, 'L')
  assert full.is_font and core.is_font
  for shape in (full, core):
    np.testing.assert_allclose(shape.controls.min(axis=0), 0)
    np.testing.assert_allclose(shape.controls.max(axis=0), 1)
  # The upper right of an L is blank, its left and bottom are not.
  x, y = full.controls.T
  assert not np.any((x > 0.5) & (y < 0.5))
  assert np.any(x < 0.1) and np.any(y > 0.9)
  assert len(core.controls) < 0.6 * len(full.controls)


def test_variations_keep_height_and_stay_on_the_canvas():
  shape = strokes.from_text('0,0 100,50 0,100', weight=1, aspect=0.4)
  height = np.linspace(30, 66, 200)
  points = strokes.vary(shape, height, np.random.default_rng(0))
  extent = np.ptp(points, axis=1)
  assert np.all(extent[:, 1] < height + 0.01)
  assert np.mean(np.isclose(extent[:, 1], height, atol=0.01)) > 0.9
  assert np.all(extent[:, 0] < strokes.MAX_WIDTH + 0.01)
  middle = (points.min(axis=1) + points.max(axis=1)) / 2
  np.testing.assert_allclose(middle, strokes.CANVAS / 2, atol=0.01)


def test_variations_differ_and_follow_the_seed():
  shape = strokes.from_text('0,0 100,50 0,100', weight=1, aspect=0.4)
  first, again, other = (
    strokes.vary(shape, np.full(3, 50.0), np.random.default_rng(seed))
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1
  assert np.abs(first[0] - first[1]).max() > 1


def test_scatter_inks_the_pixel_under_each_point():
  canvas = np.zeros((3, strokes.CANVAS, strokes.CANVAS), bool)
  points = np.array([[[10.7, 20.2], [-5.0, 500.0]]])
  strokes.scatter(canvas, np.array([1]), points)
  assert canvas.sum() == 2
  assert canvas[1, 20, 10] and canvas[1, strokes.CANVAS - 1, 0]


def test_pens_are_wider_on_higher_characters():
  canvas = np.zeros((400, strokes.CANVAS, strokes.CANVAS), bool)
  canvas[:, 20:70, 48] = True
  height = np.repeat([36.0, 66.0], 200)
  strokes.apply_pens(
    canvas, height, np.zeros(400, bool), np.random.default_rng(0)
  )
  widths = canvas[:, 45].sum(axis=1)
  ratio = widths[200:].mean() / widths[:200].mean()
  assert 1.4 < ratio < 2.1
