"""Draws per image and step, K, at the same epsilon.

python -m experiments.ablation_k.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_k.run --print   # for a scheduler
python -m experiments.ablation_k.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

DRAWS = (1, 2, 4, 8)
PLAN = sweeps.grid(
  'configs/digits.py', {f'K {k}': {'finetune.augmult': k} for k in DRAWS}
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Two lines: accuracy and distance by K."""
  return table_rows.ablation(
    'Draws per image and step, digits, epsilon 10', found, first_secs
  )


EXPERIMENT = sweeps.Experiment(name='ablation_k', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
