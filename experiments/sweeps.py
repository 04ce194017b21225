"""Runs an experiment from a list of runs, and collects its results.

The `run.py` of a folder lists its runs and calls `main`. All folders have these
flags:

  --out=FOLDER   folder of the runs (runs/NAME)
  --jobs=N       number of processes at a time
  --print        print the command lines for a scheduler, run nothing
  --smoke        tiny runs; results stay in --out
  --only=TEXT    run those with TEXT in their name; results.json keeps others
  --set=KEY=VALUE  set a config key in all runs: data.tfds_dir=/data/tfds

A complete run is skipped and a stopped one continues, so the same command
resumes a sweep, and collects the results of runs that a scheduler started.

Exit codes: 0 done; 1 a run failed (its name is printed, the others continued);
2 bad usage; 130 stopped by Ctrl-C (the message says what is saved).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import math
import pathlib
import re
import shlex
import sys
from typing import Any

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.baselines import settings
from dp_diffusion.stages.run import workdirs
from experiments import common
from experiments import table_rows

HERE = pathlib.Path(__file__).resolve().parent
Found = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The runs of an experiment.

  Attributes:
    first: runs that come first, because the others need their results (such as
      a shared pre-training); they have no entry in `results.json`.
    runs: the other runs, in any order; `facts['group']` names a setting of the
      experiment, and `facts['seed']` distinguishes the runs of a group.
  """

  first: tuple[common.Run, ...] = ()
  runs: tuple[common.Run, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
  """The definition of an experiment, made by the `run.py` of its folder.

  Attributes:
    name: name of the folder.
    plan: (folder of the runs, is_smoke) -> runs.
    rows: (entries of the runs, seconds of the first ones) -> README's lines.
    draw: (entries of the runs, path of the PNG); None for no figure.
    figure: {'file': ..., 'alt': ...} of the file that `draw` writes.
    beside: returns results of other experiments that the figure also shows.
  """

  name: str
  plan: Callable[[pathlib.Path, bool], Plan]
  rows: Callable[[Found, float], list[dict[str, Any]]]
  draw: Callable[[Found, pathlib.Path], None] | None = None
  figure: Mapping[str, str] = dataclasses.field(default_factory=dict)
  beside: Callable[[], Mapping[str, Any]] | None = None


def ablation(
  name: str, plan: Callable[[pathlib.Path, bool], Plan], what: str
) -> Experiment:
  """An experiment that states accuracy and distance for each setting.

  Args:
    name: of the folder.
    plan: of its runs.
    what: is varied, and on what.
  """
  return Experiment(
    name=name,
    plan=plan,
    rows=lambda found, secs: table_rows.ablation(what, found, secs),
  )


def main(
  experiment: Experiment, doc: str | None, argv: Sequence[str] | None = None
) -> int:
  """Runs an experiment from its command line; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  module = f'experiments.{experiment.name}.run'
  command = shlex.join(['python', '-m', module, *argv])
  return until_stopped(
    lambda: _run(experiment, parse(experiment.name, doc, argv), command)
  )


def until_stopped(work: Callable[[], int]) -> int:
  """Runs the work of an experiment, until Ctrl-C; returns the exit code."""
  try:
    return work()
  except errors.Interrupted as error:
    console.say(str(error))
    return common.INTERRUPTED


def pretraining(
  config: str, out: pathlib.Path, overrides: Mapping[str, object] | None = None
) -> common.Run:
  """Makes the pre-training run that all runs of a sweep share."""
  return common.make_run(
    'pretrain',
    config=config,
    out=out,
    overrides=overrides or {},
    stage='pretrain',
  )


def from_pretraining(run: common.Run) -> dict[str, object]:
  """Overrides with which a run starts from a shared pre-training."""
  return {'pretrain.init_from': run.workdir, 'pretrain.num_steps': 0}


def seeded(seed: int) -> dict[str, object]:
  """Overrides that set the seed of the division and that of the config."""
  return {'data.split_seed': seed, 'seed': seed}


def baselines(
  config: str,
  out: pathlib.Path,
  epsilons: Sequence[float],
  of_seed: Mapping[int, Mapping[str, object]],
) -> list[common.Run]:
  """Makes a run per baseline, epsilon and seed; they share no training.

  Args:
    config: FILE or FILE:VARIANT, public.
    out: folder of the runs.
    epsilons: of each baseline; infinity for no noise.
    of_seed: seed -> overrides of its runs.
  """
  return [
    common.make_baseline_run(
      f'{method}-epsilon_{epsilon:g}-seed_{seed}',
      method=method,
      config=config,
      out=out,
      overrides={'privacy.epsilon': f'{epsilon:g}', **overrides},
      facts={
        'group': f'epsilon {epsilon:g}',
        'epsilon': epsilon if math.isfinite(epsilon) else None,
        'seed': seed,
      },
    )
    for method in settings.METHODS
    for epsilon in epsilons
    for seed, overrides in of_seed.items()
  ]


def grid(
  config: str,
  groups: Mapping[str, Mapping[str, object]],
  *,
  seeds: Sequence[int] = (1, 2, 3),
  shares_pretraining: bool = True,
  shares_training: bool = False,
  is_divided: bool = True,
  everywhere: Mapping[str, object] | None = None,
) -> Callable[[pathlib.Path, bool], Plan]:
  """The plan of most experiments: several settings with several seeds each.

  Args:
    config: FILE or FILE:VARIANT, public; `--smoke` adds the variant smoke.
    groups: name -> overrides of a setting.
    seeds: seeds of each setting; 0 was used for tuning.
    shares_pretraining: whether all runs start from one pre-training; else each
      run has its own, or none, according to its overrides.
    shares_training: whether all settings of a seed continue from one
      fine-tuning; for settings of sampling and evaluation.
    is_divided: whether the seed also sets `data.split_seed`.
    everywhere: overrides of all runs and of the pre-training.

  Returns:
    A function for `Experiment.plan`.
  """

  def plan(out: pathlib.Path, is_smoke: bool) -> Plan:
    smoke = ',smoke' if ':' in config else ':smoke'
    file = config + (smoke if is_smoke else '')
    common_ones = everywhere or {}
    first = ()
    if shares_pretraining:
      first = (pretraining(file, out, common_ones),)
    shared = {**common_ones, **(from_pretraining(first[0]) if first else {})}
    of_seed = {
      seed: {**shared, **(seeded(seed) if is_divided else {'seed': seed})}
      for seed in (seeds[:1] if is_smoke else seeds)
    }
    trained = {}
    if shares_training:
      trained = {
        seed: _training(file, out, seed, o) for seed, o in of_seed.items()
      }
    runs = tuple(
      common.make_run(
        f'{group.replace(" ", "_")}-seed_{seed}',
        config=file,
        out=out,
        overrides={**of_seed[seed], **overrides},
        facts={'group': group, 'seed': seed, 'overrides': dict(overrides)},
        source=trained[seed][-1].workdir if trained else None,
      )
      for group, overrides in groups.items()
      for seed in of_seed
    )
    first += tuple(run for stages in trained.values() for run in stages)
    return Plan(first=first, runs=runs)

  return plan


def _training(
  config: str, out: pathlib.Path, seed: int, overrides: Mapping[str, object]
) -> list[common.Run]:
  """One run per stage of a shared training, all in one folder."""
  return [
    dataclasses.replace(
      common.make_run(
        f'training-seed_{seed}',
        config=config,
        out=out,
        overrides=overrides,
        stage=stage,
      ),
      name=f'{stage}-seed_{seed}',
    )
    for stage in ('pretrain', 'finetune')
  ]


def with_overrides(plan: Plan, pairs: Sequence[str]) -> Plan:
  """Returns the plan with further config keys set in every run.

  Args:
    plan: plan of an experiment.
    pairs: KEY=VALUE each; they come last, so they override the others.
  """
  more = tuple(f'--config.{pair}' for pair in pairs)

  def extend(runs: Sequence[common.Run]) -> tuple[common.Run, ...]:
    return tuple(
      dataclasses.replace(run, arguments=(*run.arguments, *more))
      for run in runs
    )

  return Plan(first=extend(plan.first), runs=extend(plan.runs))


def combine(
  plans: Mapping[str, Callable[[pathlib.Path, bool], Plan]],
) -> Callable[[pathlib.Path, bool], Plan]:
  """Joins several plans into one; each has a folder of its name."""

  def plan(out: pathlib.Path, is_smoke: bool) -> Plan:
    made = {name: p(out / name, is_smoke) for name, p in plans.items()}

    def named(name: str, run: common.Run) -> common.Run:
      facts = {**run.facts, 'of': name}
      return dataclasses.replace(run, name=f'{name}-{run.name}', facts=facts)

    return Plan(
      first=tuple(named(n, r) for n, p in made.items() for r in p.first),
      runs=tuple(named(n, r) for n, p in made.items() for r in p.runs),
    )

  return plan


def parse(
  name: str, doc: str | None, argv: Sequence[str] | None
) -> argparse.Namespace:
  """Parses the command line of the experiment `name`; `doc` is its help."""
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{name}.run',
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    '--out', type=pathlib.Path, help=f'folder of the runs (runs/{name})'
  )
  parser.add_argument(
    '--jobs', type=int, default=1, help='processes at a time (1)'
  )
  parser.add_argument(
    '--smoke', action='store_true', help='tiny runs; results stay in --out'
  )
  parser.add_argument(
    '--print', action='store_true', help='print the command lines, run nothing'
  )
  parser.add_argument(
    '--only',
    default='',
    metavar='TEXT',
    help='run those with TEXT in their name; results.json keeps the others',
  )
  parser.add_argument(
    '--set',
    action='append',
    default=[],
    metavar='KEY=VALUE',
    help='a config key of all runs; may be repeated',
  )
  arguments = parser.parse_args(argv)
  for pair in arguments.set:
    if not re.fullmatch(r'[a-z0-9_.]+=.*', pair):
      parser.error(f'expected --set={pair} to be KEY=VALUE.')
  if arguments.jobs < 1:
    parser.error(f'expected --jobs={arguments.jobs} to be >= 1.')
  if arguments.out is None:
    suffix = '-smoke' if arguments.smoke else ''
    arguments.out = pathlib.Path('runs', name + suffix)
  return arguments


def _run(
  experiment: Experiment, arguments: argparse.Namespace, command: str
) -> int:
  out = arguments.out
  plan = with_overrides(experiment.plan(out, arguments.smoke), arguments.set)
  everything = plan
  wanted = tuple(run for run in plan.runs if arguments.only in run.name)
  if not wanted:
    names = ', '.join(run.name for run in plan.runs)
    console.warn(f'expected --only={arguments.only} to be in one of: {names}.')
    return 2
  plan = dataclasses.replace(plan, runs=wanted)
  if arguments.print:
    print_commands(plan, command)
    return 0
  machine = common.machine(out, arguments.jobs)
  logs = out / 'logs'
  console.say(f'{len(plan.runs)} runs after {len(plan.first)}; logs: {logs}')
  if common.execute_all(plan.first, logs):
    return 1  # The other runs need the first ones.
  failed = common.execute_all(plan.runs, logs, arguments.jobs)
  folder = out if arguments.smoke else HERE / experiment.name
  others = {run.name for run in everything.runs} - {run.name for run in wanted}
  kept = _entries(folder / 'results.json', others)
  results = make_results(experiment, everything, failed, command, machine, kept)
  if not results['runs']:
    return 1
  files.write_json(folder / 'results.json', results)
  if experiment.draw:
    experiment.draw(results['runs'], folder / experiment.figure['file'])
  console.say(f'results: {folder / "results.json"}')
  if results['missing']:
    console.warn(f'not complete: {", ".join(results["missing"])}')
  return 1 if results['missing'] else 0


def _entries(
  path: pathlib.Path, names: Collection[str]
) -> dict[str, Mapping[str, Any]]:
  """Entries of an earlier `results.json` of runs that this call leaves out."""
  if not names or not path.exists():
    return {}
  found = files.read_json(path)['runs']
  return {run['name']: run for run in found if run['name'] in names}


def make_results(
  experiment: Experiment,
  plan: Plan,
  failed: Sequence[str],
  command: str,
  machine: Mapping[str, Any],
  kept: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
  """The content of `results.json`; see `common`.

  Args:
    experiment: the experiment, which makes the rows.
    plan: its runs; the first ones are complete.
    failed: names of failed runs, whose folders are not read.
    command: the command that was typed.
    machine: facts of `common.machine`.
    kept: name -> entry of runs that an earlier call collected.
  """
  kept = kept or {}
  read = {
    run.name: kept.get(run.name) or common.read_run(run) for run in plan.runs
  }
  found = [
    run for name, run in read.items() if run is not None and name not in failed
  ]
  done = {run['name'] for run in found}
  first_secs = sum(
    sum(workdirs.Workdir(workdirs.epath.Path(folder)).secs().values())
    for folder in {run.workdir for run in plan.first}
  )
  beside = {'beside': experiment.beside()} if experiment.beside else {}
  return {
    'experiment': experiment.name,
    'notice': common.NOTICE,
    'command': command,
    'machine': dict(machine),
    'first': [run.command for run in plan.first],
    'first_seconds': first_secs,
    'rows': experiment.rows(found, first_secs),
    'figures': [dict(experiment.figure)] if experiment.draw else [],
    **beside,
    'runs': found,
    'missing': [name for name in read if name not in done],
  }


def print_commands(plan: Plan, command: str) -> None:
  """Prints the command lines in an order in which they can be run.

  Args:
    plan: the runs.
    command: the command that was typed, with --print.
  """
  if plan.first:
    console.say('# First:')
  for run in plan.first:
    console.say(run.command)
  console.say('# Then, in any order or side by side:')
  for run in plan.runs:
    console.say(run.command)
  console.say('# Last, to collect what they found:')
  console.say(command.replace(' --print', ''))
