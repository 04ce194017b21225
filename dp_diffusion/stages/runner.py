"""Runs the stages in order; skips complete ones and resumes the others."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import dataclasses
import os
import time

from dp_diffusion import checks
from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import jax_environment
from dp_diffusion.stages import audit
from dp_diffusion.stages import evaluate
from dp_diffusion.stages import finetune
from dp_diffusion.stages import forget
from dp_diffusion.stages import inspect
from dp_diffusion.stages import plan
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import sample
from dp_diffusion.stages.evaluation import image_distances
from dp_diffusion.stages.planning import data_checks
from dp_diffusion.stages.planning import leaf_checks
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import processes

_RUN = {
  'pretrain': pretrain.run,
  'finetune': finetune.run,
  'sample': sample.run,
  'evaluate': evaluate.run,
  'audit': audit.run,
}
_OTHERS = ('all', 'plan', 'inspect', 'forget')
# The stages whose outputs a stage reads.
_NEEDS = {
  'pretrain': (),
  'finetune': ('pretrain',),
  'sample': ('finetune',),
  'evaluate': ('sample',),
  'audit': ('pretrain',),
}


def run_stage(
  config_file: str,
  workdir: str | os.PathLike[str],
  stage: str = 'all',
  overrides: Mapping[str, str] | None = None,
) -> None:
  """Runs one stage, or all of them, as `python -m dp_diffusion.main` does.

  A stage that is complete is not run again:

  >>> run_stage(config_file, workdir, 'sample')
  sample: complete, nothing to do

  Args:
    config_file: FILE of configs/, or FILE:VARIANT.
    workdir: the folder of the run.
    stage: 'plan', 'pretrain', 'finetune', 'sample', 'evaluate', or 'all' of
      them but the plan; 'inspect', 'audit', 'forget'.
    overrides: dotted config key -> text, as typed on the command line.

  Raises:
    UsageError: bad config or workdir, or a missing earlier stage.
    Failed: an audit refutes the claim.
    Interrupted: Ctrl-C; the message says what is saved.
  """
  try:
    checks.check_one_of('stage', stage, (*_RUN, *_OTHERS))
  except ValueError as error:
    raise errors.UsageError(str(error)) from None
  config = config_lib.load(config_file, overrides)
  folder = os.fspath(workdir)
  call = f'run_stage({config_file!r}, {folder!r}, {stage!r}, ...)'
  run(config, folder, stage, call)


def run(
  config: config_lib.Config, workdir_path: str, stage: str, command: str
) -> None:
  """Runs one stage, or all of them.

  Raises:
    UsageError: the workdir cannot be used, an earlier stage is missing, or the
      images cannot be used.
    Interrupted: the user pressed Ctrl-C; the message says what is saved.
  """
  jax_environment.fix()  # A config file may have changed the environment.
  if stage == 'plan':
    workdir = workdirs.Workdir(workdirs.epath.Path(workdir_path))
    public_data.check_sources(config, workdir)
    leaf_checks.check(config)
    plan.run(config, workdir)
    return
  if stage == 'forget':
    forget.run(config)
    return
  processes.initialize(**dataclasses.asdict(config.distributed))
  console.silence(not processes.is_main())
  workdir = workdirs.Workdir(workdirs.epath.Path(workdir_path))
  with contextlib.ExitStack() as stack:

    def enter() -> None:
      workdirs.open_workdir(workdir_path)
      stack.enter_context(workdir.held())
      workdir.check(config)

    processes.on_main(enter)
    _run_stages(config, workdir, stage, command)


def _run_stages(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stage: str,
  command: str,
) -> None:
  if stage in ('finetune', 'audit', 'all'):
    parallel.check_num_devices()
  # This comes before any image is read; the audit always reads public images.
  public_data.check_sources(config, workdir, is_read=stage == 'audit')
  if stage in ('pretrain', 'finetune', 'audit', 'all'):
    leaf_checks.check(config)
  if stage == 'inspect':
    inspect.run(config, workdir)
    return
  stages = workdirs.STAGES if stage == 'all' else (stage,)
  if stage == 'all':
    if not workdir.is_complete('finetune'):
      processes.on_main(lambda: image_distances.check_features(config))
  elif not workdir.is_complete(stage):
    _check_needs(stage, workdir)
  data_checks.check(config, workdir, stage)
  decoded = None
  if stage in ('finetune', 'all') and not workdir.is_complete('finetune'):
    decoded = inspect.run(config, workdir)  # Decodes all images once.
  with interrupts.catch(command) as stop:
    for name in stages:
      _run_stage(name, config, workdir, stop)
  del decoded  # The stages have used the decoded images.


def _run_stage(
  name: str,
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
) -> None:
  if workdir.is_complete(name) and not _is_changed(name, config, workdir):
    console.say(f'{name}: complete, nothing to do')
    if name == 'evaluate':
      evaluate.say_summary(workdir)
    return
  _check_needs(name, workdir)
  if name == 'audit':  # It is never complete: each audit is a new experiment.
    audit.run(config, workdir, stop)
    return
  processes.on_main(lambda: workdir.begin(name, config))
  start = time.monotonic()
  try:
    _RUN[name](config, workdir, stop)
  except errors.Interrupted:
    if processes.is_main():
      workdir.add_secs(name, time.monotonic() - start)
    raise
  except errors.UsageError:
    if processes.is_main() and _has_done_nothing(name, workdir):
      workdir.forget(name)
    raise
  # The other processes wait, since they next look for complete stages.
  processes.on_main(lambda: workdir.complete(name, time.monotonic() - start))
  if name == 'evaluate':
    evaluate.say_summary(workdir)


def _check_needs(name: str, workdir: workdirs.Workdir) -> None:
  for needed in _NEEDS[name]:
    if not workdir.is_complete(needed):
      raise errors.UsageError(
        f'Expected the {needed} stage to be complete in {workdir.root} before'
        f' {name}. Run --stage={needed} first, or --stage=all.'
      )


def _has_done_nothing(name: str, workdir: workdirs.Workdir) -> bool:
  """Whether fine-tuning ended before anything private, so it may restart."""
  checkpoints = workdir.private / 'checkpoints'
  return name == 'finetune' and not (
    run_secret.has_begun(workdir) or checkpoints.exists()
  )


def _is_changed(
  name: str, config: config_lib.Config, workdir: workdirs.Workdir
) -> bool:
  if name == 'sample':  # Only the card may differ: nothing is sampled again.
    return workdir.has_other_card(config)
  return name == 'evaluate' and workdir.differs(name, config)
