"""Samples the synthetic dataset from release/model, which is post-processing.

Every image is a function of (seed, index of the image) alone, so shards can be
made in any order and on any number of devices. A rerun makes those that are
missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import config_values
from dp_diffusion import console
from dp_diffusion import crash_points
from dp_diffusion import errors
from dp_diffusion import release
from dp_diffusion import release_card
from dp_diffusion import sampling
from dp_diffusion import types
from dp_diffusion.models import weights
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import averages
from dp_diffusion.stages.run import histograms
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import processes


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Writes release/dataset, samples.png and the statement that covers them.

  Args:
    config: gives seed, data, model, diffusion and sample.
    workdir: release/model is read, release/ is written.
    stop: called before every batch; tells whether to stop.

  Raises:
    UsageError: the labels do not fit the classes, weights or images in release/
      are of another run, or the disk is full.
    Interrupted: the user asked to stop; finished shards are kept.
  """
  processes.on_main(lambda: averages.choose(config, workdir))
  processes.on_main(lambda: release.check_model(workdir.release))
  sample = config.sample
  if sample.labels == config_lib.NOISED_HISTOGRAM:
    labels = labels_by_weight(histograms.weights(workdir), sample.num_samples)
  else:
    num_classes = len(config.data.class_names) or 1
    labels = sample_labels(sample.labels, num_classes, sample.num_samples)
  num_shards = -(-sample.num_samples // sample.shard_size)
  # Shards are divided by number, since another process may write missing ones.
  mine = processes.own_share().of(range(num_shards))
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
  mark = statements.mark(workdir)
  missing = release.missing_shards(workdir.release, num_shards, mark)
  left = [shard for shard in shards if shard in missing]
  if not left:
    return
  num_images = {shard: len(range(*_span(shard, sample))) for shard in shards}
  total, rest = sum(num_images.values()), sum(num_images[s] for s in left)
  sampler = make_sampler(config, workdir, devices, stop)
  with console.progress('sampling, image', total, total - rest) as advance:
    for shard in left:
      start, end = _span(shard, sample)
      images = sampler.images(labels[start:end], start, advance)
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


def make_sampler(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  devices: parallel.DataParallel,
  stop: interrupts.Stop,
) -> sampling.ImageSampler:
  """Loads the released model onto all devices."""
  try:
    arrays, _ = release.read_model(workdir.release)
  except (OSError, ValueError) as error:
    raise errors.UsageError(
      f'Expected {workdir.release}/model to hold the fine-tuned weights:'
      f' {error}. Restore it, or fine-tune in another --workdir.'
    ) from error
  plan = sampling.SamplingPlan(
    network=config.unet_config(config.data),
    diffusion=config.finetune_diffusion(),
    sampler=config.sample.sampler,
    image_size=config.data.image_size,
    batch_size=config.sample.batch_size,
  )
  return sampling.ImageSampler(
    plan, weights.unflatten(arrays), config.seed, devices, stop.raise_if_asked
  )


def _finish(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Writes what follows from the shards, and the statement over all files."""
  release.write_sampling(workdir.release, assembly.sampling_record(config))
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
  release.write_parquet(workdir.release)
  if config.sample.write_tfds:
    homepage = config.card.url or config.card.code_url
    release.write_tfds(workdir.release, homepage or release_card.PAPER_URL)
  crash_points.reach('mid_release')
  statements.seal(config, workdir)
