"""Private Evolution: votes, their sensitivity and noise, and populations."""

from __future__ import annotations

import dataclasses

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import one_by_one
from dp_diffusion.baselines import private_evolution
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise

NUM_CLASSES = 3
SIZE = 4  # Images of each class's population.
CONFIG = private_evolution.PrivateEvolutionConfig(
  num_generations=3,
  population=SIZE,
  threshold=0.0,
  first_neighbors=3,
  last_neighbors=1,
)


def flat(images):
  return images.reshape((len(images), -1))


def make_source(labels, person=None, seed=0):
  rng = np.random.default_rng(seed)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name='x',
      image_shape=(2, 2, 1),
      class_names=('a', 'b', 'c'),
      has_person=person is not None,
    ),
    images=rng.integers(0, 256, (len(labels), 2, 2, 1), dtype=np.uint8),
    labels=np.asarray(labels, np.int32),
    person=None if person is None else np.asarray(person, np.int32),
  )


def without(source, gone):
  return dataclasses.replace(
    source,
    images=source.images[~gone],
    labels=source.labels[~gone],
    person=source.person[~gone],
  )


def make_candidates(num=30, seed=1):
  public = make_source(np.arange(num) % NUM_CLASSES, seed=seed)
  return private_evolution.Candidates(
    features=one_by_one.apply(flat, public.images),
    of_class=private_evolution.choose(
      public.labels, ('a', 'b', 'c'), ('a', 'b', 'c')
    ),
  )


CANDIDATES = make_candidates()
POPULATION = np.stack([which[:SIZE] for which in CANDIDATES.of_class])


def entry_with(noise_multiplier):
  mechanism = mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier, l2_sensitivity=1.0, purpose='x', count=3
  )
  return ledger_lib.GaussianEntry(mechanism=mechanism)


def votes_fn(source, unit='image', noise_multiplier=0.0):
  return private_evolution.make_votes_fn(
    flat,
    source,
    batching.make_records(source, unit),
    CANDIDATES,
    entry_with(noise_multiplier),
    key_streams.KeyStreams(
      secret=key_streams.Secret.insecure(0), run_id='evolution'
    ),
  )


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_votes_are_those_of_a_loop(unit):
  labels, person = [0, 2, 2, 1, 0], [5, 5, 7, 5, 8]
  source = make_source(labels, person)
  expected = np.zeros((NUM_CLASSES, SIZE))
  for i, label in enumerate(labels):
    x = source.images[i].reshape(-1) / 127.5 - 1
    distances = [
      np.linalg.norm(CANDIDATES.features[j] - x) for j in POPULATION[label]
    ]
    share = 1.0 if unit == 'image' else 1 / person.count(person[i])
    expected[label, np.argmin(distances)] += share
  found = votes_fn(source, unit)(0, POPULATION)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@hypothesis.settings(max_examples=6)
@hypothesis.given(
  st.lists(st.integers(0, 2), min_size=1, max_size=8),
  st.integers(0, 99),
  st.sampled_from(['image', 'person']),
)
def test_neighbours_differ_by_at_most_the_sensitivity(labels, seed, unit):
  """Removing one record, a person with all images and labels too."""
  person = np.arange(len(labels)) // 3
  source = make_source(labels, person, seed)
  gone = person == 0 if unit == 'person' else np.arange(len(labels)) == 0
  whole = votes_fn(source, unit)(0, POPULATION)
  change = whole - votes_fn(without(source, gone), unit)(0, POPULATION)
  assert np.linalg.norm(change) <= mean_embedding.L2_SENSITIVITY
  assert np.all(change >= 0)  # All other records vote as before.
  if unit == 'image':
    assert np.linalg.norm(change) == 1.0  # The bound is reached.


def test_a_vote_does_not_depend_on_other_images():
  """To the bit, in another place of another batch."""
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(4, 333)).astype(np.float32)
  source = make_source(rng.integers(0, 3, 300))

  def fn(images):
    return jnp.tanh(flat(images) @ weights)

  found = one_by_one.apply(fn, source.images)
  for start in (1, 2, 299):
    np.testing.assert_array_equal(
      one_by_one.apply(fn, source.images[start:]), found[start:]
    )
  populations = found[POPULATION]
  votes = private_evolution.nearest(found, source.labels, populations)
  np.testing.assert_array_equal(
    private_evolution.nearest(found[3:], source.labels[3:], populations),
    votes[3:],
  )


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e38])
def test_any_features_are_one_vote_of_the_class(value):
  own = np.full((3, 4), value, np.float32)
  labels = np.array([0, 1, 2])
  found = private_evolution.nearest(
    own, labels, CANDIDATES.features[POPULATION]
  )
  np.testing.assert_array_equal(found // SIZE, labels)


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma, new in a generation."""
  population = np.zeros((1, 1000), np.int64)
  votes = votes_fn(make_source([0]), noise_multiplier=5.0)
  first, second = votes(0, population)[0, 1:], votes(1, population)[0, 1:]
  for found in (first, second, (first - second) / 2**0.5):
    squares = np.sum((found / 5.0) ** 2)
    for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
      tail = stats.chi2.cdf(squares / factor**2, found.size)
      assert (1e-3 < tail < 1 - 1e-3) == is_right
  np.testing.assert_array_equal(votes(0, population)[0, 1:], first)


def test_one_mechanism_everywhere(monkeypatch):
  """As many votes as the entry has releases, each with its noise."""
  asked = []

  def add_noise(tree, keys, std):
    asked.append(std)
    return tree.to_floats()

  monkeypatch.setattr(noise, 'add_noise', add_noise)
  entry = entry_with(2.5)
  votes = votes_fn(make_source([0, 1]), noise_multiplier=2.5)
  rng = np.random.default_rng(0)
  private_evolution.evolve(CONFIG, CANDIDATES, votes, entry.noise_std, rng)
  assert asked == [entry.noise_std] * entry.mechanism.count
  assert CONFIG.num_generations == entry.mechanism.count


def evolve(votes, seed=0, config=CONFIG, noise_std=1.0):
  rng = np.random.default_rng(seed)
  population = private_evolution.evolve(
    config, CANDIDATES, votes, noise_std, rng
  )
  labels = np.repeat(np.arange(NUM_CLASSES), 50)
  samples = private_evolution.sample(
    config, CANDIDATES, population, labels, rng
  )
  return population, samples, labels


def test_populations_follow_the_noised_votes_alone():
  """Equal votes give equal images, and images without votes have none."""

  def votes(generation, population):
    return np.where(population == population[:, 1:2], 3.0, -1.0)

  found, samples, labels = evolve(votes)
  again, _, _ = evolve(votes)
  np.testing.assert_array_equal(found.images, again.images)
  np.testing.assert_array_equal(
    samples, found.images[:, 1][labels]
  )  # The only one with votes; its nearest candidate is itself.
  other, _, _ = evolve(lambda _, population: 1.0 * population)
  assert np.any(other.images != found.images)
  for label, which in enumerate(CANDIDATES.of_class):
    assert np.isin(found.images[label], which).all()


@pytest.mark.parametrize('noise_std', [1.0, 0.5, 20.0])
def test_the_threshold_is_in_units_of_the_noise(noise_std):
  config = dataclasses.replace(CONFIG, threshold=2.0)
  found, _, _ = evolve(
    lambda _, population: noise_std * np.array([[1.9, 3.0, 4.0, 0.0]] * 3),
    config=config,
    noise_std=noise_std,
  )
  np.testing.assert_allclose(found.shares, [[0, 1 / 3, 2 / 3, 0]] * 3)


def test_populations_approach_what_is_voted_for():
  """Sensitive images are in a corner of the public ones."""
  candidates = make_candidates(300)
  source = make_source(np.arange(90) % 3)
  source = dataclasses.replace(source, images=source.images // 8)
  records = batching.make_records(source, 'image')
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(0), run_id='x'
  )
  votes = private_evolution.make_votes_fn(
    flat, source, records, candidates, entry_with(0.5), streams
  )
  config = dataclasses.replace(CONFIG, population=10, first_neighbors=20)
  rng = np.random.default_rng(0)
  population = private_evolution.evolve(config, candidates, votes, 0.5, rng)
  labels = np.arange(90) % 3
  samples = private_evolution.sample(
    config, candidates, population, labels, rng
  )
  mean = candidates.features.mean()
  assert candidates.features[samples].mean() < mean - 0.3


def test_projected_distances_are_about_the_same():
  images = np.random.default_rng(0).uniform(-1, 1, (6, 2, 2, 1))
  fn = private_evolution.project(flat, (2, 2, 1), 2000, jax.random.key(0))
  found = np.asarray(fn(images.astype(np.float32)))
  assert found.shape == (6, 2000)
  for i in range(1, 6):
    distance = np.linalg.norm(images[i] - images[0])
    projected = np.linalg.norm(found[i] - found[0])
    assert projected == pytest.approx(distance, rel=0.1)


def test_variations_are_among_the_nearest_candidates():
  rng = np.random.default_rng(0)
  which = CANDIDATES.of_class[1]
  parent = which[2]
  distances = np.linalg.norm(
    CANDIDATES.features[which] - CANDIDATES.features[parent], axis=1
  )
  near = set(which[np.argsort(distances)[:3]])
  found = private_evolution.vary(CANDIDATES, 1, np.full(100, parent), 3, rng)
  assert set(found) == near
  everything = private_evolution.vary(
    CANDIDATES, 1, np.full(500, parent), 99, rng
  )
  assert set(everything) == set(which)


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'num_generations': 0}, 'num_generations'),
    ({'threshold': -1.0}, 'threshold'),
    ({'first_neighbors': 5, 'last_neighbors': 6}, 'last_neighbors=6'),
  ],
)
def test_nonsense_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    private_evolution.PrivateEvolutionConfig(**changes)
