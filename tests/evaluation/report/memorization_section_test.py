"""Copies are said to be copies, and no training image is on the page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from dp_diffusion.evaluation.metrics import memorization
from dp_diffusion.evaluation.report import charts
from dp_diffusion.evaluation.report import memorization_section
from dp_diffusion.evaluation.report import page


def make_images(num, seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)


def look(synthetic, shared=None):
  train, held_out = make_images(80, 0), make_images(60, 1)
  if shared is not None:
    train[0] = held_out[0] = shared
  found = memorization.compare(synthetic, train, held_out, space='pixels')
  real = memorization.compare_real(train, held_out, space='pixels')
  section = memorization_section.section(
    found, real, (4, 4, 1), 'private/closest_pairs.png'
  )
  sections = [page.Section('', ()), section]
  return found, section, page.render('n', 'e', 't', 'l', sections)


def test_fresh_images_are_no_copies():
  found, section, html = look(make_images(50, 2))
  assert not found.is_copying and 'No copying is found' in html
  assert section.data['memorization']['synthetic'] == found.to_dict()
  assert section.data['memorization']['real']['num_synthetic'] == 30


def test_pale_images_are_said_to_be_near_everything():
  pale = make_images(50, 2) // 2 + 64
  found, _, html = look(pale.astype(np.uint8))
  assert found.c_t < -3 and not found.is_copying
  assert 'No copying is found' in html
  assert 'blur does that' in html
  assert 'blur does that' not in look(make_images(50, 2))[2]


def test_two_exact_copies_among_fresh_images_are_named():
  fresh = make_images(50, 2)
  fresh[:2] = make_images(80, 0)[:2]  # Of the training images.
  found, _, html = look(fresh)
  assert found.closer_to_train.z < 3 and found.is_copying
  assert 'Copying is found' in html and 'No copying' not in html
  assert '2 of the synthetic images equal a training image' in html


def test_copies_are_found_and_drawn_elsewhere():
  train = make_images(80, 0)
  found, _, html = look(train[:50])
  assert found.is_copying and '<strong>Copying is found.</strong>' in html
  assert 'private/closest_pairs.png' in html
  assert html.count('<img') == 1  # The distances.
  assert 'data:image/svg+xml' in html and 'data:image/png' not in html
  picture = memorization_section.closest_pairs(found, train[:50], train)
  pixels = np.asarray(Image.open(io.BytesIO(picture)).convert('L'))
  rows = np.array_split(pixels[:, 200:], 2)
  height = min(map(len, rows))
  # Each synthetic image stands above an equal one.
  np.testing.assert_array_equal(rows[0][4:height], rows[1][2 : height - 2])


def test_distances_are_root_mean_squares_over_pixel_values(monkeypatch):
  """Colours and pixels count alike: an image that is 3 away is at 3."""
  train = np.full((40, 2, 4, 3), 100, np.uint8)
  drawn = {}
  monkeypatch.setattr(
    charts, 'histograms', lambda values, *_: drawn.update(values) or b'<svg>'
  )
  found = memorization.compare(train[:30] + 3, train, train + 5, space='pixels')
  memorization_section.section(found, None, (2, 4, 3), 'pairs.png')
  for values, expected in zip(drawn.values(), (3, 2, 5), strict=True):
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_charts_are_the_same_each_time():
  assert look(make_images(50, 2))[2] == look(make_images(50, 2))[2]


def test_no_verdict_of_no_copying_beside_equal_images():
  fresh = make_images(50, 2)
  fresh[3] = image = make_images(1, 9)[0]
  _, _, html = look(fresh, image)  # Trained on and held out.
  assert 'Copying is found' in html and 'No copying' not in html
  assert 'number 3, counted from 0' in html
  fresh[3] = 255
  found, _, html = look(fresh, np.full_like(image, 255))
  assert not found.is_copying and 'opying is found' not in html
  assert 'Equal images are found, all of them blank' in html
