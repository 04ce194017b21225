"""Wide residual networks: sizes of the paper, and both norms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from dp_diffusion.models import wide_resnet


@pytest.mark.parametrize(
  ('depth', 'num_millions'),
  [(40, 8.9), (16, 2.7)],  # arXiv 1605.07146, table 4.
)
@pytest.mark.parametrize('norm', ['batch', 'group'])
def test_size(depth, num_millions, norm):
  model = wide_resnet.WideResNet(
    num_classes=10, depth=depth, width=4, norm=norm
  )
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  count = sum(x.size for x in jax.tree.leaves(shapes['params']))
  assert round(count / 1e6, 1) == num_millions
  assert ('batch_stats' in shapes) == (norm == 'batch')


def test_logits():
  model = wide_resnet.WideResNet(num_classes=3, depth=10, width=1, norm='group')
  x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), minval=-1.0)
  logits, _ = jax.jit(model.init_with_output)(jax.random.key(1), x)
  assert logits.shape == (2, 3) and logits.dtype == jnp.float32


def test_batch_statistics_change_in_training_only():
  model = wide_resnet.WideResNet(num_classes=3, depth=10, width=1)
  x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)

  def train(variables, x):
    return model.apply(variables, x, train=True, mutable=['batch_stats'])

  _, updates = jax.eval_shape(train, variables, x)
  assert set(updates) == {'batch_stats'}
  logits = jax.eval_shape(model.apply, variables, x)
  assert logits.shape == (2, 3)


@pytest.mark.parametrize(
  ('change', 'message'),
  [({'depth': 41}, 'depth=41'), ({'norm': 'layer'}, "norm='layer'")],
)
def test_bad_config(change, message):
  model = wide_resnet.WideResNet(num_classes=3, **change)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
