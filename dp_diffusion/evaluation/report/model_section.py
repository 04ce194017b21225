"""The sections of the report on the released model as a classifier."""

from __future__ import annotations

from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

TITLE = 'The model itself as a classifier'
HEAD_TITLE = 'The class head of the model'


def section(score: scoring.Score) -> page.Section:
  """Returns the section on the diffusion classifier.

  Args:
    score: of the model's answers on held-out images.
  """
  words = (
    'Nothing is trained here: noise is added to a held-out image, and the'
    ' released model removes it under each class. The class under which it'
    ' does this best is its answer'
    f' ({diffusion_classifier.NUM_LEVELS} noise levels, one draw each;'
    ' arXiv 2303.16203), with all classes taken as equally frequent. It says'
    ' what the model has learned of the classes; what its samples show of it'
    ' is the accuracy from synthetic images.'
  )
  return _section(
    TITLE, words, 'Diffusion classifier', 'diffusion_classifier', score
  )


def head_section(score: scoring.Score) -> page.Section:
  """Returns the section on the class head.

  Args:
    score: of the head's answers on held-out images.
  """
  words = (
    'The release contains a linear classifier of features of an image, which'
    ' was trained on the sensitive images with noise; the'
    ' epsilon of the release covers it. It labels the synthetic images where'
    ' `sample.labels_from_head` says so, and `load_release(FOLDER).classify`'
    ' uses it.'
  )
  return _section(HEAD_TITLE, words, 'Class head', 'class_head', score)


def _section(
  title: str, words: str, name: str, key: str, score: scoring.Score
) -> page.Section:
  accuracy = score.accuracy
  row = (
    page.Track(
      (page.Mark(accuracy.value, accuracy.low, accuracy.high, 'synthetic'),),
      score.majority_share,
    ),
    formats.percent(accuracy.value),
    accuracy_section.interval(accuracy),
    formats.percent(score.majority_share),
    formats.percent(score.balanced_accuracy),
    formats.signed(score.auroc, 3),
    formats.number(accuracy.num_examples),
  )
  header = (
    *(page.SCALE, 'Accuracy', '95 % interval', 'One answer', 'Balanced'),
    *('AUROC', 'Images'),
  )
  return page.Section(
    title,
    (page.Text(words), page.Table(header, [row], f'**{name}**')),
    {
      key: {
        'accuracy': accuracy.value,
        'accuracy_interval': [accuracy.low, accuracy.high],
        'accuracy_per_class': [found.value for found in score.per_class],
        'balanced_accuracy': score.balanced_accuracy,
        'auroc': score.auroc,
        'is_no_better_than_guessing': score.is_guessing,
        'num_images': accuracy.num_examples,
      }
    },
  )
