"""Writes the section of the report on the accuracies of classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

SOURCES = ('synthetic', 'public', 'real')
MANY_CLASSES = 12  # With more than twice this number, the worst are shown.
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

SPREAD_WORDS = (
  '±: standard deviation over three seeds or more. Of two seeds, whose standard'
  ' deviation says nothing, both values stand in brackets.'
)

SOFT_LABELS = (
  ' Networks that are trained on synthetic images learn the class probabilities'
  ' in the dataset (soft labels), and are validated by the labels.'
)

_MARKS = {  # What is drawn on the scale of a class.
  'synthetic': 'Filled dot with 95 % interval: synthetic.',
  'public': 'Hollow dot: public.',
  'real': 'Upright bar: real.',
}

Scores = Mapping[str, Mapping[str, scoring.Score]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracies:
  """Scores of classifiers on the held-out real images.

  Attributes:
    scores: source of the training images -> classifier -> score. Sources and
      classifiers may be missing.
    class_names: one per label; empty for an unlabelled dataset.
    num_train_images: source -> number of images its classifiers trained on.
    classifier_names: key of `scores` -> `ClassifierConfig.name`, for keys that
      are not the name of a network.
    num_held_out_equal_training: number of held-out images that equal a training
      image.
    has_soft_labels: whether networks trained on synthetic images learned the
      class head's probabilities of the classes instead of labels.
  """

  scores: Scores
  class_names: Sequence[str]
  num_train_images: Mapping[str, int]
  classifier_names: Mapping[str, str]
  num_held_out_equal_training: int = 0
  has_soft_labels: bool = False


def tiles(found: Accuracies) -> list[page.Tile]:
  """Returns a tile with the main classifier's accuracy for each source."""
  name = main_classifier(found.scores)
  made = [
    page.Tile(
      formats.percent(found.scores[source][name].accuracy.value),
      _SOURCE_TITLES[source],
      _SOURCE_NOTES[source],
      is_main=source == 'synthetic',
    )
    for source in SOURCES
    if name in found.scores.get(source, {})
  ]
  score = _any_score(found.scores)
  if made and score and score.num_classes_present > 1:
    share = formats.percent(score.majority_share)
    made.append(
      page.Tile(share, 'One answer for all', 'always the commonest class')
    )
  return made


def main_classifier(scores: Scores) -> str:
  """Returns the classifier of the headline: ours, else the SVM, else ''."""
  return next(iter(_classifiers(scores)), '')


def _classifiers(scores: Scores) -> list[str]:
  """Returns the classifiers, each once, with the SVM last."""
  names = dict.fromkeys(name for row in scores.values() for name in row)
  return sorted(names, key=lambda name: name == 'svm')


def num_held_out(scores: Scores) -> int | None:
  """Returns the number of held-out images; None without scores."""
  score = _any_score(scores)
  return score.accuracy.num_examples if score else None


def num_persons(scores: Scores) -> int | None:
  """Returns the number of persons on the held-out images; None if unknown."""
  score = _any_score(scores)
  return (score.accuracy.num_persons or None) if score else None


def majority_share(scores: Scores) -> float | None:
  """Returns the share of the commonest class among the held-out images."""
  score = _any_score(scores)
  return score.majority_share if score else None


def _any_score(scores: Scores) -> scoring.Score | None:
  """Returns one of the scores; all are of the same test images."""
  return next((s for row in scores.values() for s in row.values()), None)


def lead(found: Accuracies) -> str:
  """Returns the main finding as a paragraph of markdown."""
  scores, name = found.scores, main_classifier(found.scores)
  if name not in scores.get('synthetic', {}):
    return 'No classifier was trained on the synthetic images.'
  accuracy = scores['synthetic'][name].accuracy
  title = classifier_title(found, name)
  words = [
    f'A classifier ({title}) that has seen **only synthetic images** is right'
    f' on **{formats.percent(accuracy.value)}** of'
    f' {formats.number(accuracy.num_examples)} real images that no training has'
    ' seen.',
    *_against_guessing(scores['synthetic'][name]),
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
  """Says how far synthetic images close the gap from public to real images."""
  if any(name not in scores.get(source, {}) for source in SOURCES):
    return []
  synthetic, public, real = (
    scores[source][name].accuracy.value for source in SOURCES
  )
  if not public < synthetic < real or scores['synthetic'][name].is_guessing:
    return []
  share = (synthetic - public) / (real - public)
  closed = formats.percent(share, 0)
  return [f'The synthetic images close {closed} of that gap.']


def _against_guessing(score: scoring.Score) -> list[str]:
  """Compares a score with always answering the commonest class."""
  if score.num_classes_present < 2:
    return []
  share = formats.percent(score.majority_share)
  return [
    f'That is **no better than guessing**: always answering the commonest'
    f' class is right on {share}.'
    if score.is_guessing
    else f'Always answering the commonest class would be right on {share}.'
  ]


def section(found: Accuracies) -> page.Section:
  """Returns the section with every classifier from every source."""
  scores = found.scores
  names = _classifiers(scores)
  first = _any_score(scores)
  if first is None:
    return page.Section('Accuracy', ())
  has_auroc = any(
    formats.is_finite(score.auroc)
    for row in scores.values()
    for score in row.values()
  )
  header = (
    'Trained on',
    page.SCALE,
    'Accuracy',
    '95 % interval',
    'One answer',
    'Balanced',
    *(('AUROC',) if has_auroc else ()),
    'Seeds',
    'Training images',
  )
  tables = [
    page.Table(
      header,
      [
        _row(found, source, name, has_auroc)
        for source in SOURCES
        if name in scores.get(source, {})
      ],
      _caption(found, name),
    )
    for name in names
  ]
  is_repeated = any(
    score.num_seeds > 1 for row in scores.values() for score in row.values()
  )
  words = _words(first, has_auroc, is_repeated)
  if found.has_soft_labels:
    words += SOFT_LABELS
  blocks: list[page.Block] = [page.Text(words), *tables]
  if notes := _notes(found):
    blocks.append(page.Text('\n'.join(f'- {note}' for note in notes)))
  return page.Section('Accuracy', tuple(blocks))


def _words(score: scoring.Score, has_auroc: bool, is_repeated: bool) -> str:
  """Explains the columns of the tables."""
  number = score.accuracy.num_examples
  persons = score.accuracy.num_persons
  interval_words = (
    'The interval is Wilson’s for that number of images, each taken as'
    ' independent of the others, as no persons are known'
  )
  if persons:
    interval_words = (
      f'The images are of {formats.number(persons)} persons, and those of one'
      ' person are not independent: the interval is from drawing whole persons'
      ' anew (cluster bootstrap), and at least Wilson’s'
    )
  spread = f' {SPREAD_WORDS}' if is_repeated else ''
  auroc = (
    ' AUROC: area under the ROC curve, 0.5 by guessing; the SVM has none, as it'
    ' gives no probabilities.'
    if has_auroc
    else ''
  )
  return (
    f'Share of {formats.number(number)} held-out real images that'
    ' are classified correctly, by classifiers that were trained on one source'
    ' of images each. An evaluation reads the held-out images once, when every'
    f' choice has been made. {interval_words}.{spread}'
    ' One answer (the dashed line): the accuracy of always answering the'
    ' commonest class. Balanced: the mean over the classes, whatever their'
    f' size; {formats.percent(1 / max(1, score.num_classes_present))} by'
    f' guessing.{auroc}'
  )


def _notes(found: Accuracies) -> list[str]:
  """Returns notes on scores no better than guessing, and on missed classes."""
  notes = []
  for name in _classifiers(found.scores):
    for source in SOURCES:
      score = found.scores.get(source, {}).get(name)
      if score is None:
        continue
      who = f'{_SOURCE_TITLES[source]}, {classifier_title(found, name)}'
      share = formats.percent(score.majority_share)
      if score.is_guessing:
        notes.append(
          f'{who}: **no better than guessing**. The interval reaches down to'
          f' {formats.percent(score.accuracy.low)}; always answering the'
          f' commonest class is right on {share}.'
        )
      if score.missed_classes and len(score.per_class) > 1:
        missed = [_of_class(found, score, i) for i in score.missed_classes]
        more = f' and {len(missed) - 8} more' if len(missed) > 8 else ''
        notes.append(
          f'{who}: no image recognised of {", ".join(missed[:8])}{more}.'
        )
  return [*notes, *_without_duplicates(found)]


def _of_class(found: Accuracies, score: scoring.Score, label: int) -> str:
  return f'{_class_name(found, label)} ({score.per_class[label].num_examples})'


def _class_name(found: Accuracies, label: int) -> str:
  names = found.class_names
  return (names[label] if label < len(names) else '') or f'class {label}'


def _without_duplicates(found: Accuracies) -> list[str]:
  """Returns accuracies without held-out images that equal a training image."""
  number = found.num_held_out_equal_training
  if not number:
    return []
  notes = [
    f'**{formats.number(number)} of the held-out images equal a training image'
    ' to the bit**, so the accuracy on them shows memory only. The tables'
    ' include them. Without them the accuracies are:'
  ]
  for name in _classifiers(found.scores):
    for source in SOURCES:
      score = found.scores.get(source, {}).get(name)
      if score is None:
        continue
      rest = score.without_duplicates
      value = (
        f'{formats.percent(rest.value)} ({interval(rest)})'
        if rest
        else 'nothing is left'
      )
      notes.append(
        f'{_SOURCE_TITLES[source]}, {classifier_title(found, name)}: {value}'
      )
  return notes


def confusion_section(found: Accuracies) -> page.Section:
  """Returns the confusion matrix of the main classifier.

  The section is empty if there is only one class.
  """
  name = main_classifier(found.scores)
  score = found.scores.get('synthetic', {}).get(name)
  if score is None or len(score.per_class) < 2:
    return page.Section('Confusions', ())
  names = [_class_name(found, i) for i in range(len(score.per_class))]
  title = f'{classifier_title(found, name)}, trained on synthetic images'
  mean = ' Mean over seeds.' if score.num_seeds > 1 else ''
  if len(names) <= MANY_CLASSES:
    return page.Section(
      'Confusions',
      (
        page.Matrix(
          names,
          score.confusion_matrix,
          'true ↓ taken for →',
          f'**{title}**: held-out images of each class (row) by the class that'
          f' they were taken for (column); outlined: right.{mean}',
        ),
      ),
    )
  return page.Section(
    'Confusions',
    (
      page.Table(
        ('True class', 'Taken for', 'Images', 'Of the class'),
        _worst_confusions(score, names),
        f'**{title}**: the commonest confusions among {len(names)} classes.'
        f'{mean} The whole matrix is in `report.json`.',
      ),
    ),
  )


def _worst_confusions(
  score: scoring.Score, names: Sequence[str]
) -> list[tuple[str, str, str, str]]:
  wrong = score.confusion_matrix.copy()
  totals = wrong.sum(axis=1)
  np.fill_diagonal(wrong, 0)
  worst = np.argsort(-wrong, axis=None, kind='stable')[:MANY_CLASSES]
  rows = []
  for i, j in zip(*np.unravel_index(worst, wrong.shape)):
    if wrong[i, j]:
      share = formats.percent(wrong[i, j] / totals[i])
      rows.append((names[i], names[j], formats.count(wrong[i, j]), share))
  return rows


def _caption(found: Accuracies, name: str) -> str:
  note = _CLASSIFIER_NOTES.get(name, '')
  return f'**{classifier_title(found, name)}**{note}'


def _row(
  found: Accuracies, source: str, name: str, has_auroc: bool
) -> tuple[Any, ...]:
  score = found.scores[source][name]
  accuracy = score.accuracy
  guessing = score.majority_share if score.num_classes_present > 1 else math.nan
  return (
    _SOURCE_TITLES[source],
    page.Track((_mark(accuracy, source),), guessing),
    with_spread(score),
    interval(accuracy),
    formats.percent(guessing),
    formats.percent(score.balanced_accuracy),
    *((formats.signed(score.auroc, 3),) if has_auroc else ()),
    score.num_seeds,
    formats.number(found.num_train_images.get(source)),
  )


def _mark(accuracy: scoring.Accuracy, source: str) -> page.Mark:
  return page.Mark(accuracy.value, accuracy.low, accuracy.high, source)


def per_class_section(found: Accuracies) -> page.Section:
  """Returns the main classifier's accuracy on each class.

  The section is empty if there is only one class.
  """
  name = main_classifier(found.scores)
  rows = {s: found.scores.get(s, {}).get(name) for s in SOURCES}
  scores = {source: score for source, score in rows.items() if score}
  if 'synthetic' not in scores or len(found.class_names) < 2:
    return page.Section('Per class', ())
  classes = _shown_classes(scores['synthetic'])
  marks = ' '.join(_MARKS[source] for source in SOURCES if source in scores)
  table = page.Table(
    (
      'Class',
      page.SCALE,
      *(_SOURCE_TITLES[source].removesuffix(' images') for source in scores),
      'Test images',
    ),
    [
      (
        _class_name(found, label),
        page.Track(
          tuple(
            _mark(scores[source].per_class[label], source)
            for source in ('public', 'real', 'synthetic')
            if source in scores
          ),
          1 / max(1, scores['synthetic'].num_classes_present),
        ),
        *(formats.percent(s.per_class[label].value) for s in scores.values()),
        scores['synthetic'].per_class[label].num_examples,
      )
      for label in classes
    ],
    f'{classifier_title(found, name)}, accuracy among the held-out images'
    f' of each class. {marks} Dashed line: answering at random.',
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
  """Returns all classes in order, or the worst ones if there are many."""
  labels = list(range(len(score.per_class)))
  if len(labels) <= 2 * MANY_CLASSES:
    return labels
  values = [2.0 if math.isnan(a.value) else a.value for a in score.per_class]
  return sorted(labels, key=values.__getitem__)[:MANY_CLASSES]


def classifier_title(found: Accuracies, key: str) -> str:
  """Returns the name of a classifier as the report shows it."""
  name = found.classifier_names.get(key, key)
  return CLASSIFIER_TITLES.get(name, name)


def source_title(source: str) -> str:
  """Returns the name of a source of training images as the report shows it."""
  return _SOURCE_TITLES[source]


def interval(accuracy: scoring.Accuracy) -> str:
  """Formats the ends of the interval."""
  return f'{100 * accuracy.low:.1f} – {formats.percent(accuracy.high)}'


def with_spread(score: scoring.Score) -> str:
  """Formats the mean over seeds and their spread, see `SPREAD_WORDS`."""
  value = formats.percent(score.accuracy.value)
  if formats.is_finite(score.std):
    space = '\N{NO-BREAK SPACE}'
    return f'{value}{space}±{space}{100 * score.std:.1f}'
  if score.num_seeds == 1 or not score.accuracy.num_examples:
    return value
  seeds = ' and '.join(f'{100 * of_one:.1f}' for of_one in score.of_seeds)
  return f'{value} ({seeds})'
