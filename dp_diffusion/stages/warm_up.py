"""Trains the first weights of fine-tuning on noised statistics.

It is the first part of fine-tuning, if `finetune.warm_up` asks for it. The
statistics are drawn from the sensitive images once, with the noise that their
ledger entries say, and kept in `private/warm_up/`. What follows reads these
files alone: embeddings of classes are taken from public ones, images are made,
and the network is trained on the images by the loop of pre-training. The
weights are those from which the private steps start, so they are one of the
facts that determine the steps' randomness.

Guarantees:
  * Statistics are paid for: their entries are in the published ledger, and
    DP-SGD is calibrated to what remains.
    `tests/stages/finetune_test.py::test_statistics_of_a_warm_up_are_paid_for`,
    `tests/stages/finetune_test.py::test_more_noise_makes_room_for_a_warm_up`.
  * The noise that is drawn is that of the entries.
    `tests/stages/warm_up_test.py::test_what_is_drawn_is_what_the_ledger_says`.
  * They are drawn once. A rerun before they are stored gives the same bits;
    afterwards they are read. Other images, noise or secrets are refused.
    `tests/stages/warm_up_test.py::test_statistics_are_drawn_once`,
    `tests/stages/warm_up_test.py::test_other_statistics_are_refused`.
  * Killed and resumed, its weights are the same to the bit.
    `tests/stages/warm_up_test.py::test_a_stopped_warm_up_goes_on`.
  * Images and weights depend on the sensitive images through the noised
    statistics alone.
    `tests/stages/warm_up_test.py::test_training_reads_the_statistics_alone`.
  * The network that votes has seen public images alone, and they alone are
    trained on.
    `tests/stages/warm_up_test.py::test_votes_choose_among_public_images`.
  * Embeddings of classes start where the noised votes say, from weights that
    were pre-trained on these public classes.
    `tests/stages/warm_up_test.py::test_rows_start_where_the_votes_say`,
    `tests/stages/warm_up_test.py::test_rows_of_other_classes_are_refused`.
  * A person is one record.
    `tests/stages/warm_up_test.py::test_a_person_is_one_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import json
from typing import Any

from etils import epath
import jax
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.baselines import class_means
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator as generator_lib
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import one_by_one
from dp_diffusion.baselines import public_votes
from dp_diffusion.baselines import warm_up as warm_up_lib
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages import sample
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import begun_statistics
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_network
from dp_diffusion.stages.run import public_provenance
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from dp_diffusion.training import metrics
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from dp_diffusion.training import public_loop
from dp_diffusion.training import state as train_state


def run(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  secret: key_streams.Secret,
  params: types.Params,
  stop: interrupts.Stop,
) -> types.Params:
  """Returns the weights after the warm-up, or `params` if there is none.

  All processes call it.

  Args:
    config: gives seed, data, model, diffusion, pretrain, finetune.warm_up and
      sample.labels.
    workdir: private/warm_up is written.
    source: the sensitive images; process 0 draws the statistics from them.
    secret: secret of the run.
    params: the public or new weights, all leaves.
    stop: called at every step; tells whether to stop.

  Raises:
    UsageError: other statistics than these were drawn before, the public
      images have no classes to choose from, or the weights know other ones.
    Interrupted: the user asked to stop; the next run continues.
  """
  used = config.finetune.warm_up
  if not used.is_used:
    return params
  folder = workdir.private / 'warm_up'
  public = _public_images(config)
  rows = _public_rows(config, workdir) if used.rows_from_votes else None
  facts = make_facts(config, source, secret, public)
  processes.agree({k: json.dumps(v, sort_keys=True) for k, v in facts.items()})
  processes.on_main(
    lambda: draw(config, workdir, source, secret, facts, public)
  )
  if rows is not None:
    params = start_rows(config, folder, params, rows)
  if not used.num_steps:
    return params
  path = folder / 'params.npz'
  if processes.any_process(not path.exists()):
    processes.on_main(lambda: make_images(config, folder, stop, public))
    trained = _train(config, folder, params, stop, public)
    # They are marked: without the ledger they are no public weights.
    processes.on_main(lambda: weights.save_npz(path, trained, is_released=True))
  return weights.load_params(path)


def make_facts(
  config: config_lib.Config,
  source: types.DataSource,
  secret: key_streams.Secret,
  public: types.DataSource | None = None,
) -> dict[str, Any]:
  """Returns the facts that name the statistics, and so determine their noise.

  Args:
    config: gives seed, data, finetune.warm_up and evaluate.classifier.
    source: the sensitive images.
    secret: secret of the run.
    public: the public images to choose from; None if there is no such choice.
  """
  used = config.finetune.warm_up
  votes = {}
  if public is not None:
    votes['votes'] = {
      'public_images': fingerprint.dataset(secret, public),
      'public_classes': public.spec.num_classes,
      'classifier': config_lib.to_dict(config.evaluate.classifier),
    }
  return {
    **votes,
    'events': [entry.to_json() for entry in used.entries()],
    'features': config_lib.to_dict(used.dp_merf)
    if used.generated_steps
    else {},
    'unit': config.data.unit,
    'classes': source.spec.num_classes,
    'seed': config.seed,
    'dataset': fingerprint.dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'rng': key_streams.rng_test_vector(),
  }


def draw(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  source: types.DataSource,
  secret: key_streams.Secret,
  facts: Mapping[str, Any],
  public: types.DataSource | None = None,
) -> None:
  """Draws the statistics and keeps them; no other function reads the images.

  Raises:
    UsageError: other statistics than these were drawn before.
  """
  begun = workdir.private / workdirs.BEGUN_WARM_UP
  kept = workdir.private / 'warm_up' / 'statistics.npz'
  begun_statistics.begin(
    workdir, begun, kept, facts, 'the statistics of its warm-up'
  )
  if kept.exists():
    return
  streams = key_streams.KeyStreams(
    secret=secret, run_id=key_streams.run_id(secret, facts)
  )
  used = config.finetune.warm_up
  records = batching.make_records(source, config.data.unit)
  found = {}
  if used.mean_steps:
    found['means'] = mean_embedding.noised_sums(
      class_means.make_feature_fn(config.data.image_shape),
      source,
      records,
      used.mean_mechanism,
      streams,
      warm_up_lib.MEANS,
    )
  if used.generated_steps:
    found['embedding'] = mean_embedding.noised_sums(
      _fourier_features(config),
      source,
      records,
      used.embedding_mechanism,
      streams,
      warm_up_lib.EMBEDDING,
    )
  if public is not None:
    found['votes'] = public_votes.noised(
      _vote(config, public, source.images),
      source.labels,
      records,
      (source.spec.num_classes, public.spec.num_classes),
      used.votes_entry,
      streams,
    )
  kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
  files.write_npz(kept, 0o600, **found)


def _public_images(config: config_lib.Config) -> types.DataSource | None:
  """Reads the public images to choose from, if any are chosen."""
  if not config.finetune.warm_up.has_votes:
    return None
  public = processes.main_first(lambda: registry.load(config.pretrain.data))
  config.finetune.warm_up.check_public_classes(
    public.spec.num_classes, config.data.num_classes
  )
  return public


def _public_rows(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> np.ndarray:
  """Returns the embeddings of the public classes, float32[K, E].

  Raises:
    UsageError: the weights are not known to be of these classes.
  """
  path = workdir.public_weights
  names = tuple(config.pretrain.data.class_names)
  rows = weights.flatten(weights.load_params(path)).get(weights.CLASS_ROWS)
  known = public_provenance.of_weights(path)
  is_same = any(
    entry.data is not None and tuple(entry.data.class_names) == names
    for entry in known
  )
  if rows is None or len(rows) != len(names) or not is_same:
    raise errors.UsageError(
      'Expected finetune.warm_up.rows_from_votes to be False: the weights of'
      f' {path} are not known to be pre-trained on the classes of'
      f' pretrain.data.name={config.pretrain.data.name!r}. Pre-train on them,'
      ' or take the weights of a run that did.'
    )
  return np.asarray(rows)


def start_rows(
  config: config_lib.Config,
  folder: epath.Path,
  params: types.Params,
  rows: np.ndarray,
) -> types.Params:
  """Returns the weights with the embeddings that the noised votes choose.

  Args:
    config: gives the names of the classes.
    folder: its statistics.npz is read.
    params: all leaves.
    rows: float32[K, E], embeddings of the public classes.
  """
  votes = files.read_npz(folder / 'statistics.npz')['votes']
  chosen = public_votes.characteristic(votes)
  public_names = config.pretrain.data.class_names
  for name, k in zip(config.data.class_names, chosen, strict=True):
    console.say(
      f'finetune: by the noised votes, class {name} starts from the public'
      f' class {public_names[k]}'
    )
  flat = weights.flatten(params)
  flat[weights.CLASS_ROWS] = rows[chosen]
  return weights.unflatten(flat)


def _vote(
  config: config_lib.Config, public: types.DataSource, images: np.ndarray
) -> np.ndarray:
  """Returns the public class that each image looks like, int64[N].

  It is private: nothing but the noised votes may be computed from it.
  """
  console.say('finetune: trains the network that votes on public images')
  network = public_network.train(config, public)
  logits = one_by_one.apply(
    lambda x: network.fns.logits(network.variables, x), images
  )
  return np.argmax(logits, axis=1)


def make_images(
  config: config_lib.Config,
  folder: epath.Path,
  stop: interrupts.Stop,
  public: types.DataSource | None = None,
) -> None:
  """Makes the images of the warm-up from the statistics, if they are not there.

  Args:
    config: gives seed, data, finetune.warm_up and sample.labels.
    folder: statistics.npz is read, images.npz is written.
    stop: called at every step of the generator.
    public: the public images to choose from; only their labels are read.

  Raises:
    Interrupted: the user asked to stop.
  """
  path = folder / 'images.npz'
  if path.exists():
    return
  used, num_classes = config.finetune.warm_up, config.data.num_classes
  statistics, found = files.read_npz(folder / 'statistics.npz'), {}
  if used.mean_steps:
    images = class_means.means(
      statistics['means'],
      config.data.image_shape,
      used.mean_mechanism.noise_std,
    )
    found['means'] = images.reshape((-1, *images.shape[2:]))
    found['means_labels'] = np.tile(np.arange(num_classes), len(images))
  if used.generated_steps:
    (noised,) = statistics['embedding']
    labels = sample.sample_labels(
      config.sample.labels, num_classes, used.num_generated
    )
    found['generated'] = _generate(
      config, noised / np.float32(config.privacy.num_examples), labels, stop
    )
    found['generated_labels'] = labels
  if public is not None:
    public_labels = np.asarray(public.labels)
    chosen = public_votes.choose(
      statistics['votes'], public_labels, used.num_chosen
    )
    found['chosen'], found['chosen_labels'] = public_votes.training_set(
      chosen, public_labels
    )
  files.write_npz(path, 0o600, **found)


def _generate(
  config: config_lib.Config,
  embedding: np.ndarray,
  labels: np.ndarray,
  stop: interrupts.Stop,
) -> np.ndarray:
  """Fits a generator to float32[num_classes, F]; returns uint8[N, H, W, C]."""
  used = config.finetune.warm_up.generator
  module = generator_lib.Generator(
    image_shape=config.data.image_shape,
    num_classes=config.data.num_classes,
    channels=used.channels,
  )
  params = generator_lib.train(
    used,
    module,
    _fourier_features(config),
    embedding,
    sample.sample_labels(
      config.sample.labels, config.data.num_classes, used.batch_size
    ),
    public_seed.Purpose.WARM_UP_GENERATOR.key(config.seed),
    stop.raise_if_asked,
  )
  return generator_lib.sample(
    module,
    params,
    used.latent_dim,
    labels,
    public_seed.Purpose.WARM_UP_SAMPLES.key(config.seed),
  )


def _train(
  config: config_lib.Config,
  folder: epath.Path,
  params: types.Params,
  stop: interrupts.Stop,
  public: types.DataSource | None,
) -> types.Params:
  """Trains on the images of the warm-up; returns the averaged weights.

  Raises:
    Interrupted: the user asked to stop; a checkpoint is saved.
  """
  config = config.warm_up_as_pretraining()
  pretrain, devices = config.pretrain, parallel.DataParallel()
  optimizer = optimizers.make(pretrain.optimizer, pretrain.num_steps)
  checkpoints = checkpoint.Checkpointer(folder / 'checkpoints', is_private=True)
  state, start_step = train_state.create(params, optimizer), 0
  if restored := checkpoints.restore(state, may_lose_all=True):
    start_step, state = restored.step, restored.state
    console.say(f'finetune: its warm-up continues from step {start_step}')
  with metrics.PrivateMetrics(folder) as writer:
    loop = public_loop.PublicRun(
      step=devices.pmap_public_step(
        assembly.pretrain_loss_fn(config),
        optimizer,
        pretrain.ema_decay,
        batch_sizes.public_size(config, devices),
      ),
      batch=functools.partial(
        batch, config, files.read_npz(folder / 'images.npz'), public=public
      ),
      batch_size=pretrain.batch_size,
      key=public_seed.Purpose.WARM_UP_DRAWS.key(config.seed),
      checkpoints=checkpoints,
      meta={'stage': 'warm-up'},
      num_steps=pretrain.num_steps,
      checkpoint_every_steps=pretrain.checkpoint_every_steps,
      record_loss=lambda step, loss: writer.write(step, {'loss': loss}),
      title='warm-up, step',
    )
    state, step = public_loop.train_public(
      loop, devices, state, start_step, stop
    )
  if step < pretrain.num_steps:
    stop.raise_if_asked()
    raise errors.Interrupted('Stopped by another process.')
  return jax.device_get(state.ema_params)


def batch(
  config: config_lib.Config,
  images: Mapping[str, np.ndarray],
  step: int,
  public: types.DataSource | None = None,
) -> dict[str, np.ndarray]:
  """Returns the batch of a step: class means, generated, then chosen images.

  Args:
    config: gives seed, pretrain.batch_size and finetune.warm_up.
    images: what `make_images` has written.
    step: number of the step, counted from 0.
    public: the public images of which some are chosen.

  Returns:
    {'image': uint8[B, H, W, C], 'label': int32[B]}.
  """
  used = config.finetune.warm_up
  name = 'means'
  if step >= used.mean_steps:
    is_generated = step < used.mean_steps + used.generated_steps
    name = 'generated' if is_generated else 'chosen'
  chosen = batching.public_indices(
    len(images[name]), config.pretrain.batch_size, config.seed, step
  )
  labels = images[f'{name}_labels'].astype(np.int32)[chosen]
  found = images[name][chosen]
  if public is not None and name == 'chosen':  # These are indices.
    found = batching.gather(public, found)['image']
  return {'image': found, 'label': labels}


def _fourier_features(config: config_lib.Config) -> mean_embedding.FeatureFn:
  return dp_merf.make_feature_fn(
    config.finetune.warm_up.dp_merf,
    config.data.image_shape,
    public_seed.Purpose.WARM_UP_FEATURES.key(config.seed),
  )
