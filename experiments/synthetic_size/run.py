"""Measures accuracy by number of synthetic images, singly and in ensembles.

python -m experiments.synthetic_size.run [--jobs=N] [--out=FOLDER]
python -m experiments.synthetic_size.run --print   # for a scheduler
python -m experiments.synthetic_size.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
PLAN = sweeps.grid(
  'configs/digits.py',
  {
    'sizes': {
      'evaluate.size_shares': SHARES,
      'evaluate.num_seeds': 5,
      'evaluate.ensemble_size': 5,
    }
  },
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns two lines by number of images: one classifier, and ensembles."""
  return [
    *table_rows.curve('Digits 8x8, one CNN', found, 'accuracy', first_secs),
    *table_rows.curve('Digits 8x8, 5 CNNs together', found, 'ensemble'),
  ]


EXPERIMENT = sweeps.Experiment(name='synthetic_size', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
