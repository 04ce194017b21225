"""Trains the class head, the last part of fine-tuning, if it is asked for.

The network has had its private steps. Images are sampled from it, by which the
features are scaled; then the head is trained on the features of the sensitive
images by noised gradients (`baselines.class_head`). It is kept in
`private/class_head/`, and published beside the weights.

Guarantees:
  * The gradients are paid for: their entry is in the published ledger, and the
    private steps are calibrated to what remains.
    `tests/stages/class_head_test.py::test_a_head_is_paid_for`.
  * The noise is that of the entry.
    `tests/stages/class_head_test.py::test_the_noise_is_that_of_the_entry`.
  * It is trained once. A rerun before it is kept gives the same bits;
    afterwards it is read. Other images, weights, noise or secrets are refused.
    `tests/stages/class_head_test.py::test_a_head_is_trained_once`,
    `tests/stages/class_head_test.py::test_another_head_is_refused`.
  * A person is one record.
    `tests/stages/class_head_test.py::test_a_person_is_one_record`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import sampling
from dp_diffusion import types
from dp_diffusion.baselines import class_head
from dp_diffusion.data import batching
from dp_diffusion.diffusion import samplers
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.models import class_gaussians as gaussians_lib
from dp_diffusion.models import class_head as head_lib
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages import class_gaussians
from dp_diffusion.stages import sample
from dp_diffusion.stages.run import begun_statistics
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel

_SAMPLER_STEPS = 15


def run(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  records: batching.Records,
  secret: key_streams.Secret,
  params: types.Params,
  stop: interrupts.Stop,
) -> head_lib.ClassHead | None:
  """Returns the head, trained or kept from before; None if there is none.

  One process calls it.

  Args:
    config: gives seed, data, model, diffusion and finetune.class_head.
    workdir: private/class_head is written.
    source: the sensitive images.
    records: the images of each record.
    secret: secret of the run.
    params: the weights that are released.
    stop: called at every batch and step; tells whether to stop.

  Raises:
    UsageError: another head than this was begun before.
    Interrupted: the user asked to stop; the next run starts the head anew, with
      the same noise.
  """
  used = config.finetune.class_head
  if not used.is_used:
    return None
  gaussians = class_gaussians.read(config, workdir)
  facts = make_facts(config, source, secret, params, gaussians)
  begun = workdir.private / workdirs.BEGUN_CLASS_HEAD
  kept = workdir.private / 'class_head' / 'head.npz'
  begun_statistics.begin(workdir, begun, kept, facts, 'its class head')
  if not kept.exists():
    network = config.unet_config(config.data)
    diffusion = config.finetune_diffusion()
    read = head_features.HeadFeatures(
      network,
      params,
      diffusion,
      has_scattering=used.scattering,
      check_stop=stop.raise_if_asked,
    )
    widths = head_features.widths(
      network,
      params,
      diffusion,
      config.data.image_size,
      has_scattering=used.scattering,
    )
    samples = _samples(config, gaussians, params, stop)
    scaling = class_head.fit_scaling(read.of(samples), widths)
    streams = key_streams.KeyStreams(
      secret=secret, run_id=key_streams.run_id(secret, facts)
    )
    units = _units(source, read, scaling)
    gradients = class_head.NoisedGradients(
      units,
      np.asarray(source.labels),
      records,
      config.data.num_classes,
      used,
      streams,
    )
    head = _train(config, gradients, scaling, widths[0], stop)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_npz(kept, 0o600, **head.arrays())
  return head_lib.ClassHead.from_arrays(files.read_npz(kept))


def make_facts(
  config: config_lib.Config,
  source: types.DataSource,
  secret: key_streams.Secret,
  params: types.Params,
  gaussians: gaussians_lib.ClassGaussians | None = None,
) -> dict[str, Any]:
  """Returns the facts that name the gradients, and so determine their noise.

  Args:
    config: gives seed, data, model, diffusion and finetune.class_head.
    source: the sensitive images.
    secret: secret of the run.
    params: the weights that are released.
    gaussians: what samples start from, by which features are scaled.
  """
  start = {}
  if gaussians is not None:
    start['start'] = {
      'first_timestep': config.sample.sampler.first_timestep,
      'gaussians': fingerprint.first_weights(
        secret, dataclasses.asdict(gaussians)
      ),
    }
  return {
    **start,
    'head': config_lib.to_dict(config.finetune.class_head),
    'events': [e.to_json() for e in config.finetune.class_head.entries()],
    'weights': fingerprint.first_weights(secret, params),
    'model': config_lib.to_dict(config.model),
    'diffusion': config_lib.to_dict(config.diffusion),
    'unit': config.data.unit,
    'classes': config.data.num_classes,
    'num_examples': config.privacy.num_examples,
    'seed': config.seed,
    'dataset': fingerprint.dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'rng': key_streams.rng_test_vector(),
  }


def _units(
  source: types.DataSource,
  read: head_features.HeadFeatures,
  scaling: class_head.Scaling,
) -> np.ndarray:
  """Returns the scaled features of all images, int16[N, F + 1]."""
  num, step = len(source.images), class_head.IMAGES_AT_A_TIME
  found = np.empty((num, len(scaling.mean) + 1), np.int16)
  # Neither the number of images nor the time that they take may be shown.
  with console.progress_of('class head, features of images', num) as advance:
    for start in range(0, num, step):
      rows = slice(start, start + step)
      features = read.of(source.images[rows], advance)
      found[rows] = class_head.in_units(scaling.bounded(features))
  return found


def _train(
  config: config_lib.Config,
  gradients: class_head.NoisedGradients,
  scaling: class_head.Scaling,
  num_activations: int,
  stop: interrupts.Stop,
) -> head_lib.ClassHead:
  used = config.finetune.class_head
  with console.progress(
    'class head, step', used.num_steps, is_private=True
  ) as advance:

    def after_step() -> None:
      stop.raise_if_asked()
      advance()

    return class_head.fit(
      gradients,
      scaling,
      config.privacy.num_examples,
      used,
      num_activations,
      after_step,
    )


def _samples(
  config: config_lib.Config,
  gaussians: gaussians_lib.ClassGaussians | None,
  params: types.Params,
  stop: interrupts.Stop,
) -> np.ndarray:
  """Samples the images by which features are scaled, uint8[M, H, W, C]."""
  num = config.finetune.class_head.num_samples
  diffusion = config.finetune_diffusion()
  first = config.sample.sampler.first_timestep
  last = first or diffusion.num_timesteps - 1
  plan = sampling.SamplingPlan(
    network=config.unet_config(config.data),
    diffusion=diffusion,
    sampler=samplers.SamplerConfig(
      name='dpm_solver_pp_2m',
      spacing='log_snr',
      num_steps=min(_SAMPLER_STEPS, last + 1),
      first_timestep=first,
    ),
    image_size=config.data.image_size,
    batch_size=min(config.sample.batch_size, num),
  )
  sampler = sampling.ImageSampler(
    plan,
    params,
    config.seed,
    parallel.DataParallel(),
    stop.raise_if_asked,
    gaussians,
  )
  labels = sample.sample_labels('uniform', config.data.num_classes, num)
  with console.progress('class head, sampling image', num) as advance:
    return sampler.images(labels, 0, advance)
