"""What the report says of accuracies, in words and in rows."""

from __future__ import annotations

import dataclasses

import numpy as np

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import page

LABELS = np.repeat(np.arange(2, dtype=np.int32), 20)


def make_score(num_wrong):
  predicted = np.where(np.arange(40) < num_wrong, 2, LABELS)
  return scoring.score([predicted], LABELS, 3)


def make_accuracies(**num_wrong):
  return accuracy_section.Accuracies(
    scores={
      source: {'cnn': make_score(wrong), 'svm': make_score(wrong + 1)}
      for source, wrong in num_wrong.items()
    },
    class_names=('a', 'b', 'c'),
    num_train_images=dict.fromkeys(num_wrong, 10),
    classifier_names={},
  )


def test_lead_says_how_much_of_the_gap_is_closed():
  lead = accuracy_section.lead(make_accuracies(synthetic=2, public=10, real=0))
  assert '95.0\N{NO-BREAK SPACE}%' in lead
  assert 'close 80\N{NO-BREAK SPACE}% of that gap' in lead


def test_soft_labels_are_said():
  found = make_accuracies(synthetic=2, real=0)
  for has_some in (True, False):
    found = dataclasses.replace(found, has_soft_labels=has_some)
    words = accuracy_section.section(found).blocks[0].words
    assert ('learn the class probabilities' in words) == has_some


def test_no_gap_is_claimed_where_there_is_none():
  for found in (
    make_accuracies(synthetic=20, public=10, real=0),
    make_accuracies(synthetic=5, public=10, real=7),
    make_accuracies(synthetic=5, real=0),
  ):
    assert 'gap' not in accuracy_section.lead(found)


def test_our_classifier_leads_and_the_reference_follows():
  found = make_accuracies(public=10, synthetic=2, real=0)
  assert accuracy_section.main_classifier(found.scores) == 'cnn'
  tables = accuracy_section.section(found).blocks[1:]
  assert [t.caption.split('**')[1] for t in tables] == ['CNN', 'RBF SVM']
  sources = [row[0].split()[0] for row in tables[0].rows]
  assert sources == ['Synthetic', 'Public', 'Real']
  assert [tile.is_main for tile in accuracy_section.tiles(found)] == [
    True,
    False,
    False,
    False,  # What guessing reaches.
  ]


def test_many_classes_are_shown_by_the_worst():
  num_classes = 100
  labels = np.repeat(np.arange(num_classes, dtype=np.int32), 2)
  predicted = np.where(labels == 70, 0, labels)
  found = accuracy_section.Accuracies(
    scores={'synthetic': {'cnn': scoring.score([predicted], labels, 100)}},
    class_names=tuple(f'class {label}' for label in range(num_classes)),
    num_train_images={},
    classifier_names={},
  )
  words, table = accuracy_section.per_class_section(found).blocks
  assert 'The 12 of 100 classes' in words.words
  assert [row[0] for row in table.rows][:2] == ['class 70', 'class 0']
  assert len(table.rows) == 12


def make_scores(predicted, labels, **changes):
  num_classes = int(labels.max()) + 1
  score = scoring.score([predicted, predicted], labels, num_classes, **changes)
  return accuracy_section.Accuracies(
    scores={'synthetic': {'cnn': score}},
    class_names=tuple(f'kind {i}' for i in range(num_classes)),
    num_train_images={},
    classifier_names={},
    num_held_out_equal_training=0,
  )


def as_html(found):
  sections = [
    accuracy_section.section(found),
    accuracy_section.per_class_section(found),
    accuracy_section.confusion_section(found),
  ]
  html = page.render(
    'n',
    'e',
    't',
    accuracy_section.lead(found),
    [page.Section('', ()), *sections],
  )
  return html.partition('</style>')[2].replace('\N{NO-BREAK SPACE}', ' ')


def test_below_the_commonest_class_is_said_to_be_guessing():
  labels = np.array([0] * 61 + [1] * 39)
  worse = np.array([0] * 50 + [1] * 11 + [0] * 34 + [1] * 5)
  html = as_html(make_scores(worse, labels))
  assert 'no better than guessing' in html and '61.0 %' in html
  assert html.count('class="guessing"') == 1 + 2  # The bar, and two classes.
  html = as_html(make_scores(labels, labels))
  assert 'no better than guessing' not in html
  assert 'commonest class would be right on 61.0 %' in html


def test_a_ceiling_that_misses_a_class_says_which():
  labels = np.array([0] * 500 + [1] * 250 + [2] * 3)
  predicted = np.where(labels == 2, 0, labels)
  html = as_html(make_scores(predicted, labels))
  assert '99.6 %' in html and '66.7 %' in html  # Accuracy and balanced.
  assert 'no image recognised of kind 2 (3)' in html


def test_every_figure_of_a_row_is_that_of_its_column():
  labels = np.array([0] * 60 + [1] * 40)
  predicted = np.array([0] * 80 + [1] * 20)
  found = dataclasses.replace(
    make_scores(predicted, labels), num_train_images={'synthetic': 5000}
  )
  low, high = scoring.wilson_interval(80, 100)
  (row,) = accuracy_section.section(found).blocks[1].rows
  (mark,), share = row[1].marks, row[1].guessing
  assert (mark.value, mark.low, mark.high, share) == (0.8, low, high, 0.6)
  words = [str(cell).replace('\N{NO-BREAK SPACE}', ' ') for cell in row[2:]]
  assert words == [
    '80.0 % (80.0 and 80.0)',
    f'{100 * low:.1f} – {100 * high:.1f} %',
    '60.0 %',
    '75.0 %',  # 60 of 60 and 20 of 40.
    '2',
    '5,000',
  ]


def test_auroc_is_a_column_of_two_classes():
  labels = np.array([0] * 50 + [1] * 50)
  probs = np.stack([np.linspace(1, 0, 100), np.linspace(0, 1, 100)], axis=1)
  found = make_scores(labels, labels, probs_per_seed=[probs, probs])
  assert 'data-title="AUROC">1.000<' in as_html(found)
  assert 'AUROC' not in as_html(make_scores(labels, labels))


def test_seeds_are_a_count_and_the_spread_is_of_the_accuracy():
  labels = np.array([0] * 50 + [1] * 50)
  score = scoring.score([labels, 1 - labels], labels, 2)
  found = dataclasses.replace(
    make_scores(labels, labels), scores={'synthetic': {'cnn': score}}
  )
  html = as_html(found)
  assert 'data-title="Accuracy">50.0 % (100.0 and 0.0)<' in html
  assert 'data-title="Seeds">2<' in html
  assert 'both values stand in brackets' in html
  three = scoring.score([labels, labels, 1 - labels], labels, 2)
  found = dataclasses.replace(found, scores={'synthetic': {'cnn': three}})
  assert 'data-title="Accuracy">66.7 % ± 57.7<' in as_html(found)


def test_only_what_is_there_is_explained():
  found = make_accuracies(synthetic=4, real=0)
  per_class = accuracy_section.per_class_section(found).blocks[-1].caption
  assert 'Hollow dot: public.' not in per_class
  assert 'Filled dot' in per_class and 'Upright bar: real.' in per_class
  found = make_accuracies(synthetic=4, public=9, real=0)
  per_class = accuracy_section.per_class_section(found).blocks[-1].caption
  assert 'Hollow dot: public.' in per_class
  words = accuracy_section.section(found).blocks[0].words
  assert 'standard deviation' not in words
  (matrix,) = accuracy_section.confusion_section(found).blocks
  assert 'seeds' not in matrix.caption


def test_confusions_are_a_square_or_the_worst_of_many():
  labels = np.repeat(np.arange(3), 4)
  predicted = np.where(labels == 2, 1, labels)
  (block,) = accuracy_section.confusion_section(
    make_scores(predicted, labels)
  ).blocks
  np.testing.assert_array_equal(block.counts, [[4, 0, 0], [0, 4, 0], [0, 4, 0]])
  labels = np.array([*np.repeat(np.arange(40), 2), 3, 3])
  (block,) = accuracy_section.confusion_section(
    make_scores(np.where(labels == 7, 3, labels), labels)
  ).blocks
  assert list(block.rows) == [
    ('kind 7', 'kind 3', '2', '100.0\N{NO-BREAK SPACE}%')
  ]


def test_held_out_images_that_were_trained_on_are_said_and_left_out():
  labels = np.array([0, 1] * 20)
  predicted = np.where(np.arange(40) < 10, labels, 1 - labels)
  found = dataclasses.replace(
    make_scores(predicted, labels, is_duplicate=np.arange(40) < 10),
    num_held_out_equal_training=10,
  )
  html = as_html(found)
  assert '10 of the held-out images equal a training image' in html
  assert 'CNN: 0.0 % (0.0 – ' in html
  assert 'equal a training image' not in as_html(make_scores(labels, labels))


def test_the_interval_says_what_it_takes_for_independent():
  labels = np.array([0, 1] * 20)
  assert 'no persons are known' in as_html(make_scores(labels, labels))
  html = as_html(make_scores(labels, labels, persons=np.arange(40) // 4))
  assert 'are of 10 persons' in html and 'no persons' not in html
