"""The small classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion.models import small_cnn


def test_logits_and_parameters():
  model = small_cnn.SmallCNN(num_classes=7, features=8, hidden=16)
  x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype('float32')
  variables = jax.jit(model.init)(jax.random.key(1), x)
  assert set(variables) == {'params'}
  apply = jax.jit(model.apply, static_argnames='train')
  logits = apply(variables, x, train=True)
  assert logits.shape == (3, 7) and logits.dtype == jnp.float32
  np.testing.assert_allclose(
    apply(variables, x[1:2])[0], logits[1], rtol=1e-4, atol=1e-5
  )  # No image depends on its batch.


def test_size_at_its_defaults():
  shapes = jax.eval_shape(
    small_cnn.SmallCNN(num_classes=10).init,
    jax.random.key(0),
    jnp.zeros((1, 28, 28, 1)),
  )
  count = sum(x.size for x in jax.tree.leaves(shapes['params']))
  stages = 9 * (1 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
  norms_and_biases = 3 * (32 + 32 + 64 + 64)
  dense = (7 * 7 * 64 + 1) * 128 + 129 * 10
  assert count == stages + norms_and_biases + dense
