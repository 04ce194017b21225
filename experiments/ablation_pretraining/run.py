"""With and without public pre-training, at the same epsilon.

python -m experiments.ablation_pretraining.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_pretraining.run --print   # for a scheduler
python -m experiments.ablation_pretraining.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

PLAN = sweeps.grid(
  'configs/digits.py',
  {'public': {}, 'from scratch': {'pretrain.num_steps': 0}},
  shares_pretraining=False,
)


EXPERIMENT = sweeps.ablation(
  'ablation_pretraining', PLAN, 'Pre-training, digits, epsilon 10'
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
