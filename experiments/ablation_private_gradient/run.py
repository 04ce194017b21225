"""How the private gradient is clipped and used, at the same epsilon.

python -m experiments.ablation_private_gradient.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_private_gradient.run --print   # for a scheduler
python -m experiments.ablation_private_gradient.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

EPSILONS = (10, 1)
# Each is the config with one thing changed.
SETTINGS: dict[str, dict[str, object]] = {
  'as it is': {},
  'class rows x 50': {'finetune.gradient_scales': 'label/classes=50'},
  'class rows alone': {
    'finetune.clip_groups': ('label/classes=0.05', '*=0.95')
  },
  'DP-AdamBC': {'finetune.optimizer.name': 'adam_bc'},
}
PLAN = sweeps.grid(
  'configs/digits.py',
  {
    table_rows.of_epsilon(epsilon, setting): {
      **changed,
      'privacy.epsilon': epsilon,
    }
    for epsilon in EPSILONS
    for setting, changed in SETTINGS.items()
  },
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Accuracy and distance by setting, for each epsilon."""
  return table_rows.ablation_by_epsilon(
    'Private gradient, digits', found, first_secs, EPSILONS
  )


EXPERIMENT = sweeps.Experiment(
  name='ablation_private_gradient', plan=PLAN, rows=rows
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
