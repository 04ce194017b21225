"""Baselines through their command line: what they leave, and what not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dp_diffusion import release
from dp_diffusion.privacy import statement
from dp_diffusion.privacy import verify
from experiments import baseline
from tests.stages import command


def run(workdir, method, *overrides):
  return baseline.main(
    [
      f'--method={method}',
      f'--config={command.DIGITS_SMOKE}',
      f'--workdir={workdir}',
      *overrides,
    ]
  )


@pytest.fixture(scope='module')
def merf(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('baseline') / 'merf'
  assert run(workdir, 'dp_merf') == 0
  return workdir


def privacy_of(workdir):
  return json.loads((workdir / 'release' / 'privacy.json').read_text())


def test_a_release_that_verifies(merf):
  assert not verify.verify(merf / 'release').mismatches
  found = privacy_of(merf)
  (event,) = found['events']
  assert event['kind'] == 'gaussian'
  assert event['mechanism']['l2_sensitivity'] == 1.0
  assert 9.9 < found['epsilon_pld'] <= 10 and found['private']
  ledger = statement.parse_ledger(found)
  assert ledger.budget_epsilon == 10.0


def test_labels_are_of_the_config(merf):
  images, labels = release.read_dataset(merf / 'release')
  assert images.shape == (60, 8, 8, 1) and images.dtype == np.uint8
  np.testing.assert_array_equal(np.bincount(labels), [6] * 10)
  report = json.loads((merf / 'evaluation' / 'report.json').read_text())
  names = {'cnn', 'svm', 'logistic_regression'}  # Those of the config.
  assert set(report['accuracy']['synthetic']) == names
  assert report['num_held_out_images'] == 360


def test_it_is_measured_like_our_own(merf):
  report = json.loads((merf / 'evaluation' / 'report.json').read_text())
  assert set(report['accuracy']) == {'synthetic'}
  quality = report['quality']
  for source in ('real', 'synthetic'):
    assert quality[source]['frechet']['value'] > 0
  assert report['command'].startswith('python -m experiments.baseline --method')
  assert (merf / 'evaluation' / 'report.html').exists()


def test_rerun_gives_the_same_bits(merf, capsys):
  before = command.contents(merf / 'release')
  (merf / 'evaluation' / 'report.json').unlink()
  (merf / 'release' / 'privacy.json').unlink()
  assert run(merf, 'dp_merf') == 0
  assert command.contents(merf / 'release') == before
  assert run(merf, 'dp_merf', '--config.privacy.epsilon=5') == 2
  assert 'privacy.epsilon=10.0' in capsys.readouterr().err


@pytest.fixture(scope='module')
def direct(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('baseline') / 'direct'
  assert run(workdir, 'dp_classifier') == 0
  return workdir


def test_classifier_spends_its_own_ledger(direct):
  assert not verify.verify(direct / 'release').mismatches
  found = privacy_of(direct)
  (event,) = found['events']
  assert event['kind'] == 'dp_sgd' and event['is_sealed']
  mechanism = event['mechanism']
  assert mechanism['num_steps'] == event['num_steps'] == 2
  assert mechanism['expected_batch_size'] == 8
  assert 9 < found['epsilon_pld'] <= 10
  report = json.loads((direct / 'evaluation' / 'report.json').read_text())
  assert 0 <= report['accuracy']['direct']['cnn'] <= 1


def test_classifier_resumes_under_its_ledger(direct):
  before = command.contents(direct / 'release')
  (direct / 'evaluation' / 'report.json').unlink()
  (direct / 'release' / 'privacy.json').unlink()
  assert run(direct, 'dp_classifier') == 0
  assert command.contents(direct / 'release') == before
  (event,) = privacy_of(direct)['events']
  assert event['num_steps'] == 2  # Of the checkpoint: none is taken anew.


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['--config=x.py'], 'Expected --method='),
    (['--method=dp_mref', '--config=x.py'], "did you mean 'dp_merf'"),
    (['--method=dp_merf', '--config=x.py'], '--workdir=FOLDER'),
  ],
)
def test_bad_usage_exits_with_2(argv, words, capsys):
  assert baseline.main(argv) == 2
  assert words in capsys.readouterr().err
