"""Tests of dp_diffusion.data.rendered_colours."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion.data import rendered_colours as colours
from dp_diffusion.data import rendered_shapes as shapes


def _painter(channels=1, num_images=60, size=8):
  plane = shapes.Plane(num_images=num_images, size=size)
  return colours.Painter(np.random.default_rng(0), plane, channels)


def test_levels_differ_enough_to_be_seen():
  levels = colours.levels(np.random.default_rng(0), 10_000)
  assert levels.min() >= 0 and levels.max() <= 1
  background, body, detail, other = levels.T
  assert np.abs(background - body).min() > 0.2499
  assert np.abs(detail - body).min() > 0.1199
  assert np.abs(other - body).min() > 0.1199
  # Both polarities, about equally often.
  for upper, lower in ((background, body), (body, detail)):
    assert 0.4 < np.mean(upper > lower) < 0.6


def test_grey_levels_are_pixels():
  painter = _painter()
  painter.paint(colours.BODY, 1.0)
  images = painter.finish()[..., 0] / 255
  gap = images.mean(axis=(1, 2)) - painter.levels[:, colours.BODY]
  assert np.abs(gap).max() < 0.03  # Of the noise, and of what is cut off.


def test_a_layer_covers_as_its_alpha_says():
  painter = _painter()
  painter.paint(colours.BACKGROUND, 1.0)
  alpha = np.zeros((60, 8, 8), np.float32)
  alpha[:, :, 4:] = 0.5
  painter.paint(colours.BODY, alpha)
  images = painter.finish()[..., 0] / 255
  background, body = painter.levels[:, :2].T
  np.testing.assert_allclose(
    images[:, :, :2].mean((1, 2)), background, atol=0.04
  )
  mixed = 0.5 * (background + body)
  np.testing.assert_allclose(images[:, :, 6:].mean((1, 2)), mixed, atol=0.04)


@pytest.mark.parametrize('channels', [1, 3])
def test_flat_backgrounds_are_black_or_white_without_noise(channels):
  painter = _painter(channels)
  painter.background()
  images = painter.finish()
  is_flat = (images == images[:, :1, :1, :1]).all(axis=(1, 2, 3))
  assert 0.15 < is_flat.mean() < 0.5
  assert set(np.unique(images[is_flat])) == {0, 255}


def test_colours_lie_off_grey_by_the_way_they_were_chosen():
  painter = _painter(channels=3, num_images=400)
  painter.paint(colours.BODY, 1.0)
  means = painter.finish().mean(axis=(1, 2))
  spread = means.max(axis=1) - means.min(axis=1)
  assert 0.1 < np.mean(spread < 3) < 0.35  # Grey ones.
  assert np.mean(spread > 30) > 0.4
