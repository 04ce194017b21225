"""Features are what the last layer sees, and their network is tested."""

from __future__ import annotations

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.evaluation.metrics import features as features_lib
from dp_diffusion.evaluation.metrics import public_features
from dp_diffusion.evaluation.report import quality_section


def test_features_are_what_the_last_layer_sees():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
  labels = rng.integers(3, size=20).astype(np.int32)
  classifier = downstream.train_classifier(
    training.ClassifierConfig(num_steps=2, batch_size=8),
    images,
    labels,
    3,
    seed=0,
  )
  extractor = public_features.extractor(classifier, 'small CNN', (4, 4, 1))
  found = extractor.extract(images)
  assert found.shape == (20, 128) == (20, extractor.num_features)
  assert not extractor.is_inception
  last = classifier.variables['params']['Dense_1']
  logits = found @ last['kernel'] + last['bias']
  probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    probs, classifier.predict_proba(images), rtol=1e-4, atol=1e-5
  )


def noise(num, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)


class Answers:
  """A classifier that gives the answers it was made with, in order."""

  def __init__(self, answers, num_classes):
    self._probs = np.eye(num_classes)[answers]

  def predict_proba(self, images):
    return self._probs[: len(images)]


def judged(answers, labels, num_classes, features=None, persons=None):
  labels = np.asarray(labels, np.int32)
  images = noise(len(labels))
  network = features_lib.NetExtractor(
    name='small CNN',
    num_features=16,
    apply_fn=features or features_lib._pixel_features,
    params=(),
  )
  found = public_features.with_test(
    network, Answers(answers, num_classes), images, labels, persons
  )
  return found.network_test


@pytest.mark.parametrize(
  'num_classes, share_right, is_usable',
  [
    (200, 0.008, False),  # Within its interval above 0.5 %, yet no use.
    (200, 0.02, False),
    (200, 0.04, True),
    (10, 0.10, False),
    (10, 0.16, False),  # Above chance for sure, and still near it.
    (10, 0.25, True),
    (2, 0.53, False),
    (2, 0.7, True),
  ],
)
def test_a_network_near_chance_gives_no_distances(
  num_classes, share_right, is_usable
):
  labels = np.arange(4000) % num_classes
  answers = (labels + 1) % num_classes
  right = np.random.default_rng(0).permutation(4000)
  right = right[: round(4000 * share_right)]
  answers[right] = labels[right]
  test = judged(answers, labels, num_classes)
  assert test.accuracy == pytest.approx(share_right)
  assert test.chance == pytest.approx(1 / num_classes)
  assert test.is_better_than_chance == is_usable
  objection = quality_section.network_objection(test)
  assert bool(objection) != is_usable
  if objection:
    assert f'{100 * share_right:.1f}' in objection
    assert f'{100 / num_classes:.1f}' in objection
    assert '4,000 held-out public images' in objection


def test_always_answering_the_commonest_class_is_chance():
  labels = np.array([0] * 900 + [1] * 100)
  test = judged(np.zeros(1000, int), labels, 2)
  assert test.accuracy == 0.9 == test.chance
  assert not test.is_better_than_chance


def test_few_images_or_few_persons_leave_it_open():
  labels = np.arange(40) % 2
  answers = np.where(np.arange(40) < 30, labels, 1 - labels)  # 75 % right.
  assert judged(answers, labels, 2).is_better_than_chance
  assert not judged(answers[20:], labels[20:], 2).is_better_than_chance
  of_two = np.arange(40) // 20
  test = judged(answers, labels, 2, persons=of_two)
  assert test.low <= 0.5 and not test.is_better_than_chance


def test_dead_features_give_no_distances():
  def dead(params, images):
    found = features_lib._pixel_features(params, images)
    return found.at[:, 1:].set(0.5)

  labels = np.arange(100) % 2
  test = judged(labels, labels, 2, features=dead)
  assert test.accuracy == 1 and (test.num_live, test.num_features) == (1, 16)
  assert '1 of its 16 features are live' in quality_section.network_objection(
    test
  )


def test_nothing_held_out_gives_no_distances():
  test = judged([], [], 2)
  assert 'no public images' in quality_section.network_objection(test)


@pytest.mark.parametrize('max_train', [1000, 50])
def test_held_out_public_images_are_new_ones(max_train):
  images = noise(100)
  images[40:60] = images[:20]  # Images that are there twice.
  train, held_out = public_features.divide(images, max_train)
  assert 0 < len(held_out) <= 20 and len(train) == min(80, max_train)
  assert not set(train) & set(held_out)
  trained_on = {image.tobytes() for image in images[train]}
  assert not any(image.tobytes() in trained_on for image in images[held_out])
  assert len(public_features.divide(noise(1), 5)[1]) == 0
  copies = np.zeros((50, 4, 4, 1), np.uint8)
  assert len(public_features.divide(copies, 50)[1]) == 0


def test_persons_stay_on_one_side():
  persons = np.arange(100) // 7
  train, held_out = public_features.divide(noise(100), 100, persons)
  assert 0 < len(held_out) <= 20
  assert not set(persons[train]) & set(persons[held_out])
