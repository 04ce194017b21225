"""The sections on ensembles and on the number of synthetic images.

Both can raise the accuracy without any privacy cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import charts
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """Scores of classifiers trained on a number of synthetic images.

  Attributes:
    num_images: number of training images.
    single: score of one classifier, mean over seeds.
    ensemble: accuracy of an ensemble; None if there is no ensemble.
  """

  num_images: int
  single: scoring.Score
  ensemble: scoring.Accuracy | None

  def to_dict(self) -> dict[str, Any]:
    """Returns all but the values per class, as JSON values."""
    return {
      'num_images': self.num_images,
      'accuracy': self.single.accuracy.to_dict(),
      'std': None if math.isnan(self.single.std) else self.single.std,
      'num_seeds': self.single.num_seeds,
      'ensemble': self.ensemble.to_dict() if self.ensemble else None,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
  """Accuracies of ensembles, and of the main classifier by number of images.

  Attributes:
    ensembles: source -> classifier -> accuracy of its ensemble; may be empty.
    ensemble_size: number of classifiers in each ensemble.
    points: scores of the main classifier by number of images; may be empty.
    found: accuracies of single classifiers, for comparison.
  """

  ensembles: Mapping[str, Mapping[str, scoring.Accuracy]]
  ensemble_size: int
  points: Sequence[Point]
  found: accuracy_section.Accuracies


def sections(curves: Curves) -> list[page.Section]:
  """Returns the sections for which there are results."""
  made = []
  if any(curves.ensembles.values()):
    made.append(_ensembles(curves))
  if curves.points:
    made.append(_by_number(curves))
  return made


def _ensembles(curves: Curves) -> page.Section:
  size, found = curves.ensemble_size, curves.found
  guessing = [
    f'- {accuracy_section.source_title(source)},'
    f' {accuracy_section.classifier_title(found, key)}, ensemble of {size}:'
    ' **no better than guessing**.'
    for source in accuracy_section.SOURCES
    for key, accuracy in curves.ensembles.get(source, {}).items()
    if accuracy.is_guessing(found.scores[source][key].majority_share)
  ]
  rows = [
    (
      f'{accuracy_section.source_title(source)},'
      f' {accuracy_section.classifier_title(found, key)}',
      formats.percent(found.scores[source][key].accuracy.value),
      formats.percent(accuracy.value),
      accuracy_section.interval(accuracy),
      formats.percent(found.scores[source][key].majority_share),
    )
    for source in accuracy_section.SOURCES
    for key, accuracy in curves.ensembles.get(source, {}).items()
  ]
  words = (
    f'{size} classifiers that differ by their seed, their probabilities'
    ' averaged, against one of them (mean over seeds). Training several on the'
    ' same release costs no privacy. The intervals are made as those of single'
    ' classifiers. One answer: always the commonest class.'
  )
  return page.Section(
    'Ensembles',
    (
      page.Text(words),
      page.Table(
        (
          '',
          'One',
          f'Ensemble of {size}',
          'Its 95 % interval',
          'One answer',
        ),
        rows,
      ),
      *([page.Text('\n'.join(guessing))] if guessing else []),
    ),
    {
      'ensembles': {
        'num_members': size,
        'accuracy': {
          source: {key: accuracy.to_dict() for key, accuracy in row.items()}
          for source, row in curves.ensembles.items()
        },
      }
    },
  )


def _by_number(curves: Curves) -> page.Section:
  found, size = curves.found, curves.ensemble_size
  has_ensemble = any(point.ensemble for point in curves.points)
  title = accuracy_section.classifier_title(
    found, accuracy_section.main_classifier(found.scores)
  )
  rows = [
    (
      formats.number(point.num_images),
      accuracy_section.with_spread(point.single),
      accuracy_section.interval(point.single.accuracy),
      *(
        (
          formats.percent(point.ensemble.value),
          accuracy_section.interval(point.ensemble),
        )
        if point.ensemble
        else ()
      ),
      formats.percent(point.single.majority_share),
    )
    for point in curves.points
  ]
  header = ('Synthetic images', 'One', '95 % interval') + (
    (f'Ensemble of {size}', '95 % interval') if has_ensemble else ()
  )
  header += ('One answer',)
  words = (
    f'{title}, tested on the held-out real images. Sampling more images from'
    ' the released model costs no privacy. Every classifier takes the same'
    ' number of steps, whatever the number of images; smaller sets are parts of'
    f' larger ones. {accuracy_section.SPREAD_WORDS} One answer: always the'
    ' commonest class. In the figure: from the'
    ' lowest seed to the highest.'
  )
  return page.Section(
    'Number of synthetic images',
    (
      page.Text(words),
      page.Figure(
        _chart(curves),
        alt='Accuracy against the number of synthetic images; see the table.',
      ),
      page.Table(header, rows),
    ),
    {'accuracy_by_number': [point.to_dict() for point in curves.points]},
  )


def _chart(curves: Curves) -> bytes:
  points, scores = curves.points, curves.found.scores
  numbers = [point.num_images for point in points]
  singles = [100 * point.single.accuracy.value for point in points]
  spreads = [
    [mean - 100 * min(p.single.of_seeds) for mean, p in zip(singles, points)],
    [100 * max(p.single.of_seeds) - mean for mean, p in zip(singles, points)],
  ]
  main = accuracy_section.main_classifier(scores)
  with charts.canvas() as (drawn, buffer):
    axes = drawn.subplots()
    for source, color in (
      ('real', charts.REAL),
      ('public', charts.PUBLIC),
    ):
      if main in scores.get(source, {}):
        axes.axhline(
          100 * scores[source][main].accuracy.value,
          color=color,
          linestyle='dashed',
          label=f'{source} images',
        )
    share = accuracy_section.majority_share(scores)
    if share is not None and share < 1:
      axes.axhline(
        100 * share,
        color=charts.GUESSING,
        linestyle='dotted',
        label='always one class',
      )
    axes.errorbar(
      numbers,
      singles,
      spreads,
      color=charts.SYNTHETIC,
      marker='o',
      capsize=3,
      linewidth=2,
      label='synthetic images',
    )
    both = [(p.num_images, p.ensemble) for p in points if p.ensemble]
    if both:
      axes.plot(
        [number for number, _ in both],
        [100 * accuracy.value for _, accuracy in both],
        color=charts.SYNTHETIC,
        marker='s',
        markerfacecolor='white',
        linestyle='dotted',
        linewidth=2,
        label=f'ensemble of {curves.ensemble_size}',
      )
    axes.set_xscale('log')
    axes.set_xticks(numbers, [charts.short_number(n) for n in numbers])
    axes.minorticks_off()
    axes.set(xlabel='synthetic images', ylabel='accuracy, %')
    drawn.legend(loc='outside upper left', ncols=2)
  return buffer.getvalue()
