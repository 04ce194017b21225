"""The class head: sensitivity, noise, what it follows from, what it learns."""

from __future__ import annotations

import dataclasses
import math

import dp_accounting
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import special
from scipy import stats

from dp_diffusion.baselines import class_head
from dp_diffusion.data import batching
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams

WIDTH = 3  # Features of the records that hypothesis makes.
UNIT = 2.0**-24
HUGE = float(np.finfo(np.float32).max)
_NAMES = (
  r'(?=.*finetune\.class_head\.num_steps)'
  r'(?=.*finetune\.class_head\.noise_multiplier)'
)


def config_of(num_steps=2, noise_multiplier=5.0, **more):
  return class_head.ClassHeadConfig(
    num_steps=num_steps, noise_multiplier=noise_multiplier, **more
  )


def streams(run_id='a'):
  secret = key_streams.Secret.insecure(0)
  return key_streams.KeyStreams(secret=secret, run_id=run_id)


def records_of(sizes):
  """Records of so many images, one after the other."""
  starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
  return batching.Records(images=np.arange(starts[-1]), starts=starts)


def scaling_of(width, seed=0):
  features = np.random.default_rng(seed).normal(size=(500, width)) + 1
  return class_head.fit_scaling(features.astype(np.float32))


def gradients(features, labels, sizes, num_classes, scaling, run_id='a'):
  return class_head.NoisedGradients(
    class_head.in_units(scaling.bounded(np.asarray(features, np.float32))),
    np.asarray(labels, np.int32),
    records_of(sizes),
    num_classes,
    config_of(),
    streams(run_id),
  )


def two_classes(num, seed, distance=3.0, width=10):
  """Gaussian classes, whose best classifier is right by Phi(distance / 2)."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, num).astype(np.int32)
  shift = distance * labels[:, None] * np.eye(width)[0]
  features = rng.normal(size=(num, width)) + shift
  return features.astype(np.float32), labels


def fit(features, labels, config, num_examples=None, num_classes=2, **more):
  scaling = more.get('scaling') or class_head.fit_scaling(features)
  gradients = class_head.NoisedGradients(
    class_head.in_units(scaling.bounded(features)),
    labels,
    more.get('records') or records_of(np.ones(len(labels), int)),
    num_classes,
    config,
    streams(more.get('run_id', 'a')),
  )
  return class_head.fit(
    gradients,
    scaling,
    num_examples or len(labels),
    config,
    more.get('num_activations', features.shape[1]),
    more.get('advance', lambda: None),
  )


_FEATURE = st.one_of(
  st.floats(width=32),
  st.sampled_from([0.0, 1.0, 1e-30, HUGE, -HUGE, math.nan, math.inf]),
)
_IMAGE = st.tuples(st.integers(0, 3), st.tuples(*[_FEATURE] * WIDTH))
_PERSON = st.lists(_IMAGE, min_size=1, max_size=4)


@hypothesis.settings(max_examples=100)
@hypothesis.given(
  st.lists(_PERSON, min_size=1, max_size=6),
  st.integers(2, 4),
  st.sampled_from([0.0, 1e-9, 1.0, 10.0, 1e4, 1e30]),
  st.integers(0, 9),
)
def test_neighbours_differ_by_at_most_the_sensitivity(
  persons, num_classes, size, seed
):
  """Removing one record, a person with all images and labels too."""
  rng = np.random.default_rng(seed)
  weights = size * rng.normal(size=(num_classes, WIDTH + 1))
  scaling = scaling_of(WIDTH, seed)

  def exact(chosen):
    images = [image for person in chosen for image in person]
    labels = [label % num_classes for label, _ in images]
    features = np.array([x for _, x in images]).reshape((-1, WIDTH))
    sizes = [len(person) for person in chosen]
    found = gradients(features, labels, sizes, num_classes, scaling)
    return found.exact(weights)

  whole = exact(persons)
  np.testing.assert_array_equal(whole / UNIT, np.trunc(whole / UNIT))
  for one in range(len(persons)):
    change = whole - exact(persons[:one] + persons[one + 1 :])
    assert np.linalg.norm(change) <= class_head.L2_SENSITIVITY
    # All other records have the terms that they had.
    np.testing.assert_array_equal(change, exact([persons[one]]))


def test_sum_is_that_of_a_loop():
  """Over persons whose images do not lie side by side."""
  labels, person = np.array([0, 2, 2, 1, 0]), [5, 5, 7, 5, 8]
  records = batching.Records(
    images=np.array([0, 1, 3, 2, 4]), starts=np.array([0, 3, 4, 5])
  )
  rng = np.random.default_rng(0)
  weights = 3 * rng.normal(size=(3, WIDTH + 1))
  u = scaling_of(WIDTH).bounded(rng.normal(size=(5, WIDTH)).astype(np.float32))
  found = class_head.NoisedGradients(
    class_head.in_units(u), labels, records, 3, config_of(), streams()
  )
  expected = np.zeros((3, WIDTH + 1))
  for i, label in enumerate(labels):
    residual = special.softmax(weights @ u[i]) - np.eye(3)[label]
    expected += (
      np.outer(residual, u[i]) / math.sqrt(2) / person.count(person[i])
    )
  np.testing.assert_allclose(found.exact(weights), expected, atol=5 * 2.0**-12)


@pytest.mark.parametrize('num_classes', [2, 3, 4])
def test_the_bound_is_reached(num_classes):
  """By an image beyond the radius, of a class that is thought impossible."""
  weights = np.zeros((num_classes, WIDTH + 1))
  weights[1, -1] = 1e6
  found = gradients([[HUGE, -HUGE, 0]], [0], [1], num_classes, scaling_of(3))
  assert 0.999 < np.linalg.norm(found.exact(weights)) <= 1
  # So it is by a person with many such images, and no further.
  person = gradients([[HUGE, 1, 0]] * 64, [0] * 64, [64], 2, scaling_of(3))
  assert 0.98 < np.linalg.norm(person.exact(weights[:2])) <= 1


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_add_nothing(value):
  """Of one image: the others of the person count as before."""
  weights = np.random.default_rng(0).normal(size=(3, WIDTH + 1))
  broken, good = [1.0, value, 2.0], [0.5, -1.0, 2.0]
  scaling = scaling_of(WIDTH)
  alone = gradients([broken, [value] * 3], [0, 1], [1, 1], 3, scaling)
  np.testing.assert_array_equal(alone.exact(weights), np.zeros((3, 4)))
  both = gradients([good, broken], [2, 0], [2], 3, scaling).exact(weights)
  twice = gradients([good, good], [2, 2], [2], 3, scaling).exact(weights)
  assert np.isfinite(both).all() and both.any()
  # The mean of a record is rounded to 2^-24.
  np.testing.assert_allclose(2 * both, twice, rtol=0, atol=2.0**-23)


def no_information(num_classes=3, width=600, run_id='a'):
  """Gradients that are noise alone."""
  scaling = class_head.Scaling(mean=np.zeros(width), matrix=np.eye(width))
  nothing = np.full((4, width), np.nan)
  return gradients(nothing, [0, 1, 2, 0], [1] * 4, num_classes, scaling, run_id)


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma."""
  found = no_information().noised(np.ones((3, 601)), 0)
  squares = np.sum((found / config_of().noise_multiplier) ** 2)
  for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
    tail = stats.chi2.cdf(squares / factor**2, found.size)
    assert (1e-3 < tail < 1 - 1e-3) == is_right


def test_the_noise_is_added_to_the_sum():
  features, labels = two_classes(50, 0, width=600)
  weights = np.random.default_rng(0).normal(size=(3, 601))
  scaling = class_head.Scaling(mean=np.ones(600), matrix=np.eye(600) / 30)
  found = gradients(features, labels, [1] * 50, 3, scaling)
  difference = found.noised(weights, 1) - no_information().noised(weights, 1)
  np.testing.assert_allclose(difference, found.exact(weights), atol=1e-5)


def test_each_step_has_noise_of_its_own():
  weights = np.ones((3, 601))
  steps = [no_information().noised(weights, step).ravel() for step in range(3)]
  steps.append(no_information(run_id='b').noised(weights, 0).ravel())
  correlation = np.corrcoef(steps) - np.eye(4)
  assert np.abs(correlation).max() < 4 / math.sqrt(steps[0].size)
  for i in range(4):
    assert not any(np.any(steps[i] == steps[j]) for j in range(i))
  again = no_information().noised(0 * weights, 1)
  np.testing.assert_array_equal(again.ravel(), steps[1])


def test_order_of_records_does_not_matter():
  """To the bit: a record changes its own term only."""
  rng = np.random.default_rng(0)
  sizes = 1 + np.arange(60) % 5
  first = np.cumsum(sizes) - sizes
  features = 3 * rng.normal(size=(sizes.sum(), 37))
  labels = rng.integers(0, 3, sizes.sum())
  weights = 4 * rng.normal(size=(3, 38))
  scaling = scaling_of(37)

  def exact(order):
    images = np.concatenate([first[r] + np.arange(sizes[r]) for r in order])
    found = gradients(
      features[images], labels[images], sizes[order], 3, scaling
    )
    return found.exact(weights)

  whole = exact(np.arange(60))
  np.testing.assert_array_equal(exact(np.arange(60)[::-1]), whole)
  np.testing.assert_array_equal(exact(rng.permutation(60)), whole)
  for one in (0, 31, 59):
    rest = exact(np.delete(np.arange(60), one))
    np.testing.assert_array_equal(whole - rest, exact(np.array([one])))


def where_it_changes(function):
  """Neighbours in float64 between which a function of [1, 2] changes."""
  low, high = 1.0, 2.0
  first = function(low)
  while (middle := (low + high) / 2) not in (low, high):
    is_equal = np.array_equal(function(middle), first)
    low, high = (middle, high) if is_equal else (low, middle)
  return low, high


@pytest.mark.parametrize('width', [16, 64, 129])
@pytest.mark.parametrize('seed', range(4))
def test_a_term_does_not_depend_on_the_number_of_records(width, seed):
  """Even where the last bit of a product decides how a term is rounded."""
  rng = np.random.default_rng(seed)
  row, weights = rng.normal(size=(1, width)), rng.normal(size=(3, width + 1))
  scaling = scaling_of(width, seed)

  def exact(num, factor):
    copies = np.repeat(row, num, axis=0)
    found = gradients(copies, [0] * num, [1] * num, 3, scaling)
    return found.exact(factor * weights)

  for factor in where_it_changes(lambda factor: exact(1, factor)):
    np.testing.assert_array_equal(exact(7, factor), 7 * exact(1, factor))


@pytest.mark.parametrize('width', [3, 16, 129])
def test_an_image_is_scaled_by_itself(monkeypatch, width):
  """To the last bit, before the cut to the grid, which hides most of them."""
  monkeypatch.setattr(class_head, '_UNIT', 2.0**-60)
  rng = np.random.default_rng(0)
  features = rng.normal(size=(201, width)).astype(np.float32)
  features *= 10.0 ** rng.integers(-3, 3, (201, 1))
  scaling, order = scaling_of(width), rng.permutation(201)
  whole = scaling.bounded(features)
  np.testing.assert_array_equal(scaling.bounded(features[order]), whole[order])
  for num in (1, 2, 5, 200):
    np.testing.assert_array_equal(scaling.bounded(features[:num]), whole[:num])


def test_the_head_follows_from_the_noised_gradients(monkeypatch):
  """Other records with the same noised gradients give the same head."""
  kept = []

  class Kept(class_head.NoisedGradients):
    def noised(self, weights, step):
      kept.append(super().noised(weights, step))
      return kept[-1]

  class Replayed:
    shape = (2, 11)

    def __init__(self, *args):
      pass

    def noised(self, weights, step):
      return kept[step]

  config, scaling, steps = config_of(num_steps=4), scaling_of(10), []
  given = {'scaling': scaling, 'advance': lambda: steps.append(0)}
  monkeypatch.setattr(class_head, 'NoisedGradients', Kept)
  head = fit(*two_classes(60, 0), config, 100, **given)
  assert len(kept) == len(steps) == 4 and head.kernel.any()
  monkeypatch.setattr(class_head, 'NoisedGradients', Replayed)
  others = two_classes(7, 1)
  given |= {'records': records_of([3, 4]), 'run_id': 'b'}
  again = fit(*others, config, 100, **given)
  np.testing.assert_array_equal(again.kernel, head.kernel)
  np.testing.assert_array_equal(again.bias, head.bias)
  # The sum is divided by the declared number of records.
  of_twice = fit(*others, config, 200, **given)
  slower = dataclasses.replace(config, learning_rate=config.learning_rate / 2)
  of_half_rate = fit(*others, slower, 100, **given)
  for found in (of_twice, of_half_rate):
    np.testing.assert_allclose(found.kernel, head.kernel / 2, rtol=1e-6)
    np.testing.assert_allclose(found.bias, head.bias / 2, rtol=1e-6)


def test_it_learns():
  """Two classes of 1,000 records: nearly as good as the best classifier."""
  config = config_of(num_steps=40, noise_multiplier=5.0)
  sampled, _ = two_classes(1000, 0)
  scaling = class_head.fit_scaling(sampled)
  head = fit(*two_classes(2000, 1), config, scaling=scaling)
  features, labels = two_classes(4000, 2)
  found = head.log_probs(features)
  assert found.shape == (4000, 2)
  np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
  accuracy = np.mean(found.argmax(axis=1) == labels)
  assert accuracy > 0.95 * stats.norm.cdf(1.5)
  # It was the labels that it learned from.
  shuffled = np.random.default_rng(0).permutation(labels)
  assert np.mean(found.argmax(axis=1) == shuffled) < 0.6


def test_the_head_takes_features_as_the_network_gives_them(monkeypatch):
  """The scaling is part of the kernel and of the bias."""
  noised = 50 * np.random.default_rng(0).normal(size=(3, 11))
  monkeypatch.setattr(
    class_head.NoisedGradients, 'noised', lambda self, weights, step: noised
  )
  scaling = scaling_of(10)
  features, labels = two_classes(300, 0)
  config = config_of(num_steps=1, learning_rate=8.0)
  head = fit(features, labels, config, 100, 3, scaling=scaling)
  weights = -8.0 * math.sqrt(2) * noised / 100
  scaled = (features.astype(np.float64) - scaling.mean) @ scaling.matrix
  is_whole = np.linalg.norm(scaled, axis=1) <= 1
  assert 50 < is_whole.sum() < 250
  u = np.hstack([math.sqrt(0.96) * scaled, np.full((300, 1), 0.2)])
  expected = special.log_softmax(u @ weights.T, axis=1)
  assert np.ptp(expected) > 1
  np.testing.assert_allclose(
    head.log_probs(features)[is_whole], expected[is_whole], atol=1e-4
  )
  # It is what the gradients see, rounded to 2^-12.
  seen = scaling.bounded(features)[is_whole]
  np.testing.assert_allclose(seen, u[is_whole], atol=2.0**-12 + 1e-6)


def test_records_are_added_in_batches(monkeypatch):
  """To the bit, of one image and of several."""
  rng = np.random.default_rng(0)
  features, labels = rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
  weights = rng.normal(size=(3, 6))
  sizes = [1, 1, 5, 1, 12, *[1] * 18, 2]
  found = gradients(features, labels, sizes, 3, scaling_of(5))
  whole = found.exact(weights)
  for rows in (1, 7, 33):
    monkeypatch.setattr(class_head, '_ROWS', rows)
    np.testing.assert_array_equal(found.exact(weights), whole)


def two_kinds(num, seed, factor=1.0):
  """Three features and five, of which some depend on one another."""
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(num, 8)) @ rng.normal(size=(8, 8))
  features[:, 3:] *= factor
  return features.astype(np.float32)


@pytest.mark.parametrize('factor', [1.0, 1e-3, 1e4])
def test_each_kind_of_features_has_its_share(factor):
  """Whatever its size; most images are not shortened."""
  features = two_kinds(2000, 0, factor)
  scaling = class_head.fit_scaling(features, (3, 5))
  assert not scaling.matrix[:3, 3:].any() and not scaling.matrix[3:, :3].any()
  scaled = (features.astype(np.float64) - scaling.mean) @ scaling.matrix
  first, second = (
    np.quantile(np.linalg.norm(scaled[:, kind], axis=1), 0.9)
    for kind in (slice(3), slice(3, 8))
  )
  assert first == pytest.approx(second, rel=1e-6)
  norms = np.linalg.norm(scaled, axis=1)
  assert 0.9 <= np.mean(norms <= 1 + 1e-12) < 0.902
  # A kind alone is scaled as before, but for its share.
  alone = class_head.fit_scaling(features[:, :3])
  part = scaling.matrix[:3, :3]
  ratio = np.linalg.norm(part) / np.linalg.norm(alone.matrix)
  np.testing.assert_allclose(part, ratio * alone.matrix, rtol=1e-9)


def test_images_that_are_not_finite_scale_nothing():
  """Of two kinds, one of which is whole."""
  features = two_kinds(300, 0)
  scaling = class_head.fit_scaling(features[2:], (3, 5))
  features[0, 0], features[1, 7] = np.nan, np.inf
  found = class_head.fit_scaling(features, (3, 5))
  np.testing.assert_array_equal(found.matrix, scaling.matrix)
  np.testing.assert_array_equal(found.mean, scaling.mean)


@pytest.mark.parametrize('num', [0, 1])
def test_two_kinds_without_images_to_scale_by_are_zero(num):
  scaling = class_head.fit_scaling(two_kinds(num, 0), (3, 5))
  assert scaling.mean.shape == (8,) and not scaling.matrix.any()


def test_the_kernel_of_each_kind_is_kept_by_itself():
  features, labels = two_kinds(500, 0), np.arange(500) % 2
  features[:, 4] += 3 * labels
  scaling = class_head.fit_scaling(features, (3, 5))
  heads = [
    fit(
      features,
      labels,
      config_of(num_steps=9),
      scaling=scaling,
      num_activations=3 if has_both else 8,
    )
    for has_both in (False, True)
  ]
  assert heads[0].scattering_kernel is None
  assert {name: array.shape for name, array in heads[1].arrays().items()} == {
    'kernel': (3, 2),
    'scattering_kernel': (5, 2),
    'bias': (2,),
  }
  found = [head.log_probs(features) for head in heads]
  np.testing.assert_array_equal(*found)
  assert np.mean(found[0].argmax(axis=1) == labels) > 0.8


def test_features_in_other_units_are_refused():
  with pytest.raises(TypeError, match='int16'):
    class_head.NoisedGradients(
      scaling_of(3).bounded(np.ones((1, 3), np.float32)),
      np.zeros(1, np.int32),
      records_of([1]),
      2,
      config_of(),
      streams(),
    )


def test_a_class_without_records_is_thought_rare():
  features, labels = two_classes(1000, 0)
  config = config_of(num_steps=20, noise_multiplier=1.0)
  head = fit(features, labels, config, num_classes=3)
  found = head.log_probs(two_classes(500, 1)[0])
  assert np.isfinite(found).all()
  assert np.exp(found).mean(axis=0).argmin() == 2
  assert np.exp(found[:, 2]).mean() < 0.1


def test_the_bias_learns_which_class_is_frequent():
  """Also where the features say nothing."""
  labels = (np.arange(1000) % 4 == 0).astype(np.int32)
  features = np.random.default_rng(0).normal(size=(1000, 5))
  config = config_of(num_steps=20, noise_multiplier=1.0)
  head = fit(features.astype(np.float32), labels, config)
  found = np.exp(head.log_probs(np.zeros((1, 5), np.float32)))
  assert 0.15 < found[0, 1] < 0.35


def test_most_images_are_not_shortened():
  features = np.random.default_rng(0).normal(size=(1000, 6))
  features = (features * 10.0 ** np.arange(-3, 3) + 5).astype(np.float32)
  scaling = class_head.fit_scaling(features)
  scaled = (features - scaling.mean) @ scaling.matrix
  norms = np.linalg.norm(scaled, axis=1)
  assert 0.9 <= np.mean(norms <= 1 + 1e-12) < 0.902
  # No feature counts for more because its numbers are larger.
  shifted = np.diag(5 * features.std(axis=0)) @ scaling.matrix
  moved = np.linalg.norm(shifted, axis=1)
  assert moved.max() < 1.2 * moved.min()


def test_features_that_never_change_are_ignored():
  features, labels = two_classes(500, 0, width=8)
  features[:, 3], features[:, 6] = 7.1, 0.0
  scaling = class_head.fit_scaling(features)
  assert not scaling.matrix[[3, 6]].any()
  changed = features.copy()
  changed[:, 3] = HUGE  # Not constant in the sensitive images.
  bounded = scaling.bounded(features)
  np.testing.assert_array_equal(scaling.bounded(changed), bounded)
  head = fit(changed, labels, config_of(), scaling=scaling)
  assert not head.kernel[[3, 6]].any()
  assert np.all(head.kernel[[0, 1, 2, 4, 5, 7]])


@pytest.mark.parametrize('num_others', [0, 5])
def test_scaling_by_images_that_are_equal_is_finite(num_others):
  """A network that has collapsed must not end the run at its last stage."""
  features = np.ones((100, 4), np.float32)
  features[:num_others, 1] = np.arange(num_others)
  scaling = class_head.fit_scaling(features)
  assert np.isfinite(scaling.matrix).all()
  norms = np.linalg.norm(scaling.bounded(two_classes(9, 0, width=4)[0]), axis=1)
  assert np.all(norms <= 1)


def test_no_head_by_default():
  used = class_head.ClassHeadConfig()
  assert not used.is_used and used.entries() == ()


def test_a_head_has_one_entry():
  used = config_of(num_steps=30, noise_multiplier=8.0)
  (entry,) = used.entries()
  assert used.is_used and entry.mechanism == used.mechanism
  assert entry.mechanism.purpose == class_head.PURPOSE
  assert (entry.noise_multiplier, entry.noise_std) == (8, 8)
  assert (entry.mechanism.count, entry.mechanism.l2_sensitivity) == (30, 1)
  one = dp_accounting.GaussianDpEvent(8.0)
  assert entry.dp_events() == (dp_accounting.SelfComposedDpEvent(one, 30),)


@pytest.mark.parametrize('given', [{'num_steps': 3}, {'noise_multiplier': 3.0}])
def test_steps_and_noise_go_together(given):
  with pytest.raises(ValueError, match=_NAMES) as raised:
    class_head.ClassHeadConfig(**given)
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    ({'noise_multiplier': 1e9}, r'noise_multiplier=.*<= 2\^18'),
    ({'noise_multiplier': math.nan}, 'noise_multiplier=nan'),
    ({'num_steps': -1}, r'finetune\.class_head\.num_steps=-1'),
    ({'learning_rate': 0.0}, 'learning_rate=0'),
    ({'num_samples': 1}, 'num_samples=1'),
  ],
)
def test_values_out_of_range_are_refused(given, words):
  with pytest.raises(ValueError, match=words):
    config_of(**given)


@pytest.mark.parametrize('share', [0.1, 0.5])
def test_a_share_of_the_budget(share):
  """A head of a share and a Gaussian of the rest cost the whole budget."""
  epsilon, delta, num_steps = 4.0, 1e-5, 20
  noise = class_head.noise_of_share(epsilon, delta, num_steps, share)
  whole = class_head.noise_of_share(epsilon, delta, num_steps, 1.0)
  mu_squared = num_steps / whole**2
  assert num_steps / noise**2 == pytest.approx(share * mu_squared)

  def cost(noise_multiplier):
    event = config_of(num_steps, noise_multiplier).mechanism.dp_event()
    return accounting.epsilon([event], delta)

  assert cost(whole) <= epsilon < cost(0.999 * whole)
  head = config_of(num_steps, noise).mechanism.dp_event()
  rest = dp_accounting.GaussianDpEvent(((1 - share) * mu_squared) ** -0.5)
  both = accounting.epsilon([head, rest], delta)
  assert both == pytest.approx(epsilon, rel=1e-3)


@pytest.mark.parametrize(('num_classes', 'num_images'), [(2, 3000), (10, 300)])
def test_a_person_with_many_images_counts_as_a_record(num_classes, num_images):
  """Each image of theirs has a small share, which must not be cut away."""
  rng = np.random.default_rng(0)
  bounded = scaling_of(10).bounded(
    rng.normal(size=(num_images, 10)).astype(np.float32)
  )
  labels = np.zeros(num_images, np.int32)
  gradients = class_head.NoisedGradients(
    class_head.in_units(bounded),
    labels,
    records_of([num_images]),
    num_classes,
    config_of(),
    streams(),
  )
  found = gradients.exact(np.zeros((num_classes, 11)))
  residual = np.full(num_classes, 1 / num_classes) - np.eye(num_classes)[0]
  wanted = np.outer(residual, bounded.mean(axis=0)) / np.sqrt(2)
  error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
  assert error < 0.02


def test_sampled_images_that_are_not_finite_are_left_out():
  """They would end a run after all that it has paid for."""
  features = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
  wanted = class_head.fit_scaling(features[2:])
  features[0, 1], features[1, 2] = np.nan, np.inf
  found = class_head.fit_scaling(features)
  np.testing.assert_array_equal(found.matrix, wanted.matrix)
  found = class_head.fit_scaling(features[:2])
  assert not found.matrix.any() and found.mean.shape == (4,)
  assert np.isfinite(found.bounded(features)).all()
