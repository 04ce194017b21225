"""What the network predicts and the noise schedule, at the same epsilon.

python -m experiments.ablation_prediction.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_prediction.run --print   # for a scheduler
python -m experiments.ablation_prediction.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

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


EXPERIMENT = sweeps.ablation(
  'ablation_prediction', PLAN, 'Prediction and schedule, digits, epsilon 10'
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
