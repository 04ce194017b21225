"""The accuracies of the report: in words, in numbers and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from dp_diffusion.evaluation import formats
from dp_diffusion.evaluation import page
from dp_diffusion.evaluation import scoring

SOURCES = ('synthetic', 'public', 'real')
MANY_CLASSES = 12  # Of more than twice as many, the worst are shown.
_SOURCE_TITLES = {
  'synthetic': 'Synthetic images',
  'public': 'Public images',
  'real': 'Real images',
}
_SOURCE_NOTES = {
  'synthetic': 'accuracy from the release alone',
  'public': 'the floor: no sensitive image',
  'real': 'the ceiling: no privacy',
}
CLASSIFIER_TITLES = {
  'svm': 'RBF SVM',
  'cnn': 'CNN',
  'small_cnn': 'Small CNN',
  'wrn_16_4': 'WRN-16-4',
  'wrn_16_1': 'WRN-16-1',
  'wrn_40_4': 'WRN-40-4',
  'logistic_regression': 'Logistic regression',
}
_CLASSIFIER_NOTES = {
  'svm': ', scikit-learn’s with C = 10: a fixed reference from outside',
}

Scores = Mapping[str, Mapping[str, scoring.Score]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracies:
  """What classifiers reach on the held-out real images.

  Attributes:
    scores: source of the training images -> classifier -> score. Sources and
      classifiers may be missing.
    class_names: one per label; empty for an unlabelled dataset.
    num_train_images: source -> images that its classifiers saw.
    classifier_names: key of `scores` -> `ClassifierConfig.name`, where the
      key does not say which network it is.
  """

  scores: Scores
  class_names: Sequence[str]
  num_train_images: Mapping[str, int]
  classifier_names: Mapping[str, str]


def tiles(found: Accuracies) -> list[page.Tile]:
  """The accuracy of the main classifier from each source of images."""
  name = main_classifier(found.scores)
  return [
    page.Tile(
      formats.percent(found.scores[source][name].accuracy.value),
      _SOURCE_TITLES[source],
      _SOURCE_NOTES[source],
      is_main=source == 'synthetic',
    )
    for source in SOURCES
    if name in found.scores.get(source, {})
  ]


def main_classifier(scores: Scores) -> str:
  """The classifier of the headline: ours, else the reference, else ''."""
  return next(iter(_classifiers(scores)), '')


def _classifiers(scores: Scores) -> list[str]:
  """Every classifier, once, ours before the reference."""
  names = dict.fromkeys(name for row in scores.values() for name in row)
  return sorted(names, key=lambda name: name == 'svm')


def num_held_out(scores: Scores) -> int | None:
  """How many images all of them were tested on."""
  for row in scores.values():
    for score in row.values():
      return score.accuracy.num_examples
  return None


def lead(found: Accuracies) -> str:
  """The finding in words."""
  scores, name = found.scores, main_classifier(found.scores)
  if name not in scores.get('synthetic', {}):
    return 'No classifier was trained on the synthetic images.'
  accuracy = scores['synthetic'][name].accuracy
  title = classifier_title(found, name)
  words = [
    f'A classifier ({title}) that has seen **only synthetic images** is right'
    f' on **{formats.percent(accuracy.value)}** of'
    f' {formats.number(accuracy.num_examples)} real images that no training has'
    ' seen.'
  ]
  compared = {
    'public': 'Trained on the public images alone, it reaches {}',
    'real': 'on the real training images themselves, {}',
  }
  clauses = [
    words.format(formats.percent(scores[source][name].accuracy.value))
    for source, words in compared.items()
    if name in scores.get(source, {})
  ]
  if clauses:
    sentence = '; '.join(clauses)
    words.append(f'{sentence[0].upper()}{sentence[1:]}.')
  return ' '.join([*words, *_gap_closed(scores, name)])


def _gap_closed(scores: Scores, name: str) -> list[str]:
  """How far from the floor to the ceiling, where there is a gap."""
  if any(name not in scores.get(source, {}) for source in SOURCES):
    return []
  synthetic, public, real = (
    scores[source][name].accuracy.value for source in SOURCES
  )
  if not public < synthetic < real:
    return []
  share = (synthetic - public) / (real - public)
  closed = formats.percent(share, 0)
  return [f'The synthetic images close {closed} of that gap.']


def section(found: Accuracies) -> page.Section:
  """Every classifier from every source; empty where there is none."""
  scores = found.scores
  names = _classifiers(scores)
  if not names:
    return page.Section('Accuracy', ())
  words = page.Text(
    f'Share of {formats.number(num_held_out(scores))} held-out real images that'
    ' are classified correctly, by classifiers that were trained on one source'
    ' of images each. An evaluation reads the held-out images once, when every'
    ' choice has been made. The interval is Wilson’s for that number of images;'
    ' ± is the standard deviation over seeds.'
  )
  tables = [
    page.Table(
      (
        'Trained on',
        page.SCALE,
        'Accuracy',
        '95 % interval',
        'Seeds',
        'Training images',
      ),
      [
        _row(found, source, name)
        for source in SOURCES
        if name in scores.get(source, {})
      ],
      _caption(found, name),
    )
    for name in names
  ]
  return page.Section('Accuracy', (words, *tables))


def _caption(found: Accuracies, name: str) -> str:
  note = _CLASSIFIER_NOTES.get(name, '')
  return f'**{classifier_title(found, name)}**{note}'


def _row(found: Accuracies, source: str, name: str) -> tuple[Any, ...]:
  score = found.scores[source][name]
  accuracy = score.accuracy
  return (
    _SOURCE_TITLES[source],
    page.Track((_mark(accuracy, source),)),
    formats.percent(accuracy.value),
    interval(accuracy),
    f'{score.num_seeds}{_spread(score)}',
    formats.number(found.num_train_images.get(source)),
  )


def _mark(accuracy: scoring.Accuracy, source: str) -> page.Mark:
  return page.Mark(accuracy.value, accuracy.low, accuracy.high, source)


def per_class_section(found: Accuracies) -> page.Section:
  """The main classifier, class by class; empty where there is one class."""
  name = main_classifier(found.scores)
  rows = {s: found.scores.get(s, {}).get(name) for s in SOURCES}
  scores = {source: score for source, score in rows.items() if score}
  if 'synthetic' not in scores or len(found.class_names) < 2:
    return page.Section('Per class', ())
  classes = _shown_classes(scores['synthetic'])
  table = page.Table(
    (
      'Class',
      page.SCALE,
      *(_SOURCE_TITLES[source].removesuffix(' images') for source in scores),
      'Test images',
    ),
    [
      (
        found.class_names[label] or f'class {label}',
        page.Track(
          tuple(
            _mark(scores[source].per_class[label], source)
            for source in ('public', 'real', 'synthetic')
            if source in scores
          )
        ),
        *(formats.percent(s.per_class[label].value) for s in scores.values()),
        scores['synthetic'].per_class[label].num_examples,
      )
      for label in classes
    ],
    f'{classifier_title(found, name)}, accuracy among the held-out images'
    ' of each class. Filled dot with 95 % interval: synthetic. Hollow dot:'
    ' public. Upright bar: real.',
  )
  blocks: list[page.Block] = [table]
  if len(classes) < len(found.class_names):
    blocks.insert(
      0,
      page.Text(
        f'The {len(classes)} of {len(found.class_names)} classes with the'
        ' lowest accuracy; all are in `report.json`.'
      ),
    )
  return page.Section('Per class', tuple(blocks))


def _shown_classes(score: scoring.Score) -> list[int]:
  """All classes in order, or the worst where there are many."""
  labels = list(range(len(score.per_class)))
  if len(labels) <= 2 * MANY_CLASSES:
    return labels
  values = [2.0 if math.isnan(a.value) else a.value for a in score.per_class]
  return sorted(labels, key=values.__getitem__)[:MANY_CLASSES]


def classifier_title(found: Accuracies, key: str) -> str:
  """A classifier's name for people."""
  name = found.classifier_names.get(key, key)
  return CLASSIFIER_TITLES.get(name, name)


def source_title(source: str) -> str:
  """A source of training images for people."""
  return _SOURCE_TITLES[source]


def interval(accuracy: scoring.Accuracy) -> str:
  """The ends of the interval."""
  return f'{100 * accuracy.low:.1f} – {formats.percent(accuracy.high)}'


def with_spread(score: scoring.Score) -> str:
  """The mean over seeds with its standard deviation, in per cent."""
  value = formats.percent(score.accuracy.value)
  return f'{value}{_spread(score)}'


def _spread(score: scoring.Score) -> str:
  if math.isnan(score.std):
    return ''
  space = '\N{NO-BREAK SPACE}'
  return f'{space}±{space}{100 * score.std:.1f}'
