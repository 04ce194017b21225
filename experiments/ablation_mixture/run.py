"""The timestep mixture of private fine-tuning, at the same epsilon.

python -m experiments.ablation_mixture.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_mixture.run --print   # for a scheduler
python -m experiments.ablation_mixture.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

BOUNDARIES = (0, 30, 600, 1000)
MIXTURES = {
  'uniform': {
    'finetune.mixture_boundaries': (),
    'finetune.mixture_weights': (),
  },
  'of the paper': {
    'finetune.mixture_boundaries': BOUNDARIES,
    'finetune.mixture_weights': (0.015, 0.785, 0.2),
  },
  'low noise': {
    'finetune.mixture_boundaries': BOUNDARIES,
    'finetune.mixture_weights': (0.2, 0.785, 0.015),
  },
}
PLAN = sweeps.grid('configs/digits.py', MIXTURES)


EXPERIMENT = sweeps.ablation(
  'ablation_mixture', PLAN, 'Timestep mixture, digits, epsilon 10'
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
