"""How many examples a device takes at a time: no more than fit its memory.

Before training the step is compiled at two small sizes, without being run; what
the compiler says of its memory is extended in a straight line. A private batch
is drawn at random, so its last microbatch is filled up with padding: smaller
microbatches waste less. The choice moves work about and nothing else:
gradients differ by rounding alone, and sums are exact
(`parallel_test.py::test_microbatch_size_does_not_matter`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.training import private_step as step_lib
from dp_diffusion.training import public_step
from dp_diffusion.training import state as train_state

SIZES = (2, 4)  # Compiled; a batch of 1 may compile to something special.
_USABLE = 0.9  # Of the memory; the rest is for fragments and the next batch.
_CPU_SHARE = 0.5  # Of the machine's memory, for all its devices together.
_CALL_COST = 4  # Of a microbatch beside its examples, in examples: assumed.


class CompileFn(Protocol):
  """Compiles a step for a number of examples."""

  def __call__(self, size: int, *, is_timed: bool = False) -> Any:
    """Compiles as training does where it `is_timed`, else for its memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryUse:
  """Memory of one device.

  Attributes:
    fixed_bytes: whatever the size.
    example_bytes: more for each example at a time.
  """

  fixed_bytes: int
  example_bytes: int

  def total_bytes(self, size: int) -> int:
    """At `size` examples at a time.

    >>> MemoryUse(fixed_bytes=100, example_bytes=10).total_bytes(4)
    140
    """
    return self.fixed_bytes + size * self.example_bytes


def largest_that_fits(need: MemoryUse, share: int, available_bytes: int) -> int:
  """The largest power of two <= share whose memory is there.

  >>> need = MemoryUse(fixed_bytes=100, example_bytes=10)
  >>> largest_that_fits(need, 1000, 200), largest_that_fits(need, 6, 200)
  (8, 4)

  Args:
    need: memory of a step.
    share: examples of a device in a whole step; at least 1.
    available_bytes: of a device.

  Raises:
    UsageError: not even one fits.
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
  """The power of two <= share that fits and computes least on padding.

  >>> need = MemoryUse(fixed_bytes=0, example_bytes=1)
  >>> quickest_that_fits(need, 1024, 10**6), quickest_that_fits(need, 1024, 40)
  (128, 32)

  Args:
    need: memory of a private step.
    share: examples of a device in a whole step, on average; at least 1.
    available_bytes: of a device.

  Raises:
    UsageError: not even one fits.
  """
  largest = largest_that_fits(need, share, available_bytes)
  sizes = [2**i for i in range(largest.bit_length())]
  return min(
    sizes, key=lambda m: (_mean_calls(share, m) * (m + _CALL_COST), -m)
  )


def _mean_calls(share: int, size: int) -> float:
  """Mean number of microbatches of a batch of Poisson size (as a normal)."""
  spread = math.sqrt(2 * share)
  count = (share + 6 * math.isqrt(share)) // size + 1
  return sum(
    0.5 * math.erfc((i * size + 0.5 - share) / spread) for i in range(count)
  )


def measure(compile_fn: CompileFn, resident_bytes: int = 0) -> MemoryUse | None:
  """Memory of a step, from what the compiler says at two sizes.

  Args:
    compile_fn: see `CompileFn`.
    resident_bytes: what stays on the device beside the step's arguments.

  Returns:
    The need, or None where the compiler does not say.
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
  """Memory of a compiled function; None where the compiler does not say."""
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
  """Memory that a step may use on one device of this process.

  An accelerator says its limit. Devices on the CPU share half of the machine's
  memory, all of it and not what is free now, so that a run and its resume
  choose alike.
  """
  if device.platform != 'cpu':
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      return int(_USABLE * stats['bytes_limit'])
  machine = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return int(_CPU_SHARE * machine / jax.local_device_count())


def tree_bytes(tree: types.PyTree) -> int:
  """Bytes of all arrays (or their shapes) of a tree."""
  return sum(
    math.prod(x.shape) * np.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(tree)
  )


def shapes_of(tree: types.PyTree) -> types.PyTree:
  """The shapes and dtypes of a tree of arrays."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree
  )


def private_compile_fn(
  loss_fn: types.LossFn,
  config: step_lib.GradConfig,
  state: train_state.TrainState,
  example: types.PyTree,
) -> CompileFn:
  """Compiles `private_step.accumulate` for one device.

  Args:
    loss_fn: loss of one draw of one example.
    config: draws and clip.
    state: arrays or their shapes, without a device axis.
    example: arrays or shapes of one record, [...] or [K, ...].
  """
  fn = functools.partial(step_lib.accumulate, loss_fn, config=config)
  run = jax.jit(fn, donate_argnums=2)
  total = jax.eval_shape(
    functools.partial(step_lib.zeros, config=config), state.params
  )
  key = jax.eval_shape(lambda: jax.random.key(0))

  def compile_at(size: int, *, is_timed: bool = False) -> Any:
    lowered = run.lower(
      state.params,
      state.frozen_params,
      total,
      _batch(example, size),
      key,
      jax.ShapeDtypeStruct((size,), 'int32'),
      jax.ShapeDtypeStruct((size,), 'bool'),
    )
    return _compile(lowered, is_timed)

  return compile_at


def public_compile_fn(
  loss_fn: types.LossFn,
  state: train_state.TrainState,
  example: types.PyTree,
  optimizer: Any,
) -> CompileFn:
  """Compiles the public step for one device; see `private_compile_fn`."""
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
  """Bytes of the state that `private_step.accumulate` does not take."""
  arguments = (state.params, state.frozen_params)
  return tree_bytes(state) - tree_bytes(arguments)


def _compile(lowered: Any, is_timed: bool) -> Any:
  """Compiles; what is only asked for its memory, on a GPU in less time.

  There it goes without trying which kernels are the quickest, which takes
  minutes and moves the memory by little.
  """
  options = {}
  if jax.default_backend() == 'gpu' and not is_timed:
    options['xla_gpu_autotune_level'] = 0
  return lowered.compile(compiler_options=options)


def _batch(example: types.PyTree, size: int) -> types.PyTree:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), example
  )
