"""Synthetic and real images are measured alike, at equal numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.metrics import quality

SHAPE = (2, 2, 1)


def make_features(rng, num, mean=0.0):
  return (rng.normal(size=(num, 4)) + mean).astype(np.float32)


def compare(reference, held_out, synthetic, **kwargs):
  return quality.compare(
    features.pixels(SHAPE),
    reference,
    held_out,
    synthetic,
    reference_name='digits train',
    **kwargs,
  )


@pytest.mark.parametrize('num_synthetic', [50, 90])
def test_real_stands_beside_synthetic(num_synthetic):
  rng = np.random.default_rng(0)
  result = compare(
    make_features(rng, 200),
    make_features(rng, 60),
    make_features(rng, num_synthetic, mean=2.0),
  )
  number = min(num_synthetic, 60)
  for part, num in (
    (result.synthetic, num_synthetic),
    (result.synthetic_at_equal_number, number),
    (result.real, number),
  ):
    assert part.frechet.num_synthetic == num
    assert part.kernel.num_synthetic == num
    assert part.precision_recall.num_synthetic == num
    assert part.frechet.reference == 'digits train'
  fake, real = result.synthetic_at_equal_number, result.real
  assert fake.frechet.value > 5 * real.frechet.value
  assert fake.kernel.value > 5 * abs(real.kernel.value)
  assert fake.precision_recall.precision < real.precision_recall.precision


@pytest.mark.parametrize('num_synthetic', [50, 60, 90])
def test_progress_adds_up_to_what_was_said(num_synthetic):
  rng = np.random.default_rng(0)
  told: list[int] = []
  compare(
    make_features(rng, 70),
    make_features(rng, 60),
    make_features(rng, num_synthetic),
    advance=told.append,
  )
  assert sum(told) == quality.num_queries(70, 60, num_synthetic)


def test_is_json_and_names_the_features():
  rng = np.random.default_rng(0)
  sets = [make_features(rng, 40) for _ in range(3)]
  stored = json.loads(json.dumps(compare(*sets).to_dict(), allow_nan=False))
  parts = {'synthetic', 'synthetic_at_equal_number', 'real'}
  assert set(stored) == {'features'} | parts
  assert stored['real']['frechet']['name'] == (
    'Frechet distance (pixels features)'
  )
  assert stored['features'] == {
    'name': 'pixels',
    'num_features': 4,
    'num_live': 4,
    'network': None,
    'noise': None,
  }


@pytest.mark.parametrize('num_held_out', [22, 25])  # Of 25 features.
def test_too_few_images_for_a_covariance_leave_out_that_distance_alone(
  num_held_out,
):
  rng = np.random.default_rng(0)
  wide = features.pixels((5, 5, 1))
  sets = [rng.normal(size=(n, 25)) for n in (40, num_held_out, 60)]
  result = quality.compare(wide, *sets, reference_name='digits train')
  assert result.synthetic.frechet and not result.real.frechet
  assert not result.synthetic_at_equal_number.frechet
  assert result.real.kernel.value < 1
  assert json.dumps(result.to_dict())
  allowed = quality.compare(
    wide, *sets, reference_name='digits train', allow_few=True
  )
  assert allowed.real.frechet
  assert allowed.real.frechet.num_synthetic == num_held_out


def test_shuffled_images_are_noise_of_the_same_colours():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
  found = quality.shuffled(images, seed=1)
  assert found.dtype == np.uint8 and found.shape == images.shape
  for image, noise in zip(images, found):
    pixels = [sorted(map(tuple, x.reshape(-1, 3))) for x in (image, noise)]
    assert pixels[0] == pixels[1] and (image != noise).any()
  assert (found == quality.shuffled(images, seed=1)).all()
  assert (found != quality.shuffled(images, seed=2)).any()


def test_noise_is_measured_beside_real_images():
  rng = np.random.default_rng(0)
  reference, held_out, made = (make_features(rng, n) for n in (200, 60, 50))
  far = compare(reference, held_out, made, noise=held_out[:30] + 99)
  assert far.features.noise.precision == 0
  assert far.features.noise.real_precision > 0.5
  assert far.features.noise.num_images == 30
  assert not far.features.noise.is_taken_for_images
  near = compare(reference, held_out, made, noise=make_features(rng, 30))
  assert near.features.noise.is_taken_for_images
  stored = json.loads(json.dumps(near.to_dict()))
  assert stored['features']['noise']['is_taken_for_images']
