"""With and without a warm-up from noised statistics, without public images.

python -m experiments.ablation_warm_up.run [--jobs=N] [--out=FOLDER]
python -m experiments.ablation_warm_up.run --print   # for a scheduler
python -m experiments.ablation_warm_up.run --smoke   # tiny runs
"""

from __future__ import annotations

import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

# Epsilon -> noise multipliers of the class means and of the mean embedding.
NOISE = {10.0: (2.5, 1.25), 1.0: (12.0, 6.0)}
# No public images, and less of everything than the config has: an hour in all.
_EVERYWHERE = {
  'pretrain.num_steps': 0,
  'pretrain.batch_size': 64,
  'sample.num_samples': 1000,
  'sample.sampler.num_steps': 20,
  'finetune.augmult': 2,
}
_GENERATOR = {
  'finetune.warm_up.num_generated': 2000,
  'finetune.warm_up.dp_merf.num_features': 1000,
  'finetune.warm_up.generator.num_steps': 1000,
  'finetune.warm_up.generator.batch_size': 100,
  'finetune.warm_up.generator.channels': 16,
  'finetune.warm_up.generator.latent_dim': 8,
}


def _warm_up(epsilon: float) -> dict[str, object]:
  means, embedding = NOISE[epsilon]
  return {
    'finetune.warm_up.mean_steps': 100,
    'finetune.warm_up.mean_noise_multiplier': means,
    'finetune.warm_up.generated_steps': 400,
    'finetune.warm_up.embedding_noise_multiplier': embedding,
    **_GENERATOR,
  }


PLAN = sweeps.grid(
  'configs/digits.py',
  {
    table_rows.of_epsilon(epsilon, name): {
      'privacy.epsilon': f'{epsilon:g}',
      **(_warm_up(epsilon) if name == 'warm-up' else {}),
    }
    for epsilon in NOISE
    for name in ('from scratch', 'warm-up')
  },
  seeds=(1,),
  shares_pretraining=False,
  everywhere=_EVERYWHERE,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Accuracy and distance by epsilon."""
  return table_rows.ablation_by_epsilon(
    'Digits without public images', found, first_secs, tuple(NOISE)
  )


EXPERIMENT = sweeps.Experiment(name='ablation_warm_up', plan=PLAN, rows=rows)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
