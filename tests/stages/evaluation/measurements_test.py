"""Which images an evaluation trains on, tests on and compares."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.data import registry
from dp_diffusion.stages.evaluation import measurements
from tests.stages import command
from tests.stages import sources


def load(**changes: str) -> config_lib.Config:
  named = {f'evaluate.{key}': text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, named)


REAL, TEST, MADE = (sources.make(num, num) for num in (50, 30, 40))
TRAIN = measurements._TrainingSets(
  synthetic=(MADE.images, MADE.labels),
  real=REAL,
  by_source={},
  members=None,
  plan=None,
)


def test_duplicates_are_held_out_images_that_were_trained_on():
  images = TEST.images.copy()
  images[3], images[4] = REAL.images[7], MADE.images[7]
  test = dataclasses.replace(TEST, images=images)
  tester = measurements._tester(load(), TRAIN, test)
  assert np.flatnonzero(tester.is_duplicate).tolist() == [3]
  np.testing.assert_array_equal(tester._persons, TEST.person)


def test_other_held_out_images_are_compared_than_tested_on(monkeypatch):
  """Those of the same distribution, where the test set is of another one."""
  found = measurements._image_sets(load(), TRAIN, TEST)
  assert found.held_out[0] is TEST.images
  other = sources.make(20, 1)
  monkeypatch.setattr(registry, 'load', lambda _, split: {'val': other}[split])
  found = measurements._image_sets(load(held_out_split='val'), TRAIN, TEST)
  assert found.held_out[0] is other.images
  assert found.held_out[1] is other.labels
  assert found.train[0] is REAL.images and found.synthetic[0] is MADE.images
  for known, source in zip(found.persons, (REAL, other), strict=True):
    np.testing.assert_array_equal(known, source.person)


@pytest.mark.parametrize(
  ('most', 'expected'),
  [
    ('0', {'synthetic': 40, 'public': 40, 'real': 50}),
    ('12', {'synthetic': 12, 'public': 12, 'real': 12}),
  ],
)
def test_as_many_images_of_each_source_as_is_said(most, expected):
  """Of public ones there are no more than synthetic ones."""
  found = measurements._sources(
    load(max_train_images=most), TRAIN.synthetic, REAL, measurements.SOURCES
  )
  assert {name: len(labels) for name, (_, labels) in found.items()} == expected
