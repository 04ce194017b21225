"""A question asked beforehand: K, by small runs on public images alone.

python -m experiments.small_runs.run [--jobs=N] [--out=FOLDER]
python -m experiments.small_runs.run --print   # for a scheduler
python -m experiments.small_runs.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps
from experiments.ablation_k import run as large_runs

# The small run that the plan of configs/digits.py names, on the glyphs that are
# its public images; it is itself pre-trained on images by formula.
SMALL = {
  'data.name': 'glyphs',
  'pretrain.data.name': 'rendered',
  'privacy.expected_batch_size': 16,
  'privacy.noise_multiplier': 0.04576,
  'privacy.num_steps': 60,
  'privacy.solve_for': 'epsilon',
  'privacy.epsilon': 'none',
  'sample.num_samples': 1000,
}
PLAN = sweeps.grid(
  'configs/digits.py',
  {f'K {k}': {'finetune.augmult': k} for k in large_runs.DRAWS},
  everywhere=SMALL,
  is_divided=False,
)


EXPERIMENT = sweeps.ablation(
  'small_runs',
  PLAN,
  'Draws per image and step, small runs on glyphs, batch 16',
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
