"""Runs JPEG copies of CIFAR-10 on one accelerator, and their floor.

python -m experiments.cifar10_jpeg.run [--jobs=N] [--out=FOLDER]
python -m experiments.cifar10_jpeg.run --print   # for a scheduler
python -m experiments.cifar10_jpeg.run --smoke   # tiny runs
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from experiments import sweeps
from experiments import table_rows

AIM = 0.4  # Accuracy at epsilon 10.
FLOOR = 'pre-trained only'
PLAN = sweeps.grid(
  'configs/cifar10.py:jpeg,one_gpu',
  {
    'epsilon 10': {},
    # One step that is so small that it does not change the weights. The
    # evaluation's own classifier is not part of the floor, so a small one is
    # set.
    FLOOR: {
      'finetune.optimizer.learning_rate': 1e-12,
      'privacy.num_steps': 1,
      'evaluate.classifier.name': 'small_cnn',
      'evaluate.classifier.num_steps': 500,
    },
  },
  seeds=(1,),
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns a line with accuracies and distances, and a line of the floor."""
  mine = [run for run in found if run['group'] == 'epsilon 10']
  values = [table_rows.accuracy(run) for run in mine]
  distances = table_rows.distances('synthetic')
  return [
    *table_rows.measured(
      'CIFAR-10 as JPEG copies, epsilon 10, 9M network',
      mine,
      {
        'accuracy': table_rows.accuracy,
        'of real images': functools.partial(table_rows.accuracy, source='real'),
        **distances,
      },
      first_secs,
      units={table_rows.DISTANCE: ''},
      aim=f'accuracy {100 * AIM:.0f} %',
      is_missed=any(v is None or v < AIM for v in values),
    ),
    *table_rows.measured(
      f'CIFAR-10 as JPEG copies, {FLOOR}',
      [run for run in found if run['group'] == FLOOR],
      distances,
      units={table_rows.DISTANCE: ''},
    ),
  ]


EXPERIMENT = sweeps.Experiment(
  name='cifar10_jpeg',
  plan=PLAN,
  rows=rows,
  draw=table_rows.draw_samples,
  figure={
    'file': 'samples.png',
    'alt': 'Synthetic images after JPEG copies of CIFAR-10, epsilon 10',
  },
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
