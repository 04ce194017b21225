"""The loss of the DP classifier, and its promise."""

from __future__ import annotations

import dataclasses
import types

from flax import linen as nn
import jax
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.baselines import dp_classifier
from dp_diffusion.privacy import privacy_config
from dp_diffusion.training import optimizers

PLAIN = types.SimpleNamespace(reflect_pad=0, flip=False)
CONFIG = dp_classifier.DpClassifierConfig(
  name='logistic_regression',
  num_public_steps=0,
  public_batch_size=1,
  public_optimizer=optimizers.OptimizerConfig(),
  num_steps=7,
  expected_batch_size=4096,
  l2_clip_norm=0.5,
  augmult=2,
  optimizer=optimizers.OptimizerConfig(),
  ema_decay=0.9,
)
PRIVACY = privacy_config.PrivacyConfig(
  epsilon=2.0,
  delta=1e-3,
  num_steps=5,
  expected_batch_size=10,
  num_examples=100,
  l2_clip_norm=1.0,
)


def test_loss_is_that_of_a_loop():
  module = dp_classifier.make_module('logistic_regression', 3)
  params = dp_classifier.init_params(module, (2, 2, 1), jax.random.key(0))
  image = np.uint8([[[0], [50]], [[200], [255]]])
  loss = dp_classifier.make_loss_fn(module, PLAIN)(
    params, {'image': image, 'label': np.int32(2)}, jax.random.key(1)
  )
  dense = params['Dense_0']
  logits = (image.reshape(-1) / 127.5 - 1) @ np.asarray(dense['kernel'])
  logits += np.asarray(dense['bias'])
  expected = np.log(np.sum(np.exp(logits))) - logits[2]
  assert loss.shape == () and float(loss) == pytest.approx(expected, rel=1e-5)
  predict = dp_classifier.make_predict_fn(module, params, batch_size=2)
  found = predict(np.stack([image] * 3))
  assert found.tolist() == [int(np.argmax(logits))] * 3


def test_the_promise_is_that_of_the_config():
  ours = CONFIG.privacy(PRIVACY)
  assert (ours.epsilon, ours.delta) == (PRIVACY.epsilon, PRIVACY.delta)
  assert ours.num_examples == PRIVACY.num_examples
  assert (ours.num_steps, ours.l2_clip_norm) == (7, 0.5)
  assert ours.expected_batch_size == 100  # No more than there are.
  assert ours.noise_multiplier is None
  without = dataclasses.replace(
    PRIVACY, epsilon=None, noise_multiplier=1.0, solve_for='epsilon'
  )
  with pytest.raises(errors.UsageError, match=r'privacy\.epsilon'):
    CONFIG.privacy(without)


def test_coupled_examples_are_refused():
  class Coupled(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
      return nn.BatchNorm(use_running_average=not train)(x)

  with pytest.raises(ValueError, match='batch_stats'):
    dp_classifier.init_params(Coupled(), (2, 2, 1), jax.random.key(0))


@pytest.mark.parametrize('name', dp_classifier.NAMES)
def test_no_network_couples_examples(name):
  """Traced, not compiled: another example of the batch has no say."""
  module = dp_classifier.make_module(name, 3)
  variables = jax.eval_shape(
    module.init, jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32)
  )
  assert set(variables) == {'params'}


def test_unknown_network_is_refused():
  with pytest.raises(ValueError, match='did you mean'):
    dataclasses.replace(CONFIG, name='smal_cnn')
