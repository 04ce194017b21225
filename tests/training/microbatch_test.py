"""The microbatch follows the memory; the memory does not follow the batch."""

from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import clipping
from dp_diffusion.training import microbatch
from dp_diffusion.training import optimizers
from dp_diffusion.training import private_step
from dp_diffusion.training import state as train_state

WIDTH = 512
GRAD = clipping.GradConfig(l2_clip_norm=1.0, num_draws=2)
OPTIMIZER = optimizers.make(
  optimizers.OptimizerConfig(name='adam', learning_rate=1e-3), 10
)
EXAMPLE = {'image': jax.ShapeDtypeStruct((WIDTH,), 'float32')}


def loss_fn(params, example, draw_key):
  noise = jax.random.normal(draw_key, (WIDTH,))
  return jnp.sum(jnp.square(params['w'] @ example['image'] - noise))


def make_state():
  params = {'w': np.zeros((WIDTH, WIDTH), np.float32)}
  return train_state.create(params, OPTIMIZER)


def compiled(argument=0, output=0, alias=0, temp=0):
  analysis = types.SimpleNamespace(
    argument_size_in_bytes=argument,
    output_size_in_bytes=output,
    alias_size_in_bytes=alias,
    temp_size_in_bytes=temp,
  )
  return types.SimpleNamespace(memory_analysis=lambda: analysis)


def test_need_is_a_line_through_two_sizes():
  def compile_fn(size, *, is_timed=False):
    assert not is_timed
    return compiled(argument=50 + size, output=30, alias=30, temp=20 * size)

  need = microbatch.measure(compile_fn, resident_bytes=1000)
  assert need == microbatch.MemoryUse(fixed_bytes=1050, example_bytes=21)


def test_memory_that_shrinks_is_not_believed():
  need = microbatch.measure(lambda size: compiled(temp=100 - 10 * size))
  assert need == microbatch.MemoryUse(fixed_bytes=80, example_bytes=0)


def test_a_compiler_that_says_nothing_gives_none():
  silent = types.SimpleNamespace(memory_analysis=lambda: None)
  assert microbatch.measure(lambda size: silent) is None


@pytest.mark.parametrize(
  ('share', 'available', 'expected'),
  [
    (1, 10**9, 1),
    (3, 10**9, 2),
    (64, 10**9, 64),
    (100, 10**9, 64),
    (64, 1000 + 64 * 7, 64),
    (64, 1000 + 64 * 7 - 1, 32),
    (64, 1007, 1),
  ],
)
def test_largest_power_of_two_that_fits(share, available, expected):
  need = microbatch.MemoryUse(fixed_bytes=1000, example_bytes=7)
  assert microbatch.largest_that_fits(need, share, available) == expected


@pytest.mark.parametrize('share', [1, 3, 8, 100, 480, 1024, 2048])
def test_quickest_size_computes_least_on_padding(share):
  need = microbatch.MemoryUse(fixed_bytes=0, example_bytes=1)
  found = microbatch.quickest_that_fits(need, share, 10**9)
  drawn = np.random.default_rng(0).poisson(share, 20_000)

  def cost(size):
    return np.mean(-(-drawn // size)) * (size + 4)

  sizes = [2**i for i in range(int(np.log2(share)) + 1)]
  assert found in sizes
  assert cost(found) <= 1.01 * min(cost(size) for size in sizes)


def test_quickest_size_fits():
  need = microbatch.MemoryUse(fixed_bytes=1000, example_bytes=7)
  sizes = [
    microbatch.quickest_that_fits(need, 1024, 1000 + 7 * room)
    for room in (1, 40, 10**6)
  ]
  assert sizes == [1, 32, 128]  # And not 1024, of which half were padding.


def test_too_little_memory_says_what_to_do():
  need = microbatch.MemoryUse(fixed_bytes=2**30, example_bytes=2**30)
  with pytest.raises(errors.UsageError, match='draw_chunk_size') as error:
    microbatch.largest_that_fits(need, 8, 2**30)
  assert '2.0 GiB' in str(error.value)


def test_accelerators_say_their_limit():
  def device(platform, stats):
    return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)

  assert microbatch.device_bytes(device('gpu', {'bytes_limit': 1000})) == 900
  on_cpu = microbatch.device_bytes(jax.devices()[0])
  assert on_cpu > 2**20
  assert microbatch.device_bytes(device('gpu', None)) == on_cpu


def test_what_the_compiler_says_covers_what_must_be_there():
  state = make_state()
  compile_fn = microbatch.private_compile_fn(loss_fn, GRAD, state, EXAMPLE)
  need = microbatch.measure(compile_fn, microbatch.resident_bytes(state))
  weights = 4 * WIDTH**2
  # Weights, average, two moments, sum; then a gradient for each example.
  # Some of the first gradient may count as one more of each example's.
  for size in (1, 2, 64):
    assert need.total_bytes(size) >= (5 + size) * weights
  assert need.example_bytes >= weights
  assert need.example_bytes <= 10 * weights


@pytest.mark.parametrize('is_timed', [True, False])
def test_what_is_timed_on_a_gpu_is_compiled_as_training_does(
  monkeypatch, is_timed
):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  lowered = types.SimpleNamespace(
    compile=lambda compiler_options: compiler_options
  )
  assert bool(microbatch._compile(lowered, is_timed)) is not is_timed


def test_public_need_grows_with_the_examples_only_by_activations():
  compile_fn = microbatch.public_compile_fn(
    loss_fn, make_state(), EXAMPLE, OPTIMIZER
  )
  need = microbatch.measure(compile_fn)
  assert need.fixed_bytes >= 4 * 4 * WIDTH**2
  assert need.example_bytes < 4 * WIDTH**2


def test_memory_does_not_grow_with_the_batch():
  """The compiler's own analysis at expected batch 256 and 16,384.

  `accumulate` does not know the expected batch; `apply` divides by it.
  """
  state = make_state()
  zeros = functools.partial(clipping.zeros, config=GRAD)
  total = jax.eval_shape(zeros, state.params)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
  found = []
  for expected_batch_size in (256, 16_384):
    config = private_step.ApplyConfig(
      noise_multiplier=1.0,
      expected_batch_size=expected_batch_size,
      ema_decay=0.9,
    )
    apply = functools.partial(
      private_step.apply, optimizer=OPTIMIZER, config=config
    )
    a = jax.jit(apply).lower(state, total, keys).compile().memory_analysis()
    found.append(
      (a.argument_size_in_bytes, a.output_size_in_bytes, a.temp_size_in_bytes)
    )
  assert found[0] == found[1]
  assert found[0][0] >= 5 * 4 * WIDTH**2
