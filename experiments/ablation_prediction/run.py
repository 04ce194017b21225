"""What the network predicts and the noise schedule, at the same epsilon.

python -m experiments.ablation_prediction.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_prediction.run --print   # for a scheduler
python -m experiments.ablation_prediction.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

PLAN = sweeps.grid(
  'configs/digits.py',
  {
    'v, cosine': {},
    'v, linear': {'diffusion.schedule': 'linear'},
    'eps, linear': {  # The paper's.
      'diffusion.schedule': 'linear',
      'diffusion.prediction': 'eps',
    },
  },
  shares_pretraining=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Two lines: accuracy and distance of each."""
  return table_rows.ablation(
    'Prediction and schedule, digits, epsilon 10', found, first_secs
  )


EXPERIMENT = sweeps.Experiment(name='ablation_prediction', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
