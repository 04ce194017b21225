"""What the report says of accuracies, in words and in rows."""

from __future__ import annotations

import numpy as np

from dp_diffusion.evaluation import report_accuracy
from dp_diffusion.evaluation import scoring

LABELS = np.repeat(np.arange(2, dtype=np.int32), 20)


def make_score(num_wrong):
  predicted = np.where(np.arange(40) < num_wrong, 2, LABELS)
  return scoring.score([predicted], LABELS, 3)


def make_accuracies(**num_wrong):
  return report_accuracy.Accuracies(
    scores={
      source: {'cnn': make_score(wrong), 'svm': make_score(wrong + 1)}
      for source, wrong in num_wrong.items()
    },
    class_names=('a', 'b', 'c'),
    num_train_images=dict.fromkeys(num_wrong, 10),
    classifier_names={},
  )


def test_lead_says_how_much_of_the_gap_is_closed():
  lead = report_accuracy.lead(make_accuracies(synthetic=2, public=10, real=0))
  assert '95.0\N{NO-BREAK SPACE}%' in lead
  assert 'close 80\N{NO-BREAK SPACE}% of that gap' in lead


def test_no_gap_is_claimed_where_there_is_none():
  for found in (
    make_accuracies(synthetic=20, public=10, real=0),
    make_accuracies(synthetic=5, public=10, real=7),
    make_accuracies(synthetic=5, real=0),
  ):
    assert 'gap' not in report_accuracy.lead(found)


def test_our_classifier_leads_and_the_reference_follows():
  found = make_accuracies(public=10, synthetic=2, real=0)
  assert report_accuracy.main_classifier(found.scores) == 'cnn'
  tables = report_accuracy.section(found).blocks[1:]
  assert [t.caption.split('**')[1] for t in tables] == ['CNN', 'RBF SVM']
  sources = [row[0].split()[0] for row in tables[0].rows]
  assert sources == ['Synthetic', 'Public', 'Real']
  assert [tile.is_main for tile in report_accuracy.tiles(found)] == [
    True,
    False,
    False,
  ]


def test_many_classes_are_shown_by_the_worst():
  num_classes = 100
  labels = np.repeat(np.arange(num_classes, dtype=np.int32), 2)
  predicted = np.where(labels == 70, 0, labels)
  found = report_accuracy.Accuracies(
    scores={'synthetic': {'cnn': scoring.score([predicted], labels, 100)}},
    class_names=tuple(f'class {label}' for label in range(num_classes)),
    num_train_images={},
    classifier_names={},
  )
  words, table = report_accuracy.per_class_section(found).blocks
  assert 'The 12 of 100 classes' in words.words
  assert [row[0] for row in table.rows][:2] == ['class 70', 'class 0']
  assert len(table.rows) == 12
