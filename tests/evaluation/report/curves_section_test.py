"""Ensembles and curves: every number in the table, the picture drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import curves_section
from dp_diffusion.evaluation.report import page

LABELS = np.zeros(100, np.int32)


def predicted(num_wrong):
  return np.r_[np.ones(num_wrong, np.int32), LABELS[num_wrong:]]


def make_score(*nums_wrong):
  return scoring.score([predicted(n) for n in nums_wrong], LABELS, 2)


def make_curves(**changes):
  values = {
    'ensembles': {'synthetic': {'cnn': scoring.accuracy(predicted(7), LABELS)}},
    'ensemble_size': 2,
    'points': [
      curves_section.Point(
        num_images=number,
        single=make_score(wrong, wrong + 1, wrong + 2),
        ensemble=scoring.accuracy(predicted(wrong - 1), LABELS),
      )
      for number, wrong in ((5000, 20), (50_000, 10))
    ],
    'found': accuracy_section.Accuracies(
      scores={
        'synthetic': {'cnn': make_score(10, 12)},
        'real': {'cnn': make_score(3, 4)},
      },
      class_names=('a', 'b'),
      num_train_images={},
      classifier_names={'cnn': 'wrn_40_4'},
    ),
  }
  return curves_section.Curves(**(values | changes))


def as_html(sections):
  sections = [page.Section('', ()), *sections]
  html = page.render('n', 'e', 't', 'l', sections)
  return html.replace('\N{NO-BREAK SPACE}', ' ')


def test_every_number_is_said():
  ensembles, curve = curves_section.sections(make_curves())
  html = as_html([ensembles, curve])
  for text in ('93.0 %', '89.0 %', '79.0 % ± 1.0', '81.0 %', '5,000', '50,000'):
    assert text in html, text
  assert 'WRN-40-4' in html and 'Ensemble of 2' in html
  assert html.count('data:image/svg+xml') == 1
  found = ensembles.data['ensembles']['accuracy']['synthetic']['cnn']
  assert found['value'] == 0.93
  first, last = curve.data['accuracy_by_number']
  assert (first['num_images'], last['num_images']) == (5000, 50_000)
  assert first['accuracy']['value'] == 0.79 and first['num_seeds'] == 3
  assert last['ensemble']['value'] == 0.91


def test_ensembles_have_intervals_of_their_own():
  ensembles, curve = (
    as_html([made]) for made in curves_section.sections(make_curves())
  )

  def interval(num_wrong):
    low, high = scoring.wilson_interval(100 - num_wrong, 100)
    return f'{100 * low:.1f} – {100 * high:.1f} %'

  assert interval(7) in ensembles and interval(11) not in ensembles
  for wrong in (19, 21, 9, 11):  # Ensembles, and single ones on average.
    assert interval(wrong) in curve


def test_an_ensemble_stands_beside_one_answer_and_not_the_balanced_share():
  labels = np.r_[np.zeros(60, np.int32), np.ones(40, np.int32)]
  predicted = np.r_[np.zeros(80, np.int32), np.ones(20, np.int32)]
  curves = make_curves(
    ensembles={'real': {'cnn': scoring.accuracy(predicted, labels)}},
    points=[],
    found=dataclasses.replace(
      make_curves().found,
      scores={'real': {'cnn': scoring.score([predicted], labels, 2)}},
    ),
  )
  (ensembles,) = curves_section.sections(curves)
  (row,) = ensembles.blocks[1].rows
  shown = [cell.replace('\N{NO-BREAK SPACE}', ' ') for cell in row]
  assert shown[1:3] == ['80.0 %', '80.0 %']
  assert shown[4] == '60.0 %'  # The balanced accuracy is 75.0 %.


def test_guessing_is_said_beside_every_accuracy():
  labels = np.r_[np.zeros(60, np.int32), np.ones(40, np.int32)]
  right = scoring.score([labels], labels, 2)
  guess = np.zeros(100, np.int32)
  guessed = scoring.score([guess], labels, 2)
  scores = {'synthetic': {'cnn': guessed}, 'real': {'cnn': right}}
  curves = make_curves(
    ensembles={
      'synthetic': {'cnn': scoring.accuracy(guess, labels)},
      'real': {'cnn': scoring.accuracy(labels, labels)},
    },
    points=[curves_section.Point(num_images=9, single=guessed, ensemble=None)],
    found=dataclasses.replace(make_curves().found, scores=scores),
  )
  ensembles, curve = (
    as_html([made]) for made in curves_section.sections(curves)
  )
  assert ensembles.count('no better than guessing') == 1
  assert 'Synthetic images, WRN-40-4, ensemble of 2: <strong>no' in ensembles
  assert 'One answer' in curve and '60.0 %' in curve


def test_single_networks_without_a_spread():
  points = [
    curves_section.Point(num_images=n, single=make_score(n), ensemble=None)
    for n in (10, 20)
  ]
  (curve,) = curves_section.sections(make_curves(ensembles={}, points=points))
  assert 'Ensemble' not in as_html([curve])
  assert curve.data['accuracy_by_number'][0]['std'] is None
  assert curve.data['accuracy_by_number'][0]['ensemble'] is None


@pytest.mark.parametrize('ensembles', [{}, {'synthetic': {}}])
def test_nothing_asked_for_is_nothing_said(ensembles):
  curves = make_curves(ensembles=ensembles, points=[])
  assert curves_section.sections(curves) == []
