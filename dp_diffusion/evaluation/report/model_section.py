"""The section of the report on the released model as a classifier."""

from __future__ import annotations

from dp_diffusion.evaluation.classifiers import diffusion_classifier
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

TITLE = 'The model itself as a classifier'


def section(score: scoring.Score) -> page.Section:
  """Returns the section.

  Args:
    score: of the model's answers on held-out images.
  """
  accuracy = score.accuracy
  words = (
    'Nothing is trained here: noise is added to a held-out image, and the'
    ' released model removes it under each class. The class under which it'
    ' does this best is its answer'
    f' ({diffusion_classifier.NUM_LEVELS} noise levels, one draw each;'
    ' arXiv 2303.16203), with all classes taken as equally frequent. It says'
    ' what the model has learned of the classes; what its samples show of it'
    ' is the accuracy from synthetic images.'
  )
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
    TITLE,
    (page.Text(words), page.Table(header, [row], '**Diffusion classifier**')),
    {
      'diffusion_classifier': {
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
