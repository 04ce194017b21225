"""The weight of classifier-free guidance, at the same epsilon.

python -m experiments.ablation_guidance.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_guidance.run --print   # for a scheduler
python -m experiments.ablation_guidance.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys

from experiments import sweeps

WEIGHTS = (0.0, 0.5, 1.0)
PLAN = sweeps.grid(
  'configs/digits.py',
  {f'weight {w:g}': {'sample.sampler.guidance_weight': w} for w in WEIGHTS},
  everywhere={'diffusion.label_drop_prob': 0.1},
  shares_training=True,
)


EXPERIMENT = sweeps.ablation(
  'ablation_guidance',
  PLAN,
  'Guidance, a tenth of labels dropped, digits, epsilon 10',
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
