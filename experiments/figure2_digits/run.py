"""Compares our quality with that of other methods, by epsilon.

  python -m experiments.figure2_digits.run [--jobs=N] [--out=FOLDER]
  python -m experiments.figure2_digits.run --print   # for a scheduler
  python -m experiments.figure2_digits.run --smoke   # seconds a run

Our own results are read from the results.json of experiments/digits_epsilon,
which has the same divisions, epsilons and classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
import pathlib
import sys
from typing import Any

from dp_diffusion import files
from experiments import sweeps
from experiments import table_rows
from experiments.figure2_digits import figure

NAME = 'figure2_digits'
EPSILONS = (1.0, 2.0, 5.0, 10.0, math.inf)
SEEDS = (1, 2, 3)  # Seed 0 was used for tuning.
OURS = pathlib.Path(sweeps.HERE, 'digits_epsilon', 'results.json')
_SHOWN = (1.0, 10.0)  # Epsilons that the README shows.


def plan(out: pathlib.Path, is_smoke: bool) -> sweeps.Plan:
  """One run per method, epsilon and seed; the runs share no training."""
  config = 'configs/digits.py:smoke' if is_smoke else 'configs/digits.py'
  epsilons = EPSILONS[-2:] if is_smoke else EPSILONS
  seeds = SEEDS[:1] if is_smoke else SEEDS
  runs = sweeps.baselines(
    config, out, epsilons, {seed: sweeps.seeded(seed) for seed in seeds}
  )
  return sweeps.Plan(runs=tuple(runs))


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns a line per method: the small CNN at the epsilons of `_SHOWN`."""
  lines = []
  for method, title in table_rows.BASELINES.items():
    mine = [run for run in found if run['method'] == method]
    lines += table_rows.grouped(
      f'Digits 8x8, {title} (CNN)',
      [run for run in mine if run['epsilon'] in _SHOWN],
      measure,
      first_secs,
    )
  return lines


def measure(run: Mapping[str, Any]) -> float | None:
  """Accuracy of the CNN, trained on synthetic images or directly."""
  direct = table_rows.accuracy(run, 'direct')
  return table_rows.accuracy(run) if direct is None else direct


def ours() -> dict[str, Any]:
  """Our own runs, with their commit and command."""
  results = files.read_json(OURS)
  keys = ('name', 'epsilon', 'seed', 'accuracy', 'quality', 'code_revision')
  return {
    'source': 'experiments/digits_epsilon/results.json',
    'command': results['command'],
    'machine': results['machine'],
    'runs': [
      {key: run[key] for key in keys if key in run} for run in results['runs']
    ],
  }


def draw(found: sweeps.Found, path: pathlib.Path) -> None:
  """Draws the figure of the baselines and our own results."""
  figure.write(found, ours()['runs'], path)


EXPERIMENT = sweeps.Experiment(
  name=NAME,
  plan=plan,
  rows=rows,
  draw=draw,
  figure={'file': figure.FILE_NAME, 'alt': figure.ALT},
  beside=ours,
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
