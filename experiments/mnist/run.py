"""Accuracy on MNIST at epsilon 10, from scratch.

python -m experiments.mnist.run [--jobs=N] [--out=FOLDER]
python -m experiments.mnist.run --print   # for a scheduler
python -m experiments.mnist.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

PLAN = sweeps.grid(
  'configs/mnist.py',
  {'accuracy': {}},
  shares_pretraining=False,
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """One line: the claim."""
  return table_rows.grouped(
    'MNIST, epsilon 10', found, table_rows.accuracy, first_secs, claim='mnist'
  )


EXPERIMENT = sweeps.Experiment(name='mnist', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
