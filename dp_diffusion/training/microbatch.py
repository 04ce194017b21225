"""Computes how many examples at a time fit in the memory of a device.

Before training, the step is compiled for two small sizes without being run, and
the compiler's memory figures are extrapolated linearly. A private batch has a
random size, so its last microbatch contains padding; smaller microbatches waste
less. The choice affects only the speed: gradients differ by rounding, and sums
are exact (`parallel_test.py::test_microbatch_size_does_not_matter`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion import host_memory
from dp_diffusion import types
from dp_diffusion.privacy import clipping
from dp_diffusion.training import private_step as step_lib
from dp_diffusion.training import public_step
from dp_diffusion.training import state as train_state

SIZES = (2, 4)  # Sizes that are compiled; 1 may be compiled differently.
_USABLE = 0.9  # Share of the memory; fragments and the next batch need some.
_CPU_SHARE = 0.5  # Share of the machine's memory for all CPU devices.
_CALL_COST = 4  # Assumed overhead of a microbatch, in units of one example.


class CompileFn(Protocol):
  """Compiles a step for a number of examples."""

  def __call__(self, size: int, *, is_timed: bool = False) -> Any:
    """Compiles as in training if `is_timed`, else only to learn the memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryUse:
  """Memory that a step needs on one device.

  Attributes:
    fixed_bytes: bytes needed for any number of examples.
    example_bytes: bytes needed for each example of a microbatch.
  """

  fixed_bytes: int
  example_bytes: int

  def total_bytes(self, size: int) -> int:
    """Returns the bytes for a microbatch of `size` examples.

    >>> MemoryUse(fixed_bytes=100, example_bytes=10).total_bytes(4)
    140
    """
    return self.fixed_bytes + size * self.example_bytes


def largest_that_fits(need: MemoryUse, share: int, available_bytes: int) -> int:
  """Returns the largest power of two <= share that fits in memory.

  >>> need = MemoryUse(fixed_bytes=100, example_bytes=10)
  >>> largest_that_fits(need, 1000, 200), largest_that_fits(need, 6, 200)
  (8, 4)

  Args:
    need: memory that a step needs.
    share: examples of a device in a whole step, at least 1.
    available_bytes: memory of a device.

  Raises:
    UsageError: not even one example fits.
  """
  if need.total_bytes(1) > available_bytes:
    raise errors.UsageError(
      'Expected one example at a time to fit in the'
      f' {available_bytes / 2**30:.1f} GiB of a device, but it needs about'
      f' {need.total_bytes(1) / 2**30:.1f} GiB: set finetune.draw_chunk_size to'
      ' a divisor of finetune.augmult, or take a smaller model.'
    )
  size = 2 ** int(math.log2(max(1, share)))
  while need.total_bytes(size) > available_bytes:
    size //= 2
  return size


def quickest_that_fits(
  need: MemoryUse, share: int, available_bytes: int
) -> int:
  """Returns the power of two <= share that fits and wastes the least time.

  Time is wasted on padding and on the overhead of each microbatch.

  >>> need = MemoryUse(fixed_bytes=0, example_bytes=1)
  >>> quickest_that_fits(need, 1024, 10**6), quickest_that_fits(need, 1024, 40)
  (128, 32)

  Args:
    need: memory that a private step needs.
    share: mean number of examples of a device in a whole step, at least 1.
    available_bytes: memory of a device.

  Raises:
    UsageError: not even one example fits.
  """
  largest = largest_that_fits(need, share, available_bytes)
  sizes = [2**i for i in range(largest.bit_length())]
  return min(
    sizes, key=lambda m: (_mean_calls(share, m) * (m + _CALL_COST), -m)
  )


def _mean_calls(share: int, size: int) -> float:
  """Returns the mean number of microbatches per step.

  The batch size is Poisson distributed; a normal distribution approximates it.
  """
  spread = math.sqrt(2 * share)
  count = (share + 6 * math.isqrt(share)) // size + 1
  return sum(
    0.5 * math.erfc((i * size + 0.5 - share) / spread) for i in range(count)
  )


def measure(compile_fn: CompileFn, resident_bytes: int = 0) -> MemoryUse | None:
  """Determines the memory of a step from the compiler's figures for two sizes.

  Args:
    compile_fn: compiles the step.
    resident_bytes: memory of arrays on the device that the step does not take.

  Returns:
    The memory needed, or None if the compiler gives no figures.
  """
  found = [peak_bytes(compile_fn(size)) for size in SIZES]
  if None in found:
    return None
  few, many = (int(number or 0) for number in found)
  slope = max(0, -(-(many - few) // (SIZES[1] - SIZES[0])))
  return MemoryUse(
    fixed_bytes=resident_bytes + max(0, few - SIZES[0] * slope),
    example_bytes=slope,
  )


def peak_bytes(compiled: Any) -> int | None:
  """Returns the memory of a compiled function; None if it is not known."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  return (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes
  )


def device_bytes(device: Any) -> int:
  """Returns the memory that a step may use on one device of this process.

  On an accelerator it is 90 % of the limit that the device reports. The devices
  of a CPU share half of the machine's memory. How much of it is free is not
  asked, so that a resumed run chooses the same size as before.
  """
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      return int(_USABLE * stats['bytes_limit'])
  machine = host_memory.total_bytes()
  return int(_CPU_SHARE * machine / jax.local_device_count())


def tree_bytes(tree: types.PyTree) -> int:
  """Returns the total bytes of the arrays (or shapes) of a tree."""
  return sum(
    math.prod(x.shape) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def shapes_of(tree: types.PyTree) -> types.PyTree:
  """Returns the shapes and dtypes of a tree of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
  )


def private_compile_fn(
  loss_fn: types.LossFn,
  config: clipping.GradConfig,
  state: train_state.TrainState,
  example: types.PyTree,
) -> CompileFn:
  """Returns a function that compiles `private_step.accumulate` for a device.

  Args:
    loss_fn: loss of one draw of one example.
    config: number of draws and clip norm.
    state: arrays or their shapes, without a device axis.
    example: arrays or shapes of one record, [...] or [K, ...].
  """
  fn = functools.partial(step_lib.accumulate, loss_fn, config=config)
  run = jax.jit(fn, donate_argnums=2)
  total = jax.eval_shape(
    functools.partial(clipping.zeros, config=config), state.params
  )
  key = jax.eval_shape(lambda: jax.random.key(0))

  def compile_at(size: int, *, is_timed: bool = False) -> Any:
    lowered = run.lower(
      state.params,
      state.frozen_params,
      total,
      step_lib.Microbatch(
        examples=_batch(example, size),
        indices=jax.ShapeDtypeStruct((size,), 'int32'),
        is_padding=jax.ShapeDtypeStruct((size,), 'bool'),
      ),
      key,
    )
    return _compile(lowered, is_timed)

  return compile_at


def public_compile_fn(
  loss_fn: types.LossFn,
  state: train_state.TrainState,
  example: types.PyTree,
  optimizer: Any,
) -> CompileFn:
  """Returns a function that compiles the public step for a device.

  Args:
    loss_fn: loss of one draw of one example.
    state: arrays or their shapes, without a device axis.
    example: arrays or shapes of one record, [...].
    optimizer: the optimizer of the step.
  """
  fn = functools.partial(
    public_step.public_step, loss_fn, optimizer=optimizer, ema_decay=0.0
  )
  run = jax.jit(fn, donate_argnums=0)
  key = jax.eval_shape(lambda: jax.random.key(0))

  def compile_at(size: int, *, is_timed: bool = False) -> Any:
    indices = jax.ShapeDtypeStruct((size,), 'int32')
    lowered = run.lower(state, _batch(example, size), key, indices)
    return _compile(lowered, is_timed)

  return compile_at


def resident_bytes(state: train_state.TrainState) -> int:
  """Returns the bytes of the state that `accumulate` does not take."""
  arguments = (state.params, state.frozen_params)
  return tree_bytes(state) - tree_bytes(arguments)


def _compile(lowered: Any, is_timed: bool) -> Any:
  """Compiles a lowered function.

  If only its memory is wanted, the autotuning of kernels on a GPU is skipped:
  it takes minutes and changes the memory little.
  """
  options = {}
  if jax.default_backend() == 'gpu' and not is_timed:
    options['xla_gpu_autotune_level'] = 0
  return lowered.compile(compiler_options=options)


def _batch(example: types.PyTree, size: int) -> types.PyTree:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), example
  )
