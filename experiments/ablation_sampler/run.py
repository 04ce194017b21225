"""The number of steps of the sampler, at the same epsilon.

python -m experiments.ablation_sampler.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_sampler.run --print   # for a scheduler
python -m experiments.ablation_sampler.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

NUM_STEPS = (5, 10, 20, 40, 100)
PLAN = sweeps.grid(
  'configs/digits.py',
  {f'{n} steps': {'sample.sampler.num_steps': n} for n in NUM_STEPS},
  shares_training=True,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Two lines: accuracy and distance by number of steps."""
  return table_rows.ablation(
    'Steps of the sampler (DDIM), digits, epsilon 10', found, first_secs
  )


EXPERIMENT = sweeps.Experiment(name='ablation_sampler', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
