"""Own images on two CPU cores: blood cells, ours beside what else there is.

python -m experiments.own_images.run --set=data.path=malaria_cells.zip
python -m experiments.own_images.run --print   # for a scheduler
python -m experiments.own_images.run --smoke   # tiny runs on made-up images
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import pathlib
import sys
from typing import Any

from experiments import common
from experiments import sweeps
from experiments import table_rows

CONFIG = 'configs/own_images.py:cpu'
SEEDS = (1, 2, 3)
DIGITS = 'mnist, epsilon 10'
# For digits, that of `mnist.py:cpu` from scratch.
AIMS = {
  'images, epsilon 10': 0.88,
  'images, epsilon 1': 0.78,
  DIGITS: 0.939,
}
TITLES = {DIGITS: 'MNIST 24x24 as own images, epsilon 10'}
IMAGES = {
  'data.class_names': 'Parasitized,Uninfected',
  'privacy.num_examples': 22_000,
  'privacy.delta': 1e-5,
}
# By person; --set=data.person_csv=malaria_persons.csv says who is on which.
PERSONS = {
  'data.unit': 'person',
  'privacy.num_examples': 160,
  'privacy.delta': 1e-3,
}
# The 70,000 digits as PNG files, a folder per class: --only=mnist
# --set=data.path=mnist.zip --set=data.channels=1.
MNIST = {
  'data.class_names': '0,1,2,3,4,5,6,7,8,9',
  'privacy.num_examples': 56_000,
}
# Private training has a quarter of the steps.
QUARTER = {'privacy.num_steps': 19}
# Groups that the shared pre-training does not fit.
PRETRAINED_ALONE = (
  'tiny_imagenet32',
  'quarter, images of 32x32',
  'quarter, patches of 2x2',
)
ABLATIONS: dict[str, dict[str, object]] = {
  'as it is': {},
  'images of 32x32': {'data.image_size': 32},
  'patches of 2x2': {
    'model.patch_size': 2,
    'model.channels': 32,
    'model.channel_multipliers': '1,1',
    'model.num_blocks': 2,
    'pretrain.num_steps': 1600,
  },
  'scaled class rows': {'finetune.gradient_scales': 'label/classes=50'},
  'batch 512, K 4': {'privacy.expected_batch_size': 512},
  'half the steps, batch 4,096': {
    'privacy.num_steps': 10,
    'privacy.expected_batch_size': 4096,
  },
  'no pre-training': {'pretrain.init_from': ''},
  'EMA 0.8': {'finetune.ema_decay': 0.8},
  'mirrored': {'data.flip': True},
  'draws at all noise alike': {
    'finetune.mixture_boundaries': '()',
    'finetune.mixture_weights': '()',
  },
  'no class head': {
    'finetune.class_head.num_steps': 0,
  },
  'no scattering coefficients': {
    'finetune.class_head.scattering': False,
  },
  'antithetic noise, half the batch': {
    'finetune.antithetic_noise': True,
    'privacy.expected_batch_size': 1024,
    'finetune.augmult': 1,
  },
  'samples with guidance': {'sample.sampler.guidance_weight': 1.0},
}


def plan(out: pathlib.Path, is_smoke: bool) -> sweeps.Plan:
  """Ours at two epsilons and by person, ablations, and the baselines."""
  config = f'{CONFIG},smoke' if is_smoke else CONFIG
  seeds = SEEDS[:1] if is_smoke else SEEDS
  first = sweeps.pretraining(config, out, _images(is_smoke))
  shared = sweeps.from_pretraining(first)
  runs = []
  for group, overrides in _groups(is_smoke).items():
    start = {} if group in PRETRAINED_ALONE else shared
    for seed in seeds:
      name = f'{group}-seed_{seed}'.replace(' ', '_').replace(',', '')
      runs.append(
        common.make_run(
          name,
          config=config,
          out=out,
          overrides={**start, **overrides, **_seeded(seed, is_smoke)},
          facts={'group': group, 'method': 'ours', 'seed': seed},
        )
      )
  runs += sweeps.baselines(
    config,
    out,
    epsilons=(10, 1),
    of_seed={
      seed: {**_images(is_smoke), **_seeded(seed, is_smoke)} for seed in seeds
    },
  )
  return sweeps.Plan(first=(first,), runs=tuple(runs))


def _images(is_smoke: bool) -> dict[str, object]:
  # A smoke run makes its images up, and says itself how many.
  return {} if is_smoke else dict(IMAGES)


def _seeded(seed: int, is_smoke: bool) -> dict[str, object]:
  # Images that are made up are not divided.
  return {'seed': seed} if is_smoke else sweeps.seeded(seed)


def _groups(is_smoke: bool) -> dict[str, dict[str, object]]:
  images = _images(is_smoke)
  groups = {
    f'images, epsilon {e}': {**images, 'privacy.epsilon': e} for e in (10, 1)
  }
  if is_smoke:
    return groups
  for epsilon in (10, 1):
    groups[f'persons, epsilon {epsilon}'] = {
      **images,
      **PERSONS,
      'privacy.epsilon': epsilon,
    }
  groups[DIGITS] = {**images, **MNIST, 'privacy.epsilon': 10}
  groups['tiny_imagenet32'] = {
    **images,
    'pretrain.data.name': 'tfds:tiny_imagenet32',
    'pretrain.data.class_names': ','.join(map(str, range(200))),
  }
  for name, changed in ABLATIONS.items():
    groups[f'quarter, {name}'] = {**images, **QUARTER, **changed}
  return groups


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """A line per setting of ours, one per baseline, one of the ablations."""
  lines = []
  ours = [run for run in found if run['method'] == 'ours']
  for group in dict.fromkeys(run['group'] for run in ours):
    if group.startswith('quarter'):
      continue
    mine = [run for run in ours if run['group'] == group]
    values = [table_rows.accuracy(run) for run in mine]
    aim = AIMS.get(group)
    lines += table_rows.measured(
      TITLES.get(group, f'Blood cells 24x24, {group}'),
      mine,
      {
        'Small CNN': table_rows.accuracy,
        'AUROC': table_rows.auroc,
        'class head': table_rows.class_head,
        'diffusion classifier': table_rows.diffusion_classifier,
        'of real images': functools.partial(table_rows.accuracy, source='real'),
        **table_rows.distances('synthetic'),
      },
      first_secs,
      units={table_rows.DISTANCE: ''},
      aim=f'Small CNN {100 * aim:g} %' if aim else '',
      is_missed=bool(aim) and any(v is None or v < aim for v in values),
    )
  for method, title in table_rows.BASELINES.items():
    lines += table_rows.grouped(
      f'Blood cells 24x24, {title}',
      [run for run in found if run['method'] == method],
      _of_baseline,
    )
  quarter = [run for run in ours if run['group'].startswith('quarter')]
  return lines + table_rows.grouped(
    'Blood cells 24x24, a quarter of the private steps',
    quarter,
    table_rows.accuracy,
  )


def _of_baseline(run: Mapping[str, Any]) -> float | None:
  direct = table_rows.accuracy(run, 'direct')
  return table_rows.accuracy(run) if direct is None else direct


EXPERIMENT = sweeps.Experiment(
  name='own_images',
  plan=plan,
  rows=rows,
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
