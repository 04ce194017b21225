"""One private step of the paper's 80M network, on a CPU."""

from __future__ import annotations

import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.data import registry
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.training import microbatch
from dp_diffusion.training import optimizers
from dp_diffusion.training import private_step as step_lib
from dp_diffusion.training import state as train_state
from tests.stages import command

_NUM_EXAMPLES = 2
_MAX_BYTES = 24 * 2**30
_NOISE_MULTIPLIER = 2.451


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_private_step_of_the_80m_network() -> None:
  """Two examples, K = 2: what the compiler asks for is printed with -rP."""
  config = config_lib.load(
    str(command.ROOT / 'configs' / 'cifar10.py'),
    {
      'data.name': 'generated',
      'data.num_images': str(_NUM_EXAMPLES),
      'model.compute_dtype': 'float32',
      'finetune.augmult': '2',
    },
  )
  optimizer = optimizers.make(config.finetune.optimizer, 200)
  state = train_state.create(
    assembly.init_params(config, config.data), optimizer
  )
  count = sum(x.size for x in jax.tree.leaves(state.params))
  assert count == pytest.approx(80.4e6, rel=0.01)

  accumulate = batch_sizes.private_compile_fn(config, state)(_NUM_EXAMPLES)
  analysis = accumulate.memory_analysis()
  needed = (
    microbatch.resident_bytes(state)
    + analysis.argument_size_in_bytes
    + analysis.temp_size_in_bytes
  )
  print(f'state and one microbatch: {needed / 2**30:.1f} GiB')
  assert needed < _MAX_BYTES

  source = registry.load(config.data)
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(0), run_id='full size'
  )
  grad_config = assembly.grad_config(
    config.finetune, config.privacy.l2_clip_norm, batch_has_draw_axis=False
  )
  total = accumulate(
    state.params,
    {},
    clipping.zeros(state.params, grad_config),
    step_lib.Microbatch(
      examples={
        'image': jnp.asarray(source.images),
        'label': jnp.asarray(source.labels),
      },
      indices=jnp.arange(_NUM_EXAMPLES, dtype=jnp.int32),
      is_padding=jnp.zeros((_NUM_EXAMPLES,), bool),
    ),
    streams.draw_key(0),
  )
  stats = jax.device_get(total.stats)
  assert int(stats.num_examples) == _NUM_EXAMPLES
  assert int(stats.num_non_finite) == 0
  # Divided by the clip norm, each example's gradient has norm 1 at most.
  norm = float(optax.tree.norm(total.grad_sum))
  assert 0 < norm <= _NUM_EXAMPLES * (1 + 1e-5)

  before = jax.device_get(state.params)
  after = jax.jit(
    lambda state, total, keys: step_lib.apply(
      state,
      total,
      keys,
      optimizer=optimizer,
      config=step_lib.ApplyConfig(
        noise_multiplier=_NOISE_MULTIPLIER,
        expected_batch_size=_NUM_EXAMPLES,
        ema_decay=config.finetune.ema_decay,
      ),
    ),
    donate_argnums=0,
  )(state, total, streams.noise_keys(0))
  for old, new in zip(
    jax.tree.leaves(before), jax.tree.leaves(jax.device_get(after.params))
  ):
    assert np.isfinite(new).all() and not np.array_equal(old, new)
  # Of the whole process, compilation included; Linux counts in KiB.
  peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(f'peak of the process: {peak / 2**30:.1f} GiB')
  assert peak < _MAX_BYTES
