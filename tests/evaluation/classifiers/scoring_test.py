"""Accuracies against SciPy, and where there is nothing to count."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from dp_diffusion.evaluation.classifiers import scoring


@hypothesis.given(num_examples=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_interval_matches_scipy(num_examples, share):
  num_correct = round(share * num_examples)
  low, high = scoring.wilson_interval(num_correct, num_examples)
  expected = stats.binomtest(num_correct, num_examples).proportion_ci(
    0.95, method='wilson'
  )
  np.testing.assert_allclose([low, high], expected, atol=1e-12)
  assert low <= num_correct / num_examples <= high


def test_accuracy_of_nothing_says_nothing():
  nothing = scoring.accuracy(np.zeros(0, np.int32), np.zeros(0, np.int32))
  assert math.isnan(nothing.value)
  assert (nothing.low, nothing.high) == (0, 1)
  assert nothing.to_dict()['value'] is None


def test_accuracy_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='shape'):
    scoring.accuracy(np.zeros(3), np.zeros(2))


def test_per_class_accuracy_is_the_recall():
  labels = np.array([0, 0, 0, 2, 2])
  predicted = np.array([0, 1, 0, 2, 2])
  values = scoring.per_class_accuracy(predicted, labels, 3)
  assert [a.num_examples for a in values] == [3, 0, 2]
  assert values[0].value == 2 / 3 and values[2].value == 1
  assert math.isnan(values[1].value)


def test_score_is_the_mean_over_seeds():
  labels = np.array([0, 0, 1, 1])
  runs = [np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])]
  score = scoring.score(runs, labels, 3)
  assert score.accuracy.value == 0.875 and score.accuracy.num_examples == 4
  assert score.of_seeds == (1.0, 0.75)
  assert [a.value for a in score.per_class[:2]] == [1.0, 0.75]
  assert math.isnan(score.per_class[2].value)
  assert score.accuracy.low < 0.875 < score.accuracy.high
  for few in (1, 2):  # The spread of two says nothing.
    assert math.isnan(scoring.score(runs[:few], labels, 3).std)
  score = scoring.score([*runs, runs[0]], labels, 3)
  assert math.isclose(score.std, np.std([1, 0.75, 1], ddof=1))


def test_what_guessing_would_reach_stands_beside_the_accuracy():
  labels = np.array([0] * 61 + [1] * 39)
  predicted = np.array([0] * 50 + [1] * 11 + [0] * 34 + [1] * 5)
  score = scoring.score([predicted, predicted], labels, 2)
  assert score.majority_share == 0.61 and score.accuracy.value == 0.55
  assert score.is_guessing
  assert math.isclose(
    score.balanced_accuracy, metrics.balanced_accuracy_score(labels, predicted)
  )
  np.testing.assert_array_equal(score.confusion_matrix, [[50, 11], [34, 5]])
  assert not scoring.score([labels], labels, 2).is_guessing


def test_one_class_leaves_nothing_to_guess():
  labels = np.zeros(30, int)
  score = scoring.score([labels], labels, 1)
  assert score.majority_share == 1 and not score.is_guessing


def test_a_class_that_is_never_recognised_is_found():
  labels = np.array([0] * 500 + [1] * 3)
  score = scoring.score([np.zeros(503, int)], labels, 3)
  assert score.accuracy.value > 0.99 and score.is_guessing
  assert score.balanced_accuracy == 0.5
  assert score.missed_classes == (1,)  # Class 2 has no image.


@hypothesis.given(st.integers(0, 99))
def test_auroc_is_the_share_of_pairs_in_order(seed):
  rng = np.random.default_rng(seed)
  labels = np.array([0, 1, *rng.integers(0, 2, 10)])
  p = rng.integers(1, 6, 12) / 7
  probs = np.stack([1 - p, p], axis=1)
  pairs = [
    (a > b) + 0.5 * (a == b) for a in p[labels == 1] for b in p[labels == 0]
  ]
  assert math.isclose(scoring.auroc([probs], labels), np.mean(pairs))
  assert math.isnan(scoring.auroc([np.eye(2)[labels]], labels))  # Votes.
  assert math.isnan(scoring.auroc([probs], np.zeros(12, int)))
  assert math.isnan(scoring.auroc([np.full((12, 3), 1 / 3)], labels))


def test_images_of_one_person_are_not_independent():
  """50 persons, of 20 images each, all right or all wrong."""
  rng = np.random.default_rng(0)
  num_covered, widths = 0, []
  for _ in range(40):
    right = rng.random(50) < 0.7
    persons = np.repeat(np.arange(50), 20)
    predicted = np.where(right[persons], 0, 1)
    found = scoring.accuracy(predicted, np.zeros(1000, int), persons)
    num_covered += found.low <= 0.7 <= found.high
    widths.append(found.high - found.low)
    assert found.num_persons == 50
  assert num_covered >= 35
  assert min(widths) > 2 * np.diff(scoring.wilson_interval(700, 1000))


@pytest.mark.parametrize('num_persons', [2, 4, 8])
def test_a_few_persons_say_little(num_persons):
  """Each with a share of their own: the bootstrap alone covers far less."""
  rng = np.random.default_rng(0)
  num_covered = 0
  for _ in range(60):
    shares = np.clip(rng.normal(0.6, 0.15, num_persons), 0, 1)
    persons = np.repeat(np.arange(num_persons), 50)
    low, high = scoring.interval(
      rng.random(len(persons)) < shares[persons], persons
    )
    num_covered += low <= 0.6 <= high
    assert 0 <= low < high <= 1
  assert num_covered >= 53  # Of 60; 57 are expected.


def test_an_interval_by_person_is_never_too_sure():
  all_right = np.ones(60)
  persons = np.repeat(np.arange(3), 20)
  low, high = scoring.interval(all_right, persons)
  assert low == scoring.wilson_interval(3, 3)[0] < 0.5 and high == 1
  assert scoring.interval(all_right, np.zeros(60)) == (0, 1)
  alone = scoring.interval(np.arange(60) % 4 > 0, np.arange(60))
  wilson = scoring.wilson_interval(45, 60)
  assert alone[0] <= wilson[0] and wilson[1] <= alone[1]


def test_every_interval_of_a_score_is_by_person():
  """Also that of a class, and that without images that were trained on."""
  labels = np.arange(60) % 2
  persons = np.arange(60) // 10
  predicted = np.where(persons < 4, labels, 1 - labels)
  is_duplicate = persons == 0
  score = scoring.score(
    [predicted], labels, 2, persons=persons, is_duplicate=is_duplicate
  )
  right = (predicted == labels).astype(float)
  for found, mask in (
    (score.accuracy, np.full(60, True)),
    (score.per_class[0], labels == 0),
    (score.per_class[1], labels == 1),
    (score.without_duplicates, ~is_duplicate),
  ):
    expected = scoring.interval(right[mask], persons[mask])
    assert (found.low, found.high) == expected
    assert found.num_persons == len(set(persons[mask]))
    alone = scoring.wilson_interval(right[mask].sum(), mask.sum())
    assert expected[0] < alone[0] and alone[1] < expected[1]


def test_better_than_guessing_is_what_the_interval_says():
  """An accuracy that is a little above it may be chance."""
  found = scoring.Accuracy(value=0.64, low=0.58, high=0.7, num_examples=250)
  assert found.is_guessing(0.61) and found.is_guessing(0.58)
  assert not found.is_guessing(0.57)


def test_an_interval_of_few_persons_is_students():
  """Ten persons of one image each; SciPy's interval of their mean."""
  right = np.array([0.3, 0.5, 0.2, 0.9, 0.4, 0.6, 0.1, 0.8, 0.7, 0.5])
  sums, counts = right, np.ones(10, int)
  expected = stats.t.interval(
    0.95, 9, loc=right.mean(), scale=right.std(ddof=1) / np.sqrt(10)
  )
  half = scoring._student_half_width(sums, counts)
  np.testing.assert_allclose(2 * half, np.diff(expected)[0], rtol=1e-9)


def test_images_that_were_trained_on_are_left_out_of_a_second_figure():
  labels = np.zeros(10, int)
  predicted = np.array([0] * 6 + [1] * 4)
  is_duplicate = np.arange(10) < 5
  score = scoring.score([predicted], labels, 2, is_duplicate=is_duplicate)
  assert score.accuracy.value == 0.6
  assert score.without_duplicates.value == 0.2
  assert score.without_duplicates.num_examples == 5
