"""The report: what machines read, what people read, and its first line."""

from __future__ import annotations

import json
import math
import os
import re
import stat

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import report

NAMES = ('cat <&>', 'dog', '')
LABELS = np.repeat(np.arange(3, dtype=np.int32), [20, 20, 0])


def make_score(num_wrong, num_seeds=1):
  predicted = np.concatenate(
    [np.full(num_wrong, 2, np.int32), LABELS[num_wrong:]]
  )
  return scoring.score([predicted] * num_seeds, LABELS, 3)


def make_findings(**changes):
  images = np.zeros((40, 4, 4, 1), np.uint8)
  values = {
    'title': 'Cats & dogs',
    'privacy': {
      'epsilon_pld': 9.9931,
      'epsilon_rdp': 10.6,
      'delta': 1e-4,
      'noise_multiplier': 2.0021,
    },
    'privacy_card': (
      '# Card\n\nA **lot**.\n\n## Events\n\n- One.\n\n'
      '## What the guarantee does not cover\n\n- Much.\n'
    ),
    'class_names': NAMES,
    'scores': {
      'synthetic': {'svm': make_score(4), 'cnn': make_score(2, 3)},
      'public': {'svm': make_score(12), 'cnn': make_score(10, 3)},
      'real': {'svm': make_score(1), 'cnn': make_score(0, 3)},
    },
    'num_train_images': {'synthetic': 5000, 'public': 100, 'real': 50},
    'images': dict.fromkeys(report.IMAGE_SETS, (images, LABELS)),
    'seconds': {'pretrain': 1.0, 'finetune': 100.0, 'evaluate': math.nan},
    'command': 'python -m dp_diffusion.main --config=<x>',
    'config': {'seed': np.int64(3), 'shape': (1, 2), 'x': math.inf},
  }
  return report.Findings(**(values | changes))


def look_up(value, path):
  for key in path.split('.'):
    value = value[key]
  return value


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run') / 'evaluation'
  report.write(make_findings(), folder)
  return folder


def test_json_has_the_promised_numbers(written):
  numbers = json.loads((written / 'report.json').read_text())
  paths = [
    *('privacy.epsilon_pld', 'privacy.epsilon_rdp', 'privacy.delta'),
    'privacy.noise_multiplier',
    *(
      f'accuracy.{source}.{name}'
      for source in ('synthetic', 'public', 'real')
      for name in ('svm', 'cnn')
    ),
    *('seconds.pretrain', 'seconds.finetune'),
  ]
  for path in paths:
    assert isinstance(look_up(numbers, path), float), path
  assert numbers['accuracy']['synthetic']['cnn'] == 38 / 40
  low, high = numbers['accuracy_interval']['synthetic']['cnn']
  assert low < 38 / 40 < high
  assert numbers['config'] == {'seed': 3, 'shape': [1, 2], 'x': None}


@pytest.mark.parametrize('has_some', [True, False])
def test_json_and_page_say_whether_soft_labels_were_learned(tmp_path, has_some):
  report.write(make_findings(has_soft_labels=has_some), tmp_path)
  numbers = json.loads((tmp_path / 'report.json').read_text())
  assert numbers['has_soft_labels'] == has_some
  page_text = (tmp_path / 'report.html').read_text()
  assert ('learn the class probabilities' in page_text) == has_some


def test_json_has_what_guessing_would_reach(written):
  numbers = json.loads((written / 'report.json').read_text())
  assert numbers['majority_share'] == 0.5
  assert numbers['balanced_accuracy']['synthetic']['cnn'] == 0.95
  assert numbers['auroc']['synthetic']['cnn'] is None  # Three classes.
  assert numbers['confusion_matrix']['synthetic']['cnn'] == [
    [18, 0, 2],
    [0, 20, 0],
    [0, 0, 0],
  ]
  assert not numbers['is_no_better_than_guessing']['synthetic']['cnn']
  assert numbers['num_held_out_equal_training'] == 0
  assert numbers['num_held_out_persons'] is None


def test_images_are_drawn_by_the_public_seed():
  images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1) * 6
  images = np.tile(images, (1, 4, 4, 1))
  shown = dict.fromkeys(report.IMAGE_SETS, (images, LABELS))
  pages = [
    report.to_html(make_findings(images=shown, config={'seed': seed}))
    for seed in (3, 3, 4)
  ]
  assert pages[0] == pages[1]
  grids = [re.findall(r'base64,([^"]*)', html)[0] for html in pages]
  assert grids[0] != grids[2]


def test_nan_becomes_null(written):
  numbers = json.loads((written / 'report.json').read_text())
  assert numbers['seconds']['evaluate'] is None
  assert numbers['accuracy_per_class']['real']['cnn'] == [1.0, 1.0, None]
  assert numbers['accuracy_std']['real']['svm'] is None


def test_first_line_says_that_it_is_outside_the_guarantee(written):
  for name in ('report.json', 'report.html'):
    lines = (written / name).read_text().splitlines()
    assert any('outside the privacy guarantee' in line for line in lines[:2])
  html = (written / 'report.html').read_text()
  assert 'outside the privacy guarantee' in html.splitlines()[0]
  assert html.index('class="notice"') < html.index('<h1>')


def test_only_the_owner_may_read_it(written):
  assert stat.S_IMODE(os.stat(written).st_mode) == 0o700
  for name in ('report.json', 'report.html'):
    assert stat.S_IMODE(os.stat(written / name).st_mode) == 0o600


def test_page_has_every_part_and_is_escaped(written):
  html = (written / 'report.html').read_text()
  for part in ('Privacy', 'Accuracy', 'Per class', 'Time'):
    assert f'<h2>{part}</h2>' in html
  assert '95.0\N{NO-BREAK SPACE}%' in html  # Synthetic, small CNN.
  assert 'cat &lt;&amp;&gt;' in html and 'cat <&>' not in html
  assert '--config=&lt;x&gt;' in html
  assert html.count('<img') == 3
  words = re.sub(r'base64,[^"]*', '', html.partition('</style>')[2])
  assert 'nan' not in words.lower()


def test_card_folds_but_for_what_is_not_covered(written):
  html = (written / 'report.html').read_text()
  card = html.partition('<h2>Privacy</h2>')[2].partition('</section>')[0]
  assert card.index('<strong>lot</strong>') < card.index('<details')
  parts = re.findall(r'<details class=prose( open)?><summary>(.*?)</', card)
  assert parts == [
    ('', 'Events'),
    (' open', 'What the guarantee does not cover'),
  ]
  assert '# Card' not in card


def test_same_findings_give_the_same_bytes(written, tmp_path):
  report.write(make_findings(), tmp_path)
  for name in ('report.json', 'report.html'):
    assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_sections_of_other_metrics_plug_in(tmp_path):
  section = page.Section(
    'Distances', (page.Text('Not FID.'),), {'frechet': {'lenet': math.nan}}
  )
  report.write(make_findings(), tmp_path, [section])
  assert '<h2>Distances</h2>' in (tmp_path / 'report.html').read_text()
  numbers = json.loads((tmp_path / 'report.json').read_text())
  assert numbers['frechet'] == {'lenet': None}
  taken = page.Section('Distances', (), {'accuracy': 1})
  with pytest.raises(ValueError, match="'accuracy'"):
    report.write(make_findings(), tmp_path, [taken])


def test_a_network_is_called_by_its_name():
  html = report.to_html(make_findings(classifier_names={'cnn': 'wrn_40_4'}))
  assert 'WRN-40-4' in html and 'RBF SVM' in html and '(CNN)' not in html


def test_the_headline_is_the_epsilon_that_is_guaranteed():
  """By the bound that decides, of two."""
  privacy = {'epsilon_pld': 9.5, 'epsilon_rdp': 9.25, 'epsilon': 9.25}
  findings = make_findings(privacy={**privacy, 'delta': 1e-4})
  html = report.to_html(findings)
  assert 'ε = 9.25<' in html and 'ε = 9.5' not in html
  earlier = {'epsilon_pld': 9.5, 'epsilon_rdp': 9.75, 'delta': 1e-4}
  assert 'ε = 9.5<' in report.to_html(make_findings(privacy=earlier))


def test_json_has_the_accuracy_without_images_that_were_trained_on():
  labels = np.repeat(np.arange(2, dtype=np.int32), 20)
  is_duplicate = np.arange(40) < 10
  predicted = np.where(is_duplicate | (np.arange(40) >= 25), labels, 1 - labels)
  score = scoring.score([predicted], labels, 2, is_duplicate=is_duplicate)
  numbers = report.to_json(
    make_findings(
      scores={'synthetic': {'cnn': score}}, num_held_out_equal_training=10
    )
  )
  assert numbers['accuracy'] == {'synthetic': {'cnn': 25 / 40}}
  assert numbers['accuracy_without_duplicates'] == {
    'synthetic': {'cnn': 15 / 30}
  }
  assert numbers['num_held_out_equal_training'] == 10
  assert report.to_json(make_findings())['accuracy_without_duplicates'] == {}


def test_an_infinite_epsilon_is_not_called_private():
  privacy = {'epsilon_pld': math.inf, 'delta': 1e-5, 'noise_multiplier': 0.0}
  findings = make_findings(privacy=privacy)
  html = report.to_html(findings)
  assert 'no privacy guarantee' in html and 'ε = ∞' in html
  assert report.to_json(findings)['privacy']['epsilon_pld'] is None


def test_epsilon_is_never_rounded_down():
  assert report._epsilon(9.9901) == '10'
  assert report._epsilon(1.0) == '1'
  assert report._epsilon(1.0000001) == '1.01'


@pytest.mark.parametrize(
  'changes',
  [
    {'scores': {}},
    {'scores': {'synthetic': {'svm': make_score(4)}}},
    {'scores': {'real': {'cnn': make_score(4)}}},
    {'images': {}},
    {'seconds': {}},
    {'class_names': ()},
    {'privacy': {}},
  ],
)
def test_missing_parts_leave_a_page(changes):
  html = report.to_html(make_findings(**changes))
  assert html.endswith('</html>\n')
  assert 'None' not in html.partition('</style>')[2]
