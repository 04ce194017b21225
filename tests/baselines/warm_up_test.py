"""What a warm-up consists of: its entries, and what is refused."""

from __future__ import annotations

import pytest

from dp_diffusion import errors
from dp_diffusion.baselines import warm_up


def test_nothing_by_default():
  used = warm_up.WarmUpConfig()
  assert not used.num_steps and not used.entries()


def test_each_statistic_has_an_entry():
  used = warm_up.WarmUpConfig(
    mean_steps=3, mean_noise_multiplier=20.0, num_means=4
  )
  (means,) = used.entries()
  assert means.mechanism == used.mean_mechanism
  assert means.noise_multiplier == 20 and means.mechanism.count == 4
  assert '4 times' in means.summary()
  assert '4 time(s), with Gaussian noise of std 20' in means.describe()[0]
  used = warm_up.WarmUpConfig(
    mean_steps=3,
    mean_noise_multiplier=20.0,
    generated_steps=5,
    embedding_noise_multiplier=7.0,
  )
  means, embedding = used.entries()
  assert used.num_steps == 8
  assert (means.noise_multiplier, embedding.noise_multiplier) == (20, 7)
  assert (means.mechanism.purpose, embedding.mechanism.purpose) == (
    'class means for a warm-up',
    'mean embedding for a warm-up',
  )
  assert means.mechanism.l2_sensitivity == embedding.mechanism.l2_sensitivity
  assert '20' in means.summary() and means.summary() != embedding.summary()
  used = warm_up.WarmUpConfig(chosen_steps=2, votes_noise_multiplier=9.0)
  (votes,) = used.entries()
  assert used.num_steps == 2 and votes == used.votes_entry
  assert (votes.noise_std, votes.mechanism.count) == (9, 1)
  rows = warm_up.WarmUpConfig(rows_from_votes=True, votes_noise_multiplier=9.0)
  assert rows.entries() == (votes,)
  assert rows.num_steps == 0 and rows.is_used
  assert not warm_up.WarmUpConfig().is_used


@pytest.mark.parametrize(
  ('num_public', 'num_chosen', 'is_enough'),
  [(0, 1, False), (1, 1, False), (2, 2, True), (3, 4, False)],
)
def test_there_must_be_public_classes_to_choose_from(
  num_public, num_chosen, is_enough
):
  used = warm_up.WarmUpConfig(
    chosen_steps=2, votes_noise_multiplier=9.0, num_chosen=num_chosen
  )
  warm_up.WarmUpConfig(num_chosen=9).check_public_classes(num_public, 7)
  if is_enough:
    used.check_public_classes(num_public, 7)
    return
  with pytest.raises(errors.UsageError, match='pretrain.data') as raised:
    used.check_public_classes(num_public, 7)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('num_public', 'num_classes', 'is_enough'),
  [(1, 1, False), (2, 3, False), (2, 1, True), (3, 3, True)],
)
def test_each_class_needs_a_public_class_of_its_own(
  num_public, num_classes, is_enough
):
  used = warm_up.WarmUpConfig(rows_from_votes=True, votes_noise_multiplier=9.0)
  if is_enough:
    used.check_public_classes(num_public, num_classes)
    return
  words = f'{num_public} class.*each of the {num_classes} class'
  with pytest.raises(errors.UsageError, match=words) as raised:
    used.check_public_classes(num_public, num_classes)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  'given',
  [
    {'mean_steps': 3},
    {'mean_noise_multiplier': 3.0},
    {'generated_steps': 3},
    {'embedding_noise_multiplier': 3.0},
    {'chosen_steps': 3},
    {'rows_from_votes': True},
    {'votes_noise_multiplier': 3.0},
    {'mean_steps': 3, 'embedding_noise_multiplier': 3.0},
  ],
)
def test_steps_and_noise_go_together(given):
  with pytest.raises(ValueError, match='both 0 or both > 0') as raised:
    warm_up.WarmUpConfig(**given)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ({'mean_steps': 1, 'mean_noise_multiplier': 1e9}, r'<= 2\^18'),
    ({'mean_steps': -1}, 'mean_steps=-1'),
    ({'num_means': 0}, 'num_means=0'),
    ({'num_generated': 0}, 'num_generated=0'),
    ({'num_chosen': 0}, 'num_chosen=0'),
  ],
)
def test_values_out_of_range_are_refused(given, words):
  with pytest.raises(ValueError, match=words):
    warm_up.WarmUpConfig(**given)
