"""Baselines through their command line: what they leave, and what not."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import main
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import statement
from dp_diffusion.privacy import verify
from dp_diffusion.stages.run import resume
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from experiments import baseline
from tests.stages import command

pytestmark = pytest.mark.usefixtures('one_device')


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
def merf(one_device, tmp_path_factory):
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


def test_the_sum_is_noised_once(merf, tmp_path, capsys):
  """Another dataset, or another secret, would be another release."""
  copies = [tmp_path / 'data', tmp_path / 'secret']
  for copy in copies:
    shutil.copytree(merf, copy)
    (copy / 'evaluation' / 'report.json').unlink()
    shutil.rmtree(copy / 'release')
  data, secret = copies
  config = config_lib.load(command.DIGITS_SMOKE, {})
  path = secret / 'private' / 'secret'
  path.unlink()
  assert run(secret, 'dp_merf') == 2
  assert 'secret' in capsys.readouterr().err and not path.exists()
  key_streams.Secret.create(path)
  assert run(secret, 'dp_merf') == 2
  source = registry.load(config.data)
  fewer = dataclasses.replace(
    source, images=source.images[1:], labels=source.labels[1:]
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(registry, 'load', lambda *_: fewer)
    assert run(data, 'dp_merf') == 2
  assert 'would be another release' in capsys.readouterr().err
  for copy in copies:
    assert not (copy / 'release').exists()


def test_a_workdir_has_one_ledger(merf, tmp_path, capsys):
  """What one run made would lie under the statement of the other."""
  before = command.contents(merf / 'release')
  arguments = [f'--config={command.DIGITS_SMOKE}', f'--workdir={merf}']
  assert main.main(arguments) == 2
  assert 'belongs to the baseline dp_merf' in capsys.readouterr().err
  assert command.contents(merf / 'release') == before
  config = config_lib.load(command.DIGITS_SMOKE, {})
  ours = workdirs.open_workdir(str(tmp_path / 'ours'))
  ours.begin('finetune', config)
  assert run(ours.root, 'dp_merf') == 2
  assert 'belongs to a run of dp_diffusion.main' in capsys.readouterr().err


@pytest.mark.parametrize('method', ['dp_merf', 'dp_classifier'])
def test_leftovers_in_a_release_are_refused(merf, tmp_path, method, capsys):
  shutil.copytree(merf / 'release', tmp_path / 'run' / 'release')
  before = command.contents(tmp_path / 'run' / 'release')
  assert run(tmp_path / 'run', method) == 2
  assert 'of another run' in capsys.readouterr().err
  assert command.contents(tmp_path / 'run' / 'release') == before


def test_classifier_is_wired_by_its_mechanism(tmp_path, monkeypatch):
  seen = {}

  class Recorder(parallel.DataParallel):
    def pmap_accumulate(self, loss_fn, config):
      seen['grad'] = config
      return super().pmap_accumulate(loss_fn, config)

    def pmap_apply(self, optimizer, config):
      seen['apply'] = config
      return super().pmap_apply(optimizer, config)

  def finish(begun, steps, devices, stop):
    seen.update(begun=begun, steps=steps)
    raise errors.Interrupted('Enough was seen.')

  monkeypatch.setattr(parallel, 'DataParallel', Recorder)
  monkeypatch.setattr(resume, 'finish', finish)
  without = '--config.baseline.dp_classifier.num_public_steps=0'
  assert run(tmp_path / 'run', 'dp_classifier', without) == 130
  begun, steps = seen['begun'], seen['steps']
  mechanism = begun.ledger.entries[-1].mechanism
  assert mechanism.is_private
  assert seen['grad'].l2_clip_norm == mechanism.l2_clip_norm
  assert seen['apply'].noise_multiplier == mechanism.noise_multiplier
  assert seen['apply'].expected_batch_size == mechanism.expected_batch_size
  assert steps.selector.sampling_prob == mechanism.sampling_prob
  assert begun.run.num_steps == mechanism.num_steps
  assert steps.streams == begun.streams
  assert begun.streams.run_id == begun.run.meta['run_id']


@pytest.fixture(scope='module')
def direct(one_device, tmp_path_factory):
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
