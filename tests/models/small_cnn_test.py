"""The small classifier."""

from __future__ import annotations

from flax import linen as nn
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


class _FlaxCNN(nn.Module):
  """The same network of flax's own layers."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for stage in range(2):
      for _ in range(2):
        x = nn.Conv(8 * 2**stage, (3, 3))(x)
        x = nn.relu(nn.GroupNorm(num_groups=8)(x))
      x = nn.max_pool(x, (2, 2), strides=(2, 2))
    x = nn.relu(nn.Dense(16)(x.reshape((x.shape[0], -1))))
    return nn.Dense(7)(x)


def test_is_the_network_of_flax_layers():
  x = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype('float32')
  ours = small_cnn.SmallCNN(num_classes=7, features=8, hidden=16)
  variables = jax.jit(_FlaxCNN().init)(jax.random.key(1), x)

  def gradient(model: nn.Module) -> jax.Array:
    def loss(variables: dict[str, jax.Array]) -> jax.Array:
      return jnp.sum(jnp.sin(model.apply(variables, x)))

    return jax.jit(jax.value_and_grad(loss))(variables)

  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    gradient(ours),
    gradient(_FlaxCNN()),
  )
  assert jax.tree.structure(
    jax.jit(ours.init)(jax.random.key(1), x)
  ) == jax.tree.structure(variables)
