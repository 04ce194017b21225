"""Compares the ranking of classifier settings on synthetic and real images.

python -m experiments.model_selection.run [--jobs=N] [--out=FOLDER]
python -m experiments.model_selection.run --print   # for a scheduler
python -m experiments.model_selection.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

PLAN = sweeps.grid(
  'configs/digits.py',
  {
    'grid': {
      'evaluate.selection.num_steps': (30, 100, 300),
      'evaluate.selection.learning_rates': (1e-4, 1e-3, 1e-2),
    }
  },
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns rank correlations, and the loss of choosing on synthetic images."""
  names = {
    'Spearman': 'spearman',
    'Kendall': 'kendall',
    'top-1 regret': 'top1_regret',
  }
  lines = table_rows.measured(
    'Digits 8x8, model selection',
    found,
    {
      title: lambda run, key=key: run.get('model_selection', {}).get(key)
      for title, key in names.items()
    },
    first_secs,
    unit='%',
  )
  return lines


EXPERIMENT = sweeps.Experiment(name='model_selection', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
