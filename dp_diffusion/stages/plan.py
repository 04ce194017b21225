"""Prints what a run will do and cost, without reading a sensitive image."""

from __future__ import annotations

import collections
import dataclasses

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion.data import registry
from dp_diffusion.diffusion import samplers
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.stages.evaluation import classifier_plan
from dp_diffusion.stages.planning import cost_estimates
from dp_diffusion.stages.planning import data_checks
from dp_diffusion.stages.planning import flop_counts
from dp_diffusion.stages.planning import small_runs
from dp_diffusion.stages.planning import sufficiency
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint

# A forward pass, and a gradient that costs about twice as much.
_TRAINING_PASSES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """Computation of one stage.

  Attributes:
    examples: records or images of all steps of the stage.
    passes: images that go through the network.
    flop: number of floating-point operations.
  """

  examples: int
  passes: int
  flop: float


def run(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Prints the plan; opens no image and writes nothing.

  Raises:
    UsageError: the run would be refused, for example for the names of its
      images; then nothing is printed.
  """
  workdir.check(config)
  found = data_checks.names_found(config)
  inherited = inherited_ledger.find(config, workdir)
  calibration = budget.calibrate(config, inherited.entries)
  lines = [
    *privacy_lines(calibration),
    *_first_lines(config),
    *_inherited_lines(inherited),
    *_unread_lines(config, workdir),
    *_spent_lines(workdir),
    *sufficiency.lines(config, calibration.mechanism),
    *small_runs.lines(
      calibration.mechanism,
      has_rows_from_votes=config.finetune.warm_up.rows_from_votes,
    ),
    *_model_lines(config),
    *_cost_lines(config, calibration.mechanism.num_steps),
    *_reads_and_writes_lines(config, workdir),
    *found,
  ]
  for line in lines:
    console.say(line)


def privacy_lines(calibration: accounting.Calibration) -> list[str]:
  """Returns lines with the numbers of the mechanism, which are public."""
  mechanism = calibration.mechanism
  lines = [
    'privacy',
    f'  records             {mechanism.num_examples} (declared),'
    f' {mechanism.relation.replace("_", " ")}',
    f'  selection           {mechanism.selection}',
    f'  steps               {mechanism.num_steps}',
    f'  clip norm           {mechanism.l2_clip_norm:g}',
  ]
  if not mechanism.is_private:
    return [*lines, '  epsilon             infinite: NO noise, not private']
  return [
    *lines,
    f'  noise multiplier    {mechanism.noise_multiplier:.4g}'
    f' ({calibration.bound.upper()} decides)'
    + (
      f', {calibration.noise_multiplier_rdp:.4g} under RDP'
      if calibration.noise_multiplier_rdp
      else ''
    ),
    f'  noise of all steps  {mechanism.accumulated_noise:.4g} times what one'
    ' record adds at most',
    f'  epsilon             {rounding.up(calibration.epsilon_pld)} by PLD,'
    f' {rounding.up(calibration.epsilon_rdp)} by RDP, at delta'
    f' {rounding.up(mechanism.delta, 6)}',
  ]


def _first_lines(config: config_lib.Config) -> list[str]:
  """Returns lines on what is spent beside the steps."""
  return [
    f'  beside the steps    {entry.summary()}'
    for entry in budget.entries(config)
  ]


def _inherited_lines(
  inherited: inherited_ledger.Inherited,
) -> list[str]:
  """Returns lines on the epsilon that the first weights have already spent."""
  return [
    f'  inherited           epsilon {rounding.up(entry.ledger.epsilon())} of'
    f' {entry.source}'
    for entry in inherited.entries
  ]


def _unread_lines(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> list[str]:
  """Returns a line if the first weights, and so their cost, are missing."""
  if inherited_ledger.can_be_read(config, workdir):
    return []
  return [
    f'  inherited           unknown: {config.pretrain.init_from} is not there'
    ' yet; if it is a release, its epsilon is spent too'
  ]


def _spent_lines(workdir: workdirs.Workdir) -> list[str]:
  """Returns lines on what a workdir has spent and what is left."""
  ledger = None
  if workdir.is_complete('finetune'):
    ledger = ledger_lib.Ledger.from_json(statements.read(workdir)['ledger'])
  elif (workdir.private / 'checkpoints').exists():
    restored = checkpoint.Checkpointer(
      workdir.private / 'checkpoints', is_private=True
    ).restore()
    if restored:
      ledger = ledger_lib.Ledger.from_json(restored.ledger)
  if ledger is None and run_secret.has_begun(workdir):
    return ['  spent               not nothing: begun, and no checkpoint yet']
  if ledger is None:
    return ['  spent               nothing yet']
  return [f'  {line}' for line in ledger.summary()]


def costs(config: config_lib.Config, private_steps: int) -> dict[str, Cost]:
  """Returns the computation of each stage."""
  forward = flop_counts.forward_flop(config)
  pretrain = config.pretrain.num_steps * config.pretrain.batch_size
  records = private_steps * config.privacy.expected_batch_size
  finetune = records * config.finetune.augmult * config.finetune.passes_per_draw
  sample = config.sample.num_samples * samplers.num_evaluations(
    config.sample.sampler, config.data.num_classes
  )
  first = config.finetune.warm_up.num_steps * config.pretrain.batch_size
  public = {'pretrain': pretrain}
  if first:
    public[cost_estimates.WARM_UP] = first
  return {
    **{
      stage: Cost(
        examples=images,
        passes=images,
        flop=_TRAINING_PASSES * forward * images,
      )
      for stage, images in public.items()
    },
    'finetune': Cost(
      examples=records,
      passes=finetune,
      flop=_TRAINING_PASSES * forward * finetune,
    ),
    'sample': Cost(
      examples=config.sample.num_samples, passes=sample, flop=forward * sample
    ),
    'evaluate': _evaluation_cost(config),
  }


def _evaluation_cost(config: config_lib.Config) -> Cost:
  """Returns the cost of training the classifiers; distances cost little."""
  sources = ['synthetic', 'real']
  if config.has_same_classes:  # Classifiers are trained on public images too.
    sources.append('public')
  sizes = dict.fromkeys(sources, config.sample.num_samples)
  images: collections.Counter[str] = collections.Counter()
  # A classifier in several groups is trained once.
  plan = classifier_plan.make(config.evaluate, sizes, config.seed)
  for member in set(plan.all()):
    if member.config.name != classifier_plan.REFERENCE:
      steps = member.config.num_steps
      images[member.config.name] += steps * member.config.batch_size
  flop = sum(
    count * flop_counts.classifier_flop(name, config.data)
    for name, count in images.items()
  )
  return Cost(examples=0, passes=images.total(), flop=_TRAINING_PASSES * flop)


def _model_lines(config: config_lib.Config) -> list[str]:
  count = flop_counts.num_parameters(config)
  copies = 6 + len(config.finetune.power_averages)
  return [
    'model',
    f'  parameters          {count:,}',
    '  weights and states '
    f' {cost_estimates.size_text(copies * 4 * count)} per device'
    ' (weights, average, two moments, sum, noise; float32)',
  ]


def _cost_lines(config: config_lib.Config, private_steps: int) -> list[str]:
  lines = ['compute']
  found = costs(config, private_steps)
  for stage, cost in found.items():
    through = 'its classifiers' if stage == 'evaluate' else 'the network'
    lines.append(
      f'  {stage:<19} {cost.passes:,} images through {through},'
      f' {cost.flop:.2g} FLOP'
    )
  return [
    *lines,
    *cost_estimates.lines(
      config,
      private_steps,
      examples={stage: cost.examples for stage, cost in found.items()},
      flop={stage: cost.flop for stage, cost in found.items()},
    ),
    f'  host memory         {cost_estimates.host_text(config)}',
    f'  disk                {cost_estimates.disk_text(config)}',
  ]


def _reads_and_writes_lines(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> list[str]:
  root = workdir.root
  public = f', {_named(config.pretrain.data)} (public)'
  of_stage = {
    'pretrain': (
      f'{_named(config.pretrain.data)} (public)'
      if config.pretrain.num_steps
      else config.pretrain.init_from or 'nothing: weights from the seed',
      f'{root}/public',
    ),
    'finetune': (
      f'{root}/public/model, {_named(config.data)} split'
      f' {config.data.split} (sensitive)'
      + (public if config.finetune.warm_up.has_votes else ''),
      f'{root}/private, {root}/release/model',
    ),
    'sample': (f'{root}/release/model', f'{root}/release/dataset'),
    'evaluate': (
      f'{root}/release/dataset, {_named(config.data)} splits'
      f' {" and ".join(data_checks.splits(config))} (sensitive)'
      + (public if data_checks.evaluates_public(config) else ''),
      f'{root}/evaluation, {root}/private/classifiers',
    ),
  }
  lines = ['stages']
  for stage, (reads, writes) in of_stage.items():
    state = ' [complete]' if workdir.is_complete(stage) else ''
    lines.append(f'  {stage:<19} reads  {reads}{state}')
    lines.append(f'  {"":<19} writes {writes}')
  return lines


def _named(data: registry.DataConfig) -> str:
  return f'{data.name} {data.path}' if data.path else data.name
