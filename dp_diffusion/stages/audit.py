"""Audits the private step: measures a lower bound on epsilon for a claim.

The audit is a training of its own. Public images, and canaries included by
secret coins, go through the loop, clip, noise and optimizer of private
fine-tuning, with the noise calibrated to `audit.epsilon`. Every audit has a new
secret and new coins; results of earlier audits stay in `evaluation/audit.json`.

Guarantees:
  * It reads no sensitive image, so it spends no privacy.
    `tests/stages/audit_test.py::test_no_sensitive_image_is_read`,
    `tests/stages/audit_test.py::test_the_sensitive_images_are_no_public_ones`.
  * It fails where the noise is off or too small or the clip is off, and passes
    on the mechanism as it is.
    `tests/stages/audit_test.py::test_faults_end_with_exit_code_1`,
    `tests/stages/audit_test.py::test_right_mechanism_passes`.
  * The coins come from a secret that no earlier audit used.
    `tests/stages/audit_test.py::test_every_audit_has_its_own_secret`,
    `tests/stages/audit_test.py::test_an_audit_never_goes_on_under_another_secret`.
  * Results of earlier audits stay, also those that failed.
    `tests/stages/audit_test.py::test_no_earlier_audit_is_forgotten`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
import optax

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.evaluation.report import audit_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import audit as audit_lib
from dp_diffusion.privacy import audit_steps
from dp_diffusion.privacy import audit_tradeoff
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages.evaluation import audit_records
from dp_diffusion.stages.planning import batch_sizes
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import resume
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from dp_diffusion.training import gradient_canaries
from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state

# Norm of a canary's gradient in clip norms: without the clip it stands out.
_CANARY_NORM = 10.0
# Share of the significance for the guesses, which are far fewer than the trials
# of steps.
_SHARE_OF_GUESSES = 0.8
_NUM_CHECKPOINTS = 5  # Largest number of checkpoints; an audit is short.


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Audits the private step and writes evaluation/audit.json and audit.png.

  Args:
    config: gives audit, pretrain, finetune, model, diffusion and the clip norm.
    workdir: public/ is read; private/audit and evaluation/ are written.
    stop: called at every step; tells whether to stop.

  Raises:
    Failed: the measured bound exceeds the claim.
    UsageError: public data are missing, there are too few parameters, or the
      disk is full.
    Interrupted: the user asked to stop; the next run continues.
  """
  start = time.monotonic()
  devices = parallel.DataParallel()
  config = on_public_images(config)
  mechanism = accounting.calibrate(config.privacy).mechanism
  console.say(
    f'audit: {mechanism.num_steps} steps on public images and canaries, noise'
    f' multiplier {mechanism.noise_multiplier:.4g}: epsilon'
    f' {config.audit.epsilon:g} at delta {mechanism.delta:g}'
  )
  facts = _facts(config, mechanism)
  secret = processes.broadcast_secret(
    processes.on_main(lambda: _begin_job(config, workdir, facts))
  )
  streams = key_streams.KeyStreams(
    secret=secret, run_id=key_streams.run_id(secret, facts)
  )
  public = weights.load_params(pretrain.weights_path(workdir))
  is_trained = weights.trainable_fn(public, config.finetune.trainable)
  trained, frozen = train_state.partition(public, is_trained)
  coordinates = gradient_canaries.choose_coordinates(
    trained, config.audit.num_canaries, config.seed
  )
  dataset = audit_records.make_dataset(config, coordinates, streams)
  optimizer = optax.chain(
    gradient_canaries.observe(coordinates, mechanism.num_steps),
    assembly.private_optimizer(config.finetune, mechanism),
  )
  loss_fn = assembly.finetune_loss_fn(config)
  steps = finetune.wire_steps(
    config.finetune,
    mechanism,
    gradient_canaries.with_canaries(
      loss_fn, is_trained, _canary_norm(config.finetune, mechanism)
    ),
    dataset.gather,
    len(dataset.labels),
    streams,
    devices,
    optimizer,
  )
  state = train_state.create(trained, optimizer, frozen)
  # Canaries need a second copy of the gradients of a microbatch.
  size = max(1, batch_sizes.private_size(config, state, devices) // 2)
  steps = dataclasses.replace(steps, microbatch_size=size)
  state = _train(
    config, workdir, stop, devices, mechanism, steps, state, streams.run_id
  )
  losses = audit_records.ImageLosses(config, dataset, loss_fn, devices, size)
  seen = _Seen(
    observed=_observed(config, mechanism, state),
    is_selected=dataset.participation(steps.selector, mechanism.num_steps),
    drop=losses(public) - losses(assembly.released_params(config, state)),
    seconds=time.monotonic() - start,
  )
  processes.on_main(
    lambda: _conclude(config, workdir, mechanism, dataset, seen)
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Seen:
  """The observations of the attacker and of the auditor.

  Attributes:
    observed: float64[T, m], the noised sum of each step at each gradient
      canary's coordinate, divided by the sensitivity.
    is_selected: bool[T, m], whether the gradient canary was selected at the
      step.
    drop: float64[n], decrease of the loss of each image canary.
    seconds: duration of the audit.
  """

  observed: np.ndarray
  is_selected: np.ndarray
  drop: np.ndarray
  seconds: float


def _canary_norm(
  finetune: config_lib.FinetuneConfig,
  mechanism: mechanism_lib.TrainingMechanism,
) -> float:
  """Returns the norm of a canary's gradient, before the smallest scale."""
  smallest = min([1.0, *(rule.value for rule in finetune.scale_rules())])
  return _CANARY_NORM * mechanism.l2_clip_norm / smallest


def _observed(
  config: config_lib.Config,
  mechanism: mechanism_lib.TrainingMechanism,
  state: train_state.TrainState,
) -> np.ndarray:
  """Returns `_Seen.observed`."""
  unit = 1.0 if config.finetune.rescale_to_unit_norm else mechanism.l2_clip_norm
  rows = np.asarray(state.opt_state[0].rows, np.float64)
  return rows * (mechanism.expected_batch_size / unit)


def sections(workdir: workdirs.Workdir) -> tuple[page.Section, ...]:
  """Returns the section of the report, if there was an audit."""
  path = workdir.evaluation / 'audit.json'
  if not path.exists():
    return ()
  picture = (workdir.evaluation / 'audit.png').read_bytes()
  return (audit_section.section(files.read_json(path), picture),)


def on_public_images(config: config_lib.Config) -> config_lib.Config:
  """Returns the config of fine-tuning with public images and the claim.

  Raises:
    UsageError: gradients are clipped in groups.
  """
  if config.finetune.clip_groups:
    raise errors.UsageError(
      f'Expected finetune.clip_groups={config.finetune.clip_groups} to be ()'
      ' for an audit: the gradient of a canary lies in one group, so the audit'
      ' would see a part of the sensitivity only.'
    )
  audit = config.audit
  return dataclasses.replace(
    config,
    data=dataclasses.replace(config.pretrain.data, unit='image'),
    privacy=accounting.PrivacyConfig(
      epsilon=audit.epsilon,
      delta=audit.delta,
      num_steps=audit.num_steps,
      expected_batch_size=audit.expected_batch_size,
      num_examples=audit.num_examples,
      l2_clip_norm=config.privacy.l2_clip_norm,
      secret_dir=config.privacy.secret_dir,
    ),
    finetune=dataclasses.replace(
      config.finetune,
      optimizer=dataclasses.replace(config.finetune.optimizer, warmup_steps=0),
      power_averages=(),
    ),
  )


def _facts(
  config: config_lib.Config, mechanism: mechanism_lib.TrainingMechanism
) -> dict[str, Any]:
  """Returns the facts that an interrupted audit and its resume must share."""
  return {
    'mechanism': mechanism.to_dict(),
    'audit': config_lib.to_dict(config.audit),
    'finetune': config_lib.to_dict(config.finetune),
    'seed': config.seed,
    'rng': key_streams.rng_test_vector(),
    'jax': jax.__version__,
  }


def _begin_job(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  facts: Mapping[str, Any],
) -> key_streams.Secret:
  """Continues an interrupted audit, or prepares the folder for a new one."""
  folder = workdir.private / 'audit'
  path = run_secret.claimed_path(config, workdir).parent / 'audit' / 'secret'
  record = folder / 'job.json'
  before = files.read_json(record) if record.exists() else None
  if before and not before['is_complete'] and path.exists():
    secret = key_streams.Secret.load(path)
    if before == _job(facts, secret):
      return secret
  if before:
    path.unlink(missing_ok=True)
  for old in (folder / 'checkpoints', folder / workdirs.JOURNAL, record):
    if old.is_dir():
      old.rmtree()
    else:
      old.unlink(missing_ok=True)
  secret = run_secret.load_or_create(path)
  files.write_json(record, _job(facts, secret), mode=0o600)
  return secret


def _job(
  facts: Mapping[str, Any], secret: key_streams.Secret
) -> dict[str, Any]:
  return {
    'facts': facts,
    'secret': key_streams.fingerprint(secret, 'secret'),
    'is_complete': False,
  }


def _train(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
  devices: parallel.DataParallel,
  mechanism: mechanism_lib.TrainingMechanism,
  steps: private_loop.PrivateSteps,
  state: train_state.TrainState,
  run_id: str,
) -> train_state.TrainState:
  """Takes all steps, from the last checkpoint of an interrupted audit."""
  folder = workdir.private / 'audit'
  checkpoints = checkpoint.Checkpointer(
    folder / 'checkpoints', is_private=True, keep=1
  )
  ledger = ledger_lib.Ledger(
    delta=mechanism.delta,
    budget_epsilon=config.audit.epsilon,
    entries=(ledger_lib.begin(mechanism),),
  )
  start_step = 0
  if restored := checkpoints.restore(state):
    start_step, state = restored.step, restored.state
    ledger = ledger_lib.Ledger.from_json(restored.ledger)
    console.say(f'audit: continues from step {start_step}')
  private_run = private_loop.PrivateRun(
    checkpoints=checkpoints,
    journal=folder / workdirs.JOURNAL,
    meta={'run_id': run_id},
    num_steps=mechanism.num_steps,
    checkpoint_every_steps=max(
      config.finetune.checkpoint_every_steps,
      -(-mechanism.num_steps // _NUM_CHECKPOINTS),
    ),
    record_stats=lambda step, stats: None,
  )
  begun = resume.ResumedRun(
    run=private_run,
    streams=steps.streams,
    state=state,
    ledger=ledger,
    start_step=start_step,
  )
  return resume.finish(begun, steps, devices, stop)[0]


def _conclude(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  mechanism: mechanism_lib.TrainingMechanism,
  dataset: audit_records.Dataset,
  seen: _Seen,
) -> None:
  """Guesses the coins, writes the results, and raises if the claim fails."""
  scores = audit_lib.participation_scores(
    seen.observed, mechanism.sampling_prob
  )
  path = workdir.evaluation / 'audit.json'
  before = files.read_json(path) if path.exists() else None
  result = {
    **_tests(config.audit, mechanism, dataset, seen, scores),
    'measured_noise_multiplier': audit_lib.noise_scale(seen.observed),
    'num_filler': dataset.num_filler,
    'num_gradient_canaries_in': int(dataset.gradient_coins.sum()),
    'num_image_canaries_in': int(dataset.image_coins.sum()),
    'seconds': seen.seconds,
    'earlier_runs': _earlier_runs(before),
  }
  picture = audit_section.plot(scores, dataset.gradient_coins, result)
  files.write_bytes(workdir.evaluation / 'audit.png', picture, mode=0o600)
  files.write_json(path, result, mode=0o600)
  record = workdir.private / 'audit' / 'job.json'
  files.write_json(
    record, {**files.read_json(record), 'is_complete': True}, mode=0o600
  )
  sentence = audit_section.sentence(result)
  console.say(f'audit: {sentence}')
  if not result['is_passed']:
    raise errors.Failed(
      f'Expected the audit to stay below its claim. {sentence}'
    )


def _tests(
  audit: audit_lib.AuditConfig,
  mechanism: mechanism_lib.TrainingMechanism,
  dataset: audit_records.Dataset,
  seen: _Seen,
  scores: np.ndarray,
) -> dict[str, Any]:
  """Returns the bounds of all tests, and whether they are below the claim."""
  assert mechanism.num_groups == 1  # On the curve of independent noise.
  guess = functools.partial(
    audit_lib.one_run, delta=audit.delta, confidence=audit.confidence
  )
  guesses = guess(
    scores,
    dataset.gradient_coins,
    num_guesses_in=audit.num_guesses_in,
    num_guesses_out=audit.num_guesses_out,
  )
  # Either test may refute the claim, so they share the significance.
  significance = 1 - audit.confidence
  whole = _whole_run(mechanism, guesses, _SHARE_OF_GUESSES * significance)
  steps = _each_step(
    mechanism,
    seen.observed,
    seen.is_selected,
    (1 - _SHARE_OF_GUESSES) * significance,
  )
  black_box = None
  if num_images := len(seen.drop):
    guesses = guess(
      seen.drop,
      dataset.image_coins,
      num_guesses_in=min(audit.num_guesses_in, num_images),
      num_guesses_out=0,
    )
    black_box = _whole_run(mechanism, guesses, 1 - audit.confidence)
  found = max(whole['epsilon_lower_bound'], steps['epsilon_lower_bound'])
  return {
    'is_passed': found <= audit.epsilon,
    'claim': {'epsilon': audit.epsilon, **mechanism.to_dict()},
    'confidence': audit.confidence,
    'white_box': whole,
    'steps': steps,
    'black_box': black_box,
  }


def _whole_run(
  mechanism: mechanism_lib.TrainingMechanism,
  guesses: audit_lib.OneRun,
  significance: float,
) -> dict[str, Any]:
  """Returns the bounds from guesses which canaries were included."""
  by_guesses = guesses.to_dict()
  # This bound holds for any mechanism with this (epsilon, delta).
  by_guesses['epsilon_of_any_mechanism'] = by_guesses.pop('epsilon_lower_bound')
  found = audit_tradeoff.bound(mechanism, guesses, significance)
  return {**by_guesses, **dataclasses.asdict(found)}


def _each_step(
  mechanism: mechanism_lib.TrainingMechanism,
  observed: np.ndarray,
  is_selected: np.ndarray,
  significance: float,
) -> dict[str, Any]:
  """Returns the bounds from all pairs of a step and a canary."""
  steps = audit_steps.bound(observed, is_selected, significance)
  found = audit_tradeoff.Bound(
    largest_noise=steps.largest_noise,
    epsilon_lower_bound=audit_tradeoff.epsilon_at(
      mechanism, steps.largest_noise
    ),
    ceiling=audit_tradeoff.epsilon_at(mechanism, steps.ceiling(significance)),
  )
  return {**steps.to_dict(), **dataclasses.asdict(found)}


def _earlier_runs(before: Mapping[str, Any] | None) -> list[dict[str, Any]]:
  """Returns short records of all earlier audits."""
  if before is None:
    return []
  last = {
    'is_passed': before['is_passed'],
    'epsilon': before['claim']['epsilon'],
    'epsilon_lower_bound': before['white_box']['epsilon_lower_bound'],
    'epsilon_lower_bound_by_steps': before.get('steps', {}).get(
      'epsilon_lower_bound'
    ),
  }
  return [*before['earlier_runs'], last]
