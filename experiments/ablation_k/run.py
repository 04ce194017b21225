"""Draws per image and step, K, at the same epsilon.

python -m experiments.ablation_k.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_k.run --print   # for a scheduler
python -m experiments.ablation_k.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

DRAWS = (1, 2, 4, 8)
PLAN = sweeps.grid(
  'configs/digits.py', {f'K {k}': {'finetune.augmult': k} for k in DRAWS}
)


EXPERIMENT = sweeps.ablation(
  'ablation_k', PLAN, 'Draws per image and step, digits, epsilon 10'
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
