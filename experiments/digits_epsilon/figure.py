"""Draws accuracy against epsilon, with the floor and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import pathlib
import statistics
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import patheffects

from dp_diffusion import files

FILE_NAME = 'accuracy.png'
ALT = (
  'Accuracy on real digits against epsilon, of an RBF SVM and a small CNN that'
  ' were trained on synthetic images, between that of public images alone and'
  ' that of real ones'
)
# Key of the report to title.
CLASSIFIERS = {'svm': 'RBF SVM', 'cnn': 'Small CNN'}
# Colours of Okabe and Ito, which colour-blind readers can distinguish; grey is
# for the floor and the ceiling.
_SYNTHETIC, _BAND, _INK = '#0072B2', '#B8BEC6', '#20242C'
_BREAK = 2.6  # Infinity is drawn at the largest epsilon times this factor.

Runs = Sequence[Mapping[str, Any]]


def write(runs: Runs, path: pathlib.Path) -> None:
  """Draws a panel per classifier.

  Args:
    runs: entries of `results.json`, at least one.
    path: path of the PNG.
  """
  figure = figure_lib.Figure(figsize=(8.4, 3.7), layout='constrained')
  panels = figure.subplots(1, len(CLASSIFIERS), sharey=True)
  for panel, (key, title) in zip(panels, CLASSIFIERS.items()):
    _draw(panel, runs, key)
    panel.set_title(title, loc='left', fontsize=11, color=_INK, weight='bold')
  panels[0].set_ylabel('accuracy on held-out real images, %', color=_INK)
  buffer = io.BytesIO()
  figure.savefig(buffer, dpi=200, format='png', metadata={'Software': None})
  files.write_bytes(path, buffer.getvalue())


def place(epsilon: float | None, largest: float) -> float:
  """Position of an epsilon on the axis; None is infinity."""
  return largest * _BREAK if epsilon is None else epsilon


def _draw(panel: axes_lib.Axes, runs: Runs, key: str) -> None:
  epsilons = sorted(
    {run['epsilon'] for run in runs},
    key=lambda e: (e is None, e or 0.0),
  )
  finite = [e for e in epsilons if e is not None]
  largest = max(finite, default=1.0)
  groups = [
    (
      place(epsilon, largest),
      [
        100 * run['accuracy']['synthetic'][key]
        for run in runs
        if run['epsilon'] == epsilon
      ],
    )
    for epsilon in epsilons
  ]
  _draw_band(panel, runs, 'real', key, 'real images: the ceiling', 'bottom')
  _draw_band(
    panel, runs, 'public', key, 'public images alone: the floor', 'top'
  )
  means = [(x, statistics.mean(values)) for x, values in groups]
  for x, values in groups:
    panel.vlines(x, min(values), max(values), color=_SYNTHETIC, lw=1.4)
    panel.plot(
      [x] * len(values), values, 'o', ms=3.4, color=_SYNTHETIC, alpha=0.55
    )
  panel.plot(*zip(*means[: len(finite)]), color=_SYNTHETIC, lw=2)
  if len(finite) < len(means):  # Dotted, because infinity is not to scale.
    panel.plot(*zip(*means[-2:]), color=_SYNTHETIC, lw=1.6, ls=(0, (1, 1.6)))
  for index, (x, mean) in enumerate(means):
    panel.plot(x, mean, 'o', ms=6.5, color=_SYNTHETIC, mec='white', zorder=3)
    name = '\nsynthetic\nimages' if index == len(means) - 1 else ''
    text = panel.annotate(
      f'{mean:.1f}{name}',
      (x, min(groups[index][1])),
      (0, -5),
      textcoords='offset points',
      ha='center',
      va='top',
      fontsize=8.5,
      color=_SYNTHETIC,
    )
    text.set_path_effects([patheffects.withStroke(linewidth=3, foreground='w')])
  _set_axes(panel, epsilons, largest)


def _draw_band(
  panel: axes_lib.Axes, runs: Runs, source: str, key: str, text: str, side: str
) -> None:
  values = [100 * run['accuracy'][source][key] for run in runs]
  mean = statistics.mean(values)
  made = [100 * run['accuracy']['synthetic'][key] for run in runs]
  # The text is below the numbers of synthetic images if they reach the band.
  below = min(*values, min(made) - 3.5)
  panel.axhspan(min(values), max(values), color=_BAND, alpha=0.5, lw=0)
  panel.axhline(mean, color=_INK, lw=0.9, ls=(0, (4, 2)))
  panel.annotate(
    f'{text}, {mean:.1f}',
    (0.985, max(values) if side == 'bottom' else below),
    (0, 3 if side == 'bottom' else -3),
    xycoords=('axes fraction', 'data'),
    textcoords='offset points',
    ha='right',
    va=side,
    fontsize=8.5,
    color=_INK,
  )


def _set_axes(
  panel: axes_lib.Axes, epsilons: Sequence[float | None], largest: float
) -> None:
  places = [place(e, largest) for e in epsilons]
  panel.set_xscale('log')
  panel.set_xticks(
    places, ['∞' if e is None else f'{e:g}' for e in epsilons], minor=False
  )
  panel.set_xticks([], minor=True)
  panel.set_xlim(min(places) / 1.35, max(places) * 1.35)
  low, high = panel.get_ylim()
  panel.set_ylim(max(0, low - 5), min(104, max(high, 100) + 4))
  panel.set_yticks([t for t in range(0, 101, 10) if t >= max(0, low - 5)])
  panel.set_xlabel('epsilon', color=_INK)
  panel.grid(axis='y', color='#E6E8EC', lw=0.8)
  panel.set_axisbelow(True)
  panel.tick_params(colors=_INK, labelsize=9, length=3)
  for side in ('top', 'right'):
    panel.spines[side].set_visible(False)
  for side in ('left', 'bottom'):
    panel.spines[side].set_color('#8A909A')
