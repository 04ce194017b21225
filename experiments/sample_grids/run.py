"""Makes grids of samples, a row per class (figures 1, 5, 6, 7).

python -m experiments.sample_grids.run [--jobs=N] [--out=FOLDER]
python -m experiments.sample_grids.run --print   # for a scheduler
python -m experiments.sample_grids.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps

PLAN = sweeps.combine(
  {
    name: sweeps.grid(
      f'configs/{name}.py',
      {
        'grid': {
          'sample.num_samples': 100,
          'sample.shard_size': 100,
          'evaluate.features': '',  # FID needs more images.
        }
      },
      seeds=(1,),
      shares_pretraining=False,
      is_divided=False,
    )
    for name in ('mnist', 'cifar10', 'camelyon')
  }
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns no lines: the results are `release/samples.png` of each run."""
  del found, first_secs
  return []


EXPERIMENT = sweeps.Experiment(name='sample_grids', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
