"""Each report counts the evaluations before it."""

from __future__ import annotations

from dp_diffusion.evaluation.report import earlier_section
from dp_diffusion.evaluation.report import page


def report(earlier=(), cnn=0.9, **settings):
  return {
    'config': {'evaluate': settings},
    'accuracy': {'synthetic': {'cnn': cnn}},
    earlier_section.KEY: list(earlier),
  }


def test_the_first_evaluation_has_none_before_it():
  section = earlier_section.section([], {'num_seeds': 1})
  assert not section.blocks and section.data == {earlier_section.KEY: []}


def test_evaluations_add_up():
  found = []
  for number in range(3):
    found = earlier_section.with_last(report(found, number / 10))
  values = [f['accuracy']['synthetic']['cnn'] for f in found]
  assert values == [0.0, 0.1, 0.2]


def test_what_was_other_then_and_found_is_named():
  before = report(cnn=None, classifier={'name': 'wrn', 'seeds': 1}, svm=True)
  now = {'classifier': {'name': 'wrn', 'seeds': 5}, 'svm': True}
  earlier = earlier_section.with_last(before)
  section = earlier_section.section(earlier, now)
  html = page.render('n', 'e', 't', 'l', [page.Section('', ()), section])
  assert 'read once before' in html and 'classifier.seeds = 1' in html
  assert 'svm' not in html
  assert section.data[earlier_section.KEY] == earlier
