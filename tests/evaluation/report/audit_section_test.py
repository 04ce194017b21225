"""What a report says of an audit: each bound beside what it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dp_diffusion.evaluation.report import audit_section

PNG = b'\x89PNG\r\n\x1a\n'


def make_result(**changes: Any) -> dict[str, Any]:
  def guessed(num_correct, bound, ceiling):
    return {
      'num_correct': num_correct,
      'num_guesses': 40,
      'num_canaries': 90,
      'epsilon_lower_bound': bound,
      'ceiling': ceiling,
      'threshold_in': 0.5,
    }

  values = {
    'is_passed': True,
    'confidence': 0.95,
    'claim': {'epsilon': 8.0, 'delta': 1e-5},
    'white_box': guessed(31, 1.25, 3.5),
    'black_box': guessed(22, 0.75, 2.5),
    'steps': {
      'num_with': 200,
      'num_without': 700,
      'num_missed': 12,
      'num_false': 34,
      'epsilon_lower_bound': 4.5,
      'ceiling': 6.5,
    },
    'earlier_runs': [{'is_passed': False}, {'is_passed': True}],
  }
  return values | changes


def test_the_sentence_has_each_number_in_its_place():
  said = audit_section.sentence(make_result())
  assert said == (
    'Claimed: epsilon 8 at delta 1e-05. Measured, with 95 % confidence, which'
    ' does not contradict it. Step by step (200 times a canary was selected,'
    ' 700 times not): at least 4.5 of at most 6.5, if records are selected as'
    ' the accountant takes it. From the whole run, knowing nothing of its'
    ' selection (31 of 40 guesses on 90 canaries right): at least 1.25; 3.5 is'
    ' the most that this audit can show.'
  )


@pytest.mark.parametrize('is_passed', [True, False])
def test_a_refuted_claim_is_said_to_be_one(is_passed):
  said = audit_section.sentence(make_result(is_passed=is_passed))
  assert ('REFUTES' in said) != is_passed
  assert ('does not contradict' in said) == is_passed


def test_each_attack_has_its_own_bound():
  result = make_result()
  section = audit_section.section(result, PNG)
  words, table, _ = section.blocks
  assert [row[1:4] for row in table.rows] == [
    ('12 of 200 missed, 34 of 700 false alarms', 4.5, 6.5),
    ('31 of 40 guesses right', 1.25, 3.5),
    ('22 of 40 guesses right', 0.75, 2.5),
  ]
  kinds = [row[0].partition(',')[0] for row in table.rows]
  assert kinds == ['Gradient canaries', 'Gradient canaries', 'Image canaries']
  assert 'Audits before this one: 2.' in words.words
  assert section.data == {'audit': result}


def test_an_audit_without_image_canaries_or_steps_has_a_row_less():
  result = make_result(black_box=None)
  del result['steps']  # As in an earlier version.
  section = audit_section.section(result, PNG)
  (row,) = section.blocks[1].rows
  assert row[1:4] == ('31 of 40 guesses right', 1.25, 3.5)
  assert 'Step by step' not in section.blocks[0].words


def test_the_picture_is_a_png():
  rng = np.random.default_rng(0)
  scores, coins = rng.normal(size=90), rng.random(90) < 0.5
  drawn = audit_section.plot(scores, coins, make_result())
  assert drawn.startswith(b'\x89PNG')
  assert drawn == audit_section.plot(scores, coins, make_result())
