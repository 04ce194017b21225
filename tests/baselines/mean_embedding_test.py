"""Mean embeddings: sensitivity, noise, and naive oracles."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import gaussian_calibration
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import privacy_config

NUM_CLASSES = 3
CONFIG = privacy_config.PrivacyConfig(
  epsilon=2.0,
  delta=1e-3,
  num_steps=5,
  expected_batch_size=10,
  num_examples=100,
  l2_clip_norm=1.0,
)


def make_source(labels, person=None, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (len(labels), 2, 2, 1), dtype=np.uint8)
  return registry.ArraySource(
    spec=types.DatasetSpec(
      name='x',
      image_shape=(2, 2, 1),
      class_names=('a', 'b', 'c'),
      has_person=person is not None,
    ),
    images=images,
    labels=np.asarray(labels, np.int32),
    person=None if person is None else np.asarray(person, np.int32),
  )


def subset(source, chosen):
  return dataclasses.replace(
    source,
    images=source.images[chosen],
    labels=source.labels[chosen],
    person=None if source.person is None else source.person[chosen],
  )


def large_features(images):
  """Norms far above the bound, and signs of both kinds."""
  return 1e3 * images.reshape((len(images), -1))


def exact(source, unit='image', feature_fn=large_features):
  records = batching.make_records(source, unit)
  return mean_embedding._record_sum(feature_fn, source, records)


def streams(run_id='a'):
  secret = key_streams.Secret.insecure(0)
  return key_streams.KeyStreams(secret=secret, run_id=run_id)


def ledger_with(noise_multiplier):
  mechanism = mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier, l2_sensitivity=1.0, purpose='x'
  )
  entry = ledger_lib.GaussianEntry(mechanism=mechanism)
  return ledger_lib.Ledger(delta=1e-3, entries=(entry,))


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_sum_is_that_of_a_loop(unit):
  labels, person = [0, 2, 2, 1, 0], [5, 5, 7, 5, 8]
  source = make_source(labels, person)
  found = exact(source, unit)
  expected = np.zeros((NUM_CLASSES, 4))
  for i, label in enumerate(labels):
    x = 1e3 * (source.images[i].reshape(-1) / 127.5 - 1)
    share = 1.0 if unit == 'image' else 1 / person.count(person[i])
    expected[label] += share * x / max(1.0, np.linalg.norm(x))
  np.testing.assert_allclose(found, expected, atol=2e-5)


@hypothesis.settings(max_examples=10)
@hypothesis.given(
  st.lists(st.integers(0, 2), min_size=2, max_size=8),
  st.integers(0, 99),
  st.sampled_from(['image', 'person']),
)
def test_neighbours_differ_by_at_most_the_sensitivity(labels, seed, unit):
  """Removing one record, a person with all images and labels too."""
  person = np.arange(len(labels)) // 3
  source = make_source(labels, person, seed)
  gone = person == 0 if unit == 'person' else np.arange(len(labels)) == 0
  assert not gone.all() or unit == 'person'
  if gone.all():
    change = exact(source, unit)
  else:
    change = exact(source, unit) - exact(subset(source, ~gone), unit)
  moved = np.linalg.norm(change)
  assert moved <= mean_embedding.L2_SENSITIVITY
  if unit == 'image':
    assert moved > 0.99  # The bound is reached: it is no looser than it is.


def test_order_of_records_does_not_matter():
  """To the bit, and across batches: a record changes its own term only."""
  person = np.repeat(np.arange(120), 1 + np.arange(120) % 9)
  source = make_source(np.arange(len(person)) % 3, person)
  whole = exact(source, 'person')
  turned = subset(source, np.arange(len(person))[::-1])
  np.testing.assert_array_equal(exact(turned, 'person'), whole)
  for one in (7, 110):  # Of the first batch and of the last.
    rest = exact(subset(source, person != one), 'person')
    alone = exact(subset(source, person == one), 'person')
    np.testing.assert_array_equal(whole - rest, alone)


def test_features_are_bounded_in_float64(monkeypatch):
  """A float32 norm may be too small: here by far, so that it is seen."""
  monkeypatch.setattr(mean_embedding, 'bound', lambda features: 1.5 * features)
  source = make_source([0, 1])
  found = exact(source, feature_fn=large_features)
  assert 0.99 < np.linalg.norm(found[0]) <= 1 - 2.0**-25


def test_features_that_are_not_finite_add_zero():
  """Of one image: the others count as before."""

  def broken(images):
    x = images.reshape((len(images), -1))
    return jnp.where(x[:, :1] > 0.99, jnp.nan, x)

  source = make_source([0, 1, 2])
  source.images[0] = 0
  source.images[1] = 255
  found = exact(source, feature_fn=broken)
  assert np.isfinite(found).all() and not found[1].any() and found[0].any()
  huge = jnp.array([[3e38, 3e38], [jnp.inf, 0.0]], jnp.float32)
  norms = np.linalg.norm(np.float64(mean_embedding.bound(huge)), axis=1)
  assert 0.99 < norms[0] <= 1 and norms[1] == 0


def test_noise_std():
  """Accepted at sigma, rejected at 0.9 and 1.1 sigma."""
  sigma, num = 3.0, 1000
  source = make_source([0, 1, 2, 0])
  records = batching.make_records(source, 'image')

  def wide(images):
    return jnp.zeros((len(images), num))

  found = mean_embedding.noised_mean(
    wide, source, records, 50, ledger_with(sigma), streams()
  )
  squares = np.sum((np.float64(found) * 50 / sigma) ** 2)
  for factor, is_right in ((0.9, False), (1.0, True), (1.1, False)):
    tail = stats.chi2.cdf(squares / factor**2, NUM_CLASSES * num)
    assert (1e-3 < tail < 1 - 1e-3) == is_right
  again = mean_embedding.noised_mean(
    wide, source, records, 50, ledger_with(sigma), streams('b')
  )
  assert np.all(found != again)


def test_one_mechanism_everywhere(monkeypatch):
  """Calibrated = in the ledger = std that the noise is asked for."""
  calibrated, asked = [], []
  calibrate = gaussian_calibration.calibrate

  def keep(*args, **kwargs):
    calibrated.append(calibrate(*args, **kwargs))
    return calibrated[-1]

  def add_noise(tree, keys, std):
    asked.append(std)
    return tree.to_floats()

  monkeypatch.setattr(gaussian_calibration, 'calibrate', keep)
  monkeypatch.setattr(mean_embedding.noise, 'add_noise', add_noise)
  ledger = mean_embedding.start_ledger(CONFIG, 'x', 'image')
  source = make_source([0, 1])
  mean_embedding.noised_mean(
    large_features,
    source,
    batching.make_records(source, 'image'),
    CONFIG.num_examples,
    ledger,
    streams(),
  )
  (mechanism,) = calibrated
  assert ledger.dp_events() == (mechanism.dp_event(),)
  assert asked == [mechanism.noise_multiplier * mean_embedding.L2_SENSITIVITY]
  assert ledger.epsilon() <= CONFIG.epsilon
  smaller = dataclasses.replace(
    mechanism, noise_multiplier=0.999 * mechanism.noise_multiplier
  )
  assert accounting.epsilon([smaller.dp_event()], CONFIG.delta) > CONFIG.epsilon


def test_divides_by_the_declared_number():
  source = make_source([0, 1, 1])
  records = batching.make_records(source, 'image')
  found = mean_embedding.noised_mean(
    large_features, source, records, 7, ledger_with(0.0), streams()
  )
  np.testing.assert_allclose(found, exact(source) / 7, rtol=1e-5, atol=1e-7)


def test_epsilon_must_be_given():
  config = dataclasses.replace(
    CONFIG, epsilon=None, noise_multiplier=1.0, solve_for='epsilon'
  )
  with pytest.raises(errors.UsageError, match=r'privacy\.epsilon'):
    mean_embedding.start_ledger(config, 'x', 'image')


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_the_unit_is_stated(unit):
  found = mean_embedding.start_ledger(CONFIG, 'x', unit)
  assert found.unit == unit
  assert found.entries[0].mechanism.purpose == 'mean embedding of x'


def test_infinite_epsilon_says_that_it_is_not_private():
  config = dataclasses.replace(CONFIG, epsilon=math.inf)
  ledger = mean_embedding.start_ledger(config, 'x', 'image')
  assert ledger.epsilon() == math.inf


def test_generated_mean_is_that_of_a_loop():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(6, 4)).astype(np.float32)
  labels = np.array([0, 2, 2, 0, 2, 0], np.int32)
  expected = np.zeros((NUM_CLASSES, 4))
  for x, label in zip(features, labels):
    expected[label] += x / 6
  found = mean_embedding.generated_mean(features, labels, NUM_CLASSES)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_keys_are_of_no_other_purpose():
  own = jax.random.key_data(streams().statistic_keys('mean embedding'))
  other = jax.random.key_data(streams().statistic_keys('histogram of labels'))
  assert not np.any(np.asarray(own) == np.asarray(other))
