"""Runs MNIST at 14x14 on two CPU cores, pre-trained on letters or from scratch.

python -m experiments.mnist_cpu.run [--jobs=N] [--out=FOLDER]
python -m experiments.mnist_cpu.run --print   # for a scheduler
python -m experiments.mnist_cpu.run --smoke   # tiny runs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import pathlib
import sys
from typing import Any

from experiments import common
from experiments import sweeps
from experiments import table_rows

AIM = 0.92  # Goal of the CNN's accuracy at epsilon 10.
GROUPS = {  # Group of the plan -> its name in the README.
  'epsilon 10': 'epsilon 10, pre-trained on letters',
  'epsilon 1': 'epsilon 1, pre-trained on letters',
  'from scratch': 'epsilon 10, from scratch',
}
NETWORKS = {'cnn': 'Small CNN', 'wrn_16_1': 'WRN-16-1'}
PLAN = sweeps.grid(
  'configs/mnist.py:cpu',
  {
    'epsilon 10': {'privacy.epsilon': 10},
    'epsilon 1': {'privacy.epsilon': 1},
    'from scratch': {
      'privacy.epsilon': 10,
      'pretrain.init_from': '',
      'pretrain.num_steps': 0,
    },
  },
  seeds=(1,),
  is_divided=False,
)


def rows(found: sweeps.Found, first_secs: float) -> list[dict[str, Any]]:
  """Returns a line per setting, then the ceiling, then the audits."""
  lines = []
  for group, title in GROUPS.items():
    mine = [run for run in found if run['group'] == group]
    values = [table_rows.accuracy(run) for run in mine]
    is_aimed = group == 'epsilon 10'
    lines += table_rows.measured(
      f'MNIST 14x14, {title}',
      mine,
      {
        **_accuracies('synthetic', mine),
        # As many images as are held out, so that `real` can be compared.
        **table_rows.distances('synthetic_at_equal_number'),
        'nearest image is of training': table_rows.nearest_of_training,
        'and by chance': functools.partial(
          table_rows.nearest_of_training, name='expected'
        ),
      },
      0.0 if group == 'from scratch' else first_secs,
      units={table_rows.DISTANCE: ''},
      aim=f'Small CNN {100 * AIM:.0f} %' if is_aimed else '',
      is_missed=is_aimed and any(v is None or v < AIM for v in values),
    )
  more = table_rows.measured(
    'MNIST 14x14, real images, no privacy',
    found[:1],
    {
      **_accuracies('real', found[:1]),
      **table_rows.distances('real'),
    },
    units={table_rows.DISTANCE: ''},
  )
  more += _audit_rows([run['audit'] for run in found if 'audit' in run])
  # The time of these is in the lines before, or was not measured.
  return lines + [line | {'seconds': None} for line in more]


def _audit_rows(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The largest bound for each claim, audits of earlier versions apart.

  Those had guesses from the whole run alone, and not the trade-off curve of the
  mechanism.
  """
  lines = []
  for title, is_whole in (
    ('MNIST 14x14, audits', True),
    ('MNIST 14x14, audits of an earlier version, by guesses alone', False),
  ):
    bounds: dict[str, list[float]] = {}
    for audit in audits:
      if ('steps' in audit.get('tests', ())) == is_whole:
        what = f'a step that claims epsilon {audit["claim"]["epsilon"]:g}'
        what += f', at {audit["confidence"]:.0%} confidence, at least'
        bounds.setdefault(what, []).append(audit['epsilon_lower_bound'])
    if bounds:
      measures = {what: [max(values)] for what, values in bounds.items()}
      lines.append(common.row(title, measures, unit=''))
  return lines


def draw(found: sweeps.Found, path: pathlib.Path) -> None:
  """Writes the grid of samples at epsilon 10, and the one from scratch."""
  table_rows.draw_samples(found, path)
  for run in found:
    if run['group'] == 'from scratch':
      table_rows.draw_samples([run], path.with_name('from_scratch.png'))


def _accuracies(
  source: str, runs: sweeps.Found
) -> dict[str, Callable[..., float | None]]:
  """Accuracies of one network trained on a source, and of ensembles."""
  sizes = {
    run['ensembles']['num_members'] for run in runs if 'ensembles' in run
  }
  together = f'{"/".join(map(str, sorted(sizes)))} together'
  measures: dict[str, Callable[..., float | None]] = {}
  for name, title in NETWORKS.items():
    measures[title] = functools.partial(
      table_rows.accuracy, source=source, name=name
    )
    measures[f'{title}, {together}'] = functools.partial(
      table_rows.ensemble, source=source, name=name
    )
  return measures


EXPERIMENT = sweeps.Experiment(
  name='mnist_cpu',
  plan=PLAN,
  rows=rows,
  draw=draw,
  figure={
    'file': 'samples.png',
    'alt': 'Synthetic MNIST digits at 14x14, epsilon 10, a row per class',
  },
)


if __name__ == '__main__':
  sys.exit(sweeps.main(EXPERIMENT, __doc__))
