"""Draws accuracy and distance against epsilon, with a line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import math
import pathlib
import statistics
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
from matplotlib import ticker

from dp_diffusion import files
from experiments import table_rows

FILE_NAME = 'figure2.png'
ALT = (
  'Accuracy on real digits and Frechet distance against epsilon: our synthetic'
  ' images, those of DP-MERF and DP-MEPF, and a classifier trained with DP-SGD'
  ' directly'
)
_OURS = 'ours'
_TITLES = {_OURS: 'Ours', **table_rows.BASELINES}
# Colours of Okabe and Ito, which colour-blind readers can distinguish; markers.
_LOOKS = {
  _OURS: ('#0072B2', 'o'),
  'dp_merf': ('#E69F00', 's'),
  'dp_mepf': ('#009E73', '^'),
  'private_evolution': ('#D55E00', 'v'),
  'dp_classifier': ('#CC79A7', 'D'),
}
_INFINITY = 26.0  # Position of an infinite epsilon on the axis.
_DISTANCE = 'frechet'
_PANELS = {
  'cnn': 'Small CNN: accuracy, %',
  'svm': 'RBF SVM: accuracy, %',
  _DISTANCE: 'Frechet distance, at equal numbers',
}
_EQUAL_NUMBERS = {'synthetic': 'synthetic_at_equal_number'}
_INK = '#20242C'

Runs = Sequence[Mapping[str, Any]]


def write(runs: Runs, ours: Runs, path: pathlib.Path) -> None:
  """Draws a panel per classifier, and a panel of distances.

  Args:
    runs: entries of the baselines.
    ours: entries of `digits_epsilon`, which include those without a release.
    path: path of the PNG.
  """
  drawing = figure_lib.Figure(figsize=(12.0, 3.9), layout='constrained')
  panels = drawing.subplots(1, len(_PANELS))
  panels[1].sharey(panels[0])
  for panel, (key, title) in zip(panels, _PANELS.items()):
    for method in _TITLES:
      _line(panel, points(runs, ours, method, key), method)
    _reference(panel, ours, key)
    panel.set_title(title, loc='left', fontsize=11, color=_INK, weight='bold')
    _set_axis(panel)
    if key == _DISTANCE:
      panel.set_yscale('log')
      panel.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
      panel.yaxis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
      panel.yaxis.set_minor_formatter(ticker.NullFormatter())
  panels[0].legend(frameon=False, fontsize=8.5, loc='lower right')
  buffer = io.BytesIO()
  drawing.savefig(buffer, dpi=160, format='png')
  files.write_bytes(path, buffer.getvalue())


def points(
  runs: Runs, ours: Runs, method: str, key: str
) -> dict[float, list[float]]:
  """Epsilon -> values of a measure, one per seed; in order, infinity last.

  Args:
    runs: entries of the baselines.
    ours: entries of `digits_epsilon`.
    method: one of `table_rows.BASELINES`, or ours.
    key: a classifier (percent), or 'frechet'.
  """
  chosen = (
    ours
    if method == _OURS
    else [run for run in runs if run['method'] == method]
  )
  source = 'direct' if method == 'dp_classifier' else 'synthetic'
  found: dict[float, list[float]] = {}
  for run in chosen:
    value = _measure(run, source, key)
    if value is not None:
      epsilon = math.inf if run['epsilon'] is None else run['epsilon']
      found.setdefault(epsilon, []).append(value)
  return dict(sorted(found.items()))


def _measure(run: Mapping[str, Any], source: str, key: str) -> float | None:
  if key == _DISTANCE:
    # A distance depends on the number of images, so it is that of the held-out.
    source = _EQUAL_NUMBERS.get(source, source)
    found = run.get('quality', {}).get(source, {}).get(_DISTANCE)
    return found['value'] if found else None
  value = run['accuracy'].get(source, {}).get(key)
  return None if value is None else 100 * value


def _line(
  panel: axes_lib.Axes, values: Mapping[float, list[float]], method: str
) -> None:
  if not values:
    return
  color, marker = _LOOKS[method]
  places = [min(epsilon, _INFINITY) for epsilon in values]
  means = [statistics.mean(v) for v in values.values()]
  num_finite = sum(place < _INFINITY for place in places)
  panel.plot(
    places[:num_finite],
    means[:num_finite],
    ls='-',
    marker=marker,
    color=color,
    label=_TITLES[method],
  )
  if num_finite < len(places):  # Dotted, because infinity is not to scale.
    panel.plot(places[-2:], means[-2:], ls=':', marker=marker, color=color)
  for place, several in zip(places, values.values()):
    panel.vlines(place, min(several), max(several), color=color, lw=1.2)


def _reference(panel: axes_lib.Axes, ours: Runs, key: str) -> None:
  """Draws the level of public images; for distances, that of real images."""
  source = 'real' if key == _DISTANCE else 'public'
  by_seed = {run['seed']: _measure(run, source, key) for run in ours}
  values = [value for value in by_seed.values() if value is not None]
  if not values:
    return
  level = statistics.mean(values)
  is_distance = key == _DISTANCE
  words = 'real images, held out' if is_distance else 'public images alone'
  panel.axhline(level, color='#8A909A', lw=1, ls=(0, (4, 2)), label=words)
  if is_distance:
    panel.annotate(
      words,
      (1, level),
      (0, 3),
      textcoords='offset points',
      fontsize=8.5,
      color=_INK,
    )


def _set_axis(panel: axes_lib.Axes) -> None:
  panel.set_xscale('log')
  panel.set_xticks([1, 2, 5, 10, _INFINITY], ['1', '2', '5', '10', '\u221e'])
  panel.set_xticks([], minor=True)
  panel.set_xlabel('epsilon', color=_INK)
  panel.grid(axis='y', color='#E6E8EC', lw=0.8)
  for side in ('top', 'right'):
    panel.spines[side].set_visible(False)
