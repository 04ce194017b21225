"""The noised histogram of labels."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import label_histogram
from dp_diffusion.privacy import mechanism as mechanism_lib

NUM_CLASSES = 5
RECORDS = st.lists(
  st.lists(st.integers(0, NUM_CLASSES - 1), min_size=1, max_size=50),
  min_size=1,
  max_size=8,
)


def exact(records):
  labels = np.array([label for record in records for label in record])
  starts = np.cumsum([0, *(len(record) for record in records)])
  return label_histogram._histogram(labels, starts, NUM_CLASSES)


@hypothesis.given(RECORDS, st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_one_record_moves_it_by_at_most_one(records, another):
  """Adding or removing a person with up to 50 images."""
  change = exact([*records, another]) - exact(records)
  assert np.linalg.norm(change) <= label_histogram.L2_SENSITIVITY
  assert 1 - len(another) * 2.0**-24 <= change.sum() <= 1  # Shares are cut.


def test_order_of_records_does_not_matter():
  """Shares of many kinds, of thousands of records, to the bit."""
  records = [[i % 5, *range(i % 4)] for i in range(5000)]
  np.testing.assert_array_equal(exact(records), exact(records[::-1]))
  change = exact([*records, [0, 1, 2]]) - exact(records)
  np.testing.assert_array_equal(change, exact([[0, 1, 2]]))


def test_images_are_counted():
  np.testing.assert_array_equal(exact([[0], [3], [3]]), [1, 0, 0, 2, 0])


def streams(run_id):
  secret = key_streams.Secret.insecure(0)
  return key_streams.KeyStreams(secret=secret, run_id=run_id)


def noised(run_id, entry, num_classes=1000):
  labels, starts = np.zeros(3, np.int64), np.arange(4)
  return label_histogram.noised(
    labels, starts, num_classes, entry, streams(run_id)
  )


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma."""
  (entry,) = label_histogram.entries(5.0)
  found = noised('a', entry)
  assert found.dtype == np.float64 and abs(found[0] - 3) < 30
  squares = np.sum((found[1:] / 5.0) ** 2)
  for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
    tail = stats.chi2.cdf(squares / factor**2, len(found) - 1)
    assert (1e-3 < tail < 1 - 1e-3) == is_right
  np.testing.assert_array_equal(found, noised('a', entry))
  assert np.all(found != noised('b', entry))


def test_keys_are_of_no_other_purpose():
  keys = streams('a')
  own = np.asarray(
    jax.random.key_data(keys.statistic_keys('histogram of labels'))
  )
  assert own.shape == (4, 2)
  for other in (
    keys.statistic_keys('another statistic'),
    keys.noise_keys(0),
    streams('b').statistic_keys('histogram of labels'),
  ):
    assert not np.any(
      np.all(own == np.asarray(jax.random.key_data(other)), axis=1)
    )


def test_its_event_is_a_gaussian_of_sensitivity_one():
  assert label_histogram.entries(0.0) == ()
  (entry,) = label_histogram.entries(4.0)
  assert entry.kind == 'noised_histogram'
  assert entry.mechanism.noise_std == 4.0
  assert entry.mechanism.purpose == 'histogram of labels'
  expected = mechanism_lib.GaussianMechanism(
    noise_multiplier=4.0, l2_sensitivity=1.0, purpose='x'
  ).dp_event()
  assert entry.dp_events() == (expected,)
  assert accounting.epsilon(entry.dp_events(), 1e-5) == pytest.approx(
    1.0, rel=0.2
  )
