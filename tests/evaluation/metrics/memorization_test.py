"""Copies are flagged and fresh samples are not; the tests keep their level."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.evaluation.metrics import closeness
from dp_diffusion.evaluation.metrics import memorization


def fresh(rng, num, size=4):
  return rng.normal(size=(num, size)).astype(np.float32)


def compare(synthetic, train, held_out, **kwargs):
  return memorization.compare(
    synthetic, train, held_out, space='features', **kwargs
  )


def test_fresh_samples_are_not_flagged():
  rng = np.random.default_rng(0)
  result = compare(fresh(rng, 300), fresh(rng, 400), fresh(rng, 200))
  assert not result.is_copying
  assert abs(result.c_t) < 3
  assert abs(result.closer_to_train.z) < 3
  assert result.closer_to_train.expected == 400 / 600
  assert result.num_exact == 0
  assert result.authenticity > 0.4


@pytest.mark.parametrize('noise', [0.0, 0.02])
def test_copies_are_flagged(noise):
  rng = np.random.default_rng(0)
  train, held_out = fresh(rng, 400), fresh(rng, 200)
  copies = train[rng.integers(0, 400, 300)]
  copies = copies + np.float32(noise) * fresh(rng, 300)
  result = compare(copies, train, held_out)
  assert result.is_copying
  assert result.c_t < -10
  assert result.closer_to_train.z > 5
  assert result.closer_to_train.p_value < 1e-6
  assert result.authenticity < 0.05
  assert result.num_exact == (300 if noise == 0 else 0)


def test_a_few_copies_among_fresh_samples_are_flagged():
  rng = np.random.default_rng(0)
  train = fresh(rng, 400)
  synthetic = np.concatenate([fresh(rng, 200), train[:100]])
  result = compare(synthetic, train, fresh(rng, 200))
  assert result.is_copying
  assert result.num_exact == 100


def test_a_blank_that_everybody_has_is_said_to_be_one():
  rng = np.random.default_rng(0)
  train, held_out, synthetic = (fresh(rng, 200) for _ in range(3))
  for images in (train, held_out, synthetic):
    images[0] = 0.0
  result = compare(synthetic, train, held_out)
  assert (result.num_exact, result.num_shared_blanks) == (1, 1)
  assert not result.is_copying and result.num_held_out_equal_training == 1
  held_out[0] = 1.0  # A blank that was trained on alone.
  assert compare(synthetic, train, held_out).is_copying
  held_out[0] = 0.0
  synthetic[1] = train[1]
  found = compare(synthetic, train, held_out)
  assert found.is_copying and found.equal_to_train == (0, 1)


def test_a_copy_of_an_image_that_is_held_out_as_well_is_a_copy():
  rng = np.random.default_rng(0)
  train, held_out, synthetic = (fresh(rng, 200) for _ in range(3))
  held_out[:50] = train[:50]
  synthetic[90:100] = train[:10]
  result = compare(synthetic, train, held_out)
  assert result.is_copying and result.num_copies == 10
  assert result.num_shared_blanks == 0
  assert result.num_held_out_equal_training == 50
  assert result.to_dict()['num_held_out_equal_training'] == 50


def test_low_contrast_is_no_copying():
  """Images near the mean are nearer to everything, held-out ones included."""
  rng = np.random.default_rng(0)
  pale = 0.7 * fresh(rng, 300)
  result = compare(pale, fresh(rng, 400), fresh(rng, 200))
  assert result.c_t < -3 and abs(result.closer_to_train.z) < 3
  assert not result.is_copying


def test_a_low_score_has_a_small_p_value():
  rng = np.random.default_rng(0)
  train, held_out = fresh(rng, 400), fresh(rng, 200)
  near, far = (
    compare(images, train, held_out) for images in (train[:300], 5 * train)
  )
  assert near.c_t_p_value < 1e-6 and far.c_t_p_value > 1 - 1e-6
  some = compare(fresh(rng, 300), train, held_out)
  np.testing.assert_allclose(some.c_t_p_value, stats.norm.cdf(some.c_t))


def test_bad_images_are_far_and_prove_nothing():
  rng = np.random.default_rng(0)
  result = compare(5 * fresh(rng, 300), fresh(rng, 400), fresh(rng, 200))
  assert result.c_t > 3
  assert not result.is_copying


def test_a_collapsed_generator_does_not_fool_the_permutation_test():
  """All synthetic images share few neighbours: the binomial test errs."""
  z, binomial = [], []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    synthetic = 0.3 * fresh(rng, 1) + 0.05 * fresh(rng, 300)
    result = compare(synthetic, fresh(rng, 100), fresh(rng, 100))
    z.append(result.closer_to_train.z)
    binomial.append(result.closer_to_train.binomial_p_value)
  assert np.mean(np.array(binomial) < 0.01) > 0.2  # Of which 0.01 is right.
  assert np.mean(np.array(z) > stats.norm.isf(0.01)) <= 0.05
  assert 0.6 < np.std(z) < 1.4


def test_levels_are_kept_for_fresh_samples():
  scores = []
  for seed in range(80):
    rng = np.random.default_rng(seed)
    result = compare(fresh(rng, 60), fresh(rng, 150), fresh(rng, 50))
    scores.append((result.c_t, result.closer_to_train.z))
  scores = np.array(scores)
  assert np.abs(scores.mean(axis=0)).max() < 4 / np.sqrt(80)
  assert (scores.std(axis=0) > 0.7).all()
  assert (scores.std(axis=0) < 1.4).all()


def test_permutation_moments_are_those_of_all_permutations():
  rng = np.random.default_rng(0)
  num_train, num_held_out, num = 3, 2, 9
  pooled = rng.integers(0, 5, num)  # Nearest real image, of 5.
  sums = []
  for seed in range(4000):
    order = np.random.default_rng(seed).permutation(5)
    sums.append(np.isin(pooled, order[:num_train]).sum())
  is_train = pooled < num_train
  result = closeness.closer_to_train(
    np.where(is_train, 1.0, 2.0),
    np.where(is_train, 2.0, 1.0),
    np.where(is_train, pooled, 0),
    np.where(is_train, 0, pooled - num_train),
    np.arange(num_train),
    np.arange(num_held_out),
  )
  expected = (is_train.sum() - np.mean(sums)) / np.std(sums)
  np.testing.assert_allclose(result.z, expected, rtol=0.1, atol=0.05)
  assert result.fraction == is_train.mean()


def test_persons_are_no_copies_of_themselves():
  """Fresh images, 24 persons trained on and 6 held out, of 50 images each."""
  z, of_images, of_real = [], [], []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(30), 50)
    real = fresh(rng, 30, 8)[persons] + 0.3 * fresh(rng, 1500, 8)
    train, held_out = real[:1200], real[1200:]
    synthetic = fresh(rng, 600, 8)
    known = persons[:1200], persons[1200:]
    result = compare(synthetic, train, held_out, persons=known)
    z.append(result.closer_to_train.z)
    of_images.append(compare(synthetic, train, held_out).closer_to_train.z)
    of_real.append(
      memorization.compare_real(
        train, held_out, space='features', persons=known
      ).closer_to_train.z
    )
  assert np.std(of_images) > 2  # What would be found without persons.
  assert np.std(z) < 1.3 and np.max(z) < 3
  assert np.std(of_real) < 1.3 and np.max(of_real) < 3


def test_what_is_expected_is_the_share_of_persons_not_of_images():
  """Two persons of ten images were trained on, eight of one were held out."""
  far, near = np.full(20, 2.0), np.full(20, 1.0)
  is_train = np.arange(20) < 5
  result = closeness.closer_to_train(
    np.where(is_train, near, far),
    np.where(is_train, far, near),
    np.arange(20),
    np.arange(20) % 8,
    np.repeat([7, 3], 10),
    np.arange(8),
  )
  assert (result.fraction, result.expected) == (0.25, 0.2)
  # Of the first person 5 images are nearest, of the second none.
  weights = np.r_[5.0, 0.0, np.bincount(np.arange(5, 20) % 8)]
  variance = 0.2 * 8 * weights.var(ddof=1)
  np.testing.assert_allclose(result.z, (5 - 20 * 0.2) / np.sqrt(variance))
  five_or_more = stats.binom.pmf(np.arange(5, 21), 20, 0.2).sum()
  np.testing.assert_allclose(result.binomial_p_value, five_or_more)


def test_real_images_are_judged_by_the_persons_that_stay_held_out():
  """24 persons were trained on; 3 of 6 others stand in for synthetic ones."""
  rng = np.random.default_rng(0)
  persons = np.repeat(np.arange(30), 5)
  found = memorization.compare_real(
    fresh(rng, 120),
    fresh(rng, 30),
    space='features',
    persons=(persons[:120], persons[120:]),
  )
  assert found.closer_to_train.expected == 24 / 27


def test_copies_of_persons_are_flagged():
  rng = np.random.default_rng(0)
  persons = np.repeat(np.arange(60), 5)
  real = fresh(rng, 60)[persons] + 0.3 * fresh(rng, 300)
  train, held_out = real[:200], real[200:]
  copies = train + 0.01 * fresh(rng, 200)
  known = persons[:200], persons[200:]
  assert compare(copies, train, held_out, persons=known).is_copying


def test_halves_of_the_held_out_images_divide_no_person():
  train, persons = np.arange(3), np.repeat(np.arange(5), 4)
  first, rest = memorization._halves(20, (train, persons), 0)
  assert not set(persons[first]) & set(persons[rest])
  assert sorted([*first, *rest]) == list(range(20))
  alone, others = memorization._halves(4, (train, persons[:4]), 0)
  assert len(alone) == len(others) == 2


def test_ties_count_half():
  rng = np.random.default_rng(0)
  real = fresh(rng, 20)
  result = compare(fresh(rng, 10), real, real).closer_to_train
  assert (result.fraction, result.expected) == (0.5, 0.5)
  assert result.z == 0
  assert result.binomial_p_value == 1


@given(
  st.lists(st.integers(0, 4), min_size=2, max_size=8),
  st.lists(st.integers(0, 4), min_size=2, max_size=8),
)
def test_mann_whitney_agrees_with_scipy(x, y):
  x, y = np.array(x), np.array(y)
  z = memorization.mann_whitney_z(x, y)
  if len(set(x) | set(y)) == 1:
    assert z == 0
    return
  found = stats.mannwhitneyu(
    x, y, use_continuity=False, alternative='less', method='asymptotic'
  )
  np.testing.assert_allclose(stats.norm.cdf(z), found.pvalue, rtol=1e-9)


def test_copying_in_one_class_shows_there():
  rng = np.random.default_rng(0)
  train, held_out, synthetic = fresh(rng, 400), fresh(rng, 200), fresh(rng, 300)
  labels = np.arange(300) % 3
  synthetic[labels == 1] = train[:100]
  result = compare(
    synthetic,
    train,
    held_out,
    synthetic_labels=labels,
    held_out_labels=np.arange(200) % 4,
  )
  scores = dict(result.c_t_by_class)
  assert set(scores) == {0, 1, 2}  # Class 3 has no synthetic images.
  assert scores[1] < -5
  assert min(scores[0], scores[2]) > -3


def test_small_classes_are_left_out():
  z = memorization.z_by_cell(
    np.arange(39.0), np.repeat([0, 1], [19, 20]),
    np.arange(50.0), np.repeat([0, 1], [25, 25]),
  )  # fmt: skip
  assert [cell for cell, _ in z] == [1]


def test_pairs_are_the_closest_and_name_no_training_image_twice():
  rng = np.random.default_rng(0)
  train, held_out = fresh(rng, 50), fresh(rng, 20)
  synthetic = fresh(rng, 30)
  synthetic[5] = train[7]
  synthetic[6] = train[7] + 1e-4
  synthetic[9] = train[3] + 1e-3
  pairs = compare(synthetic, train, held_out, num_pairs=3).pairs
  assert [(p.synthetic, p.train) for p in pairs[:2]] == [(5, 7), (9, 3)]
  assert len({p.train for p in pairs}) == 3
  assert pairs[0].distance == 0
  near = np.linalg.norm(held_out - synthetic[9], axis=1).min()
  np.testing.assert_allclose(pairs[1].held_out_distance, near, rtol=1e-5)


def test_real_images_are_measured_alike():
  rng = np.random.default_rng(0)
  train, held_out = fresh(rng, 200), fresh(rng, 101)
  result = memorization.compare_real(train, held_out, space='features')
  assert not result.is_copying
  assert (len(result.train_distances), result.num_held_out) == (51, 50)
  found = np.sort(
    np.concatenate([result.train_distances, result.reference_distances])
  )
  both = compare(held_out, train, held_out)
  np.testing.assert_array_equal(found, np.sort(both.train_distances))


def test_authenticity_is_by_the_training_neighbors_own_neighbor():
  train = np.array([[0.0], [1.0], [10.0]])
  held_out = np.array([[5.0]])
  # 0.4 is inside the ball of 0 (radius 1), 12 inside that of 10 (radius 9),
  # -1.5 is outside that of 0.
  result = compare(np.array([[0.4], [12.0], [-1.5]]), train, held_out)
  np.testing.assert_allclose(result.authenticity, 1 / 3)


def test_a_copy_of_an_image_that_occurs_twice_is_not_authentic():
  train = np.array([[0.0], [0.0], [10.0]])
  result = compare(np.array([[0.0], [4.0], [9.0]]), train, np.array([[5.0]]))
  np.testing.assert_allclose(result.authenticity, 1 / 3)  # 4, outside of 0.


def test_images_are_compared_by_pixels():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 4, 4, 3)).astype(np.uint8)
  result = compare(images[:10], images[:20], images[20:])
  assert result.num_exact == 10
  stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
  assert stored['num_exact'] == stored['num_synthetic'] == 10
  assert stored['distance_quantiles']['synthetic_to_train']['0.5'] == 0
  assert 'pairs' not in stored


def test_progress_depends_on_the_sizes_alone():
  """How many training images were nearest to anything is private."""
  rng = np.random.default_rng(0)
  train, held_out = rng.normal(size=(50, 4)), rng.normal(size=(31, 4))
  spread, collapsed = rng.normal(size=(20, 4)), np.tile(train[:1], (20, 1))
  told: list[list[int]] = []
  for synthetic in (spread, collapsed):
    told.append([])
    memorization.compare(
      synthetic, train, held_out, space='pixels', advance=told[-1].append
    )
  assert told[0] == told[1]
  assert sum(told[0]) == memorization.num_queries(20, 31)
  real: list[int] = []
  memorization.compare_real(
    train, held_out, space='pixels', advance=real.append
  )
  assert sum(real) == memorization.num_real_queries(31)


def test_bad_arguments_are_refused():
  x = np.zeros((3, 2))
  with pytest.raises(ValueError, match='held_out'):
    compare(x, x, x[:0])
  with pytest.raises(ValueError, match='train'):
    compare(x, x[:1], x)
  with pytest.raises(ValueError, match='both sides'):
    compare(x, x, x, synthetic_labels=np.zeros(3, int))
