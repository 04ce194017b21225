"""The choice on synthetic images, and what it costs."""

from __future__ import annotations

from dp_diffusion.evaluation.classifiers import model_selection
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import selection_section


def render(points, majority_share=1.0):
  found = model_selection.compare(
    [
      model_selection.Point(
        setting={'learning_rate': rate}, synthetic_score=s, real_score=r
      )
      for rate, s, r in points
    ]
  )
  section = selection_section.section(found, 3, 200, majority_share)
  html = page.render('n', 'e', 't', 'l', [page.Section('', ()), section])
  return section, html.replace('\N{NO-BREAK SPACE}', ' ')


def test_choice_best_and_regret_are_said():
  section, html = render([(0.1, 0.9, 0.7), (0.2, 0.95, 0.8), (0.3, 0.5, 0.84)])
  assert '<strong>learning_rate=0.2</strong>, which reaches 80.0 %' in html
  assert '<strong>learning_rate=0.3</strong>, reaches 84.0 %' in html
  assert '4.0 points' in html and '6.0 points' in html
  assert '200 held-out real images' in html
  data = section.data['model_selection']
  assert data['num_seeds'] == 3 and len(data['points']) == 3
  assert f'−{-data["spearman"]:.2f} (p = ' in html


def test_what_guessing_reaches_stands_beside_the_choice():
  points = [(0.1, 0.9, 0.5), (0.2, 0.95, 0.6)]
  _, html = render(points, 0.625)
  assert 'answering the commonest class is right on 62.5 %' in html
  assert 'the commonest class' not in render(points)[1]


def test_equal_scores_have_no_correlation():
  _, html = render([(0.1, 0.9, 0.7), (0.2, 0.9, 0.8)])
  assert 'nan' not in html.lower().split('<main>')[1]
