"""The number of steps of the sampler, at the same epsilon.

python -m experiments.ablation_sampler.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_sampler.run --print   # for a scheduler
python -m experiments.ablation_sampler.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

NUM_STEPS = (5, 10, 20, 40, 100)
PLAN = sweeps.grid(
  'configs/digits.py',
  {f'{n} steps': {'sample.sampler.num_steps': n} for n in NUM_STEPS},
  shares_training=True,
)


EXPERIMENT = sweeps.ablation(
  'ablation_sampler', PLAN, 'Steps of the sampler (DDIM), digits, epsilon 10'
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
