"""Votes for public classes: sensitivity, noise, and what they choose."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion import types
from dp_diffusion.baselines import public_votes
from dp_diffusion.baselines import warm_up
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram

SHAPE = (3, 4)  # Sensitive and public classes.


def entry(noise_multiplier):
  used = warm_up.WarmUpConfig(
    chosen_steps=1, votes_noise_multiplier=noise_multiplier
  )
  return used.votes_entry


def votes(labels, predicted, person=None, noise_multiplier=1e-9, shape=SHAPE):
  source = registry.ArraySource(
    spec=types.DatasetSpec(
      name='x',
      image_shape=(1, 1, 1),
      class_names=('a', 'b', 'c'),
      has_person=person is not None,
    ),
    images=np.zeros((len(labels), 1, 1, 1), np.uint8),
    labels=np.asarray(labels, np.int32),
    person=None if person is None else np.asarray(person, np.int32),
  )
  unit = 'image' if person is None else 'person'
  return public_votes.noised(
    np.asarray(predicted),
    source.labels,
    batching.make_records(source, unit),
    shape,
    entry(noise_multiplier),
    key_streams.KeyStreams(
      secret=key_streams.Secret.insecure(0), run_id='votes'
    ),
  )


def test_votes_are_those_of_a_loop():
  labels, predicted = [0, 2, 2, 1, 0], [3, 1, 1, 0, 0]
  person = np.array([5, 5, 7, 5, 8])
  for persons in (None, person):
    expected = np.zeros(SHAPE)
    for i, (label, vote) in enumerate(zip(labels, predicted, strict=True)):
      share = 1.0 if persons is None else 1 / np.sum(person == person[i])
      expected[label, vote] += share
    np.testing.assert_allclose(
      votes(labels, predicted, persons), expected, atol=1e-6
    )


@hypothesis.settings(max_examples=6)
@hypothesis.given(
  st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=2, max_size=8
  ),
  st.booleans(),
)
def test_neighbours_differ_by_at_most_the_sensitivity(pairs, is_person):
  """Removing one record, a person with all images and labels too."""
  labels, predicted = np.array(pairs).T
  person = np.arange(len(pairs)) // 3 if is_person else None
  records = np.arange(len(pairs)) if person is None else person
  rest = records != 0
  change = votes(labels, predicted, person) - votes(
    labels[rest], predicted[rest], None if person is None else person[rest]
  )
  assert np.linalg.norm(change) <= label_histogram.L2_SENSITIVITY
  assert np.all(change >= 0)  # All other records vote as before.
  if person is None:
    assert np.linalg.norm(change) == 1.0  # The bound is reached.


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma."""
  found = votes([0], [0], noise_multiplier=5.0, shape=(3, 400)).ravel()[1:]
  squares = np.sum((found / 5.0) ** 2)
  for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
    tail = stats.chi2.cdf(squares / factor**2, found.size)
    assert (1e-3 < tail < 1 - 1e-3) == is_right


def test_the_most_noised_votes_are_chosen():
  """Of public classes that have images, whatever was voted for."""
  noised = np.array([[9.0, -1.0, 7.0, 8.0], [-5.0, -3.0, -4.0, 99.0]])
  labels = np.array([2, 0, 1, 0])  # None of the last class.
  chosen = public_votes.choose(noised, labels, 2)
  np.testing.assert_array_equal(chosen, [[0, 2], [1, 2]])
  images, classes = public_votes.training_set(chosen, labels)
  np.testing.assert_array_equal(images, [0, 1, 3, 0, 2])
  np.testing.assert_array_equal(classes, [0, 0, 0, 1, 1])
  assert classes.dtype == np.int32


def test_what_sets_a_class_apart_is_characteristic():
  """Most images of both classes look like one public class."""
  noised = np.array(
    [[640.0, 145.0, 130.0, 45.0, -9.0], [950.0, 120.0, 20.0, 40.0, 8.0]]
  )
  np.testing.assert_array_equal(public_votes.characteristic(noised), [2, 0])
  swapped = public_votes.characteristic(noised[::-1])
  np.testing.assert_array_equal(swapped, [0, 2])
  # Sizes of the classes do not matter, and no public class serves two.
  more = noised * np.array([[10.0], [1.0]])
  np.testing.assert_array_equal(public_votes.characteristic(more), [2, 0])
  same = public_votes.characteristic(np.array([[9.0, 1.0], [9.0, 1.0]]))
  assert sorted(same) == [0, 1]


def test_classes_that_nobody_votes_for_get_a_public_class_too():
  chosen = public_votes.characteristic(
    np.array([[-3.0, -1.0, -2.0], [-1.0, 70.0, 3.0]])
  )
  assert chosen[1] == 1 and chosen[0] != 1
  assert public_votes.characteristic(np.array([[1.0, 5.0, -7.0]])) == [1]


@pytest.mark.parametrize('num_chosen', [1, 4])
def test_a_choice_may_take_one_class_or_all(num_chosen):
  labels = np.arange(8) % 4
  chosen = public_votes.choose(np.eye(4)[:3], labels, num_chosen)
  images, classes = public_votes.training_set(chosen, labels)
  assert len(images) == 3 * 2 * num_chosen
  np.testing.assert_array_equal(np.bincount(classes), [2 * num_chosen] * 3)
  if num_chosen == 1:
    np.testing.assert_array_equal(labels[images], classes)
