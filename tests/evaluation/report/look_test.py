"""The report as a reader sees it: in a real browser, where there is one."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.metrics import memorization
from dp_diffusion.evaluation.metrics import quality
from dp_diffusion.evaluation.report import accuracy_section
from dp_diffusion.evaluation.report import curves_section
from dp_diffusion.evaluation.report import memorization_section
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import quality_section
from dp_diffusion.evaluation.report import report
from tests.evaluation.report import browser

SHA256 = '4364cee58dfabba06bc3f0bdf757f82d6a7f61a4e61c50d40e464b75cfd32532'
CARD = f"""Everything is (10, 1e-05)-differentially private:
exp(10) = 2.2e+04, and -3 at most.

- **Public data**: generated of seed 1, images of sha256 {SHA256}: made.
- **Code**: `{SHA256}{SHA256}`

## Accesses to the data that are covered

- Training, {SHA256}.

## What the guarantee does not cover

- Timing of the training and access to its host.
"""
NAMES = {
  'long': tuple(f'{letter * 70} <&> one' for letter in 'AB'),
  'many': tuple(f'class number {i}' for i in range(200)),
}


def make_score(labels, num_classes, share_wrong, num_seeds):
  rng = np.random.default_rng(0)
  predicted = []
  for _ in range(num_seeds):
    wrong = rng.random(len(labels)) < share_wrong
    guesses = rng.integers(num_classes, size=len(labels))
    predicted.append(np.where(wrong, guesses, labels))
  return scoring.score(predicted, labels, num_classes)


def make_sections(labels, found):
  rng = np.random.default_rng(0)
  train, fresh, made = (
    rng.integers(0, 256, (n, 6, 6, 1)).astype(np.uint8) for n in (60, 40, 50)
  )
  compared = quality.compare(
    features.pixels((6, 6, 1)),
    *(x.reshape(len(x), -1) / 255 for x in (train, fresh, made)),
    reference_name='own_images train',
  )
  copies = memorization.compare(made, train, fresh, space='pixels')
  real = memorization.compare_real(train, fresh, space='pixels')
  score = found.scores['synthetic']['cnn']
  point = curves_section.Point(
    num_images=5000, single=score, ensemble=score.accuracy
  )
  curves = curves_section.Curves(
    ensembles={'synthetic': {'cnn': score.accuracy}},
    ensemble_size=2,
    points=[point],
    found=found,
  )
  return [
    *curves_section.sections(curves),
    quality_section.section(compared),
    memorization_section.section(copies, real, (6, 6, 1), 'private/pairs.png'),
  ]


@pytest.fixture(scope='module', params=sorted(NAMES), name='written')
def _written(request, tmp_path_factory) -> pathlib.Path:
  names = NAMES[request.param]
  labels = np.arange(2 * len(names)) % len(names)
  images = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6, 3))
  shown = images.astype(np.uint8), labels.astype(np.int32)
  scores = {
    source: {'cnn': make_score(labels, len(names), wrong, seeds)}
    for source, wrong, seeds in (
      ('synthetic', 0.5, 2),
      ('public', 0.9, 3),
      ('real', 0.1, 1),
    )
  }
  findings = report.Findings(
    title=f'own_images-{SHA256}',
    privacy={'epsilon': 9.99, 'epsilon_rdp': 12.9, 'delta': 1e-3},
    privacy_card=CARD,
    class_names=names,
    scores=scores,
    num_train_images={'synthetic': 5000, 'public': 100, 'real': 50},
    images=dict.fromkeys(report.IMAGE_SETS, shown),
    seconds={'pretrain': 292.0, 'finetune': 7000.0, 'evaluate': 0.4},
    command=f'python -m dp_diffusion.main --config.data.path=/{"x" * 200}',
    config={'data': {'path': 'x' * 300, 'class_names': list(names)}},
    classifier_names={},
  )
  found = accuracy_section.Accuracies(
    scores=scores, class_names=names, num_train_images={}, classifier_names={}
  )
  folder = tmp_path_factory.mktemp('look')
  return report.write(findings, folder, make_sections(labels, found))


@pytest.fixture(scope='module', name='chromium')
def _chromium(tmp_path_factory):
  with browser.running(tmp_path_factory.mktemp('profile')) as found:
    yield found


@pytest.mark.parametrize('width, is_dark', [(1280, False), (390, True)])
def test_the_report_fits_every_window(chromium, written, width, is_dark):
  look = chromium.look(written, width, is_dark=is_dark)
  assert not look.errors
  assert look.overflow <= 0 and not look.wide
  # A confusion matrix may have many columns; all else is shown whole.
  assert not [box for box in look.cut if 'matrix' not in box]
  assert not look.broken and not look.faint
  assert (look.background < 0.1) == is_dark


def test_the_report_can_be_printed(chromium, written):
  # 180 mm between the margins of A4 are 680 CSS pixels; paper is white.
  look = chromium.look(written, 680, is_dark=True, is_printed=True)
  assert not look.errors and not look.wide and not look.faint
  assert look.overflow <= 0 and look.background == 1


def test_the_browser_sees_what_is_wrong(chromium, tmp_path):
  wrong = tmp_path / 'wrong.html'
  wrong.write_text(
    '<!DOCTYPE html><meta name="viewport" content="width=device-width">'
    '<p style="width: 500px; color: #ccc">Too wide, and faint.</p>'
    '<img src="data:image/png;base64,AAAA"><script>undefined.x</script>'
  )
  look = chromium.look(wrong, 390)
  assert look.overflow > 0 and '500px' in look.wide[0]
  assert '#ccc' in look.faint[0] and look.broken == 1
  assert look.errors


def test_text_has_one_minus_sign(written):
  """U+2212, as powers of ten are; code, which is to be copied, is as it is."""
  text = written.read_text().partition('</style>')[2]
  text = re.sub(r'<(pre|code)[^>]*>.*?</\1>|<[^>]*>', '\n', text, flags=re.S)
  assert not re.findall(r'(?<![\w-])-[\d.∞].*|\de[-+]\d.*', text)
  assert '(10, 10⁻⁵)' in text and 'exp(10) = 22,000' in text and '−3 at' in text


def test_pictures_come_first(written):
  html = written.read_text()
  numbers = json.loads((written.parent / 'report.json').read_text())
  assert numbers['seconds']['pretrain'] == 292.0
  assert html.index('<img') < html.index('class="tiles"') < html.index('<h2>')
  assert html.index('>Synthetic</h3>') < html.index('>Real, held out</h3>')
  assert '4 min 52 s' in html and '1 h 56 min' in html


def test_a_page_of_no_images_has_its_numbers():
  section = page.Section('Headline', (page.Tiles((page.Tile('1', 'one'),)),))
  assert 'class="tiles"' in page.render('n', 'e', 't', 'l', [section])
