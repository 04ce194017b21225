"""MNIST at 14x14 on two CPU cores: letters first, then epsilon 10 and 1.

python -m experiments.mnist_cpu.run [--jobs=N] [--out=FOLDER]
python -m experiments.mnist_cpu.run --print   # for a scheduler
python -m experiments.mnist_cpu.run --smoke   # tiny runs
"""

from __future__ import annotations

from collections.abc import Mapping
import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

EPSILONS = (10, 1)
AIM = 0.92  # Of the CNN at epsilon 10.
PLAN = sweeps.grid(
  'configs/mnist.py:cpu',
  {f'epsilon {e}': {'privacy.epsilon': e} for e in EPSILONS},
  seeds=(1,),
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """A line per epsilon, then the ceiling, then audits."""
  lines = []
  for epsilon in EPSILONS:
    mine = [run for run in found if run['group'] == f'epsilon {epsilon}']
    values = [table_rows.accuracy(run) for run in mine]
    is_aimed = epsilon == 10
    lines += table_rows.measured(
      f'MNIST 14x14, epsilon {epsilon}, pre-trained on letters',
      mine,
      {'Small CNN': table_rows.accuracy, '5 together': _ensemble},
      first_secs,
      aim=f'Small CNN {100 * AIM:.0f} %' if is_aimed else '',
      is_missed=is_aimed and any(v is None or v < AIM for v in values),
    )
  more = table_rows.measured(
    'MNIST 14x14, real images, no privacy',
    found[:1],
    {'Small CNN': lambda run: table_rows.accuracy(run, 'real')},
  )
  for run in found:
    if 'audit' in run:
      claim = run['audit']['claim']['epsilon']
      more += table_rows.measured(
        f'MNIST 14x14, audit of the step that claims epsilon {claim:g}',
        [run],
        {'epsilon at least': lambda run: run['audit']['epsilon_lower_bound']},
        unit='',
      )
  # Their time is in the lines before, or was not taken.
  return lines + [line | {'seconds': None} for line in more]


def _ensemble(run: Mapping[str, Any]) -> float | None:
  found = run.get('ensembles', {}).get('accuracy', {}).get('synthetic', {})
  return found['cnn']['value'] if 'cnn' in found else None


EXPERIMENT = sweeps.Experiment(
  name='mnist_cpu',
  plan=PLAN,
  rows=rows,
  draw=table_rows.draw_samples,
  figure={
    'file': 'samples.png',
    'alt': 'Synthetic MNIST digits at 14x14, epsilon 10, a row per class',
  },
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
