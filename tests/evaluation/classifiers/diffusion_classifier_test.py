from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.models import unet
from dp_diffusion.training import processes

_COSINE = schedules.DiffusionProcess(schedule='cosine', prediction='v')
_NETWORK = unet.UNetConfig(
  channels=4,
  channel_multipliers=(1,),
  num_blocks=1,
  attention_resolutions=(),
  num_groups=2,
  head_channels=4,
  num_classes=3,
  image_channels=1,
)


@pytest.fixture(scope='module')
def params():
  shapes = jax.eval_shape(
    unet.UNet(_NETWORK).init,
    jax.random.key(0),
    jnp.zeros((1, 4, 4, 1)),
    jnp.zeros((1,), jnp.int32),
    jnp.zeros((1,), jnp.int32),
  )
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes['params']
  )


@pytest.fixture(scope='module')
def classifier(params):
  return diffusion_classifier.DiffusionClassifier(
    _NETWORK, params, _COSINE, num_levels=2, batch_size=8
  )


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).integers(0, 256, (11, 4, 4, 1), np.uint8)


@pytest.mark.parametrize('prediction', ['eps', 'v', 'x0'])
def test_log_odds_of_gaussian_classes_are_the_exact_ones(prediction):
  """Oracle: for Gaussian classes denoiser and posterior are closed formulas."""
  process = schedules.DiffusionProcess(schedule='cosine', prediction=prediction)
  means, variance = jnp.array([-0.15, 0.15]), 0.25

  def denoise(x_t, timestep, label):
    alpha_bar = jnp.asarray(schedules.alpha_bar(process))[timestep]
    signal = jnp.sqrt(alpha_bar)[:, None, None, None]
    noise_variance = (1 - alpha_bar)[:, None, None, None]
    mean = means[label][:, None, None, None]
    gain = signal * variance / (signal**2 * variance + noise_variance)
    x0 = mean + gain * (x_t - signal * mean)
    eps = (x_t - signal * x0) / jnp.sqrt(noise_variance)
    return parameterization.target(process, x0, timestep, eps)

  rng = np.random.default_rng(1)
  x0 = rng.normal(0, variance**0.5, (4, 3, 3, 1)).astype(np.float32)
  num_draws, levels = 400, diffusion_classifier.timesteps(process, 24)
  errors = np.zeros((2, len(x0)))
  for level, timestep in enumerate(levels):
    for label in (0, 1):
      keys = jax.random.split(jax.random.key(level), len(x0) * num_draws)
      found = diffusion_classifier.noise_errors(
        denoise,
        process,
        jnp.repeat(x0, num_draws, axis=0),
        keys,
        jnp.full(len(keys), timestep),
        jnp.full(len(keys), label),
      )
      errors[label] += found.reshape(len(x0), num_draws).mean(axis=1)
  log_odds = 0.5 * (10 - -2) * (errors[0] - errors[1]) / len(levels)
  exact = (means[1] - means[0]) / variance * x0.sum(axis=(1, 2, 3))
  np.testing.assert_allclose(log_odds, exact, atol=0.15)
  assert np.abs(exact).max() > 1


def test_noise_levels_are_even_in_log_snr():
  found = diffusion_classifier.timesteps(_COSINE, 6)
  log_snr = np.log(schedules.snr(_COSINE)[found])
  np.testing.assert_allclose(log_snr, [9, 7, 5, 3, 1, -1], atol=0.4)


def test_probabilities_add_up_and_differ_by_class(classifier, images):
  found = classifier.classify(images)
  log_probs = found.log_probs
  np.testing.assert_array_equal(found.labels, log_probs.argmax(axis=1))
  assert log_probs.shape == (11, 3)
  np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1)
  assert np.ptp(log_probs, axis=1).min() > 0


def test_classes_with_equal_rows_are_equally_likely(params, images):
  """All classes see the same noise, so nothing but the class differs."""
  rows = np.ones_like(params['label']['classes'])
  same = params | {'label': params['label'] | {'classes': rows}}
  found = (
    diffusion_classifier.DiffusionClassifier(
      _NETWORK, same, _COSINE, num_levels=1, batch_size=8
    )
    .classify(images)
    .log_probs
  )
  np.testing.assert_allclose(found, np.log(1 / 3), rtol=1e-6)


def test_an_image_does_not_depend_on_others(classifier, images):
  whole = classifier.classify(images).log_probs
  others = images.copy()
  others[1:] = 0
  np.testing.assert_array_equal(
    classifier.classify(others).log_probs[0], whole[0]
  )
  np.testing.assert_array_equal(
    classifier.classify(images[:9]).log_probs, whole[:9]
  )


def test_processes_divide_the_batches(classifier, images):
  whole = classifier.bounds(images, processes.Share())
  parts = [
    classifier.bounds(images, processes.Share(index, 2)) for index in range(2)
  ]
  assert [np.count_nonzero(part) for part in parts] == [8 + 8 + 1, 8 + 8]
  np.testing.assert_array_equal(parts[0] + parts[1], whole)


def test_it_can_be_stopped_and_tells_its_progress(params, images, classifier):
  done = []
  classifier.classify(images, done.append)
  assert sum(done) == 11 and len(done) == 5

  def stop():
    raise KeyboardInterrupt

  stopped = diffusion_classifier.DiffusionClassifier(
    _NETWORK, params, _COSINE, check_stop=stop
  )
  with pytest.raises(KeyboardInterrupt):
    stopped.classify(images)
