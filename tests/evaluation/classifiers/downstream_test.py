"""Classifiers learn, and keep the weights that validate best."""

from __future__ import annotations

import dataclasses
import logging
import math

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import svm

from dp_diffusion import compiling
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.classifiers import training

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
  config = training.ClassifierConfig(name=name, **QUICK)
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  probs = classifier.predict_proba(test_set[0])
  assert probs.shape == (200, NUM_CLASSES) and probs.dtype == np.float32
  np.testing.assert_allclose(probs.sum(axis=1), 1.0, rtol=1e-5)
  predicted = downstream.predictions(classifier, test_set[0])
  assert scoring.accuracy(predicted, test_set[1]).value > 0.9


@pytest.mark.slow
@pytest.mark.parametrize('name', ['wrn_16_1', 'wrn_16_4', 'wrn_40_4'])
def test_wide_resnets_learn(name, train_set, test_set):
  config = training.ClassifierConfig(
    name=name, **QUICK | {'num_steps': 30, 'reflect_pad': 1}
  )
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  predicted = downstream.predictions(classifier, test_set[0])
  assert scoring.accuracy(predicted, test_set[1]).value > 0.8


def test_svm_is_the_stated_reference(train_set, test_set):
  classifier = downstream.train_classifier(
    training.ClassifierConfig(name='svm'), *train_set, NUM_CLASSES, seed=0
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
    training.ClassifierConfig(name='svm'), *train_set, 7, seed=0
  )
  assert classifier.predict_proba(train_set[0][:5]).shape == (5, 7)


def test_svm_of_a_single_class_says_that_class(train_set):
  images, _ = train_set
  classifier = downstream.train_classifier(
    training.ClassifierConfig(name='svm'),
    images,
    np.full(len(images), 2, np.int32),
    NUM_CLASSES,
    seed=0,
  )
  np.testing.assert_array_equal(
    downstream.predictions(classifier, images[:5]), np.full(5, 2)
  )


def test_a_network_learns_the_soft_labels_and_is_validated_by_the_labels(
  train_set, test_set
):
  images, labels = train_set
  config = training.ClassifierConfig(name='logistic_regression', **QUICK)
  hot = np.eye(NUM_CLASSES, dtype=np.float32)

  def trained(probabilities=None, config=config):
    return downstream.train_classifier(
      config,
      images,
      labels,
      NUM_CLASSES,
      seed=0,
      probabilities=probabilities,
    )

  plain, same = trained(), trained(hot[labels])
  np.testing.assert_allclose(
    plain.predict_proba(test_set[0]), same.predict_proba(test_set[0]), atol=1e-5
  )
  others = trained(hot[(labels + 1) % NUM_CLASSES])
  found = downstream.predictions(others, test_set[0])
  assert np.mean(found == (test_set[1] + 1) % NUM_CLASSES) > 0.8
  assert others.validation_accuracy < 0.2  # By the labels, which it never saw.
  soft = trained(np.float32(0.7) * hot[labels] + np.float32(0.1))
  smoothed = trained(config=dataclasses.replace(config, label_smoothing=0.3))
  np.testing.assert_allclose(
    soft.predict_proba(test_set[0]),
    smoothed.predict_proba(test_set[0]),
    atol=1e-5,
  )


@pytest.mark.parametrize(
  'probabilities',
  [
    np.ones((300, 2), np.float32) / 2,
    np.ones((299, 3), np.float32) / 3,
    np.ones((300, 3)) / 3,
    np.zeros(300, np.float32),
  ],
)
def test_soft_labels_of_another_type_are_refused(train_set, probabilities):
  config = training.ClassifierConfig(name='logistic_regression', **QUICK)
  with pytest.raises(ValueError, match='Expected probabilities .*300, 3'):
    downstream.train_classifier(
      config, *train_set, NUM_CLASSES, seed=0, probabilities=probabilities
    )


@pytest.fixture(scope='module')
def linear_config():
  return training.ClassifierConfig(
    name='logistic_regression', reflect_pad=1, flip=True, **QUICK
  )


def test_training_is_a_function_of_the_seed(linear_config, train_set, test_set):
  def probs(seed):
    return downstream.train_classifier(
      linear_config, *train_set, NUM_CLASSES, seed=seed
    ).predict_proba(test_set[0])

  np.testing.assert_array_equal(probs(0), probs(0))
  assert np.any(probs(0) != probs(1))


@pytest.mark.parametrize('is_soft', [False, True])
def test_nothing_is_compiled_after_the_first_weights(
  linear_config, train_set, caplog, is_soft
):
  """The threads beside them have compiled what the loop then calls."""
  images, labels = train_set
  targets = np.eye(3, dtype=np.float32)[labels] if is_soft else labels
  config = dataclasses.replace(linear_config, batch_size=7)  # Not yet compiled.
  fns = training.compiled(config, NUM_CLASSES)
  key = jax.random.key(0)
  data = downstream._Data(images, labels, targets)
  calls = downstream._compile_calls(fns, config, data)
  with compiling.beside(*calls):
    state = fns.init(key, images[:1])
  numbers = training.step_numbers(config, 1)
  with caplog.at_level(logging.DEBUG), jax.log_compiles():
    state = fns.step(state, key, np.int32(1), numbers, images[:7], targets[:7])
    downstream._batched(fns.logits, state[0], images[:9])
  messages = [record.getMessage() for record in caplog.records]
  assert not [m for m in messages if 'ompil' in m]


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
  config = training.ClassifierConfig(
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


def test_no_image_is_trained_on_and_validated_with():
  for num, share in ((10, 0.3), (7, 0.5), (3, 0.99)):
    train, validation = downstream._split(num, share, np.random.default_rng(0))
    assert sorted([*train, *validation]) == list(range(num))
    assert len(validation) == min(round(num * share), num - 1)


def test_the_weights_are_those_of_the_best_step(train_set, monkeypatch):
  """Not the last ones, where those are worse on the validation part."""
  seen, score = [], downstream._score

  def getting_worse(step, logits, labels):
    seen.append(logits)
    found = score(step, logits, labels)
    return dataclasses.replace(found, accuracy=1 / step)

  monkeypatch.setattr(downstream, '_score', getting_worse)
  config = training.ClassifierConfig(
    name='logistic_regression', validation_fraction=0.2, **QUICK
  )
  images, labels = train_set
  classifier = downstream.train_classifier(
    config, images, labels, NUM_CLASSES, seed=3
  )
  assert [s.step for s in classifier.validation] == [30, 60]
  assert classifier.best_step == 30
  assert classifier.validation_accuracy == 1 / 30
  rng = np.random.default_rng(3)
  _, rows = downstream._split(len(labels), 0.2, rng)
  found = classifier.predict_proba(images[rows])
  first, last = (special.softmax(logits, axis=1) for logits in seen)
  np.testing.assert_allclose(found, first, atol=1e-6)
  assert np.abs(found - last).max() > 1e-3


def test_without_validation_the_last_weights_stay(train_set):
  config = training.ClassifierConfig(
    name='logistic_regression', validation_fraction=0.0, **QUICK
  )
  classifier = downstream.train_classifier(
    config, *train_set, NUM_CLASSES, seed=0
  )
  assert classifier.best_step == config.num_steps
  assert not classifier.validation


def test_patience_stops_early(train_set):
  rng = np.random.default_rng(0)
  config = training.ClassifierConfig(
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
    (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, np.int32), 'label for each'),
    (np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int32), 'one'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.full(2, 3), r'in \[0, 3\)'),
    (np.zeros((2, 8, 8, 1), np.uint8), np.full(2, -1), r'in \[0, 3\)'),
  ],
)
def test_bad_training_sets_are_refused(images, labels, message):
  with pytest.raises(ValueError, match=message):
    downstream.train_classifier(
      training.ClassifierConfig(), images, labels, NUM_CLASSES, seed=0
    )
