"""Measures the released dataset on real held-out images.

Classifiers see one source of images each: synthetic ones, public ones (the
floor), real training ones (the ceiling). The held-out images are read once,
when all of them are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import time
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.evaluation import classifiers as classifiers_lib
from dp_diffusion.evaluation import downstream
from dp_diffusion.evaluation import held_out as held_out_lib
from dp_diffusion.evaluation import report
from dp_diffusion.evaluation import scoring
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.stages import audit
from dp_diffusion.stages import interrupts
from dp_diffusion.stages import workdirs
from dp_diffusion.training import processes

# As the report's keys: ours by its kind, the outside reference by its name.
_OURS = 'cnn'
_REFERENCE = 'svm'


def run(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  """Trains the classifiers, tests them once, and writes the report.

  Args:
    config: uses data, pretrain.data, evaluate.
    workdir: reads release/, writes evaluation/.
    stop: asked between classifiers.

  Raises:
    UsageError: a dataset is missing.
    Interrupted: the user asked to stop.
  """
  processes.on_main(lambda: _run_on_main(config, workdir, stop))


def report_path(workdir: workdirs.Workdir) -> epath.Path:
  """The page that a person reads."""
  return workdir.evaluation / 'report.html'


def _run_on_main(
  config: config_lib.Config, workdir: workdirs.Workdir, stop: interrupts.Stop
) -> None:
  start = time.monotonic()
  settings = config.evaluate
  sources = _training_images(config, workdir)
  num_classes = len(config.data.class_names) or 1
  held_out = held_out_lib.HeldOut(
    functools.partial(registry.load, config.data, config.data.test_split)
  )
  configs = {_OURS: settings.classifier}
  if settings.svm:
    configs[_REFERENCE] = classifiers_lib.ClassifierConfig(name='svm')
  classifiers: dict[tuple[str, str], list[downstream.Classifier]] = {}
  num_runs = len(sources) * (settings.num_seeds + len(configs) - 1)
  with held_out.closed():
    with console.progress('training classifiers', num_runs) as advance:
      for source, (images, labels) in sources.items():
        for name, classifier_config in configs.items():
          # The reference has no randomness: one fit says all.
          num_seeds = 1 if name == _REFERENCE else settings.num_seeds
          for seed in range(num_seeds):
            stop.raise_if_asked()
            classifiers.setdefault((source, name), []).append(
              downstream.train_classifier(
                classifier_config, images, labels, num_classes, seed
              )
            )
            advance()
  test = held_out.open()
  test_images = np.asarray(test.images)
  scores: dict[str, dict[str, scoring.Score]] = {s: {} for s in sources}
  for (source, name), members in classifiers.items():
    predicted = [downstream.predictions(m, test_images) for m in members]
    scores[source][name] = scoring.score(predicted, test.labels, num_classes)

  statement = files.read_json(workdir.release / 'privacy.json')
  findings = report.Findings(
    title=config.name,
    privacy=privacy_numbers(statement),
    privacy_card=statement_lib.card(statement),
    class_names=config.data.class_names,
    scores=scores,
    num_train_images={s: len(labels) for s, (_, labels) in sources.items()},
    images={
      **{s: sources[s] for s in ('public', 'synthetic') if s in sources},
      'held_out': (test_images, np.asarray(test.labels)),
    },
    seconds={
      **workdir.secs(),
      'evaluate': time.monotonic() - start,
    },
    command=stop.command,
    config=config_lib.to_dict(config),
    classifier_names={_OURS: settings.classifier.name},
  )
  report.write(findings, workdir.evaluation, audit.sections(workdir))


def _training_images(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(images, labels) of each source, at most `max_train_images` of each."""
  most = config.evaluate.max_train_images
  real = registry.load(config.data)
  # The public set is cut to the size of the release: as many images, no more.
  sets = {'synthetic': release.read_dataset(workdir.release)}
  if config.pretrain.data.class_names == config.data.class_names:
    # Public images of other classes could teach nothing about these.
    public = registry.load(config.pretrain.data)
    sets['public'] = _first(public, len(sets['synthetic'][1]))
  sets['real'] = _first(real, len(real.labels))
  if most:
    sets = {s: (x[:most], y[:most]) for s, (x, y) in sets.items()}
  return sets


def _first(source: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
  return (
    np.asarray(source.images[:count]),
    np.asarray(source.labels[:count]),
  )


def privacy_numbers(statement: Mapping[str, Any]) -> dict[str, Any]:
  """The numbers of the statement that the report repeats."""
  names = ('epsilon_pld', 'epsilon_rdp', 'delta', 'noise_multiplier')
  return {name: statement_lib.number(statement, name) for name in names}


def say_summary(workdir: workdirs.Workdir) -> None:
  """Prints epsilon, delta, accuracies and where the report is."""
  found = files.read_json(workdir.evaluation / 'report.json')
  privacy = found['privacy']
  if privacy['epsilon_pld'] is None:
    console.say('privacy      none: epsilon is infinite')
  else:
    console.say(
      f'privacy      epsilon {privacy["epsilon_pld"]:.4g} by PLD'
      f' ({privacy["epsilon_rdp"]:.4g} by RDP) at delta {privacy["delta"]:g}'
    )
  # What was trained on the real training images is not said here: a terminal
  # is no place for what was computed from them without noise.
  words = {
    'synthetic': 'trained on synthetic images',
    'public': 'trained on public images alone',
  }
  for source in words:
    accuracies = found['accuracy'].get(source, {})
    if not accuracies:
      continue
    shown = ', '.join(
      f'{name.upper()} {100 * value:.1f} %'
      for name, value in accuracies.items()
      if value is not None
    )
    console.say(f'accuracy     {shown}: {words[source]}')
  console.say(f'report       {report_path(workdir)}')
