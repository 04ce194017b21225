"""Grids of images: crisp, by class, the same bytes again."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dp_diffusion.evaluation.report import image_grids


def decode(png):
  return np.asarray(Image.open(io.BytesIO(png)))


def test_png_round_trip():
  rng = np.random.default_rng(0)
  for channels in (1, 3):
    image = rng.integers(0, 256, (5, 7, channels), np.uint8)
    found = decode(image_grids.png(image)).reshape(image.shape)
    np.testing.assert_array_equal(found, image)


def test_grid_places_each_class_in_its_row():
  # Brightness says the class; class 1 has one image, class 2 has none.
  labels = np.array([0, 1, 0, 0], np.int32)
  images = np.zeros((4, 8, 8, 1), np.uint8)
  images[labels == 0], images[labels == 1] = 100, 200
  grid = decode(
    image_grids.class_grid(
      images, labels, ('a', 'b', ''), per_class=2, with_names=False
    )
  )
  assert grid.shape == (3 * 52 + 4, 2 * 52 + 4, 3)
  centres = grid[28::52, 28::52, 0]
  blank = image_grids._NOTHING[0]
  np.testing.assert_array_equal(
    centres, [[100, 100], [200, blank], [blank, blank]]
  )
  assert np.all(grid[4:52, 4:52] == 100)  # Edges are sharp.


def test_white_images_do_not_run_into_the_gaps():
  white = np.full((4, 8, 8, 1), 255, np.uint8)
  labels = np.zeros(4, np.int32)
  for with_names in (True, False):
    grid = decode(
      image_grids.class_grid(
        white, labels, ('a',), per_class=2, with_names=with_names
      )
    )
    between = image_grids._BETWEEN
    assert max(between) < 200
    for gap in (grid[:4, -104:], grid[-4:, -104:], grid[:, -4:]):
      assert np.all(gap == between)
    assert np.all(grid[:, -56:-52] == between)  # Between the two tiles.
    assert np.all(grid[4:52, -52:-4] == 255)


def test_a_seed_picks_within_each_class():
  labels = np.repeat(np.arange(3, dtype=np.int32), 50)
  rows = image_grids.pick_per_class(labels, 3, 8, seed=1)
  again = image_grids.pick_per_class(labels, 3, 8, seed=1)
  other = image_grids.pick_per_class(labels, 3, 8, seed=2)
  for label, row in enumerate(rows):
    assert len(set(row)) == 8 and set(labels[row]) == {label}
    assert row.max() > 50 * label + 8  # Not the first by name.
    assert row.tolist() == again[label].tolist() != other[label].tolist()
  (few,) = image_grids.pick_per_class(labels[:3], 1, 8, seed=1)
  assert sorted(few) == [0, 1, 2]


def test_grid_of_many_classes_is_bounded():
  labels = np.arange(100, dtype=np.int32)
  images = np.zeros((100, 64, 64, 3), np.uint8)
  names = [f'a rather long name of class number {label}' for label in labels]
  grid = decode(image_grids.class_grid(images, labels, names, max_classes=5))
  assert grid.shape[0] == 5 * 68 + 4
  assert grid.shape[1] < 10 * 68 + 400


def test_equal_images_give_equal_bytes():
  labels = np.array([0, 1], np.int32)
  images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
  first = image_grids.class_grid(images, labels, ('é', '数'))
  assert first == image_grids.class_grid(images.copy(), labels, ('é', '数'))
