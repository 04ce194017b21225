"""Samples the synthetic dataset from release/model, which is post-processing.

Every image is a function of (seed, index of the image) alone, so shards can be
made in any order and on any number of devices. A rerun makes those that are
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import config_values
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import errors
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.diffusion import samplers
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import histograms
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

_NOISE_PURPOSE = 2  # Purpose of the public seed; see pretrain.py.

# (labels int32[n], index of the first image) -> uint8[n, H, W, C].
SampleFn = Callable[[np.ndarray, int], np.ndarray]


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Writes release/dataset, samples.png and the statement that covers them.

  Args:
    config: gives seed, data, model, diffusion and sample.
    workdir: release/model is read, release/ is written.
    stop: called before every batch; tells whether to stop.

  Raises:
    UsageError: the labels do not fit the classes, or the disk is full.
    Interrupted: the user asked to stop; finished shards are kept.
  """
  devices = parallel.DataParallel()
  sample = config.sample
  if sample.labels == config_lib.NOISED_HISTOGRAM:
    labels = labels_by_weight(histograms.weights(workdir), sample.num_samples)
  else:
    num_classes = len(config.data.class_names) or 1
    labels = sample_labels(sample.labels, num_classes, sample.num_samples)
  num_shards = -(-sample.num_samples // sample.shard_size)
  # Shards are divided by number, since another process may write missing ones.
  mine = range(devices.process_index, num_shards, devices.process_count)
  processes.together(
    lambda: _write_shards(mine, num_shards, labels, config, workdir, stop)
  )
  processes.on_main(lambda: _finish(config, workdir))


def _write_shards(
  shards: Sequence[int],
  num_shards: int,
  labels: np.ndarray,
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
) -> None:
  """Writes those of the given shards that are missing."""
  sample, devices = config.sample, parallel.DataParallel()
  missing = release.missing_shards(workdir.release, num_shards)
  left = [shard for shard in shards if shard in missing]
  if not left:
    return
  mark = statements.mark(workdir)
  num_images = {shard: len(range(*_span(shard, sample))) for shard in shards}
  total, rest = sum(num_images.values()), sum(num_images[s] for s in left)
  sample_fn = make_sample_fn(config, workdir, devices, stop)
  with console.progress('sampling, image', total, total - rest) as advance:
    for shard in left:
      start, end = _span(shard, sample)
      images = _sample_range(
        sample_fn, labels, start, end, devices, sample, advance
      )
      release.write_shard(
        workdir.release, shard, num_shards, images, labels[start:end], mark
      )
      crash_points.reach('mid_sample')


def _span(shard: int, sample: config_lib.SampleConfig) -> tuple[int, int]:
  """Returns the indices of a shard's first image and past its last one."""
  start = shard * sample.shard_size
  return start, min(start + sample.shard_size, sample.num_samples)


def sample_labels(
  distribution: str, num_classes: int, num_samples: int
) -> np.ndarray:
  """Returns the labels to sample, from the config and no sensitive data.

  >>> sample_labels('uniform', 3, 7)
  array([0, 1, 2, 0, 1, 2, 0], dtype=int32)
  >>> sample_labels('0.75,0.25', 2, 4)
  array([0, 0, 1, 0], dtype=int32)

  Args:
    distribution: 'uniform', or one public weight per class.
    num_classes: number of classes.
    num_samples: number of labels.

  Returns:
    int32[num_samples]. The shares in every prefix are as close to the weights
    as possible.

  Raises:
    UsageError: the weights are no distribution over the classes.
  """
  if distribution == 'uniform':
    return (np.arange(num_samples) % num_classes).astype(np.int32)
  weights = config_values.parse_weights(
    'sample.labels', distribution, num_classes
  )
  return labels_by_weight(np.array(weights), num_samples)


def labels_by_weight(weights: np.ndarray, num_samples: int) -> np.ndarray:
  """Returns labels whose shares are close to the weights in every prefix."""
  weights = weights / weights.sum()
  given = np.zeros(len(weights))
  labels = np.empty(num_samples, np.int32)
  for i in range(num_samples):  # Takes the class most below its share.
    labels[i] = np.argmax(weights * (i + 1) - given)
    given[labels[i]] += 1
  return labels


def make_sample_fn(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  devices: parallel.DataParallel,
  stop: interrupts.Stop,
) -> SampleFn:
  """Loads the released model and compiles its sampler for all devices."""
  try:
    arrays, _ = release.read_model(workdir.release)
  except (OSError, ValueError) as error:
    raise errors.UsageError(
      f'Expected {workdir.release}/model to hold the fine-tuned weights:'
      f' {error}. Restore it, or fine-tune in another --workdir.'
    ) from error
  params = weights.unflatten(arrays)
  model = unet.UNet(config.unet_config(config.data))
  sampler = config.sample.sampler
  diffusion = config.finetune_diffusion()
  batch_size = config.sample.batch_size
  side = config.data.image_size
  shape = (batch_size, side, side, config.data.channels)
  key = jax.random.fold_in(jax.random.key(config.seed), _NOISE_PURPOSE)

  def init(first_index: types.Array) -> samplers.SamplerState:
    return samplers.init_state(key, shape, first_index=first_index)

  def step(
    params: types.Params,
    state: samplers.SamplerState,
    labels: types.Array,
    i: types.Array,
  ) -> samplers.SamplerState:
    denoise = assembly.make_denoise_fn(model, params)
    return samplers.step_fn(denoise, sampler, diffusion)(state, labels, i)

  def whole(
    params: types.Params,
    labels: types.Array,
    first_index: types.Array,
  ) -> types.Array:
    denoise = assembly.make_denoise_fn(model, params)
    x = samplers.sample(
      denoise,
      sampler,
      diffusion,
      key,
      labels,
      shape[1:],
      first_index=first_index,
    )
    return samplers.to_uint8(x)

  replicas = devices.replicate(params)
  init_fn = devices.pmap_local(init)
  step_fn = devices.pmap_local(step, (0, 0, 0, None), donate_argnums=(1,))
  finish_fn = devices.pmap_local(lambda state: samplers.to_uint8(state.x))
  whole_fn = devices.pmap_local(whole)
  num_devices = devices.num_devices

  def sample(labels: np.ndarray, first: int) -> np.ndarray:
    count = len(labels)
    padded = np.resize(labels, num_devices * batch_size)
    padded = devices.shard(padded.reshape(num_devices, batch_size))
    starts = first + batch_size * np.arange(num_devices, dtype=np.int32)
    starts = devices.shard(starts.astype(np.int32))
    if jax.default_backend() == 'cpu':
      # XLA runs a convolution inside a loop 5 to 10 times slower on CPUs.
      state = init_fn(starts)
      for i in range(sampler.num_steps):
        stop.raise_if_asked()
        state = step_fn(replicas, state, padded, np.int32(i))
      images = finish_fn(state)
    else:
      stop.raise_if_asked()
      images = whole_fn(replicas, padded, starts)
    images = jax.device_get(images)
    return np.asarray(images).reshape((-1, *shape[1:]))[:count]

  return sample


def _sample_range(
  sample_fn: SampleFn,
  labels: np.ndarray,
  start: int,
  end: int,
  devices: parallel.DataParallel,
  sample: config_lib.SampleConfig,
  advance: console.Advance,
) -> np.ndarray:
  """Samples the images from `start` to `end`, batch by batch."""
  per_call = devices.num_devices * sample.batch_size
  batches = []
  for first in range(start, end, per_call):
    last = min(first + per_call, end)
    batches.append(sample_fn(labels[first:last], first))
    advance(last - first)
  return np.concatenate(batches)


def _finish(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Writes the files made from the shards, and the statement for all files."""
  release.write_dataset_info(
    workdir.release,
    types.DatasetSpec(
      name=config.name,
      image_shape=(
        config.data.image_size,
        config.data.image_size,
        config.data.channels,
      ),
      class_names=config.data.class_names,
    ),
  )
  release.write_samples(workdir.release)
  if config.sample.write_tfds:
    release.write_tfds(workdir.release)
  crash_points.reach('mid_release')
  statements.seal(config, workdir)
