"""Accuracy on the held-out hospital of Camelyon17 at epsilon 10.

python -m experiments.camelyon17.run [--jobs=N] [--out=FOLDER]
python -m experiments.camelyon17.run --print   # for a scheduler
python -m experiments.camelyon17.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

PLAN = sweeps.grid('configs/camelyon.py', {'accuracy': {}}, is_divided=False)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """One line: the claim."""
  return table_rows.grouped(
    'Camelyon17, epsilon 10',
    found,
    table_rows.accuracy,
    first_secs,
    claim='camelyon17',
  )


EXPERIMENT = sweeps.Experiment(name='camelyon17', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
