"""FID and accuracy against epsilon on CIFAR-10 (figure 2 and table 1).

python -m experiments.cifar10_epsilon.run [--jobs=N] [--out=FOLDER]
python -m experiments.cifar10_epsilon.run --print   # for a scheduler
python -m experiments.cifar10_epsilon.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps

EPSILONS = (1, 5, 10, 32, 'inf')
PLAN = sweeps.grid(
  'configs/cifar10.py',
  {f'epsilon {e}': {'privacy.epsilon': e} for e in EPSILONS},
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Accuracy and FID at epsilon 10 beside the claim, then all of them."""
  ten = [run for run in found if run['group'] == 'epsilon 10']
  lines = sweeps.measured_row(
    'CIFAR-10, epsilon 10',
    ten,
    {'accuracy': sweeps.accuracy},
    first_secs,
    claim='cifar10',
  )
  lines += sweeps.measured_row(
    'CIFAR-10, epsilon 10', ten, {'FID': sweeps.frechet}, unit=''
  )
  lines += sweeps.grouped_row(
    'CIFAR-10, accuracy', found, sweeps.accuracy, first_secs
  )
  return lines + sweeps.grouped_row(
    'CIFAR-10, FID', found, sweeps.frechet, first_secs, unit=''
  )


EXPERIMENT = sweeps.Experiment(name='cifar10_epsilon', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
