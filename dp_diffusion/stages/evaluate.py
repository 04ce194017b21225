"""Evaluates the released dataset on real held-out images.

Each classifier is trained on one source of images: synthetic images, public
images (a lower reference) or the real training images (an upper reference). The
held-out images are read once, after all classifiers are trained. `measurements`
measures, with all processes; then process 0 adds the privacy statement and
writes the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import time
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import earlier_section
from dp_diffusion.evaluation.report import report
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.stages import audit
from dp_diffusion.stages.evaluation import classifier_plan
from dp_diffusion.stages.evaluation import measurements
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes


def run(
  config: config_lib.Config,
  workdir: workdirs.Workdir,
  stop: interrupts.Stop,
  sources: Sequence[str] = measurements.SOURCES,
) -> None:
  """Trains the classifiers, tests them once, and writes the report.

  Args:
    config: gives data, pretrain.data and evaluate.
    workdir: release/ is read, evaluation/ is written.
    stop: called at every step; tells whether to stop.
    sources: sources of training images, see `measurements.measure`.

  Raises:
    UsageError: a dataset is missing.
    Interrupted: the user asked to stop; trained classifiers are kept.
  """
  start = time.monotonic()
  statement, earlier = processes.together(
    lambda: (
      files.read_whole_json(workdir.release / 'privacy.json'),
      _earlier(workdir),
    )
  )
  places = measurements.EvaluationPaths(
    release=workdir.release,
    evaluation=workdir.evaluation,
    private=workdir.private,
  )
  measured = measurements.measure(config, places, stop, sources)

  def write() -> None:
    assert measured
    seconds = {**workdir.secs(), 'evaluate': time.monotonic() - start}
    report.write(
      _findings(config, stop.command, statement, measured, seconds),
      workdir.evaluation,
      (
        *measured.sections,
        earlier_section.section(
          earlier, config_lib.to_dict(config)['evaluate']
        ),
        *audit.sections(workdir),
      ),
    )

  processes.on_main(write)


def report_path(workdir: workdirs.Workdir) -> epath.Path:
  """Returns the path of the HTML report."""
  return workdir.evaluation / 'report.html'


def _findings(
  config: config_lib.Config,
  command: str,
  statement: Mapping[str, Any],
  measured: measurements.Measured,
  seconds: Mapping[str, float],
) -> report.Findings:
  """Returns the results together with the privacy statement of the release."""
  return report.Findings(
    title=config.name,
    privacy=privacy_numbers(statement),
    privacy_card=statement_lib.card(statement),
    class_names=config.data.class_names,
    scores=measured.accuracies.scores,
    num_train_images=measured.accuracies.num_train_images,
    images=measured.images,
    seconds=seconds,
    command=command,
    config=config_lib.to_dict(config),
    classifier_names=measured.accuracies.classifier_names,
    num_held_out_equal_training=(
      measured.accuracies.num_held_out_equal_training
    ),
    has_soft_labels=measured.accuracies.has_soft_labels,
  )


def _earlier(workdir: workdirs.Workdir) -> list[dict[str, Any]]:
  """Returns the earlier evaluations, which read the same held-out images."""
  path = workdir.evaluation / 'report.json'
  if not path.exists():
    return []
  return earlier_section.with_last(files.read_whole_json(path))


def privacy_numbers(statement: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the numbers of the statement that the report repeats."""
  names = (
    *('epsilon', 'epsilon_pld', 'epsilon_rdp'),
    *('delta', 'noise_multiplier'),
  )
  return {name: statement_lib.number(statement, name) for name in names}


def _ensemble(
  found: Mapping[str, Any], source: str
) -> tuple[str, Mapping[str, float]] | None:
  """Returns name and accuracy of the main classifier's ensemble, or None."""
  ensembles = found.get('ensembles', {})
  accuracy = ensembles.get('accuracy', {}).get(source, {})
  if classifier_plan.MAIN in accuracy:
    title = f'ensemble of {ensembles["num_members"]} CNNs'
    return title, accuracy[classifier_plan.MAIN]
  return None


def _guessing(found: Mapping[str, Any], source: str) -> str:
  """Says which classifiers are no better than guessing, if any."""
  flags: dict[str, bool] = dict(
    found.get('is_no_better_than_guessing', {}).get(source, {})
  )
  titles = accuracy_section.CLASSIFIER_TITLES
  if ensemble := _ensemble(found, source):
    title, accuracy = ensemble
    share = found.get('majority_share') or 1.0
    flags[title] = share < 1 and accuracy['low'] <= share
  if not any(flags.values()):
    return ''
  if all(flags.values()):
    return ' (no better than guessing)'
  names = ' and '.join(titles.get(n, n) for n, flag in flags.items() if flag)
  return f' ({names}: no better than guessing)'


def _network_line(found: Mapping[str, Any]) -> Iterator[str]:
  """Says whether the feature network has learned anything from public images.

  Other reasons for missing distances, such as too few images, are not public;
  only the report states them.
  """
  measured = found.get('quality', {}).get('features', {})
  if test := measured.get('network'):
    values = (test['accuracy'], test['chance'])
    right, chance = (
      'nothing' if value is None else f'{100 * value:.1f} %' for value in values
    )
    is_usable = test['is_better_than_chance'] and test['has_enough_live']
    yield (
      f'features     {measured["name"]}: right on {right} of held-out public'
      f' images (always one class: {chance}), {test["num_live"]} of'
      f' {test["num_features"]} features live'
      f'{"" if is_usable else "; too little for distances, which are left out"}'
    )


def say_summary(workdir: workdirs.Workdir) -> None:
  """Prints epsilon, delta, accuracies and the path of the report."""
  found = files.read_json(workdir.evaluation / 'report.json')
  privacy = found['privacy']
  epsilon = privacy.get('epsilon', privacy['epsilon_pld'])
  if epsilon is None:
    console.say('privacy      none: epsilon is infinite')
  else:
    is_rdp = epsilon == privacy['epsilon_rdp']
    console.say(
      f'privacy      epsilon {rounding.up(epsilon)} by'
      f' {"RDP" if is_rdp else "PLD"} at delta'
      f' {rounding.up(privacy["delta"], 6)}'
    )
  # Classifiers trained on the real images are left out: the terminal must not
  # show results computed from these images without noise.
  words = {
    'synthetic': 'trained on synthetic images',
    'public': 'trained on public images alone',
  }
  titles = accuracy_section.CLASSIFIER_TITLES
  for source in words:
    accuracies = found['accuracy'].get(source, {})
    if not accuracies:
      continue
    shown = ', '.join(
      f'{titles.get(name, name)} {100 * value:.1f} %'
      for name, value in accuracies.items()
      if value is not None
    )
    if ensemble := _ensemble(found, source):
      shown += f', {ensemble[0]} {100 * ensemble[1]["value"]:.1f} %'
    shown += _guessing(found, source)
    console.say(f'accuracy     {shown}: {words[source]}')
  of_release = {
    'diffusion_classifier': 'the released model itself, without training',
    'class_head': 'the released linear classifier',
  }
  for key, what in of_release.items():
    if answers := found.get(key):
      guessing = answers['is_no_better_than_guessing']
      console.say(
        f'accuracy     {key.replace("_", " ")} {100 * answers["accuracy"]:.1f}'
        f' %: {what}{" (no better than guessing)" if guessing else ""}'
      )
  share = found.get('majority_share')  # Reports of older versions have none.
  if share is not None and share < 1:
    console.say(
      f'accuracy     {100 * share:.1f} %: always one class, the commonest'
    )
  for line in _network_line(found):
    console.say(line)
  console.say(f'release      {workdir.release}')
  console.say(f'report       {report_path(workdir)}')
