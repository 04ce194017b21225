"""Writes the table of measured runs with which `--stage=plan` compares a run.

  python -m experiments.measured_runs           # writes the table
  python -m experiments.measured_runs --check   # exit 1 where it is out of date

It reads `results.json` of the experiments that trained privately and tested a
network on real images; no number is typed by hand. The config of a run, with
its images and steps, is loaded from its command line. It must give the epsilon
that the run recorded; a config that has changed since is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import pathlib
import shlex
import sys
from typing import Any

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.planning import sufficiency
from experiments import common

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXPERIMENTS = (
  'ablation_pretraining',
  'cifar10_jpeg',
  'digits_epsilon',
  'mnist_cpu',
)
_CLASSIFIER = 'cnn'
_PREFIX = '--config.'


def table(root: pathlib.Path = ROOT) -> dict[str, Any]:
  """The content of the table.

  Raises:
    ValueError: a config has changed since the run.
  """
  runs = []
  for name in EXPERIMENTS:
    source = f'experiments/{name}/results.json'
    found = files.read_json(root / source)['runs']
    for group in dict.fromkeys(run['group'] for run in found):
      seeds = [run for run in found if run['group'] == group]
      if seeds[0]['private']:
        runs.append(sufficiency.to_json(_measured(name, source, seeds, root)))
  return {
    'notice': 'Written by `python -m experiments.measured_runs`.',
    'runs': runs,
  }


def _measured(
  name: str, source: str, seeds: Sequence[Mapping[str, Any]], root: pathlib.Path
) -> sufficiency.MeasuredRun:
  config = _config(seeds[0]['command'], root)
  privacy = config.privacy
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=privacy.num_examples,
    expected_batch_size=privacy.expected_batch_size,
    num_steps=privacy.num_steps,
    noise_multiplier=seeds[0]['noise_multiplier'],
    l2_clip_norm=privacy.l2_clip_norm,
    delta=privacy.delta,
  )
  epsilon = accounting.epsilon([mechanism.dp_event()], privacy.delta, 'rdp')
  if not math.isclose(epsilon, seeds[0]['epsilon_rdp'], rel_tol=1e-6):
    raise ValueError(
      f'Expected the config of {name}, {seeds[0]["name"]}, to give epsilon_rdp='
      f'{seeds[0]["epsilon_rdp"]:.6g}, as recorded, found {epsilon:.6g}: run it'
      ' anew, or leave it out.'
    )

  def accuracies(kind: str) -> tuple[float, ...]:
    found = [run['accuracy'].get(kind, {}) for run in seeds]
    return tuple(f[_CLASSIFIER] for f in found if _CLASSIFIER in f)

  return sufficiency.MeasuredRun(
    what=f'{name}, {seeds[0]["group"]}',
    source=source,
    setting=sufficiency.setting(config, mechanism),
    chance=1 / len(config.data.class_names),
    synthetic=accuracies('synthetic'),
    public=accuracies('public'),
    real=accuracies('real'),
  )


def _config(command: str, root: pathlib.Path) -> config_lib.Config:
  """Loads the config of a command line as it is now."""
  words = shlex.split(command)
  (file,) = [w for w in words if w.startswith('--config=')]
  overrides = [w.removeprefix(_PREFIX) for w in words if w.startswith(_PREFIX)]
  return config_lib.load(
    str(root / file.removeprefix('--config=')),
    dict(text.split('=', 1) for text in overrides),
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Writes or checks; returns the exit code."""
  is_check = common.is_check('measured_runs', __doc__, argv)
  new, path = table(), sufficiency.TABLE_PATH
  if not is_check:
    files.write_json(path, new)
    return 0
  if path.exists() and files.read_json(path) == json.loads(json.dumps(new)):
    return 0
  print(f'{path} is out of date: run python -m experiments.measured_runs.')
  return 1


if __name__ == '__main__':
  sys.exit(main())
