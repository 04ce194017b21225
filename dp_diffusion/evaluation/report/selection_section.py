"""The section of the report on choosing settings on synthetic images."""

from __future__ import annotations

from dp_diffusion.evaluation.classifiers import model_selection
from dp_diffusion.evaluation.report import charts
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

_DEFINITIONS = (
  '- **Rank correlation**: 1 if both scores order the settings alike, 0 if'
  ' they have nothing to do with one another. p: two-sided, of no'
  ' correlation.\n'
  '- **Lost by choosing**: real accuracy of the best setting less that of the'
  ' setting which is best on synthetic images (top-1 regret), in percentage'
  ' points; blindly: of all settings on average.'
)


def section(
  found: model_selection.SelectionResult,
  num_seeds: int,
  num_held_out: int,
  majority_share: float,
) -> page.Section:
  """Returns the section: rank correlations, regret and a scatter figure.

  Args:
    found: the comparison of the two rankings.
    num_seeds: number of classifiers per setting; scores are means over them.
    num_held_out: number of real images in the test.
    majority_share: share of the commonest class among these images.
  """
  chosen, best = found.points[found.chosen], found.points[found.best]
  rows = [
    ('Settings', formats.number(len(found.points))),
    (
      'Spearman’s rank correlation',
      _with_p(found.spearman, found.spearman_p_value),
    ),
    ('Kendall’s τ-b', _with_p(found.kendall, found.kendall_p_value)),
    ('Lost by choosing on synthetic images', _points(found.top1_regret)),
    ('Lost by choosing blindly', _points(found.random_regret)),
  ]
  words = (
    f'{len(found.points)} settings of the classifier, trained on synthetic'
    ' images, each scored on the part of the synthetic images that was kept for'
    f' validation, and on {formats.number(num_held_out)} held-out real images'
    f' (means over {num_seeds} seeds). With the release alone one would choose'
    f' **{chosen.label}**, which reaches'
    f' {formats.percent(chosen.real_score)} on real images; the best setting,'
    f' **{best.label}**, reaches {formats.percent(best.real_score)}.'
  )
  if majority_share < 1:
    words += (
      ' Always answering the commonest class is right on'
      f' {formats.percent(majority_share)}.'
    )
  settings = '\n'.join(
    f'- {point.label}: {formats.percent(point.synthetic_score)} synthetic,'
    f' {formats.percent(point.real_score)} real'
    for point in found.points
  )
  return page.Section(
    'Choosing settings on synthetic images',
    (
      page.Text(words),
      page.Table(('', ''), rows),
      page.Figure(
        _scatter(found, majority_share),
        alt='Real accuracy against synthetic accuracy, a dot per setting.',
        caption=(
          'A dot per setting. Filled: the choice on synthetic images. Ring: the'
          ' best on real ones. Dotted: always one class.'
        ),
      ),
      page.Details('What these numbers are', page.Text(_DEFINITIONS)),
      page.Details('Every setting', page.Text(settings)),
    ),
    {'model_selection': found.to_dict() | {'num_seeds': num_seeds}},
  )


def _with_p(value: float | None, p_value: float | None) -> str:
  if value is None or p_value is None:
    return formats.NOTHING
  return f'{formats.signed(value, 2)} (p = {formats.p_value(p_value)})'


def _points(value: float) -> str:
  return f'{100 * value:.1f} points'


def _scatter(
  found: model_selection.SelectionResult, majority_share: float
) -> bytes:
  synthetic = [100 * point.synthetic_score for point in found.points]
  real = [100 * point.real_score for point in found.points]
  with charts.canvas() as (drawn, buffer):
    axes = drawn.subplots()
    axes.scatter(synthetic, real, color=charts.PUBLIC, s=36)
    axes.scatter(
      synthetic[found.chosen], real[found.chosen], color=charts.SYNTHETIC, s=64
    )
    axes.scatter(
      synthetic[found.best],
      real[found.best],
      facecolors='none',
      edgecolors=charts.REAL,
      linewidths=2,
      s=170,
    )
    if majority_share < 1:
      axes.axhline(
        100 * majority_share, color=charts.GUESSING, linestyle='dotted'
      )
    axes.set(
      xlabel='accuracy on synthetic validation images, %',
      ylabel='accuracy on real images, %',
    )
    axes.margins(0.08)
  return buffer.getvalue()
