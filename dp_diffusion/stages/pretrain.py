"""Pre-training on public images, without privacy.

The stage writes `public/model/params.npz`, the moving average of the weights.
Fine-tuning starts from it.
"""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from etils import epath
import numpy as np
import optax

from dp_diffusion import compiling
from dp_diffusion import config as config_lib
from dp_diffusion import config_weights
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import public_seed
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import first_weights
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import progress_picture
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import training_curves
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from dp_diffusion.training import metrics
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import processes
from dp_diffusion.training import public_loop
from dp_diffusion.training import state as train_state


def weights_path(workdir: workdirs.Workdir) -> epath.Path:
  """Returns the path of the public weights after pre-training."""
  return workdir.public_weights


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Trains on public images, or takes `pretrain.init_from` as it is.

  Args:
    config: gives seed, model, diffusion and pretrain.
    workdir: public/ is written.
    stop: called at every step; tells whether to stop.

  Raises:
    UsageError: data are missing, weights do not fit, or the disk is full.
    Interrupted: the user asked to stop; a checkpoint is saved.
  """
  devices = parallel.DataParallel()
  public_data.check_sources(config, workdir)
  inherited_ledger.find(
    config, workdir
  )  # Released images without their ledger.
  if config.pretrain.num_steps:
    optimizer = optimizers.make(
      config.pretrain.optimizer, config.pretrain.num_steps
    )
    step = _step(config, devices, optimizer)
    with compiling.beside(lambda: _compile(config, devices, step)):
      state = train_state.create(initial_params(config), optimizer)
      source = processes.main_first(lambda: registry.load(config.pretrain.data))
      images = np.asarray(source.images)
      processes.on_main(lambda: public_data.begin(config, workdir, images))
    state = _train(config, workdir, stop, devices, state, source, step)
    params = state.ema_params
  else:
    params = initial_params(config)
    processes.on_main(lambda: public_data.begin(config, workdir, None))
  processes.on_main(lambda: _write(config, workdir, params))


def _step(
  config: config_lib.Config,
  devices: parallel.DataParallel,
  optimizer: optax.GradientTransformation,
) -> Callable[..., Any]:
  """Returns a step of the training, which is compiled at its first call."""
  return devices.pmap_public_step(
    assembly.pretrain_loss_fn(config),
    optimizer,
    config.pretrain.ema_decay,
    batch_sizes.public_size(config, devices),
  )


def _compile(
  config: config_lib.Config,
  devices: parallel.DataParallel,
  step: Callable[..., Any],
) -> None:
  public_loop.compile_public_step(
    step,
    devices,
    batch_sizes.public_state(config),
    batch_sizes.public_batch(config),
    _draw_key(config),
  )


def _draw_key(config: config_lib.Config) -> types.Key:
  return public_seed.Purpose.PRETRAIN_DRAWS.key(config.seed)


def _write(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  params: types.Params,
) -> None:
  """Writes the weights; first the ledger, if they come from a release."""
  has_cost = inherited_ledger.record(config, workdir)
  weights.save_npz(weights_path(workdir), params, is_released=has_cost)


def initial_params(config: config_lib.Config) -> types.Params:
  """Returns new weights, or those of `pretrain.init_from`.

  Raises:
    UsageError: the file is missing, has another hash or another architecture,
      or was made with another model or diffusion.
  """
  data = config.pretrain.data
  if not config.pretrain.init_from:
    return assembly.init_params(config, data)
  path = inherited_ledger.init_path(config.pretrain)
  if path.exists():
    first_weights.check(config, path)
  expected = config.pretrain.init_sha256
  if config.pretrain.init_format:
    weights.check_sha256(path, expected)
    source = _foreign_params(config)
  else:
    source = weights.load_params(
      path,
      expected_sha256=expected,
      key_map=config.pretrain.init_key_map,
    )
  if not expected:
    console.say(
      f'pretrain.init_from: {path} has sha256 {files.sha256(path)}; as'
      ' pretrain.init_sha256 it is held to it'
    )
  fresh = assembly.init_params(config, data)
  params, report = weights.transfer(source, fresh, reset_classes=False)
  for line in report.lines():
    console.say(f'pretrain.init_from: {line}')
  return params


def _foreign_params(config: config_lib.Config) -> types.Params:
  """Returns the weights of another project's file, and prints what they are."""
  data = config.pretrain.data
  found = config_weights.read(config)
  params = found.params(config.unet_config(data), data.image_size)
  for line in found.lines(config.unet_config(data)):
    console.say(f'pretrain.init_from: {line}')
  if not config.pretrain.num_steps:
    console.say('pretrain.init_from: taken as it is, pretrain.num_steps=0')
  return weights.unflatten(params)


def _train(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
  devices: parallel.DataParallel,
  state: train_state.TrainState,
  source: types.DataSource,
  step_fn: Callable[..., Any],
) -> train_state.TrainState:
  pretrain = config.pretrain
  checkpoints = checkpoint.Checkpointer(
    workdir.public / 'checkpoints', is_private=False
  )
  restored = checkpoints.restore(state, may_lose_all=True)
  start_step = 0
  if restored:
    start_step, state = restored.step, restored.state
    console.say(f'pretrain: continues from step {start_step}')
  with metrics.PublicMetrics(workdir.public) as writer:
    public = public_loop.PublicRun(
      step=step_fn,
      batch=functools.partial(
        batching.public_batch, source, pretrain.batch_size, config.seed
      ),
      batch_size=pretrain.batch_size,
      key=_draw_key(config),
      checkpoints=checkpoints,
      meta={'stage': 'pretrain'},
      num_steps=pretrain.num_steps,
      checkpoint_every_steps=pretrain.checkpoint_every_steps,
      record_loss=lambda step, loss: writer.write(step, {'loss': loss}),
      after_checkpoint=progress_picture.of_training(
        config, pretrain.data, config.pretrain_diffusion(), workdir.public
      ).write,
    )
    state, step = public_loop.train_public(
      public, devices, state, start_step, stop
    )
  if processes.is_main():
    training_curves.write_public(workdir)
  if step < pretrain.num_steps:
    stop.raise_if_asked()
    raise errors.Interrupted('Stopped by another process.')
  return state
