"""Poisson selection is exact, and microbatches lose nothing."""

from __future__ import annotations

import fractions
import hashlib
import struct

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.privacy import batch_selection

SECRET = bytes(range(32))
NUM_STEPS = 2000
KNOWN_ANSWER = [5, 12, 14, 27, 41, 46, 48, 52, 60]


def make(num_records=200, sampling_prob=0.1, **changes):
  arguments = {'secret': SECRET, 'run_id': 'test'} | changes
  return batch_selection.PoissonSelector(
    num_records=num_records, sampling_prob=sampling_prob, **arguments
  )


def participation(selector, num_steps=NUM_STEPS):
  """bool[steps, N]."""
  result = np.zeros((num_steps, selector.num_records), bool)
  for step in range(num_steps):
    result[step, selector.select(step)] = True
  return result


def naive_words(secret, run_id, step, num_records, domain):
  """One block, one Python integer at a time."""
  run_id = run_id.encode()
  message = struct.pack('<Q', len(domain)) + domain
  message += struct.pack('<Q', len(secret)) + secret
  message += struct.pack('<Q', len(run_id)) + run_id
  message += struct.pack('<QQ', step, 0)
  stream = hashlib.shake_256(message).digest(8 * num_records)
  words = [stream[8 * i : 8 * i + 8] for i in range(num_records)]
  return [int.from_bytes(word, 'little') for word in words]


def naive_selection(secret, run_id, step, num_records, threshold):
  words = naive_words(
    secret, run_id, step, num_records, b'dp_diffusion/poisson/1'
  )
  return [i for i, word in enumerate(words) if word < threshold]


@pytest.fixture(scope='module')
def coins():
  return participation(make())


def is_binomial(counts, num_trials, prob):
  """Chi-square test of the spread of independent binomial counts."""
  variance = num_trials * prob * (1 - prob)
  statistic = np.sum((counts - num_trials * prob) ** 2) / variance
  tail = stats.chi2.cdf(statistic, len(counts))
  return 1e-4 < tail < 1 - 1e-4


def test_participation_is_binomial(coins):
  num_steps, num_records = coins.shape
  assert is_binomial(coins.sum(axis=0), num_steps, 0.1)  # Of each record.
  assert is_binomial(coins.sum(axis=1), num_records, 0.1)  # Batch sizes.
  total = int(coins.sum())
  assert stats.binomtest(total, coins.size, 0.1).pvalue > 1e-4
  assert stats.binomtest(total, coins.size, 0.103).pvalue < 1e-4
  fixed = np.full(num_steps, 20)  # Batches of constant size are rejected.
  assert not is_binomial(fixed, num_records, 0.1)


def test_batch_sizes_have_the_shape_of_a_binomial(coins):
  sizes = coins.sum(axis=1)
  edges = [0, 15, 17, 19, 21, 23, 25, 201]
  observed = np.histogram(sizes, edges)[0]
  cdf = stats.binom.cdf(np.array(edges) - 1, 200, 0.1)
  assert stats.chisquare(observed, np.diff(cdf) * len(sizes)).pvalue > 1e-4


def test_steps_and_records_are_independent(coins):
  both_steps = int((coins[1:] & coins[:-1]).sum())
  both_records = int((coins[:, 1:] & coins[:, :-1]).sum())
  size = coins[1:].size
  assert stats.binomtest(both_steps, size, 0.01).pvalue > 1e-4
  assert stats.binomtest(both_records, coins[:, 1:].size, 0.01).pvalue > 1e-4


@pytest.mark.parametrize(
  'changes', [{'secret': bytes(32)}, {'run_id': 'other'}]
)
def test_other_secret_or_run_is_independent(coins, changes):
  other = participation(make(**changes))
  both = int((coins & other).sum())
  assert stats.binomtest(both, coins.size, 0.01).pvalue > 1e-4


def test_same_arguments_give_the_same_selection():
  np.testing.assert_array_equal(make().select(7), make().select(7))
  assert not np.array_equal(make().select(7), make().select(8))


def test_known_answer():
  selected = make(num_records=64, sampling_prob=0.125).select(3)
  assert selected.dtype == np.int64
  assert selected.tolist() == KNOWN_ANSWER


@hypothesis.given(
  step=st.integers(0, 2**40),
  num_records=st.integers(1, 300),
  numerator=st.integers(1, 999),
)
def test_equals_naive_selection(step, num_records, numerator):
  prob = fractions.Fraction(numerator, 1000)
  selector = make(num_records, prob)
  expected = naive_selection(
    SECRET, 'test', step, num_records, numerator * 2**64 // 1000
  )
  assert selector.select(step).tolist() == expected


def test_selection_goes_on_beyond_one_block():
  block = 1 << 20
  selected = make(block + 64, 0.5).select(0)
  assert np.all(np.diff(selected) > 0)
  assert 0 < np.sum(selected >= block) < 64
  first = make(64, 0.5).select(0)  # The second block has words of its own.
  assert not np.array_equal(selected[selected >= block] - block, first)
  assert stats.binomtest(len(selected), block + 64, 0.5).pvalue > 1e-4


def test_appending_a_record_changes_its_own_coin_only():
  for step in range(20):
    small, large = make(100, 0.3).select(step), make(101, 0.3).select(step)
    np.testing.assert_array_equal(small, large[large < 100])


def test_threshold_is_exact():
  threshold = batch_selection.selection_threshold
  assert threshold(1) == threshold(1.0) == 2**64
  assert threshold(0.5) == 2**63
  assert threshold(fractions.Fraction(1, 3)) == (2**64 - 1) // 3
  assert threshold(fractions.Fraction(1, 2**64)) == 1
  # Not through float64, which holds 53 bits of the 64.
  near_one = fractions.Fraction(2**64 - 1, 2**64)
  assert threshold(near_one) == 2**64 - 1
  assert threshold(0.1) == int(fractions.Fraction(0.1) * 2**64)


def test_word_at_the_threshold_stays_out(monkeypatch):
  threshold = batch_selection.selection_threshold(0.25)
  words = np.array([threshold - 1, threshold, threshold + 1, 0], np.uint64)
  monkeypatch.setattr(
    batch_selection.PoissonSelector, '_words', lambda *_: words
  )
  assert make(4, 0.25).select(0).tolist() == [0, 3]


def test_probability_one_takes_all():
  assert make(50, 1.0).select(0).tolist() == list(range(50))


def test_empty_batches_happen():
  selector = make(3, 0.05)
  sizes = [len(selector.select(step)) for step in range(200)]
  empty = sizes.count(0)
  assert stats.binomtest(empty, 200, 0.95**3).pvalue > 1e-4
  assert not list(batch_selection.microbatches(np.zeros(0, np.int64), 4, 8))


@pytest.mark.parametrize('prob', [0, -0.1, 1.5, float('nan')])
def test_bad_probability(prob):
  with pytest.raises(ValueError, match='sampling_prob'):
    make(sampling_prob=prob)


def test_bad_arguments():
  with pytest.raises(ValueError, match='secret'):
    make(secret=b'short')
  with pytest.raises(ValueError, match='num_records=0'):
    make(num_records=0)
  with pytest.raises(ValueError, match='num_records'):
    make(num_records=2**31)
  with pytest.raises(ValueError, match='step=-1'):
    make().select(-1)
  with pytest.raises(ValueError, match='process_index=2'):
    next(batch_selection.microbatches(np.arange(3), 1, 1, 2, 2))
  with pytest.raises(ValueError, match='microbatch_size=0'):
    next(batch_selection.microbatches(np.arange(3), 0, 1))


def test_too_many_records_are_refused():
  """An exact sum holds 2^26 of them in one place."""
  assert make(num_records=2**26).num_records == 2**26
  with pytest.raises(ValueError, match='num_records=67108865'):
    make(num_records=2**26 + 1)


def test_repr_hides_the_secret():
  assert SECRET.hex() not in repr(make())
  assert repr(SECRET) not in repr(make())


layouts = {
  'num_selected': st.integers(0, 60),
  'microbatch_size': st.integers(1, 5),
  'num_devices': st.integers(1, 4),
  'process_count': st.integers(1, 3),
}


def lay_out(num_selected, microbatch_size, num_devices, process_count):
  """Selected indices, and the list of slots of each process."""
  indices = 7 * np.arange(num_selected, dtype=np.int64) + 3
  slots = [
    list(
      batch_selection.microbatches(
        indices, microbatch_size, num_devices, process, process_count
      )
    )
    for process in range(process_count)
  ]
  return indices, slots


@hypothesis.given(**layouts)
def test_microbatches_are_a_partition(**layout):
  indices, slots = lay_out(**layout)
  seen = [s.indices[~s.is_padding] for own in slots for s in own]
  seen = np.concatenate(seen) if seen else np.zeros(0)
  np.testing.assert_array_equal(np.sort(seen), indices)


@hypothesis.given(**layouts)
def test_every_process_yields_as_many(**layout):
  indices, slots = lay_out(**layout)
  devices = layout['num_devices'] * layout['process_count']
  expected = batch_selection.num_microbatches(
    len(indices), layout['microbatch_size'], devices
  )
  assert [len(own) for own in slots] == [expected] * len(slots)
  shape = (layout['num_devices'], layout['microbatch_size'])
  for own in slots:
    for s in own:
      assert s.indices.shape == s.is_padding.shape == shape
      assert s.indices.dtype == np.int32
  if expected:  # As many as the fullest device needs, no more.
    assert any(not s.is_padding.all() for s in [own[-1] for own in slots])


def test_shares_go_round_processes_then_devices():
  slots = list(batch_selection.microbatches(np.arange(10), 2, 2, 1, 2))
  # Process 1 works on 1, 3, 5, 7, 9; device 0 on 1, 5, 9 and 1 on 3, 7.
  assert [s.indices.tolist() for s in slots] == [
    [[1, 5], [3, 7]],
    [[9, 0], [0, 0]],
  ]
  assert slots[1].is_padding.tolist() == [[False, True], [True, True]]


def test_groups_are_drawn_apart_from_every_step():
  """Their words belong to no step, so they say nothing about a selection."""
  selector = make(num_groups=3, sampling_prob=1.0)
  words = naive_words(SECRET, 'test', 0, 200, b'dp_diffusion/group/1')
  for step in (0, 4):
    want = [i for i, word in enumerate(words) if word % 3 == step % 3]
    assert list(selector.select(step)) == want


def test_groups_of_two_blocks_are_independent(monkeypatch):
  monkeypatch.setattr(batch_selection, '_RECORDS_PER_BLOCK', 300)
  selector = make(num_records=600, num_groups=3, sampling_prob=1.0)
  groups = np.zeros(600, int)
  for step in range(3):
    groups[selector.select(step)] = step
  counts = np.bincount(3 * groups[:300] + groups[300:], minlength=9)
  assert counts.min() > 300 / 9 / 2 and counts.max() < 2 * 300 / 9
