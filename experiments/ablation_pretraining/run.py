"""With and without public pre-training, at the same epsilon.

python -m experiments.ablation_pretraining.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_pretraining.run --print   # for a scheduler
python -m experiments.ablation_pretraining.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps

PLAN = sweeps.grid(
  'configs/digits.py',
  {'public': {}, 'from scratch': {'pretrain.num_steps': 0}},
  shares_pretraining=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """One line: accuracy with and without."""
  return sweeps.grouped_row(
    'Digits 8x8, epsilon 10 (CNN)', found, sweeps.accuracy, first_secs
  )


EXPERIMENT = sweeps.Experiment(
  name='ablation_pretraining', plan=PLAN, rows=rows
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
