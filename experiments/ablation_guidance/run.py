"""The weight of classifier-free guidance, at the same epsilon.

python -m experiments.ablation_guidance.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_guidance.run --print   # for a scheduler
python -m experiments.ablation_guidance.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

WEIGHTS = (0.0, 0.5, 1.0)
PLAN = sweeps.grid(
  'configs/digits.py',
  {f'weight {w:g}': {'sample.sampler.guidance_weight': w} for w in WEIGHTS},
  everywhere={'diffusion.label_drop_prob': 0.1},
  shares_training=True,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns two lines: accuracy and distance by weight."""
  return table_rows.ablation(
    'Guidance, a tenth of labels dropped, digits, epsilon 10',
    found,
    first_secs,
  )


EXPERIMENT = sweeps.Experiment(name='ablation_guidance', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
