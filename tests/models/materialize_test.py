"""What is computed once is the same, and is kept from being computed again."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.models import materialize
from dp_diffusion.models import unet
from tests import conftest


@pytest.mark.parametrize('fn', [materialize.keep, materialize.keep_gradient])
def test_it_is_the_identity_and_linear(fn):
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(fn(x), x)
  np.testing.assert_array_equal(jax.jit(jax.vmap(fn, 1, 1))(x), x)

  def loss(x):
    return jnp.sum(jnp.square(fn(x)))

  np.testing.assert_array_equal(jax.grad(loss)(x), 2 * x)
  per_example = jax.jit(jax.vmap(jax.grad(loss)))(x)
  np.testing.assert_array_equal(per_example, 2 * x)
  _, tangent = jax.jvp(loss, (x,), (jnp.ones_like(x),))
  assert tangent == 2 * x.sum()
  # Of an argument that nothing depends on.
  np.testing.assert_array_equal(jax.grad(lambda x: 0 * fn(x).sum())(x), 0 * x)


@pytest.mark.parametrize(
  ('fn', 'forward', 'backward'),
  [(materialize.keep, 1, 2), (materialize.keep_gradient, 0, 1)],
)
def test_barriers_stand_on_a_cpu_alone(fn, forward, backward):
  def count(f, platform):
    traced = jax.jit(f).trace(jnp.ones(3))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text.count('optimization_barrier')

  def gradient(x):
    return jax.vjp(lambda x: jnp.sin(fn(x)), x)[1](x)

  assert count(fn, 'cpu') == forward and count(gradient, 'cpu') == backward
  assert count(fn, 'cuda') == count(gradient, 'cuda') == 0
  assert count(fn, 'tpu') == count(gradient, 'tpu') == 0


_CODE = """
import sys
from dp_diffusion import xla_flags
if sys.argv[1:]:
  assert xla_flags.keep_barriers()
import jax
import jax.numpy as jnp
import numpy as np
from dp_diffusion.models import unet

config = unet.UNetConfig(
  channels=8, channel_multipliers=(1, 2), num_blocks=1, num_groups=4,
  attention_resolutions=(4,), head_channels=8, image_channels=1)
model = unet.UNet(config)
x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
t = jnp.array([1, 2, 3])
shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, t)['params']
rng = np.random.default_rng(0)
params = jax.tree.map(
  lambda s: jnp.asarray(rng.standard_normal(s.shape, np.float32) / 4), shapes)

def loss(params, x, t):
  y = model.apply({'params': params}, x[None], t[None], t[None])
  return jnp.mean(jnp.square(y))

step = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))
compiled = step.lower(params, x, t).compile()
print('opt-barrier' in compiled.as_text())
for leaf in jax.tree.leaves(compiled(params, x, t)):
  print(*np.asarray(leaf, np.float64).ravel()[:50])
"""


@pytest.mark.slow
def test_xla_keeps_them_and_gradients_are_the_same(subprocess_environment):
  found = []
  for arguments in ([], ['keep']):
    lines = subprocess.run(
      [sys.executable, '-c', _CODE, *arguments],
      env={
        **subprocess_environment,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': conftest.QUICK_COMPILATION,
      },
      capture_output=True,
      text=True,
      check=True,
    ).stdout.splitlines()
    found.append((lines[0], [np.array(x.split(), float) for x in lines[1:]]))
  (was_kept, expected), (is_kept, values) = found
  assert (was_kept, is_kept) == ('False', 'True')
  scale = max(np.abs(leaf).max() for leaf in expected)
  for one, other in zip(values, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5 * scale)


def test_the_network_is_marked():
  config = unet.UNetConfig(
    channels=8,
    channel_multipliers=(1,),
    num_blocks=1,
    num_groups=4,
    attention_resolutions=(),
    head_channels=8,
  )
  x = jnp.zeros((1, 8, 8, 3))
  t = jnp.zeros(1, jnp.int32)
  model = unet.UNet(config)
  shapes = jax.eval_shape(model.init, jax.random.key(0), x, t, t)
  text = str(jax.make_jaxpr(model.apply)(shapes, x, t, t))
  assert text.count('forward=True') >= 2 * 4 and 'forward=False' in text
