"""FID and accuracy against epsilon on CIFAR-10 (figure 2 and table 1).

python -m experiments.cifar10_epsilon.run [--jobs=N] [--out=FOLDER]
python -m experiments.cifar10_epsilon.run --print   # for a scheduler
python -m experiments.cifar10_epsilon.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

EPSILONS = (1, 5, 10, 32, 'inf')
PLAN = sweeps.grid(
  'configs/cifar10.py',
  {f'epsilon {e}': {'privacy.epsilon': e} for e in EPSILONS},
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns the measures at epsilon 10, then accuracy and FID by epsilon."""
  ten = [run for run in found if run['group'] == 'epsilon 10']
  lines = table_rows.measured(
    'CIFAR-10, epsilon 10',
    ten,
    {
      'accuracy, one network, 50,000 images': table_rows.accuracy,
      'an ensemble of them': table_rows.ensemble,
    },
    first_secs,
    claim='cifar10',
  )
  lines += table_rows.measured(
    'CIFAR-10, epsilon 10', ten, {'FID': table_rows.fid}, unit=''
  )
  lines += table_rows.grouped(
    'CIFAR-10, accuracy', found, table_rows.accuracy, first_secs
  )
  return lines + table_rows.grouped(
    'CIFAR-10, FID', found, table_rows.fid, first_secs, unit=''
  )


EXPERIMENT = sweeps.Experiment(name='cifar10_epsilon', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
