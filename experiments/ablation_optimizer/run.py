"""The clip norm and the decay of the EMA, at the same epsilon.

python -m experiments.ablation_optimizer.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_optimizer.run --print   # for a scheduler
python -m experiments.ablation_optimizer.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

CLIP_NORMS = (0.1, 0.3, 1.0)
EMA_DECAYS = (0.9, 0.97, 0.99)
CLIP_NORM, EMA_DECAY = 0.3, 0.97  # The config's values; one varies at a time.


def _overrides(clip_norm: float, ema_decay: float) -> dict[str, object]:
  return {
    'privacy.l2_clip_norm': clip_norm,
    'finetune.ema_decay': ema_decay,
  }


PLAN = sweeps.grid(
  'configs/digits.py',
  {
    **{f'clip {c:g}': _overrides(c, EMA_DECAY) for c in CLIP_NORMS},
    **{
      f'EMA {d:g}': _overrides(CLIP_NORM, d)
      for d in EMA_DECAYS
      if d != EMA_DECAY
    },
  },
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Accuracy and distance by clip norm, then by decay."""
  lines = []
  for what, key, fixed in (
    ('Clip norm', 'privacy.l2_clip_norm', {'finetune.ema_decay': EMA_DECAY}),
    (
      'Decay of the EMA',
      'finetune.ema_decay',
      {'privacy.l2_clip_norm': CLIP_NORM},
    ),
  ):
    runs = [
      dict(run, group=f'{run["overrides"][key]:g}')
      for run in sorted(found, key=lambda run: run['overrides'][key])
      if fixed.items() <= run['overrides'].items()
    ]
    lines += table_rows.ablation(
      f'{what}, digits, epsilon 10', runs, first_secs
    )
  return lines


EXPERIMENT = sweeps.Experiment(name='ablation_optimizer', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
