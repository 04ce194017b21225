"""Trained classifiers on held-out images: groups, ensembles and persons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.stages.evaluation import classifier_tests

NUM_IMAGES = 40
LABELS = np.zeros(NUM_IMAGES, np.int32)
PERSONS = np.arange(NUM_IMAGES) // 10
IS_DUPLICATE = np.arange(NUM_IMAGES) < 8
IMAGES = np.zeros((NUM_IMAGES, 2, 2, 1), np.uint8)
CONFIG = training.ClassifierConfig(name='logistic_regression')
GROUP = tuple(
  trained_classifiers.Member(
    source='synthetic', num_images=60, config=CONFIG, seed=seed
  )
  for seed in range(3)
)


@dataclasses.dataclass
class Members:
  """Classifiers that are as sure of class 0 on every image as is said.

  Attributes:
    sure: the probability of class 0, by seed.
    num_asked: how often images were classified.
  """

  sure: tuple[float, ...]
  num_asked: int = 0

  def get(self, member: trained_classifiers.Member) -> Members:
    return Members((self.sure[member.seed],))

  def predict_proba(self, images: np.ndarray) -> np.ndarray:
    self.num_asked += 1
    return np.tile(np.float32([self.sure[0], 1 - self.sure[0]]), (40, 1))

  def validation_accuracy(self, member: trained_classifiers.Member) -> float:
    return (0.5, 0.75, 1.0)[member.seed]


@pytest.fixture
def tester() -> classifier_tests.Tester:
  """Of three classifiers the first two are right, the third surely wrong."""
  members = Members((0.6, 0.7, 0.0))
  return classifier_tests.Tester(
    members, IMAGES, LABELS, 2, PERSONS, IS_DUPLICATE
  )


def test_an_ensemble_is_of_the_first_classifiers(tester):
  two, three = (tester.ensemble(GROUP, size) for size in (2, 3))
  assert (two.value, three.value) == (1.0, 0.0)
  assert tester.ensemble(GROUP, 0) is tester.ensemble(GROUP, 4) is None


def test_an_ensemble_is_judged_by_persons_too(tester):
  found = tester.ensemble(GROUP, 2)
  assert (found.num_examples, found.num_persons) == (NUM_IMAGES, 4)
  assert (found.low, found.high) == scoring.interval(
    np.ones(NUM_IMAGES), PERSONS
  )


def test_a_score_is_of_all_seeds_and_knows_persons_and_duplicates(tester):
  found = tester.score(GROUP)
  assert found.of_seeds == (1.0, 1.0, 0.0)
  assert found.accuracy.num_persons == 4
  assert found.without_duplicates.num_examples == NUM_IMAGES - 8
  assert found.without_duplicates.num_persons == 4


def test_a_setting_has_a_score_without_real_images_and_one_on_them(tester):
  found = tester.point({'learning_rate': 0.1}, GROUP)
  assert found.setting == {'learning_rate': 0.1}
  assert found.synthetic_score == 0.75
  assert found.real_score == pytest.approx(2 / 3)
