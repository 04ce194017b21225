"""Draws curves and histograms of the report as SVG, those of trainings as PNG.

Equal numbers give equal bytes. Charts have few words in large letters, so that
they can be read on the narrow screen of a telephone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import io
from typing import Any

import matplotlib
from matplotlib import figure
import numpy as np

SYNTHETIC, PUBLIC, REAL = '#0b7285', '#8a94a3', '#343b4a'
GUESSING = '#b3403a'
_STYLE: dict[Any, Any] = {
  'font.size': 10.5,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.edgecolor': '#8a94a3',
  'axes.labelcolor': '#1c2130',
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#e6e9ee',
  'legend.frameon': False,
  'svg.fonttype': 'path',  # Letters are paths, so no font is needed.
  'svg.hashsalt': 'dp_diffusion',
}
_SIZE = (5.2, 3.4)  # Inches.
_NUM_BINS = 30
_PANEL_SIZE = (7.0, 2.2)  # Inches.
_DOTS_PER_INCH = 110
_MEAN_OF = 20  # Curves are smoothed over one part of so many.


@contextlib.contextmanager
def canvas(
  size: tuple[float, float] = _SIZE, kind: str = 'svg'
) -> Iterator[tuple[figure.Figure, io.BytesIO]]:
  """Makes a figure in the style of the report, to be drawn on in a block.

  Args:
    size: (width, height) in inches.
    kind: 'svg' or 'png'.

  Yields:
    (figure, buffer); after the block the buffer holds the file.
  """
  buffer = io.BytesIO()
  unnamed = ('Date', 'Creator') if kind == 'svg' else ('Software',)
  with matplotlib.rc_context(_STYLE):
    drawn = figure.Figure(figsize=size, layout='constrained')
    yield drawn, buffer
    drawn.savefig(
      buffer,
      format=kind,
      dpi=_DOTS_PER_INCH,
      metadata=dict.fromkeys(unnamed),
    )


def short_number(value: int) -> str:
  """Formats a number for an axis.

  >>> short_number(500), short_number(5000), short_number(1_000_000)
  ('500', '5k', '1M')
  """
  for unit, letter in ((1_000_000, 'M'), (1000, 'k')):
    if value >= unit:
      return f'{value / unit:.3g}{letter}'
  return str(value)


def histograms(
  values: Mapping[str, np.ndarray], colors: Sequence[str], x_title: str
) -> bytes:
  """Draws the outlines of several histograms on one axis, each of area 1.

  Args:
    values: name of a histogram -> float64[n].
    colors: one colour per histogram.
    x_title: title of the x axis, with its unit.

  Returns:
    An SVG file.
  """
  everything = np.concatenate(list(values.values()))
  low, high = np.quantile(everything, [0.0, 0.995])
  bins = np.linspace(low, max(high, low + 1e-9), _NUM_BINS + 1).tolist()
  with canvas() as (drawn, buffer):
    axes = drawn.subplots()
    styles = ('solid', 'dashed', 'dotted')
    for i, (name, points) in enumerate(values.items()):
      axes.hist(
        np.clip(points, bins[0], bins[-1]),
        bins,
        density=True,
        histtype='step',
        linewidth=2,
        color=colors[i],
        linestyle=styles[i % len(styles)],
        label=name,
      )
    axes.set(xlabel=x_title, yticks=[])
    axes.grid(visible=False)
    drawn.legend(loc='outside upper left')
  return buffer.getvalue()


def training_curves(
  rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], title: str
) -> bytes:
  """Draws numbers of the steps of a training, one panel for each.

  Each step is a dot; the line is the mean over a twentieth of the steps. What
  is not finite is left out.

  Args:
    rows: 'step' and numbers by name; one that is not finite may be text.
    titles: name of a number -> title of its y axis. Names that no row has are
      left out.
    title: title of the whole.

  Returns:
    A PNG file.
  """
  found = [name for name in titles if any(name in row for row in rows)]
  width, height = _PANEL_SIZE
  size = (width, height * max(1, len(found)) + 0.4)
  with canvas(size, 'png') as (drawn, buffer):
    drawn.suptitle(title, fontsize=10.5)
    panels = drawn.subplots(max(1, len(found)), sharex=True, squeeze=False)
    for axes, name in zip(panels[:, 0], found, strict=False):
      points = [(row['step'], float(row[name])) for row in rows if name in row]
      steps, values = np.array(points).T
      steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
      axes.plot(steps, values, '.', markersize=3, color=PUBLIC, alpha=0.6)
      window = max(1, len(values) // _MEAN_OF)
      if len(values) >= 2 * window:
        weights = np.full(window, 1 / window)
        mean = np.convolve(values, weights, 'valid')
        middle = np.convolve(steps, weights, 'valid')
        axes.plot(middle, mean, color=SYNTHETIC, linewidth=2)
      axes.set(ylabel=titles[name])
    panels[-1, 0].set(xlabel='steps')
  return buffer.getvalue()
