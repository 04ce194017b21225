"""Private fine-tuning, the only stage that trains on sensitive images.

It starts from the public weights, trains by DP-SGD, and writes release/model
and its statement. Numbers without noise stay in `private/`.

Guarantees:
  * The calibrated mechanism is the one that samples, clips and adds noise, and
    the one in the ledger.
    `tests/stages/finetune_test.py::test_mechanism_reaches_every_part`.
  * Files that were in release/ before the run are refused, since its ledger
    does not cover them.
    `tests/stages/finetune_test.py::test_leftovers_in_the_release_are_refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
from typing import Any

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.data import registry
from dp_diffusion.models import class_head as head_lib
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.stages import class_gaussians
from dp_diffusion.stages import class_head
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import warm_up
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import averages
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import histograms
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import progress_picture
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import resume
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import training_curves
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import metrics
from dp_diffusion.training import parallel
from dp_diffusion.training import past_noise
from dp_diffusion.training import private_loop
from dp_diffusion.training import private_step as step_lib
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state

DEFAULT_MICROBATCH = 64


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Fine-tunes under the mechanism and writes release/model.

  Args:
    config: gives all sections but evaluate; of sample the labels, and where
      samples start from.
    workdir: public/ is read, private/ and release/ are written.
    stop: called at every step; tells whether to stop.

  Raises:
    UsageError: data are missing, the run to be resumed was another one, or the
      disk is full.
    Interrupted: the user asked to stop; a checkpoint is saved.
  """
  devices = parallel.DataParallel()
  public_data.check_sources(config, workdir)
  inherited = inherited_ledger.find(config, workdir)
  calibration = budget.calibrate(config, inherited.entries)
  mechanism = calibration.mechanism
  say_calibration(calibration)
  for entry in budget.entries(config):
    console.say(f'finetune: beside its steps: {entry.summary()}')
  before = (*inherited.entries, *budget.entries(config))
  ledger = ledger_lib.start(
    mechanism, config.privacy, unit=config.data.unit, before=before
  )
  source = processes.main_first(lambda: registry.load(config.data))
  records = batching.make_records(source, config.data.unit)
  secret = processes.broadcast_secret(
    processes.on_main(lambda: run_secret.load_or_make(config, workdir))
  )
  params, reset = _first_params(config, workdir)
  processes.on_main(lambda: statements.check_release_is_new(workdir))
  public = public_data.compare(config, workdir, source)
  params = warm_up.run(config, workdir, source, secret, params, stop)
  class_gaussians.run(config, workdir, source, records, secret)
  state, optimizer = _initial_state(config, mechanism, params, reset)
  facts = fingerprint.make(
    config, mechanism, source, secret, state.all_params, inherited.entries
  )
  processes.agree({k: json.dumps(v, sort_keys=True) for k, v in facts.items()})

  begun = resume.begin(
    workdir.private,
    secret,
    facts,
    state,
    ledger,
    num_steps=mechanism.num_steps,
    checkpoint_every_steps=config.finetune.checkpoint_every_steps,
  )
  if begun.start_step:
    console.say(f'finetune: continues from step {begun.start_step}')
  processes.on_main(
    lambda: histograms.write(
      config, workdir, source, records, begun.streams, facts['dataset']
    )
  )
  steps = make_steps(
    config, mechanism, source, records, begun.streams, devices, optimizer
  )
  picture = progress_picture.of_training(
    config,
    config.data,
    config.finetune_diffusion(),
    workdir.private,
    class_gaussians.read(config, workdir),
  )
  begun = dataclasses.replace(
    begun,
    run=dataclasses.replace(begun.run, after_checkpoint=picture.write),
  )
  steps = dataclasses.replace(
    steps,
    microbatch_size=batch_sizes.private_size(config, begun.state, devices),
  )
  try:
    with metrics.PrivateMetrics(workdir.private) as writer:
      state, ledger = resume.finish(
        begun,
        steps,
        devices,
        stop,
        lambda step, stats: writer.write(step, _numbers(stats)),
      )
  finally:  # Also after an interruption.
    if processes.is_main():
      training_curves.write_private(workdir)
  params = assembly.released_params(config, state)
  head = processes.on_main(
    lambda: class_head.run(
      config, workdir, source, records, secret, params, stop
    )
  )
  processes.on_main(
    lambda: _write_release(
      config,
      workdir,
      state,
      head,
      ledger,
      public,
      is_insecure=secret.is_insecure or inherited.is_insecure,
    )
  )


def say_calibration(calibration: accounting.Calibration) -> None:
  """Prints the numbers of the mechanism, all of which are public."""
  mechanism = calibration.mechanism
  if not mechanism.is_private:
    console.say('finetune: epsilon is infinite, NO noise is added: not private')
    return
  console.say(
    f'finetune: {mechanism.num_steps} steps, expected batch'
    f' {mechanism.expected_batch_size} of {mechanism.num_examples}, noise'
    f' multiplier {mechanism.noise_multiplier:.4g}; epsilon'
    f' {rounding.up(calibration.epsilon_pld)} by PLD (RDP'
    f' {rounding.up(calibration.epsilon_rdp)}, the smaller holds) at delta'
    f' {rounding.up(mechanism.delta, 6)}'
  )


def make_steps(
  config: config_lib.Config,
  mechanism: mechanism_lib.TrainingMechanism,
  source: types.DataSource,
  records: batching.Records,
  streams: key_streams.KeyStreams,
  devices: parallel.DataParallel,
  optimizer: Any,
) -> private_loop.PrivateSteps:
  """Builds the parts of a private step from mechanism, model and data."""
  finetune = config.finetune
  loss_fn = assembly.finetune_loss_fn(config)
  return wire_steps(
    finetune,
    mechanism,
    loss_fn,
    functools.partial(
      gather_batch, source, records, config.data.unit, finetune.augmult, streams
    ),
    records.num_records,
    streams,
    devices,
    optimizer,
    batch_has_draw_axis=config.data.unit == 'person',
  )


def wire_steps(
  finetune: config_lib.FinetuneConfig,
  mechanism: mechanism_lib.TrainingMechanism,
  loss_fn: types.LossFn,
  gather: Callable[[np.ndarray, int], types.PyTree],
  num_records: int,
  streams: key_streams.KeyStreams,
  devices: parallel.DataParallel,
  optimizer: Any,
  *,
  batch_has_draw_axis: bool = False,
) -> private_loop.PrivateSteps:
  """Builds the parts of a private step with the numbers of the mechanism.

  The audit calls it too, with canaries in `loss_fn` and `gather`.
  """
  grad_config = assembly.grad_config(
    finetune, mechanism.l2_clip_norm, batch_has_draw_axis=batch_has_draw_axis
  )
  apply_config = step_lib.ApplyConfig(
    noise_multiplier=mechanism.noise_multiplier,
    expected_batch_size=mechanism.expected_batch_size,
    ema_decay=finetune.ema_decay,
    noise_strategy=mechanism.noise_strategy,
    power_exponents=finetune.power_exponents(),
  )
  return private_loop.PrivateSteps(
    selector=streams.poisson_selector(
      num_records, mechanism.sampling_prob, mechanism.num_groups
    ),
    streams=streams,
    gather=gather,
    microbatch_size=finetune.microbatch_size or DEFAULT_MICROBATCH,
    zeros=devices.pmap_zeros(grad_config),
    accumulate=devices.pmap_accumulate(loss_fn, grad_config),
    apply=devices.pmap_apply(optimizer, apply_config),
    private_stats=devices.pmap_private_stats(),
    past_noise=past_noise.PastNoise(mechanism.noise_strategy, streams, devices)
    if len(mechanism.noise_strategy) > 1
    else past_noise.none,
  )


def gather_batch(
  source: types.DataSource,
  records: batching.Records,
  unit: str,
  num_draws: int,
  streams: key_streams.KeyStreams,
  indices: np.ndarray,
  step: int,
) -> dict[str, np.ndarray]:
  """Reads an image per record or, for persons, an image per draw."""
  if unit == 'image':
    return batching.gather(source, indices)
  seed = streams.seed_bytes('image of a person', step)
  return batching.gather_records(source, records, indices, num_draws, seed)


def _first_params(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> tuple[types.Params, tuple[str, ...]]:
  """Returns the weights from pre-training, and the leaves that were reset."""
  public = weights.load_params(pretrain.weights_path(workdir))
  fresh = assembly.init_params(config, config.data)
  params, report = weights.transfer(
    public, fresh, reset_classes=not config.has_same_classes
  )
  for line in report.lines():
    console.say(f'finetune: {line}')
  return params, report.reset


def _initial_state(
  config: config_lib.Config,
  mechanism: mechanism_lib.TrainingMechanism,
  params: types.Params,
  reset: Sequence[str],
) -> tuple[train_state.TrainState, Any]:
  """Returns the state before the first private step, and the optimizer."""
  optimizer = assembly.private_optimizer(config.finetune, mechanism)
  trained, frozen = train_state.partition(
    params, weights.trainable_fn(params, config.finetune.trainable, reset)
  )
  state = train_state.create(
    trained, optimizer, frozen, len(config.finetune.power_averages)
  )
  return state, optimizer


def _numbers(stats: Any) -> dict[str, float]:
  """Returns un-noised statistics of one step, for private/ only."""
  count = max(1, int(stats.num_examples))
  return {
    'loss': float(stats.loss_sum) / count,
    'grad_norm': float(stats.norm_sum) / count,
    'clip_fraction': int(stats.num_clipped) / count,
    'non_finite': int(stats.num_non_finite),
    'batch_size': int(stats.num_examples),
  }


def _write_release(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  state: train_state.TrainState,
  head: head_lib.ClassHead | None,
  ledger: ledger_lib.Ledger,
  public: Sequence[Mapping[str, Any]],
  *,
  is_insecure: bool,
) -> None:
  """Writes the model and its statement, which may be published."""
  params = assembly.released_params(config, state)
  averages.store(config, workdir, state)
  statements.store(
    workdir, ledger.seal(), is_insecure=is_insecure, public_data=public
  )
  release.write_model(
    workdir.release,
    weights.flatten(params),
    assembly.model_description(config),
  )
  if head is not None:
    release.write_class_head(workdir.release, head)
  gaussians = class_gaussians.read(config, workdir)
  if gaussians is not None:
    release.write_class_gaussians(workdir.release, gaussians)
  statements.seal(config, workdir)
