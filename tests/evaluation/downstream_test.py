"""Classifiers, their intervals, and the test set that is read once."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
from scipy import special
from scipy import stats
from sklearn import svm

from dp_diffusion.evaluation import downstream

NUM_CLASSES = 3
QUICK = {
  'num_steps': 60,
  'batch_size': 32,
  'warmup_steps': 5,
  'num_validations': 2,
}


def blobs(num_examples, seed, num_classes=NUM_CLASSES):
  """uint8[N, 8, 8, 1]: the bright quadrant is the class, under heavy noise."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(num_classes, size=num_examples).astype(np.int32)
  images = rng.integers(0, 150, size=(num_examples, 8, 8, 1))
  for image, label in zip(images, labels):
    top, left = 4 * (label // 2), 4 * (label % 2)
    image[top : top + 4, left : left + 4] += 70
  return np.minimum(images, 255).astype(np.uint8), labels


@pytest.fixture(scope='module')
def train_set():
  return blobs(300, seed=0)


@pytest.fixture(scope='module')
def test_set():
  return blobs(200, seed=1)


@pytest.mark.parametrize('name', ['small_cnn', 'logistic_regression', 'svm'])
def test_classifiers_learn(name, train_set, test_set):
  config = downstream.ClassifierConfig(name=name, **QUICK)
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  probs = classifier.predict_proba(test_set[0])
  assert probs.shape == (200, NUM_CLASSES) and probs.dtype == np.float32
  np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
  predicted = downstream.predictions(classifier, test_set[0])
  assert downstream.accuracy(predicted, test_set[1]).value > 0.9


@pytest.mark.slow
@pytest.mark.parametrize('name', ['wrn_16_4', 'wrn_40_4'])
def test_wide_resnets_learn(name, train_set, test_set):
  config = downstream.ClassifierConfig(
    name=name, **QUICK | {'num_steps': 30, 'reflect_pad': 1}
  )
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  predicted = downstream.predictions(classifier, test_set[0])
  assert downstream.accuracy(predicted, test_set[1]).value > 0.8


def test_svm_is_the_stated_reference(train_set, test_set):
  classifier = downstream.train_classifier(
    downstream.ClassifierConfig(name='svm'), *train_set, NUM_CLASSES, seed=0
  )
  images, labels = train_set
  reference = svm.SVC(C=10, kernel='rbf', gamma='scale').fit(
    images.reshape(len(images), -1) / 127.5 - 1, labels
  )
  np.testing.assert_array_equal(
    downstream.predictions(classifier, test_set[0]),
    reference.predict(test_set[0].reshape(200, -1) / 127.5 - 1),
  )


def test_svm_with_a_class_that_never_occurs(train_set):
  classifier = downstream.train_classifier(
    downstream.ClassifierConfig(name='svm'), *train_set, 7, seed=0
  )
  assert classifier.predict_proba(train_set[0][:5]).shape == (5, 7)


@pytest.fixture(scope='module')
def linear_config():
  return downstream.ClassifierConfig(
    name='logistic_regression', reflect_pad=1, flip=True, **QUICK
  )


def test_training_is_a_function_of_the_seed(linear_config, train_set, test_set):
  def probs(seed):
    return downstream.train_classifier(
      linear_config, *train_set, NUM_CLASSES, seed=seed
    ).predict_proba(test_set[0])

  np.testing.assert_array_equal(probs(0), probs(0))
  assert np.any(probs(0) != probs(1))


def test_ensemble_is_the_mean_of_its_members(
  linear_config, train_set, test_set
):
  ensemble = downstream.train_ensemble(
    linear_config, *train_set, NUM_CLASSES, seeds=(0, 1, 2)
  )
  members = [m.predict_proba(test_set[0]) for m in ensemble.members]
  assert len(members) == 3
  np.testing.assert_allclose(
    ensemble.predict_proba(test_set[0]), np.mean(members, axis=0), rtol=1e-5
  )


def test_best_checkpoint_is_the_one_that_is_kept(train_set):
  # A rate this large ruins the weights again and again, so that the last are
  # not the best; with labels at random no validation score is special.
  images, labels = train_set
  config = downstream.ClassifierConfig(
    name='logistic_regression',
    learning_rate=3.0,
    validation_fraction=0.3,
    **QUICK | {'num_validations': 20},
  )
  calls = []
  classifier = downstream.train_classifier(
    config, images, labels, NUM_CLASSES, seed=0, advance=lambda: calls.append(1)
  )
  assert len(calls) == config.num_steps
  assert [s.step for s in classifier.validation] == list(range(3, 61, 3))
  best = max(classifier.validation, key=lambda s: (s.accuracy, -s.loss))
  assert classifier.best_step == best.step
  _, validation = downstream._split(300, 0.3, np.random.default_rng(0))
  assert len(validation) == 90
  probs = classifier.predict_proba(images[validation])
  hits = np.argmax(probs, axis=1) == labels[validation]
  assert np.mean(hits) == best.accuracy


def test_without_validation_the_last_weights_stay(train_set):
  config = downstream.ClassifierConfig(
    name='logistic_regression', validation_fraction=0.0, **QUICK
  )
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  assert classifier.best_step == config.num_steps
  assert not classifier.validation


def test_patience_stops_early(train_set):
  rng = np.random.default_rng(0)
  config = downstream.ClassifierConfig(
    name='logistic_regression',
    learning_rate=1.0,
    patience=3,
    **QUICK | {'num_validations': 60},
  )
  labels = rng.integers(NUM_CLASSES, size=300).astype(np.int32)
  classifier = downstream.train_classifier(
    config, train_set[0], labels, NUM_CLASSES, seed=0
  )
  assert classifier.validation[-1].step < 60
  assert classifier.validation[-1].step - classifier.best_step == 3


def test_batches_visit_everyone_once_an_epoch():
  indices = np.array([3, 5, 8, 13, 21])
  batches = downstream._batches(indices, 2, np.random.default_rng(0))
  seen = np.concatenate([next(batches) for _ in range(10)])
  for epoch in range(4):
    np.testing.assert_array_equal(
      np.sort(seen[5 * epoch : 5 * epoch + 5]), indices
    )


def test_a_batch_may_be_larger_than_the_training_set():
  batches = downstream._batches(np.arange(3), 8, np.random.default_rng(0))
  assert np.bincount(next(batches)).tolist() in (
    [3, 3, 2],
    [3, 2, 3],
    [2, 3, 3],
  )


def test_augmentation_crops_and_flips():
  config = downstream.ClassifierConfig(reflect_pad=1, flip=True)
  image = np.arange(0, 90, 10, dtype=np.uint8).reshape(3, 3, 1)
  padded = np.pad(image[..., 0], 1, mode='reflect')
  possible = {}
  for top in range(3):
    for left in range(3):
      crop = padded[top : top + 3, left : left + 3]
      possible[crop.tobytes()] = possible[crop[:, ::-1].tobytes()] = True
  out = np.asarray(
    downstream._augment(
      jax.random.key(0), np.broadcast_to(image, (400, 3, 3, 1)), config
    )
  )
  assert out.dtype == np.float32
  out = np.round((out + 1) * 127.5).astype(np.uint8)
  seen = {crop[..., 0].tobytes() for crop in out}
  assert seen == set(possible)


def test_score_matches_scipy():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(20, 4)).astype(np.float32) * 30
  labels = rng.integers(4, size=20).astype(np.int32)
  score = downstream._score(7, logits, labels)
  log_probs = special.log_softmax(logits.astype(np.float64), axis=1)
  assert score.step == 7
  assert math.isclose(score.loss, -log_probs[np.arange(20), labels].mean())
  assert score.accuracy == np.mean(log_probs.argmax(axis=1) == labels)


@pytest.mark.parametrize(
  ('images', 'labels', 'message'),
  [
    (np.zeros((2, 8, 8, 1)), np.zeros(2, np.int32), 'uint8'),
    (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int32), 'uint8'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, np.int32), 'go with 2'),
    (np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int32), 'one'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.full(2, 3), r'in \[0, 3\)'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.full(2, -1), r'in \[0, 3\)'),
  ],
)
def test_bad_training_sets_are_refused(images, labels, message):
  with pytest.raises(ValueError, match=message):
    downstream.train_classifier(
      downstream.ClassifierConfig(), images, labels, NUM_CLASSES, seed=0
    )


@pytest.mark.parametrize(
  'bad',
  [
    {'name': 'small_cn'},
    {'optimizer': 'adam'},
    {'num_steps': 0},
    {'batch_size': 0},
    {'learning_rate': math.nan},
    {'learning_rate': math.inf},
    {'weight_decay': -1.0},
    {'validation_fraction': 1.0},
    {'label_smoothing': -0.1},
    {'patience': -1},
  ],
)
def test_bad_configs_are_refused(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    downstream.ClassifierConfig(**bad)


@hypothesis.given(num_examples=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_interval_matches_scipy(num_examples, share):
  num_correct = round(share * num_examples)
  low, high = downstream.wilson_interval(num_correct, num_examples)
  expected = stats.binomtest(num_correct, num_examples).proportion_ci(
    0.95, method='wilson'
  )
  np.testing.assert_allclose([low, high], expected, atol=1e-12)
  assert low <= num_correct / num_examples <= high


def test_accuracy_of_nothing_says_nothing():
  nothing = downstream.accuracy(np.zeros(0, np.int32), np.zeros(0, np.int32))
  assert math.isnan(nothing.value)
  assert (nothing.low, nothing.high) == (0, 1)
  assert nothing.to_dict()['value'] is None


def test_accuracy_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='shape'):
    downstream.accuracy(np.zeros(3), np.zeros(2))


def test_per_class_accuracy_is_the_recall():
  labels = np.array([0, 0, 0, 2, 2])
  predicted = np.array([0, 1, 0, 2, 2])
  values = downstream.per_class_accuracy(predicted, labels, 3)
  assert [a.num_examples for a in values] == [3, 0, 2]
  assert values[0].value == 2 / 3 and values[2].value == 1
  assert math.isnan(values[1].value)


def test_held_out_images_are_read_once_and_only_after_the_choices():
  reads = []
  held_out = downstream.HeldOut(lambda: reads.append(1) or 'images')
  with held_out.closed():
    with pytest.raises(RuntimeError, match='while choices are made'):
      held_out.open()
  assert not reads
  assert held_out.open() == 'images'
  with pytest.raises(RuntimeError, match='read once'):
    held_out.open()
  with pytest.raises(RuntimeError, match='no choice may follow'):
    with held_out.closed():
      pass
  assert reads == [1]


def test_a_failed_choice_leaves_the_held_out_images_unread():
  held_out = downstream.HeldOut(lambda: 'images')
  with pytest.raises(KeyError):
    with held_out.closed():
      raise KeyError
  assert held_out.open() == 'images'


def test_score_is_the_mean_over_seeds():
  labels = np.array([0, 0, 1, 1])
  runs = [np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])]
  score = downstream.score(runs, labels, 3)
  assert score.accuracy.value == 0.875 and score.accuracy.num_examples == 4
  assert math.isclose(score.std, np.std([1, 0.75], ddof=1))
  assert [a.value for a in score.per_class[:2]] == [1.0, 0.75]
  assert math.isnan(score.per_class[2].value)
  assert score.accuracy.low < 0.875 < score.accuracy.high
  assert math.isnan(downstream.score(runs[:1], labels, 3).std)
