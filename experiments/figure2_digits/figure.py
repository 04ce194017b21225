"""The figure: accuracy against epsilon, a line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import pathlib
import statistics
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib

from dp_diffusion import files

FILE_NAME = 'figure2.png'
ALT = (
  'Accuracy on real digits against epsilon: our synthetic images, those of'
  ' DP-MERF and DP-MEPF, and a classifier trained with DP-SGD directly'
)
METHODS = {
  'dp_merf': 'DP-MERF',
  'dp_mepf': 'DP-MEPF',
  'dp_classifier': 'DP-SGD classifier',
}
_OURS = 'ours'
_TITLES = {_OURS: 'Ours', **METHODS}
# Of Okabe and Ito, told apart by all, and a marker each.
_LOOKS = {
  _OURS: ('#0072B2', 'o'),
  'dp_merf': ('#E69F00', 's'),
  'dp_mepf': ('#009E73', '^'),
  'dp_classifier': ('#CC79A7', 'D'),
}
_PANELS = {'cnn': 'Small CNN', 'svm': 'RBF SVM'}
_INK = '#20242C'

Runs = Sequence[Mapping[str, Any]]


def write(runs: Runs, ours: Runs, path: pathlib.Path) -> None:
  """Draws a panel per classifier.

  Args:
    runs: of the baselines.
    ours: of `digits_epsilon`, with the public and the real images alone.
    path: of the PNG.
  """
  drawing = figure_lib.Figure(figsize=(8.6, 3.9), layout='constrained')
  panels = drawing.subplots(1, len(_PANELS), sharey=True)
  for panel, (key, title) in zip(panels, _PANELS.items()):
    for method in _TITLES:
      _line(panel, points(runs, ours, method, key), method)
    _floor(panel, ours, key)
    panel.set_title(title, loc='left', fontsize=11, color=_INK, weight='bold')
    panel.set_xscale('log')
    panel.set_xticks([1, 2, 5, 10], ['1', '2', '5', '10'])
    panel.set_xticks([], minor=True)
    panel.set_xlabel('epsilon', color=_INK)
    panel.grid(axis='y', color='#E6E8EC', lw=0.8)
    for side in ('top', 'right'):
      panel.spines[side].set_visible(False)
  panels[0].set_ylabel('accuracy on held-out real images, %', color=_INK)
  panels[0].legend(frameon=False, fontsize=8.5, loc='lower right')
  buffer = io.BytesIO()
  drawing.savefig(buffer, dpi=160, format='png')
  files.write_bytes(path, buffer.getvalue())


def points(
  runs: Runs, ours: Runs, method: str, key: str
) -> dict[float, list[float]]:
  """Accuracies in percent by finite epsilon, one for each seed."""
  chosen = (
    ours
    if method == _OURS
    else [run for run in runs if run['method'] == method]
  )
  source = 'direct' if method == 'dp_classifier' else 'synthetic'
  found: dict[float, list[float]] = {}
  for run in chosen:
    value = run['accuracy'].get(source, {}).get(key)
    if value is not None and run['epsilon'] is not None:
      found.setdefault(run['epsilon'], []).append(100 * value)
  return dict(sorted(found.items()))


def _line(
  panel: axes_lib.Axes, values: Mapping[float, list[float]], method: str
) -> None:
  if not values:
    return
  color, marker = _LOOKS[method]
  means = [statistics.mean(v) for v in values.values()]
  panel.plot(
    list(values), means, marker, ls='-', color=color, label=_TITLES[method]
  )
  for epsilon, several in values.items():
    panel.vlines(epsilon, min(several), max(several), color=color, lw=1.2)


def _floor(panel: axes_lib.Axes, ours: Runs, key: str) -> None:
  by_seed = {r['seed']: 100 * r['accuracy']['public'][key] for r in ours}
  panel.axhline(
    statistics.mean(by_seed.values()),
    color='#8A909A',
    lw=1,
    ls=(0, (4, 2)),
    label='public images alone',
  )
