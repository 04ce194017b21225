"""The generator is fitted to an embedding."""

from __future__ import annotations

import jax
import numpy as np

from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator
from dp_diffusion.training import optimizers


def test_generator_moves_towards_its_target():
  """Two classes with opposite grey values."""
  module = generator.Generator(image_shape=(5, 6, 1), num_classes=2, channels=8)
  config = generator.GeneratorConfig(
    latent_dim=2,
    channels=8,
    num_steps=120,
    batch_size=8,
    optimizer=optimizers.OptimizerConfig(learning_rate=1e-2),
  )
  fn = dp_merf.make_feature_fn(
    dp_merf.DpMerfConfig(num_features=100, length_scale=1.0),
    (5, 6, 1),
    jax.random.key(0),
  )
  grey = np.ones((2, 5, 6, 1), np.float32) * np.float32([[[[-0.8]]], [[[0.8]]]])
  target = 0.5 * np.asarray(fn(grey))
  labels = np.int32([0, 1] * 4)
  params = generator.train(
    config, module, fn, target, labels, jax.random.key(1)
  )
  images = generator.sample(
    module, params, 2, np.int32([1, 0, 1]), jax.random.key(2), batch_size=2
  )
  assert images.shape == (3, 5, 6, 1) and images.dtype == np.uint8
  assert images[1].mean() < 70 and min(images[[0, 2]].mean((1, 2, 3))) > 185
  alone = generator.sample(
    module, params, 2, np.int32([1]), jax.random.key(2), batch_size=2
  )
  np.testing.assert_array_equal(alone[0], images[0])
