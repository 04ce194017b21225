"""Accuracies against SciPy, and where there is nothing to count."""

from __future__ import annotations

import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.evaluation import scoring


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
  assert math.isclose(score.std, np.std([1, 0.75], ddof=1))
  assert [a.value for a in score.per_class[:2]] == [1.0, 0.75]
  assert math.isnan(score.per_class[2].value)
  assert score.accuracy.low < 0.875 < score.accuracy.high
  assert math.isnan(scoring.score(runs[:1], labels, 3).std)
