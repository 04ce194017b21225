"""Baselines through their command line: what they leave, and what not."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import main
from dp_diffusion import release
from dp_diffusion.baselines import dp_classifier
from dp_diffusion.baselines import generator
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import private_evolution
from dp_diffusion.data import registry
from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import statement
from dp_diffusion.privacy import verify
from dp_diffusion.stages import baseline as baseline_stage
from dp_diffusion.stages import baseline_classifier
from dp_diffusion.stages import pretrain
from dp_diffusion.stages.run import fingerprint
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import public_data
from dp_diffusion.stages.run import resume
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import public_loop
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


def plant_secret(workdir):
  folder = workdirs.open_workdir(str(workdir))
  key_streams.Secret.insecure(0).save(folder.private / 'secret')


def patch_persons(monkeypatch):
  """Every two digits are of one person."""
  load = registry.load

  def with_persons(config, *split):
    source = load(dataclasses.replace(config, unit='image'), *split)
    spec = dataclasses.replace(source.spec, has_person=True)
    person = np.arange(len(source.labels), dtype=np.int32) // 2
    return dataclasses.replace(source, spec=spec, person=person)

  monkeypatch.setattr(registry, 'load', with_persons)


@pytest.fixture(scope='module')
def merf(one_device, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('baseline') / 'merf'
  plant_secret(workdir)
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
  assert found['insecure_secret']  # It was planted.


def test_labels_are_of_the_config(merf):
  images, labels = release.read_dataset(merf / 'release')
  assert images.shape == (60, 8, 8, 1) and images.dtype == np.uint8
  np.testing.assert_array_equal(np.bincount(labels), [6] * 10)
  report = json.loads((merf / 'evaluation' / 'report.json').read_text())
  names = {'cnn', 'svm', 'logistic_regression'}  # Those of the config.
  assert set(report['accuracy']['synthetic']) == names
  assert report['num_held_out_images'] == 360


class Enough(Exception):
  """Ends a stage where enough was seen."""


def test_labels_do_not_follow_those_of_the_images(tmp_path, monkeypatch):
  """The digits have nearly equal numbers, so nothing would show there."""
  load, seen = registry.load, []

  def of_one_class(*given):
    source = load(*given)
    return dataclasses.replace(source, labels=np.zeros_like(source.labels))

  def train(settings, module, feature_fn, target, labels, *_):
    seen.append(labels)

  def sample(module, params, latent_dim, labels, key):
    seen.append(labels)
    raise Enough

  monkeypatch.setattr(registry, 'load', of_one_class)
  monkeypatch.setattr(baseline_stage, '_embed', lambda *_: (None, None, None))
  monkeypatch.setattr(generator, 'train', train)
  monkeypatch.setattr(generator, 'sample', sample)
  workdir = workdirs.open_workdir(str(tmp_path))
  with pytest.raises(Enough):
    baseline_stage._generate(_load(), workdir, 'dp_merf', interrupts.Stop(''))
  for labels in seen:
    assert np.ptp(np.bincount(labels, minlength=10)) <= 1


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


def test_an_embedding_of_unknown_origin_is_refused(tmp_path):
  """Without the file that names what it was made from."""
  workdir = workdirs.open_workdir(str(tmp_path))
  baseline_stage._begin_embedding(workdir, 'a')
  (workdir.private / 'embedding.npz').write_bytes(b'x')
  baseline_stage._begin_embedding(workdir, 'a')
  begun = workdir.private / workdirs.BEGUN_EMBEDDING
  begun.unlink()
  with pytest.raises(errors.UsageError, match=begun.name) as raised:
    baseline_stage._begin_embedding(workdir, 'a')
  assert '\n' not in str(raised.value) and not begun.exists()


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


def test_keys_of_later_versions_do_not_part_a_run_from_its_workdir(tmp_path):
  config = config_lib.load(command.DIGITS_SMOKE, {})
  workdir = workdirs.open_workdir(str(tmp_path))
  baseline_stage._tie(config, workdir, 'dp_merf')
  record = files.read_json(workdir.baseline)
  assert 'class_probabilities' not in record['config']['sample']
  for given, is_other in ((False, False), (True, True)):
    record['config']['sample']['class_probabilities'] = given
    files.write_json(workdir.baseline, record)
    if is_other:
      with pytest.raises(errors.UsageError, match='Give the old value, or'):
        baseline_stage._tie(config, workdir, 'dp_merf')
    else:
      baseline_stage._tie(config, workdir, 'dp_merf')


@pytest.mark.parametrize('method', ['dp_merf', 'dp_classifier'])
def test_leftovers_in_a_release_are_refused(merf, tmp_path, method, capsys):
  shutil.copytree(merf / 'release', tmp_path / 'run' / 'release')
  before = command.contents(tmp_path / 'run' / 'release')
  assert run(tmp_path / 'run', method) == 2
  assert 'of another run' in capsys.readouterr().err
  assert command.contents(tmp_path / 'run' / 'release') == before


@pytest.mark.parametrize('unit', ['image', 'person'])
def test_classifier_is_wired_by_its_mechanism(tmp_path, monkeypatch, unit):
  seen = {}

  class Recorder(parallel.DataParallel):
    def pmap_accumulate(self, loss_fn, config):
      seen['grad'] = config
      return super().pmap_accumulate(loss_fn, config)

    def pmap_apply(self, optimizer, config):
      seen.update(optimizer=optimizer, apply=config)
      return super().pmap_apply(optimizer, config)

  def finish(begun, steps, devices, stop):
    seen.update(begun=begun, steps=steps)
    raise errors.Interrupted('Enough was seen.')

  monkeypatch.setattr(parallel, 'DataParallel', Recorder)
  monkeypatch.setattr(resume, 'finish', finish)
  if unit == 'person':
    patch_persons(monkeypatch)
  config = _load(
    baseline__dp_classifier__num_public_steps='0',
    baseline__dp_classifier__optimizer__name='sgd',
    baseline__dp_classifier__optimizer__learning_rate='0.25',
  )
  data = dataclasses.replace(config.data, unit=unit)
  with pytest.raises(errors.Interrupted):
    baseline_classifier.run(
      dataclasses.replace(config, data=data),
      workdirs.open_workdir(str(tmp_path / 'run')),
      interrupts.Stop(''),
    )
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
  assert begun.ledger.unit == unit
  num_draws = seen['grad'].num_draws
  assert seen['grad'].batch_has_draw_axis == (unit == 'person')
  images = steps.gather(np.arange(3), 0)['image']
  draws = (num_draws,) if unit == 'person' else ()
  assert images.shape == (3, *draws, 8, 8, 1)
  optimizer, grads = seen['optimizer'], {'w': np.ones(2, np.float32)}
  updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
  np.testing.assert_array_equal(updates['w'], -0.25)  # Of its own config.


def test_what_is_trained_without_noise_reads_public_images(
  tmp_path, monkeypatch
):
  """The features of DP-MEPF, the first steps of a classifier, pre-training."""
  config = _load(model__channel_multipliers='(1,)')
  public = dataclasses.replace(
    config.pretrain.data, class_names=config.data.class_names
  )
  config = dataclasses.replace(
    config, pretrain=dataclasses.replace(config.pretrain, data=public)
  )
  read = []

  def load(data, *split):
    read.append((data, *split))
    raise Enough

  monkeypatch.setattr(registry, 'load', load)
  # The step is compiled while the images are read.
  monkeypatch.setattr(public_loop, 'compile_public_step', lambda *_: None)
  workdir = workdirs.open_workdir(str(tmp_path))
  stop, devices = interrupts.Stop(''), parallel.DataParallel()
  module = dp_classifier.make_module('logistic_regression', 10)
  for train in (
    lambda: baseline_stage._public_images(config, 'dp_mepf'),
    lambda: baseline_classifier._public_params(config, module, devices, stop),
    lambda: pretrain.run(config, workdir, stop),
  ):
    with pytest.raises(Enough):
      train()
  assert read == [(public,)] * 3
  assert baseline_stage._public_images(config, 'dp_merf') is None
  net = _load(baseline__dp_mepf__net='x.npz')
  with pytest.raises(Enough):  # They are voted for, whatever the network is.
    baseline_stage._public_images(net, 'private_evolution')
  with pytest.raises(errors.UsageError, match='x.npz'):
    baseline_stage._make_activations(net, 'private_evolution', None)


@pytest.fixture(scope='module')
def evolved(one_device, tmp_path_factory):
  """Private Evolution without the training of its feature network."""
  folder = tmp_path_factory.mktemp('baseline') / 'evolved'
  plant_secret(folder)
  _generate_by_votes(folder)
  return folder


def _generate_by_votes(folder):
  """Among a part of the public images, as where there are very many."""
  config = _load(baseline__private_evolution__max_candidates='200')
  workdir = workdirs.open_workdir(str(folder))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      baseline_stage,
      '_make_activations',
      lambda *_: lambda images: [images.reshape((len(images), -1))],
    )
    baseline_stage._generate(
      config, workdir, 'private_evolution', interrupts.Stop('')
    )


def test_all_votes_are_in_the_ledger(evolved):
  assert not verify.verify(evolved / 'release').mismatches
  found = privacy_of(evolved)
  (event,) = found['events']
  assert event['mechanism']['l2_sensitivity'] == 1.0
  generations = _load().baseline.private_evolution.num_generations
  assert event['mechanism']['count'] == generations > 1
  assert 9.9 < found['epsilon_pld'] <= 10
  assert found['insecure_secret']  # It was planted.
  assert [data['source'] for data in found['public_data']] == [
    'glyphs of seed 0'
  ]


def test_votes_choose_public_images(evolved):
  images, labels = release.read_dataset(evolved / 'release')
  np.testing.assert_array_equal(np.bincount(labels), [6] * 10)
  public = registry.load(_load().pretrain.data)
  known = {
    (label, image.tobytes())
    for image, label in zip(public.images, public.labels, strict=True)
  }
  drawn = [
    (label, image.tobytes())
    for image, label in zip(images, labels, strict=True)
  ]
  assert set(drawn) <= known
  arrays, model = release.read_model(evolved / 'release')
  assert model['population']['population'] == 5
  assert arrays['images'].shape == (10, 5, 8, 8, 1)
  np.testing.assert_allclose(arrays['shares'].sum(axis=1), 1, rtol=1e-6)


def test_votes_are_noised_once(evolved, monkeypatch):
  before = command.contents(evolved / 'release')
  shutil.rmtree(evolved / 'release')
  monkeypatch.setattr(private_evolution, 'make_votes_fn', None)
  _generate_by_votes(evolved)
  assert command.contents(evolved / 'release') == before


def test_public_images_of_a_baseline_are_compared(tmp_path, digits):
  """What is trained on them without noise is published."""
  config = _load(
    pretrain__data__name='digits',
    baseline__dp_classifier__num_public_steps='2',
  )
  evolved = _load(
    pretrain__data__name='digits', baseline__dp_mepf__net='net.npz'
  )
  workdir = workdirs.open_workdir(str(tmp_path))
  for check in (
    lambda: baseline_stage._check_public(config, 'dp_mepf', digits),
    # They are released themselves, whatever the network is.
    lambda: baseline_stage._check_public(evolved, 'private_evolution', digits),
    lambda: baseline_classifier.run(config, workdir, interrupts.Stop('')),
  ):
    with pytest.raises(errors.UsageError, match='other images than data'):
      check()
  assert not (workdir.private / 'secret').exists()


def test_a_network_of_a_file_is_stated(tmp_path, digits):
  """What it was trained on is unknown; nobody looked at those images."""
  path = tmp_path / 'net.npz'
  np.savez(path, weight=np.zeros(3, np.float32))
  config = _load(baseline__dp_mepf__net=str(path))
  (found,) = baseline_stage._check_public(config, 'dp_mepf', digits)
  assert found['source'].startswith('weights of sha256 ')
  assert found['comparison'] == 'unknown'
  assert baseline_stage._check_public(config, 'dp_merf', digits) == []


def test_public_images_of_a_baseline_are_stated(tmp_path, monkeypatch, digits):
  seen = []

  def store(*_, is_insecure, public_data=()):
    seen.append((is_insecure, public_data))
    raise Enough

  config = _load(baseline__dp_classifier__num_public_steps='2')
  workdir = workdirs.open_workdir(str(tmp_path))
  plant_secret(tmp_path)
  stop = interrupts.Stop('')
  for name in ('_public_images', '_make_feature_fn'):
    monkeypatch.setattr(baseline_stage, name, lambda *_: None)
  monkeypatch.setattr(baseline_stage, '_embed', lambda *_: (None, None, SECRET))
  monkeypatch.setattr(generator, 'train', lambda *_: None)
  monkeypatch.setattr(generator, 'sample', lambda *_: None)
  module = dp_classifier.make_module('logistic_regression', 10)
  params = dp_classifier.init_params(module, (8, 8, 1), jax.random.key(0))
  monkeypatch.setattr(baseline_classifier, '_public_params', lambda *_: params)
  monkeypatch.setattr(public_data, 'compare_source', lambda *_: ['of others'])
  monkeypatch.setattr(registry, 'load', lambda *_: digits)
  monkeypatch.setattr(
    resume, 'finish', lambda begun, *_: (begun.state, begun.ledger)
  )
  monkeypatch.setattr(statements, 'store', store)
  for train in (
    lambda: baseline_stage._generate(config, workdir, 'dp_mepf', stop),
    lambda: baseline_classifier.run(config, workdir, stop),
  ):
    with pytest.raises(Enough):
      train()
  assert seen == [(True, ['of others'])] * 2


def test_what_a_baseline_says_of_epsilon_is_no_less(
  tmp_path, monkeypatch, capsys
):
  config = _load()
  ledger = mean_embedding.start_ledger(config.privacy, 'dp_merf', 'image')

  def end(*_):
    raise Enough

  monkeypatch.setattr(mean_embedding, 'start_ledger', lambda *_: ledger)
  monkeypatch.setattr(accounting, 'epsilon', lambda *_: 1.23412)
  monkeypatch.setattr(statements, 'check_release_is_new', end)
  workdir = workdirs.open_workdir(str(tmp_path))
  with pytest.raises(Enough):
    baseline_stage._embed(config, workdir, 'dp_merf', None, None, None)
  assert 'epsilon 1.235 at delta' in capsys.readouterr().out


def test_the_classifier_is_trained_before_its_test_images_are_opened(
  tmp_path, monkeypatch
):
  happened = []
  load = registry.load

  def read(config, split=None):
    happened.append(split)
    return load(config, split)

  def train(*_):
    happened.append('trained')
    return lambda images: np.zeros(len(images), np.int32)

  monkeypatch.setattr(registry, 'load', read)
  monkeypatch.setattr(baseline_stage.baseline_classifier, 'run', train)
  config, stop = _load(), interrupts.Stop('')
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  monkeypatch.setattr(baseline_stage, '_write_report', lambda *_: None)
  baseline_stage._classify_directly(config, workdir, stop, 0.0)
  assert happened == ['trained', config.data.test_split]


def test_the_classifier_has_an_interval_by_person(tmp_path, monkeypatch):
  patch_persons(monkeypatch)
  config = _load()
  test = registry.load(config.data, config.data.test_split)
  predicted = np.where(test.person % 3 > 0, test.labels, 1 - test.labels)
  monkeypatch.setattr(
    baseline_stage.baseline_classifier, 'run', lambda *_: lambda _: predicted
  )
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  baseline_stage._classify_directly(config, workdir, interrupts.Stop(''), 0.0)
  path = workdir.evaluation / 'report.json'
  assert path.stat().mode & 0o777 == 0o600
  report = json.loads(path.read_text())
  expected = scoring.accuracy(predicted, test.labels, test.person)
  alone = scoring.accuracy(predicted, test.labels)
  assert report['accuracy'] == {'direct': {'cnn': expected.value}}
  (interval,) = report['accuracy_interval']['direct'].values()
  assert interval == [expected.low, expected.high]
  assert interval[0] < alone.low and alone.high < interval[1]
  assert report['num_held_out_images'] == len(test.labels)


@pytest.fixture(scope='module')
def direct(one_device, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('baseline') / 'direct'
  plant_secret(workdir)
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
  assert found['insecure_secret']  # It was planted.
  report = json.loads((direct / 'evaluation' / 'report.json').read_text())
  assert 0 <= report['accuracy']['direct']['cnn'] <= 1


def test_the_classifier_that_is_tested_is_the_released_one(
  direct, tmp_path, monkeypatch: pytest.MonkeyPatch
):
  """The averaged weights, not the last ones."""
  seen = []

  def make_predict_fn(module, params):
    seen.append(weights.flatten(params))
    return original(module, params)

  original = dp_classifier.make_predict_fn
  monkeypatch.setattr(dp_classifier, 'make_predict_fn', make_predict_fn)
  shutil.copytree(direct, tmp_path / 'again')
  workdir = workdirs.open_workdir(str(tmp_path / 'again'))
  baseline_classifier.run(_load(), workdir, interrupts.Stop(''))
  (tested,) = seen
  released, _ = release.read_model(workdir.release)
  assert tested.keys() == released.keys()
  for name, value in released.items():
    np.testing.assert_array_equal(tested[name], value)


@pytest.mark.parametrize('which', ['merf', 'direct'])
def test_the_model_is_described_by_the_config_alone(which, merf, direct):
  """Without what was found in the images, such as their number."""
  workdir = {'merf': merf, 'direct': direct}[which]
  path = workdir / 'release' / 'model' / 'model.json'
  names = [str(i) for i in range(10)]
  assert _load().data.class_names == tuple(names)
  common = {'class_names': names, 'image_shape': [8, 8, 1]}
  settings = _load().baseline
  assert (
    json.loads(path.read_text())
    == {
      'merf': {
        'method': 'dp_merf',
        'generator': dataclasses.asdict(settings.generator),
        **common,
      },
      'direct': {
        'method': 'dp_classifier',
        'classifier': settings.dp_classifier.name,
        **common,
      },
    }[which]
  )


def test_classifier_resumes_under_its_ledger(direct):
  before = command.contents(direct / 'release')
  (direct / 'evaluation' / 'report.json').unlink()
  (direct / 'release' / 'privacy.json').unlink()
  assert run(direct, 'dp_classifier') == 0
  assert command.contents(direct / 'release') == before
  (event,) = privacy_of(direct)['events']
  assert event['num_steps'] == 2  # Of the checkpoint: none is taken anew.


SECRET = key_streams.Secret.insecure(0)


def _load(**changes):
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, named)


@pytest.fixture(scope='module')
def digits():
  return registry.load(_load().data)


@pytest.mark.parametrize(
  ('changes', 'is_other'),
  [
    ({'finetune__rescale_to_unit_norm': 'false'}, True),
    ({'baseline__dp_classifier__augmult': '4'}, True),
    ({'baseline__dp_classifier__ema_decay': '0.5'}, True),
    ({'baseline__dp_classifier__optimizer__learning_rate': '0.5'}, True),
    ({'data__flip': 'true'}, True),
    ({'seed': '5'}, True),
    # These change no bit of a step.
    ({'finetune__microbatch_size': '3'}, False),
    ({'finetune__checkpoint_every_steps': '3'}, False),
    ({'finetune__ema_decay': '0.5'}, False),
    ({'finetune__gradient_scales': "('out*=2',)"}, False),
  ],
  ids=lambda value: '-'.join(value) if isinstance(value, dict) else None,
)
def test_what_names_a_training_of_the_classifier(digits, changes, is_other):
  params = {'w': np.ones(2, np.float32)}

  def name(config, params=params):
    privacy = config.baseline.dp_classifier.privacy(config.privacy)
    mechanism = accounting.calibrate(privacy).mechanism
    return fingerprint.run_id(
      SECRET,
      baseline_classifier.facts(config, mechanism, digits, SECRET, params),
    )

  before = name(_load())
  assert (name(_load(**changes)) != before) == is_other
  assert name(_load(), {'w': np.zeros(2, np.float32)}) != before


def _altered(source):
  """Other data, each with another of its arrays."""
  images = source.images.copy()
  images[3, 2, 2] += 1
  return [
    dataclasses.replace(source, images=images),
    dataclasses.replace(source, labels=source.labels[::-1]),
    dataclasses.replace(
      source,
      spec=dataclasses.replace(source.spec, has_person=True),
      person=source.labels,
    ),
  ]


def _another_generator(monkeypatch):
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: 'another')


def test_a_training_on_other_data_has_another_name(digits, monkeypatch):
  """With one secret, it would have the batches and the noise of the first."""
  config = _load()
  privacy = config.baseline.dp_classifier.privacy(config.privacy)
  mechanism = accounting.calibrate(privacy).mechanism
  params = {'w': np.ones(2, np.float32)}

  def name(source=digits, mechanism=mechanism, secret=SECRET):
    return fingerprint.run_id(
      SECRET,
      baseline_classifier.facts(config, mechanism, source, secret, params),
    )

  names = [
    name(),
    *map(name, _altered(digits)),
    name(mechanism=dataclasses.replace(mechanism, noise_multiplier=9.0)),
    name(secret=key_streams.Secret.insecure(1)),
  ]
  _another_generator(monkeypatch)
  names.append(name())
  assert len(set(names)) == len(names)


def test_what_names_an_embedding(digits, tmp_path, monkeypatch):
  """With one secret, the noise of two embeddings would otherwise cancel."""
  nets = [tmp_path / f'{i}.npz' for i in range(2)]
  for i, net in enumerate(nets):
    np.savez(net, w=i)

  def name(method, public=None, source=digits, secret=SECRET, **changes):
    config = _load(**changes)
    ledger = baseline_stage.start_ledger(config, method)
    return key_streams.run_id(
      SECRET,
      baseline_stage.facts(config, method, ledger, source, secret, public),
    )

  names = [
    name('dp_merf'),
    name('dp_mepf'),
    *(name('dp_merf', source=other) for other in _altered(digits)),
    name('dp_merf', secret=key_streams.Secret.insecure(1)),
    name('dp_merf', seed='5'),
    name('dp_merf', baseline__dp_merf__length_scale='2'),
    name('dp_merf', privacy__epsilon='3'),
    name('dp_mepf', digits),
    *(name('dp_mepf', other) for other in _altered(digits)),
    name('dp_mepf', digits, evaluate__classifier__num_steps='7'),
    name('dp_mepf', digits, pretrain__num_steps='7'),
    name('private_evolution', digits),
    name(
      'private_evolution', digits, baseline__private_evolution__population='7'
    ),
    name('private_evolution', digits, baseline__dp_mepf__net=str(nets[0])),
    *(name('dp_mepf', baseline__dp_mepf__net=str(net)) for net in nets),
  ]
  # Files of one name and other weights.
  methods, net = ('dp_mepf', 'private_evolution'), str(nets[0])
  named = [name(method, baseline__dp_mepf__net=net) for method in methods]
  nets[1].replace(nets[0])
  for method, before in zip(methods, named, strict=True):
    assert name(method, baseline__dp_mepf__net=net) != before
  # The noise drawn again would be other noise, and no second release.
  _another_generator(monkeypatch)
  names.append(name('dp_merf'))
  assert len(set(names)) == len(names)


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


@pytest.mark.parametrize(
  ('ending', 'code', 'words'),
  [
    (OSError(errno.ENOSPC, 'No space left on device', 'x.npz'), 2, 'x.npz'),
    (KeyboardInterrupt(), 130, 'what was saved before stays good'),
    (errors.Interrupted('Stopped; again: x'), 130, 'Stopped; again: x'),
  ],
)
def test_it_ends_as_the_other_commands_do(
  ending, code, words, tmp_path, monkeypatch, capsys
):
  def end(*_):
    raise ending

  monkeypatch.setattr(baseline_stage, 'run', end)
  assert run(tmp_path / 'run', 'dp_merf') == code
  said = capsys.readouterr()
  assert words in said.out + said.err and 'Traceback' not in said.err


def test_a_wrong_value_is_one_line_and_a_mistake_of_ours_is_not(
  tmp_path, monkeypatch, capsys
):
  little = ('--config.privacy.epsilon=1e-9', '--config.privacy.delta=1e-12')
  assert run(tmp_path / 'noise', 'dp_merf', *little) == 2
  assert 'raise either' in capsys.readouterr().err
  net = tmp_path / 'net.npz'
  np.savez(net, w=0)
  overrides = f'--config.baseline.dp_mepf.net={net}'
  assert run(tmp_path / 'net', 'dp_mepf', overrides) == 2
  assert 'LeNet-5' in capsys.readouterr().err

  def mistake(*_):
    raise ValueError('axes do not match')

  monkeypatch.setattr(baseline_stage, 'run', mistake)
  with pytest.raises(ValueError, match='axes do not match'):
    run(tmp_path / 'ours', 'dp_merf')
