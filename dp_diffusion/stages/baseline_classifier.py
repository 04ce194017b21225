"""Trains the DP classifier: on public images, then by DP-SGD on sensitive ones.

`finetune.wire_steps` builds its private step, as for the diffusion model. The
model is written to release/model.

Guarantees:
  * It spends the epsilon of its calibration, and the folder verifies.
    `tests/stages/baseline_test.py::test_classifier_spends_its_own_ledger`.
  * Trainings that differ in a setting of the private step, in their first
    weights or in their images have different noise and batches, even with one
    secret.
    `tests/stages/baseline_test.py::test_what_names_a_training_of_the_classifier`,
    `tests/stages/baseline_test.py::test_a_training_on_other_data_has_another_name`.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import public_seed
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.baselines import dp_classifier
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages import finetune
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import resume
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import state as train_state


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> Callable[[np.ndarray], np.ndarray]:
  """Trains the classifier and writes it to release/model.

  Args:
    config: gives seed, data, pretrain.data, privacy, finetune and baseline.
    workdir: working directory of this baseline alone.
    stop: called at every step; tells whether to stop.

  Returns:
    A function from images uint8[N, H, W, C] to predicted classes int32[N].
  """
  ours = config.baseline.dp_classifier
  devices = parallel.DataParallel()
  privacy = ours.privacy(config.privacy)
  mechanism = accounting.calibrate(privacy).mechanism
  source = registry.load(config.data)
  records = batching.make_records(source, config.data.unit)
  public = (
    public_data.compare_source(config, source) if ours.num_public_steps else []
  )
  statements.check_release_is_new(workdir)
  secret = run_secret.load_or_make(config, workdir)
  module = dp_classifier.make_module(ours.name, source.spec.num_classes)
  optimizer = assembly.private_optimizer(_finetune_config(config), mechanism)
  params = _public_params(config, module, devices, stop)
  begun = resume.begin(
    workdir.private,
    secret,
    facts(config, mechanism, source, secret, params),
    train_state.create(params, optimizer),
    ledger_lib.start(mechanism, privacy, unit=config.data.unit),
    num_steps=mechanism.num_steps,
    checkpoint_every_steps=config.finetune.checkpoint_every_steps,
  )
  steps = finetune.wire_steps(
    _finetune_config(config),
    mechanism,
    dp_classifier.make_loss_fn(module, config.data),
    functools.partial(
      finetune.gather_batch,
      source,
      records,
      config.data.unit,
      ours.augmult,
      begun.streams,
    ),
    records.num_records,
    begun.streams,
    devices,
    optimizer,
    batch_has_draw_axis=config.data.unit == 'person',
  )
  state, ledger = resume.finish(begun, steps, devices, stop)
  statements.store(
    workdir,
    ledger.seal(),
    is_insecure=secret.is_insecure,
    public_data=public,
  )
  release.write_model(
    workdir.release,
    weights.flatten(state.all_ema_params),
    {
      'method': 'dp_classifier',
      'classifier': ours.name,
      'class_names': list(config.data.class_names),
      'image_shape': list(source.spec.image_shape),
    },
  )
  statements.seal(config, workdir)
  return dp_classifier.make_predict_fn(module, state.all_ema_params)


def facts(
  config: config_lib.Config,
  mechanism: mechanism_lib.TrainingMechanism,
  source: types.DataSource,
  secret: key_streams.Secret,
  params: types.Params,
) -> dict[str, Any]:
  """Returns the facts that name the training; see `fingerprint.make`."""
  ours = config.baseline.dp_classifier
  return {
    'mechanism': mechanism.to_dict(),
    'training': {
      **config_lib.to_dict(ours),
      **fingerprint.draws(config),
      'steps': fingerprint.lasting(_finetune_config(config)),
    },
    'start': {'weights': fingerprint.first_weights(secret, params)},
    'dataset': fingerprint.dataset(secret, source),
    'secret': key_streams.fingerprint(secret, 'secret'),
    'seed': config.seed,
    'rng': key_streams.rng_test_vector(),
  }


def _finetune_config(config: config_lib.Config) -> config_lib.FinetuneConfig:
  """Returns the config of the steps, with the classifier's hyper-parameters.

  Of fine-tuning it has what names no leaf of the diffusion model, and no
  setting of its loss.
  """
  ours, given = config.baseline.dp_classifier, config.finetune
  return config_lib.FinetuneConfig(
    augmult=ours.augmult,
    optimizer=ours.optimizer,
    ema_decay=ours.ema_decay,
    rescale_to_unit_norm=given.rescale_to_unit_norm,
    microbatch_size=given.microbatch_size,
    checkpoint_every_steps=given.checkpoint_every_steps,
  )


def _public_params(
  config: config_lib.Config,
  module: nn.Module,
  devices: parallel.DataParallel,
  stop: interrupts.Stop,
) -> types.Params:
  """Returns weights from the public seed, pre-trained if the config says so."""
  ours = config.baseline.dp_classifier
  params = dp_classifier.init_params(
    module,
    config.data.image_shape,
    public_seed.Purpose.CLASSIFIER_WEIGHTS.key(config.seed),
  )
  if not ours.num_public_steps:
    return params
  if not config.has_same_classes:
    raise errors.UsageError(
      'Expected pretrain.data to have the classes of data where'
      f' baseline.dp_classifier.num_public_steps={ours.num_public_steps}; set'
      ' it to 0.'
    )
  public = registry.load(config.pretrain.data)
  optimizer = optimizers.make(ours.public_optimizer, ours.num_public_steps)
  state = devices.replicate(train_state.create(params, optimizer))
  step_fn = devices.pmap_public_step(
    dp_classifier.make_loss_fn(module, config.pretrain.data), optimizer, 0.99
  )
  per_device = -(-ours.public_batch_size // devices.num_devices)
  places = np.arange(per_device * devices.num_devices, dtype=np.int32)
  places = places.reshape((devices.num_devices, per_device))
  draws = public_seed.Purpose.CLASSIFIER_PUBLIC_DRAWS.key(config.seed)
  with console.progress(
    'public training, step', ours.num_public_steps
  ) as advance:
    for i in range(ours.num_public_steps):
      stop.raise_if_asked()
      batch = batching.public_batch(public, places.size, config.seed, i)
      batch = jax.tree.map(
        lambda x: x.reshape(places.shape + x.shape[1:]), batch
      )
      state, loss = step_fn(
        state,
        devices.shard(batch),
        jax.random.fold_in(draws, i),
        devices.shard(places),
      )
      loss.block_until_ready()
      advance()
  return devices.unreplicate(state).ema_params
