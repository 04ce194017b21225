"""Drawing again what the model takes for another class."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

from dp_diffusion import sampling
from dp_diffusion.diffusion import sampler_steps
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.models import class_gaussians
from dp_diffusion.models import weights
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from tests import tiny_release

PROCESS = schedules.DiffusionProcess(
  **dataclasses.asdict(tiny_release.DIFFUSION)
)
LABELS = np.arange(21, dtype=np.int32) % 2
SEED = 3


def make_plan(max_tries: int, batch_size: int = 2) -> sampling.SamplingPlan:
  sampler = dataclasses.replace(tiny_release.SAMPLER, max_tries=max_tries)
  return sampling.SamplingPlan(
    network=tiny_release.NETWORK,
    diffusion=PROCESS,
    sampler=sampler,
    image_size=tiny_release.SIZE,
    batch_size=batch_size,
  )


@functools.cache
def sampler(max_tries: int, batch_size: int = 2) -> sampling.ImageSampler:
  return sampling.ImageSampler(
    make_plan(max_tries, batch_size),
    weights.unflatten(tiny_release.params()),
    SEED,
    parallel.DataParallel(),
  )


def own_bounds(images: np.ndarray) -> np.ndarray:
  """By which the model takes images for classes; written anew."""
  classifier = diffusion_classifier.DiffusionClassifier(
    tiny_release.NETWORK,
    weights.unflatten(tiny_release.params()),
    PROCESS,
    seed=SEED,
    num_levels=12,
  )
  return classifier.bounds(images, processes.Share())


def own_classes(images: np.ndarray) -> np.ndarray:
  return np.argmax(own_bounds(images), axis=1)


def test_an_image_is_drawn_until_the_model_takes_it_for_its_class():
  told = []
  once = sampler(1).images(LABELS, 0)
  again = sampler(3).images(LABELS, 0, told.append)
  is_own = own_classes(once) == LABELS
  assert 0 < is_own.sum() < len(LABELS)  # Both cases are tested.
  np.testing.assert_array_equal(again[is_own], once[is_own])
  assert (again[~is_own] != once[~is_own]).any(axis=(1, 2, 3)).all()
  twice = sampler(2).images(LABELS, 0)
  is_own_then = own_classes(twice) == LABELS
  assert (is_own_then | ~is_own).all()
  np.testing.assert_array_equal(again[is_own_then], twice[is_own_then])
  assert (again[~is_own_then] != twice[~is_own_then]).any(axis=(1, 2, 3)).all()
  assert sum(told) == len(LABELS)


def test_a_class_is_asked_for_at_as_many_noise_levels_as_are_counted(
  monkeypatch,
):
  made, told = sampler(2), []
  bounds = made._classifier.bounds

  def keep(*args, **kwargs):
    told.append(bounds(*args, **kwargs))
    return told[-1]

  monkeypatch.setattr(made._classifier, 'bounds', keep)
  made.images(LABELS, 0)
  once = sampler(1).images(LABELS, 0)
  np.testing.assert_array_equal(np.concatenate(told), own_bounds(once))
  more = [
    sampler_steps.num_evaluations(make_plan(tries).sampler, num_classes=2)
    for tries in (1, 2)
  ]
  assert more[1] == 2 * more[0] + 12 * 2


def test_an_image_depends_on_its_number_and_label_alone():
  whole = sampler(3).images(LABELS, 0)
  np.testing.assert_array_equal(sampler(3).images(LABELS[5:9], 5), whole[5:9])
  np.testing.assert_array_equal(sampler(3, 1).images(LABELS, 0), whole)


def test_noise_of_a_judgement_depends_on_the_number_of_the_image(monkeypatch):
  made, told = sampler(2), []

  def takes_for(images, numbers):
    told.extend(numbers.tolist())
    return np.zeros(len(images), np.int32)

  monkeypatch.setattr(made, '_takes_for', takes_for)
  made.images(LABELS[5:9], 5)
  assert told == [5, 6, 7, 8]


def test_each_try_has_noise_of_its_own():
  made = sampler(3)
  numbers = np.arange(8, dtype=np.int32)
  first, *others = (made._batch(LABELS[:8], numbers, i) for i in range(3))
  np.testing.assert_array_equal(first, sampler(1).images(LABELS[:8], 0))
  assert (first != others[0]).any() and (others[0] != others[1]).any()


def test_one_program_samples_what_single_steps_do(monkeypatch):
  """As accelerators do it, but for roundings; each image and try its own."""
  numbers = np.arange(3, 19, dtype=np.int32)
  labels = LABELS[: len(numbers)]
  made = sampler(3)
  steps = [made._batch(labels, numbers, attempt) for attempt in (0, 1)]
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(made, '_step_fn', None)
  for attempt, expected in enumerate(steps):
    found = made._batch(labels, numbers, attempt)
    assert found.shape == (16, 8, 8, 1)
    np.testing.assert_allclose(found, expected.astype(float), atol=1)


def gaussians(num_classes: int = 2) -> class_gaussians.ClassGaussians:
  """Black images of class 0, white ones of class 1, that hardly vary."""
  shape = (num_classes, tiny_release.SIZE, tiny_release.SIZE, 1)
  means = np.full(shape, -1, np.float32)
  means[1:] = 1
  factors = np.full((num_classes, 1, 2, 2, 1), 0.01, np.float32)
  return class_gaussians.ClassGaussians(means=means, factors=factors)


def started(
  given: class_gaussians.ClassGaussians | None,
) -> sampling.ImageSampler:
  plan = make_plan(1)
  plan = dataclasses.replace(
    plan, sampler=dataclasses.replace(plan.sampler, first_timestep=9)
  )
  return sampling.ImageSampler(
    plan,
    weights.unflatten(tiny_release.params()),
    SEED,
    parallel.DataParallel(),
    gaussians=given,
  )


def test_samples_start_from_the_gaussian_of_their_class(monkeypatch):
  """In single steps and in one program; an image depends on its number."""
  made = started(gaussians())
  labels = LABELS[:8]
  found = made.images(labels, 0)
  brightness = found.mean(axis=(1, 2, 3))
  assert brightness[labels == 0].max() < brightness[labels == 1].min()
  np.testing.assert_array_equal(made.images(labels[4:], 4), found[4:])
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  whole = made.images(labels, 0)
  np.testing.assert_allclose(whole, found.astype(float), atol=1)


def test_a_start_needs_gaussians_of_its_classes():
  with pytest.raises(ValueError, match='no class Gaussians to start from'):
    started(None)
  with pytest.raises(ValueError, match=r'shape \(2, 8, 8, 1\)'):
    started(gaussians(3))
  assert make_plan(1).draw_fn(None) is None


def test_one_class_is_refused():
  network = dataclasses.replace(tiny_release.NETWORK, num_classes=1)
  with pytest.raises(ValueError, match='max_tries=2 to be 1') as caught:
    dataclasses.replace(make_plan(2), network=network)
  assert '\n' not in str(caught.value)
  dataclasses.replace(make_plan(1), network=network)
