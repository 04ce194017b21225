"""What the stages share, joined: dtypes of both training steps."""

from __future__ import annotations

from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp
import optax
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.models import unet
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.training import microbatch
from dp_diffusion.training import optimizers
from dp_diffusion.training import private_step
from dp_diffusion.training import public_step
from dp_diffusion.training import state as train_state
from tests.stages import command

_CONFIG = str(command.ROOT / 'tests' / 'configs' / 'rgb32.py')
_BATCH = 2


def _floats(tree: object) -> set[str]:
  leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, 'dtype')]
  return {str(x.dtype) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)}


def test_shapes_are_those_of_the_first_weights() -> None:
  config = config_lib.load(command.DIGITS_SMOKE)
  params = assembly.init_params(config, config.data)
  found = assembly.param_shapes(config, config.data)
  assert found == microbatch.shapes_of(params)


def test_shapes_of_a_state_are_traced_as_users_do(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Without the XLA_FLAGS of the tests: with an option no jit may be inside."""
  monkeypatch.delenv('XLA_FLAGS')
  assert batch_sizes.public_state(config_lib.load(command.DIGITS_SMOKE))


def test_bfloat16_computes_and_float32_adds_up() -> None:
  """Weights, moments, averages, gradient sums and norms stay float32."""
  config = config_lib.load(_CONFIG, {'model.compute_dtype': 'bfloat16'})
  loss_fn = assembly.make_loss_fn(
    unet.UNet(config.unet_config(config.data)),
    config.finetune_diffusion(),
    config.data,
  )
  grad_config = assembly.grad_config(
    config.finetune, config.privacy.l2_clip_norm, batch_has_draw_axis=False
  )
  state = batch_sizes.private_state(config, 2)
  batch = {
    'image': jax.ShapeDtypeStruct((_BATCH, 32, 32, 3), 'uint8'),
    'label': jax.ShapeDtypeStruct((_BATCH,), 'int32'),
  }
  key = jax.eval_shape(lambda: jax.random.key(0))
  indices = jax.ShapeDtypeStruct((_BATCH,), 'int32')

  jaxpr, total = jax.make_jaxpr(
    functools.partial(private_step.accumulate, loss_fn, config=grad_config),
    return_shape=True,
  )(
    state.params,
    {},
    jax.eval_shape(
      functools.partial(clipping.zeros, config=grad_config), state.params
    ),
    private_step.Microbatch(
      examples=batch,
      indices=indices,
      is_padding=jax.ShapeDtypeStruct((_BATCH,), 'bool'),
    ),
    key,
  )
  assert 'bf16[2,' in str(jaxpr)
  grad_sum = jax.eval_shape(lambda total: total.grad_sum, total)
  assert _floats((grad_sum, total.stats)) == {'float32'}
  assert _floats(total.exact) == set()

  optimizer = optimizers.make(config.pretrain.optimizer, 3)
  after, loss = jax.eval_shape(
    functools.partial(
      public_step.public_step, loss_fn, optimizer=optimizer, ema_decay=0.9
    ),
    batch_sizes.public_state(config),
    batch,
    key,
    indices,
  )
  assert _floats((after, loss)) == {'float32'}


def test_no_long_sum_is_left_to_bfloat16() -> None:
  """Gradients of what is added at every pixel are sums over all of them."""
  config = config_lib.load(
    _CONFIG,
    {'model.compute_dtype': 'bfloat16', 'model.scale_shift': 'false'},
  )
  network = unet.UNet(config.unet_config(config.data))
  params = batch_sizes.private_state(config, 2).params

  def loss(params, images, steps, labels):
    found = network.apply({'params': params}, images, steps, labels)
    return jnp.mean(jnp.square(found.astype(jnp.float32)))

  jaxpr = jax.make_jaxpr(jax.grad(loss))(
    params,
    jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32),
    jax.ShapeDtypeStruct((8,), jnp.int32),
    jax.ShapeDtypeStruct((8,), jnp.int32),
  )
  longest = max(_bfloat16_sums(jaxpr.jaxpr), default=0)
  assert longest <= 4  # Of the pixels that one was repeated to.


def _bfloat16_sums(jaxpr: Any) -> Iterator[int]:
  """How many values each sum in bfloat16 adds up, also in inner programs."""
  for equation in jaxpr.eqns:
    for inner in core.jaxprs_in_params(equation.params):
      yield from _bfloat16_sums(inner)
    if equation.primitive.name in ('reduce_sum', 'reduce_window_sum'):
      (source,) = equation.invars
      if source.aval.dtype == jnp.bfloat16:
        yield source.aval.size // max(1, equation.outvars[0].aval.size)


def _told_noise(
  config: config_lib.Config, monkeypatch: pytest.MonkeyPatch
) -> optimizers.KnownNoise:
  """What the optimizer of private steps is told of the noise."""
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=100,
    expected_batch_size=20,
    num_steps=5,
    noise_multiplier=3.0,
    l2_clip_norm=0.5,
    delta=1e-3,
  )
  seen = []
  make = optimizers.make

  def record(*arguments: Any) -> Any:
    seen.append(arguments[2])
    return make(*arguments)

  monkeypatch.setattr(optimizers, 'make', record)
  assembly.private_optimizer(config.finetune, mechanism)
  (noise,) = seen
  return noise


@pytest.mark.parametrize('is_rescaled', [True, False])
def test_the_optimizer_is_told_the_noise_of_its_gradients(
  is_rescaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Noise of the sum, in its unit, divided by the expected batch size."""
  config = config_lib.load(
    _CONFIG, {'finetune.rescale_to_unit_norm': str(is_rescaled)}
  )
  noise = _told_noise(config, monkeypatch)
  assert noise.std == pytest.approx(3.0 * (1.0 if is_rescaled else 0.5) / 20)


@pytest.mark.parametrize('scaled', ['gradient', 'parameter'])
def test_the_optimizer_is_told_which_leaves_have_less_noise(
  scaled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Those whose gradient is divided by its scale after the noise is added."""
  config = config_lib.load(
    _CONFIG,
    {
      'finetune.gradient_scales': "('out*=2',)",
      'finetune.scaled_quantity': scaled,
    },
  )
  noise = _told_noise(config, monkeypatch)
  values = [rule.value for rule in noise.divided_by]
  assert values == ([2.0] if scaled == 'gradient' else [])


@pytest.mark.parametrize(('name', 'value'), [('ema', 7.0), ('last', 3.0)])
def test_the_weights_that_leave_are_those_of_the_config(
  name: str, value: float
) -> None:
  config = config_lib.load(_CONFIG, {'finetune.release_weights': name})
  state = train_state.create({'w': jnp.full(2, 3.0)}, optax.sgd(0.1))
  state = state.replace(
    ema_params={'w': jnp.full(2, 7.0)}, frozen_params={'b': jnp.ones(1)}
  )
  found = assembly.released_params(config, state)
  assert found['w'].tolist() == [value, value] and found['b'].tolist() == [1.0]
