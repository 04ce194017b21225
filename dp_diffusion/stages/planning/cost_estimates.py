"""Estimates time, memory and disk of a run on this machine, for `plan`.

On an accelerator, a microbatch of each stage is run a few times with black
images and zero weights, since time and memory do not depend on their values. On
a CPU this would take minutes. There, the time is estimated from the speed of
one convolution, and the memory from the arrays that the gradient keeps.

Of several processes (`distributed.num_processes`) only this one need be there:
each of the others is taken to have as many devices, as quick as these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import config_values
from dp_diffusion import types
from dp_diffusion.baselines import class_head
from dp_diffusion.diffusion import samplers
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.models import unet
from dp_diffusion.privacy import clipping
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.planning import flop_counts
from dp_diffusion.stages.run import assembly
from dp_diffusion.training import checkpoint
from dp_diffusion.training import microbatch
from dp_diffusion.training import private_step as step_lib
from dp_diffusion.training import processes

_SECS_PER_HOUR = 3600.0
_TOO_LONG_SECS = 24 * _SECS_PER_HOUR
_NUM_TIMED = 3
_CONVOLUTION_FLOP = (
  4e9  # Of the convolution that is timed; a tenth of a second.
)
# Label, place among the records, and number of the record; a hash to select it.
_RECORD_BYTES = 4 + 8 + 8 + 8
# Of a feature that a class head reads: as it is kept; as it is read, and six
# times while it is scaled.
_FEATURE_BYTES, _SCALED_FEATURE_BYTES = 2, 4 + 6 * 8
# Arrays of features times features while they are scaled.
_NUM_SQUARES = 5
WARM_UP = 'warm-up'  # The part of fine-tuning before its private steps.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """Estimate for one stage on one device.

  Attributes:
    size: examples at a time.
    example_secs: seconds of device time per example.
    peak_bytes: memory in bytes at that size; 0 if it is unknown.
  """

  size: int
  example_secs: float
  peak_bytes: int


def lines(
  config: config_lib.Config,
  num_steps: int,
  *,
  examples: Mapping[str, int],
  flop: Mapping[str, float],
) -> list[str]:
  """Returns the lines of `plan` on time and memory.

  Args:
    config: config of the run.
    num_steps: number of private steps.
    examples: stage -> records or images of all its steps.
    flop: stage -> number of floating-point operations.
  """
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    return _lines_on_cpu(config, flop)
  found = measure(config, num_steps, microbatch.device_bytes(device))
  count = num_devices(config)
  result = [
    f'  on {count} x {device.device_kind}{_in_processes(config)}, measured on'
    ' one:'
  ]
  total = 0.0
  for stage, estimate in found.items():
    secs = examples[stage] * estimate.example_secs / count
    total += secs
    result.append(
      f'  {stage:<19} {duration_text(secs)},'
      f' {estimate.size} at a time per device,'
      f' {size_text(estimate.peak_bytes)}'
    )
  return [*result, *fitting_variant(config.name, total, 'one_gpu')]


def num_processes(config: config_lib.Config) -> int:
  """Returns the number of processes of the run, as far as it is declared."""
  return processes.expected_count(
    enable=config.distributed.enable,
    num_processes=config.distributed.num_processes,
  )


def num_devices(config: config_lib.Config) -> int:
  """Returns the number of devices of all processes of the run."""
  return num_processes(config) * jax.local_device_count()


def _in_processes(config: config_lib.Config) -> str:
  count = num_processes(config)
  return f' in {count} processes' if count > 1 else ''


def fitting_variant(name: str, secs: float, machine: str) -> list[str]:
  """Names the variant of a config for this machine, if a run takes too long.

  Args:
    name: `config.name`: that of the file, with the variant after a hyphen.
    secs: seconds of all stages on this machine.
    machine: variant for machines of this kind.

  Returns:
    A line, or none where the run fits or the config has no such variant.
  """
  base = name.partition('-')[0]
  is_it = machine in name.split('-')
  if (
    secs < _TOO_LONG_SECS
    or is_it
    or not config_values.has_variant(base, machine)
  ):
    return []
  return [
    f'  too long for it     take --config=configs/{base}.py:{machine}, made for'
    ' such a machine'
  ]


def duration_text(secs: float) -> str:
  """Formats seconds in the largest fitting unit, with three figures.

  >>> duration_text(3600 * 57_461), duration_text(292), duration_text(3600)
  ('57,500 hours', '4.87 minutes', '1 hour')
  >>> duration_text(0.31), duration_text(59.99)
  ('0.31 seconds', '1 minute')
  """
  for unit, size in (('hour', _SECS_PER_HOUR), ('minute', 60.0)):
    value = float(f'{secs / size:.3g}')
    if value >= 1:
      shown = f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
      return f'{shown} {unit}{"" if shown == "1" else "s"}'
  return f'{secs:.3g} seconds'


def size_text(num_bytes: float) -> str:
  """Formats bytes in the largest fitting unit, with one decimal.

  >>> size_text(1_929_388_104), size_text(3072), size_text(0)
  ('1.8 GiB', '3.0 KiB', '0 bytes')
  """
  for unit, size in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
    if num_bytes >= size:
      return f'{num_bytes / size:,.1f} {unit}'
  return f'{num_bytes:.0f} bytes'


def _lines_on_cpu(
  config: config_lib.Config, flop: Mapping[str, float]
) -> list[str]:
  speed = convolution_speed(config)
  machines = num_processes(config)
  where = f'{machines} CPUs like this one' if machines > 1 else 'this CPU'
  result = [
    f'  on {where}, at the speed of one convolution here,'
    f' {speed / 1e9:.3g} GFLOP/s; at best:'
  ]
  speed *= machines
  for stage, count in flop.items():
    if count:
      result.append(f'  {stage:<19} {duration_text(count / speed)}')
  secs = sum(flop.values()) / speed
  draws = config.finetune.draw_chunk_size or config.finetune.augmult
  return [
    *result,
    f'  memory              {size_text(record_bytes(config, draws))} per device'
    f' for each record at a time: its gradient, activations of'
    f' {draws} draw{"s" if draws > 1 else ""}',
    *fitting_variant(config.name, secs, 'cpu'),
  ]


def record_bytes(config: config_lib.Config, num_draws: int) -> int:
  """Returns the bytes of one record of a microbatch: gradient, activations."""
  gradient = 4 * flop_counts.num_parameters(config)
  num_passes = num_draws * config.finetune.passes_per_draw
  return gradient + num_passes * flop_counts.activation_bytes(config)


def convolution_speed(config: config_lib.Config) -> float:
  """Measures FLOP per second of a convolution as wide as the middle block."""
  levels = len(config.model.channel_multipliers)
  channels = config.model.channels * config.model.channel_multipliers[-1]
  side = max(1, config.data.image_size // 2 ** (levels // 2))
  flop = 2 * 9 * channels**2 * side**2
  batch_size = max(1, int(_CONVOLUTION_FLOP / flop))
  kernel = jnp.zeros((3, 3, channels, channels))

  def run(x: types.Array) -> types.Array:
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  x = jnp.zeros((batch_size, side, side, channels))
  return batch_size * flop / _secs(jax.jit(run), x)


def disk_bytes(config: config_lib.Config) -> int:
  """Returns the bytes of all checkpoints, decoded images and the release."""
  state = microbatch.tree_bytes(batch_sizes.private_state(config))
  image = config.data.image_size**2 * config.data.channels
  num_images = config.privacy.num_examples + config.sample.num_samples
  num_stages = sum(
    map(bool, (1, config.pretrain.num_steps, config.finetune.warm_up.num_steps))
  )
  return num_stages * checkpoint.NUM_KEPT * state + image * num_images


def disk_text(config: config_lib.Config) -> str:
  """Says what `disk_bytes` counts, and what more public images need."""
  image = config.data.image_size**2 * config.data.channels
  return (
    f'{size_text(disk_bytes(config))}: checkpoints, decoded images, release;'
    f' {size_text(image)} more for each public image'
  )


def host_bytes(config: config_lib.Config) -> int:
  """Returns the bytes of a process for images, labels and selection.

  Every process knows all records and reads the images of its share. Images are
  in memory unless they are so many that they are memory-mapped. The memory of
  the libraries is not counted.
  """
  num_images = config.privacy.num_examples
  images = math.prod(config.data.image_shape) * num_images
  if images > config.data.max_in_memory_bytes:
    images = 0
  return images + _RECORD_BYTES * num_images + _head_bytes(config)


def _head_bytes(config: config_lib.Config) -> int:
  """Returns the bytes of features and their scaling; 0 without a head."""
  if not config.finetune.class_head.is_used:
    return 0
  widths = head_features.widths(
    config.unet_config(config.data),
    batch_sizes.private_state(config).all_params,
    config.finetune_diffusion(),
    config.data.image_size,
    has_scattering=config.finetune.class_head.scattering,
  )
  num, width = config.privacy.num_examples, sum(widths)
  kept = _FEATURE_BYTES * num
  scaled = _SCALED_FEATURE_BYTES * min(num, class_head.IMAGES_AT_A_TIME)
  return (kept + scaled) * width + _NUM_SQUARES * 8 * width**2


def host_text(config: config_lib.Config) -> str:
  """Says what `host_bytes` counts."""
  share = -(-config.privacy.expected_batch_size // num_processes(config))
  return (
    f'{size_text(host_bytes(config))} per process: images if not memory-mapped,'
    f' labels, selection{_of_head(config)}; it reads {share:,} records per step'
  )


def _of_head(config: config_lib.Config) -> str:
  is_used = config.finetune.class_head.is_used
  return ', features of a class head' if is_used else ''


def measure(
  config: config_lib.Config, num_steps: int, available_bytes: int
) -> dict[str, Estimate]:
  """Runs each stage's step on one device of this process.

  Args:
    config: config of the run.
    num_steps: number of private steps.
    available_bytes: memory of the device.
  """
  found = {}
  if config.pretrain.num_steps:
    found['pretrain'] = _public(config, available_bytes)
  if config.finetune.warm_up.num_steps:
    found[WARM_UP] = _public(config.warm_up_as_pretraining(), available_bytes)
  found['finetune'] = _private(config, num_steps, available_bytes)
  found['sample'] = _sample(config)
  return found


def _public(config: config_lib.Config, available_bytes: int) -> Estimate:
  compile_fn = batch_sizes.public_compile_fn(config)
  need = microbatch.measure(compile_fn)
  size = batch_sizes.fitting_public_size(
    config, need, num_devices(config), available_bytes
  )
  compiled = compile_fn(size, is_timed=True)
  batch = _black(config, (size,))

  def run(state: types.PyTree) -> types.PyTree:
    key = jax.random.key(0)
    return compiled(state, batch, key, jnp.arange(size, dtype=jnp.int32))[0]

  secs = _secs(run, _zeros(batch_sizes.public_state(config)))
  return _estimate(size, secs, need)


def _private(
  config: config_lib.Config, num_steps: int, available_bytes: int
) -> Estimate:
  state = batch_sizes.private_state(config, num_steps)
  compile_fn = batch_sizes.private_compile_fn(config, state)
  need = microbatch.measure(compile_fn, microbatch.resident_bytes(state))
  size = config.finetune.microbatch_size or batch_sizes.fitting_private_size(
    config, need, num_devices(config), available_bytes
  )
  compiled = compile_fn(size, is_timed=True)
  params = _zeros(state.params)
  is_person = config.data.unit == 'person'
  shape = (size, config.finetune.augmult) if is_person else (size,)
  batch = _black(config, shape)
  grad_config = assembly.grad_config(
    config.finetune, config.privacy.l2_clip_norm, batch_has_draw_axis=is_person
  )

  def run(total: types.PyTree) -> types.PyTree:
    records = step_lib.Microbatch(
      examples=batch,
      indices=jnp.arange(size, dtype=jnp.int32),
      is_padding=jnp.zeros((size,), bool),
    )
    return compiled(params, {}, total, records, jax.random.key(0))

  zeros = jax.jit(functools.partial(clipping.zeros, config=grad_config))
  secs = _secs(run, zeros(params))
  return _estimate(size, secs, need)


def _sample(config: config_lib.Config) -> Estimate:
  size = config.sample.batch_size
  apply = unet.UNet(config.unet_config(config.data)).apply
  state = batch_sizes.private_state(config)
  variables = {'params': _zeros(state.params)}
  labels = jnp.zeros((size,), jnp.int32)
  images = _black(config, (size,))['image'].astype(jnp.float32)
  denoise = (
    jax.jit(apply, donate_argnums=1)
    .lower(variables, images, labels, labels)
    .compile()
  )

  def run(x: types.PyTree) -> types.PyTree:
    return denoise(variables, x, labels, labels)

  secs = _secs(run, images) * samplers.num_evaluations(
    config.sample.sampler, config.data.num_classes
  )
  return Estimate(
    size=size,
    example_secs=secs / size,
    peak_bytes=microbatch.peak_bytes(denoise) or 0,
  )


def _estimate(
  size: int, secs: float, need: microbatch.MemoryUse | None
) -> Estimate:
  return Estimate(
    size=size,
    example_secs=secs / size,
    peak_bytes=need.total_bytes(size) if need else 0,
  )


def _secs(
  run: Callable[[types.PyTree], types.PyTree],
  carry: types.PyTree,
) -> float:
  """Returns the median seconds of a call on the result of the call before."""
  carry = jax.block_until_ready(run(carry))  # The first call compiles.
  secs = []
  for _ in range(_NUM_TIMED):
    start = time.perf_counter()
    carry = jax.block_until_ready(run(carry))
    secs.append(time.perf_counter() - start)
  return float(np.median(secs))


def _zeros(shapes: types.PyTree) -> types.PyTree:
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _black(
  config: config_lib.Config, shape: tuple[int, ...]
) -> dict[str, types.Array]:
  return {
    'image': jnp.zeros((*shape, *config.data.image_shape), jnp.uint8),
    'label': jnp.zeros(shape, jnp.int32),
  }
