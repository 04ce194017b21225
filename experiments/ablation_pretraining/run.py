"""With and without public pre-training, at the same epsilon.

python -m experiments.ablation_pretraining.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_pretraining.run --print   # for a scheduler
python -m experiments.ablation_pretraining.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

PLAN = sweeps.grid(
  'configs/digits.py',
  {'public': {}, 'from scratch': {'pretrain.num_steps': 0}},
  shares_pretraining=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Two lines: accuracy and distance with and without."""
  return table_rows.ablation(
    'Pre-training, digits, epsilon 10', found, first_secs
  )


EXPERIMENT = sweeps.Experiment(
  name='ablation_pretraining', plan=PLAN, rows=rows
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
