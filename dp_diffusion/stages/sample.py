"""Samples the synthetic dataset from release/model, which is post-processing.

Every image is a function of (seed, index of the image) alone, so shards can be
made in any order and on any number of devices and processes. A rerun makes
those that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import functools

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
from dp_diffusion.evaluation.classifiers import head_classifier
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
    labels = sample_labels(
      sample.labels, config.data.num_classes, sample.num_samples
    )
  shards = _Shards(config, workdir, labels, stop)
  share = processes.own_share()
  # Every process makes equally many shards. Of the rest, fewer shards than
  # processes, every process makes a part, so that none has to wait. Shards are
  # divided by number, since another process may write missing ones.
  num_whole = shards.count - shards.count % share.count
  processes.together(lambda: shards.write(share.of(range(num_whole))))
  shards.write_together(range(num_whole, shards.count))
  processes.on_main(lambda: _finish(config, workdir))


def block(size: int, batch_size: int, share: processes.Share) -> range:
  """Returns the images of a shard that a process makes, in whole batches.

  >>> [block(10, 2, processes.Share(i, 3)) for i in range(3)]
  [range(0, 4), range(4, 8), range(8, 10)]

  Args:
    size: number of images of the shard.
    batch_size: images of a device at a time.
    share: which of the processes.
  """
  num_batches = -(-size // batch_size)
  most = batch_size * -(-num_batches // share.count)
  return range(size)[share.index * most : (share.index + 1) * most]


class _Shards:
  """The shards of the dataset, which processes make."""

  def __init__(
    self,
    config: config_lib.Config,
    workdir: workdirs.Workdir,
    labels: np.ndarray,
    stop: interrupts.Stop,
  ) -> None:
    self._config, self._workdir, self._stop = config, workdir, stop
    self._labels = labels
    self.count = -(-len(labels) // config.sample.shard_size)

  def write(self, shards: Sequence[int]) -> None:
    """Writes those of the given shards that are missing."""
    left = self._missing(shards)
    if not left:
      return
    total, rest = (self._num_images(part) for part in (shards, left))
    with console.progress('sampling, image', total, total - rest) as advance:
      for shard in left:
        span = self._span(shard)
        self._write(shard, self._images(span, advance))
        crash_points.reach('mid_sample')

  def write_together(self, shards: Sequence[int]) -> None:
    """Writes the missing ones too; every process makes a part of each."""
    if not shards:
      return
    left = processes.together(lambda: self._missing(shards))
    if not left:
      return
    with console.progress('sampling, image', self._num_images(left)) as advance:
      for shard in left:
        images = self._images_together(self._span(shard))
        processes.on_main(functools.partial(self._write, shard, images))
        advance(len(images))

  def _missing(self, shards: Sequence[int]) -> list[int]:
    mark = statements.mark(self._workdir)
    missing = release.missing_shards(self._workdir.release, self.count, mark)
    return [shard for shard in shards if shard in missing]

  def _span(self, shard: int) -> range:
    """Returns the numbers of a shard's images."""
    size = self._config.sample.shard_size
    return range(len(self._labels))[shard * size : (shard + 1) * size]

  def _num_images(self, shards: Iterable[int]) -> int:
    return sum(len(self._span(shard)) for shard in shards)

  @functools.cached_property
  def _sampler(self) -> sampling.ImageSampler:
    devices = parallel.DataParallel()
    return make_sampler(self._config, self._workdir, devices, self._stop)

  def _images(
    self, span: range, advance: console.Advance = lambda steps=1: None
  ) -> np.ndarray:
    """Samples the images of some numbers, uint8[len(span), H, W, C]."""
    labels = self._labels[span.start : span.stop]
    return self._sampler.images(labels, span.start, advance)

  def _images_together(self, span: range) -> np.ndarray:
    """Samples the images of a shard; each process makes a block of them."""
    data, batch_size = self._config.data, self._config.sample.batch_size
    share = processes.own_share()
    own = block(len(span), batch_size, share)
    most = len(block(len(span), batch_size, processes.Share(0, share.count)))
    images = np.zeros((most, *data.image_shape), np.uint8)

    def fill() -> None:
      if own:
        images[: len(own)] = self._images(span[own.start : own.stop])

    processes.together(fill)
    gathered = [
      processes.gather(images[start : start + batch_size])
      for start in range(0, most, batch_size)
    ]
    found = np.concatenate(gathered, axis=1)  # [P, most, H, W, C].
    return found.reshape(-1, *found.shape[2:])[: len(span)]

  def _write(self, shard: int, images: np.ndarray) -> None:
    span = self._span(shard)
    labels, probabilities = self._labels[span.start : span.stop], None
    if self._head is not None:
      found = self._head.classify(images)
      labels = found.labels
      if self._config.sample.class_probabilities:
        probabilities = found.probabilities()
    release.write_shard(
      self._workdir.release,
      shard,
      self.count,
      images,
      labels,
      statements.mark(self._workdir),
      probabilities,
    )

  @functools.cached_property
  def _head(self) -> head_classifier.HeadClassifier | None:
    """The class head, if it labels the images."""
    config = self._config
    if not config.sample.labels_from_head:
      return None
    found = assembly.released_head(
      config, self._workdir.release, self._stop.raise_if_asked
    )
    assert found is not None, 'release.check_model has found it'
    return found


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
    gaussians = release.read_class_gaussians(workdir.release)
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
    plan,
    weights.unflatten(arrays),
    config.seed,
    devices,
    stop.raise_if_asked,
    gaussians,
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
