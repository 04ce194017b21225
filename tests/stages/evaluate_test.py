"""What an evaluation leaves, and that it goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import stat

from etils import epath
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import main
from dp_diffusion import release
from dp_diffusion.data import registry
from dp_diffusion.evaluation import evaluate_config
from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.report import page as report_page
from dp_diffusion.stages import evaluate
from dp_diffusion.stages.evaluation import image_distances
from dp_diffusion.stages.evaluation import measurements
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes
from tests import tiny_release
from tests.stages import command

pytestmark = pytest.mark.usefixtures('one_device')


def _report(workdir: pathlib.Path) -> dict:
  return json.loads((workdir / 'evaluation' / 'report.json').read_text())


def test_distances_stand_beside_those_of_real_images(finished_run) -> None:
  quality = _report(finished_run.workdir)['quality']
  parts = ('synthetic', 'synthetic_at_equal_number', 'real')
  assert set(quality) == {'features', 'left_out', *parts}
  network = quality['features']['network']
  assert network['low'] > network['chance'] and not quality['left_out']
  assert 'of held-out public images (always one class' in finished_run.stdout
  for part in map(quality.get, parts):
    frechet = part['frechet']
    assert frechet['name'] == (
      'Frechet distance (small CNN on public images features)'
    )
    assert frechet['value'] >= 0 and frechet['std_error'] > 0
    assert frechet['reference'] == 'digits train'
    assert frechet['num_reference'] == 1437
    assert 0 <= part['precision_recall']['precision'] <= 1
  assert quality['synthetic']['frechet']['num_synthetic'] == 60
  page = (finished_run.workdir / 'evaluation' / 'report.html').read_text()
  words = re.sub(r'base64,[^"]*', '', page)  # Where any letters may stand.
  assert 'FID' not in words and len(words) > 10_000


def test_closest_pairs_are_private(finished_run) -> None:
  found = _report(finished_run.workdir)['memorization']
  assert found['synthetic']['num_train'] == 1437
  assert found['real']['num_synthetic'] == 180
  assert found['closest_pairs'] == 'private/closest_pairs.png'
  picture = finished_run.workdir / found['closest_pairs']
  assert stat.S_IMODE(picture.stat().st_mode) == 0o600
  assert not list((finished_run.workdir / 'evaluation').glob('*pairs*'))


def test_ensembles_curve_and_grid_are_reported(finished_run) -> None:
  report = _report(finished_run.workdir)
  assert report['accuracy'].keys() == {'synthetic', 'public', 'real'}
  for source, row in report['accuracy'].items():
    assert set(row) == {'cnn', 'logistic_regression', 'svm'}
    assert report['accuracy_num_seeds'][source]['cnn'] == 2
    ensemble = report['ensembles']['accuracy'][source]
    assert set(ensemble) == {'cnn', 'logistic_regression'}
  half, whole = report['accuracy_by_number']
  assert (half['num_images'], whole['num_images']) == (30, 60)
  main = report['accuracy']['synthetic']['cnn']
  assert whole['accuracy']['value'] == main
  assert (
    whole['ensemble'] == report['ensembles']['accuracy']['synthetic']['cnn']
  )
  selection = report['model_selection']
  assert [p['setting']['learning_rate'] for p in selection['points']] == [
    1e-3,
    1e-2,
  ]
  assert selection['top1_regret'] >= 0
  assert 'ensemble of 2 CNNs' in finished_run.stdout


def test_the_model_itself_classifies_held_out_images(finished_run) -> None:
  found = _report(finished_run.workdir)['diffusion_classifier']
  assert found['num_images'] == 20 and len(found['accuracy_per_class']) == 10
  low, high = found['accuracy_interval']
  assert 0 <= low <= found['accuracy'] <= high <= 1
  assert found['auroc'] is None  # Of ten classes.
  page = (finished_run.workdir / 'evaluation' / 'report.html').read_text()
  assert 'The model itself as a classifier' in page
  assert (
    f'diffusion classifier {100 * found["accuracy"]:.1f} %: the released'
    ' model itself, without training' in finished_run.stdout
  )
  # How many images are held out is not said: they may be fewer than asked for.
  assert 'held-out images by the model, percent: 100/100' in finished_run.stdout


def _evaluate_one_network(workdir: pathlib.Path, **changes: str) -> None:
  """The stage again, in this process, with the quickest of its classifiers."""
  values = {
    'svm': 'false',
    'classifiers': '()',
    'classifier.name': 'logistic_regression',
    'features': '',
    'memorization': 'false',
    'diffusion_classifier_images': '0',
    **changes,
  }
  flags = [f'--config.evaluate.{key}={text}' for key, text in values.items()]
  flags += [f'--workdir={workdir}', command.ONE_LEVEL]
  config = f'--config={command.DIGITS_SMOKE}'
  assert main.main([config, '--stage=evaluate', *flags]) == 0


def test_more_is_asked_for_and_only_more_is_trained(
  finished_run, tmp_path, capsys
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(finished_run.workdir, workdir)
  kept = workdir / 'private' / 'classifiers'
  _evaluate_one_network(workdir)
  before = command.contents(kept)
  capsys.readouterr()
  _evaluate_one_network(workdir, num_seeds='3', features='pixels')
  assert 'training' in capsys.readouterr().out
  after = command.contents(kept)
  assert before.items() <= after.items()
  # A seed more: a network on three sources, half the images, a grid of two.
  assert len(after) == len(before) + 3 + 1 + 2
  report = _report(workdir)
  assert report['accuracy_num_seeds']['real']['cnn'] == 3
  first, earlier = report['earlier_evaluations']
  assert first['evaluate']['num_seeds'] == earlier['evaluate']['num_seeds'] == 2
  assert first['accuracy'] == _report(finished_run.workdir)['accuracy']
  assert _report(finished_run.workdir)['earlier_evaluations'] == []
  assert 'pixels' in report['quality']['real']['frechet']['name']


@pytest.fixture(name='config')
def _config() -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE,
    {
      'evaluate.features': '',
      'evaluate.svm': 'false',
      'evaluate.classifiers': '()',
      'evaluate.classifier.name': 'logistic_regression',
    },
  )


@pytest.fixture(name='places')
def _places(tmp_path: pathlib.Path) -> measurements.EvaluationPaths:
  """The dataset of another method: an .npz of the same form."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
  labels = np.arange(40, dtype=np.int32) % 10
  release.write_shard(tmp_path / 'other', 0, 1, images, labels)
  return measurements.EvaluationPaths(
    release=measurements.epath.Path(tmp_path / 'other'),
    evaluation=measurements.epath.Path(tmp_path / 'evaluation'),
    private=measurements.epath.Path(tmp_path / 'private'),
  )


def test_any_dataset_of_this_form_is_measured(
  config: config_lib.Config, places: measurements.EvaluationPaths
) -> None:
  stop = interrupts.Stop('again')
  found = measurements.measure(config, places, stop, sources=('synthetic',))
  assert list(found.accuracies.scores) == ['synthetic']
  assert found.accuracies.num_train_images == {'synthetic': 40}
  data = {k: v for section in found.sections for k, v in section.data.items()}
  assert data['memorization']['synthetic']['num_synthetic'] == 40
  assert [p['num_images'] for p in data['accuracy_by_number']] == [20, 40]


def _with_soft_labels(
  places: measurements.EvaluationPaths, num_classes: int = 10
) -> np.ndarray:
  """Adds soft labels to the dataset and returns them."""
  images, labels = release.read_dataset(places.release)
  drawn = np.random.default_rng(1).dirichlet(np.ones(num_classes), len(labels))
  soft = drawn.astype(np.float32)
  release.write_shard(places.release, 0, 1, images, labels, None, soft)
  return soft


@pytest.mark.parametrize('is_asked', [True, False])
def test_networks_learn_the_soft_labels_of_synthetic_images_if_asked(
  config: config_lib.Config,
  places: measurements.EvaluationPaths,
  monkeypatch,
  is_asked: bool,
) -> None:
  soft = _with_soft_labels(places)
  seen = {}

  class Watched(trained_classifiers.Members):
    def __init__(self, *args, **kwargs) -> None:
      super().__init__(*args, **kwargs)
      seen.update(self._probabilities)

  monkeypatch.setattr(trained_classifiers, 'Members', Watched)
  config = _with(
    config, soft_labels=is_asked, max_train_images=30, size_shares=()
  )
  found = measurements.measure(
    config, places, interrupts.Stop(''), sources=('synthetic', 'real')
  )
  assert found.accuracies.has_soft_labels == is_asked
  findings = evaluate._findings(
    config, '', tiny_release.make_statement(), found, {}
  )
  assert findings.has_soft_labels == is_asked
  assert list(seen) == (['synthetic'] if is_asked else [])
  if is_asked:
    rows = trained_classifiers.subset_rows(len(soft), 30)
    np.testing.assert_array_equal(seen['synthetic'], soft[rows])


@pytest.mark.parametrize('is_of_real_images', [True, False])
def test_no_soft_labels_are_claimed_where_none_are_learned(
  config: config_lib.Config,
  places: measurements.EvaluationPaths,
  is_of_real_images: bool,
) -> None:
  """By an SVM, or of real images."""
  _with_soft_labels(places)
  if not is_of_real_images:
    svm = training.ClassifierConfig(name='svm')
    config = _with(
      config,
      classifier=svm,
      size_shares=(),
      ensemble_size=0,
      selection=evaluate_config.SelectionConfig(),
    )
  source = 'real' if is_of_real_images else 'synthetic'
  found = measurements.measure(
    config, places, interrupts.Stop(''), sources=(source,)
  )
  assert not found.accuracies.has_soft_labels


def test_soft_labels_of_other_classes_are_refused_before_any_training(
  config: config_lib.Config, places: measurements.EvaluationPaths, monkeypatch
) -> None:
  _with_soft_labels(places, num_classes=3)
  monkeypatch.setattr(downstream, 'train_classifier', None)
  with pytest.raises(errors.UsageError, match=r'float32\[N, 10\], not .*N, 3'):
    measurements.measure(
      config, places, interrupts.Stop(''), sources=('synthetic',)
    )


def test_held_out_images_are_read_once_and_last(
  config: config_lib.Config, places: measurements.EvaluationPaths, monkeypatch
) -> None:
  events = []
  load, train = registry.load, downstream.train_classifier

  def watched_load(data, split=None):
    events.append(split or data.split)
    return load(data, split)

  def watched_train(*args, **kwargs):
    events.append('training')
    return train(*args, **kwargs)

  monkeypatch.setattr(registry, 'load', watched_load)
  monkeypatch.setattr(downstream, 'train_classifier', watched_train)
  measurements.measure(config, places, interrupts.Stop('again'))
  assert events.count('test') == 1 and events[-1] == 'test'
  assert events.count('training') == 2 * (3 + 1 + 2)


def test_processes_divide_the_training_and_find_what_one_finds(
  config: config_lib.Config, places: measurements.EvaluationPaths, monkeypatch
) -> None:
  stop = interrupts.Stop('again')
  alone = dataclasses.replace(
    places, private=places.private.parent / 'alone' / 'private'
  )
  sources = ('synthetic',)
  expected = measurements.measure(config, alone, stop, sources)
  kept = pathlib.Path(places.private) / 'classifiers'
  num_kept = []
  for index in (1, 0):
    share = processes.Share(index, 2)
    monkeypatch.setattr(processes, 'own_share', lambda share=share: share)
    monkeypatch.setattr(processes, 'is_main', lambda index=index: not index)
    found = measurements.measure(config, places, stop, sources)
    assert (found is None) == (index == 1)
    num_kept.append(len(list(kept.iterdir())))
  assert num_kept == [4, 8]
  assert command.contents(kept) == command.contents(
    pathlib.Path(alone.private) / 'classifiers'
  )
  for one, other in zip(found.sections, expected.sections):
    assert one.data == other.data


def test_a_missing_feature_file_is_said_before_any_training(
  config: config_lib.Config, places: measurements.EvaluationPaths, monkeypatch
) -> None:
  monkeypatch.setattr(downstream, 'train_classifier', None)
  stop = interrupts.Stop('again')
  for changes in (
    {'features': 'inception', 'inception_path': '/nowhere/graph.pb'},
    {'features': '/nowhere/net.npz'},
  ):
    changed = _with(config, **changes)
    with pytest.raises(errors.UsageError, match='nowhere') as error:
      measurements.measure(changed, places, stop)
    assert 'no such file' in str(error.value)


def test_features_of_a_file(
  config: config_lib.Config,
  places: measurements.EvaluationPaths,
  shared_dir: pathlib.Path,
) -> None:
  net = shared_dir / 'nets' / 'mnist_lenet5.npz'
  if not net.exists():
    pytest.skip(f'needs {net}')
  changed = _with(config, features=str(net), memorization=False)
  found = measurements.measure(
    changed, places, interrupts.Stop('x'), sources=()
  )
  (quality,) = [s for s in found.sections if 'quality' in s.data]
  frechet = quality.data['quality']['real']['frechet']
  assert frechet['features'] == 'lenet5'
  assert not frechet['is_inception'] and frechet['num_reference'] == 1437


def test_fid_is_called_so_and_its_features_are_kept(
  config: config_lib.Config, places: measurements.EvaluationPaths, monkeypatch
) -> None:
  def inception(path, batch_size, bind_fn):
    # What only a checked file gives, with the pixels in its place.
    return features._InceptionExtractor(
      name='Inception-v3',
      num_features=64,
      apply_fn=features._pixel_features,
      params=(),
      batch_size=batch_size,
      bind_fn=bind_fn,
    )

  monkeypatch.setattr(features, 'inception', inception)
  changed = _with(config, features='inception', memorization=False)
  stop = interrupts.Stop('again')
  found = measurements.measure(changed, places, stop, sources=())
  quality = found.sections[-1].data['quality']
  assert quality['synthetic']['frechet']['name'] == 'FID'
  assert quality['synthetic']['kernel']['name'] == 'KID'
  kept = list((places.private / 'features').iterdir())
  assert len(kept) == 3  # Training, held-out and synthetic images.


def _with(config: config_lib.Config, **changes) -> config_lib.Config:
  evaluate = dataclasses.replace(config.evaluate, **changes)
  return dataclasses.replace(config, evaluate=evaluate)


def test_the_summary_is_silent_on_what_real_images_teach(tmp_path, capsys):
  accuracy = {'cnn': 0.951, 'logistic_regression': 0.5, 'svm': None}
  report = {
    'privacy': {'epsilon_pld': 9.98712, 'epsilon_rdp': 11.2, 'delta': 1e-4},
    'accuracy': {'synthetic': accuracy, 'real': {'cnn': 0.99}},
  }
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'report.json').write_text(json.dumps(report))
  evaluate.say_summary(workdirs.Workdir(epath.Path(tmp_path)))
  said = capsys.readouterr().out
  assert 'CNN 95.1 %, Logistic regression 50.0 %: trained on synthetic' in said
  assert '99.0' not in said and 'epsilon 9.988 by PLD' in said
  assert f'\nrelease      {tmp_path / "release"}\n' in said


def test_the_summary_says_the_epsilon_that_is_guaranteed(tmp_path, capsys):
  """By the bound that decides, of two."""
  privacy = {'epsilon_pld': 9.5, 'epsilon_rdp': 9.25, 'epsilon': 9.25}
  report = {'privacy': {**privacy, 'delta': 1e-4}, 'accuracy': {}}
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'report.json').write_text(json.dumps(report))
  evaluate.say_summary(workdirs.Workdir(epath.Path(tmp_path)))
  assert 'epsilon 9.25 by RDP at delta 0.0001' in capsys.readouterr().out


def test_the_summary_says_what_guessing_reaches(tmp_path, capsys):
  report = {
    'privacy': {'epsilon_pld': None, 'epsilon_rdp': None, 'delta': 1e-4},
    'accuracy': {
      'synthetic': {'cnn': 0.555, 'svm': 0.7},
      'public': {'cnn': 0.5},
    },
    'majority_share': 0.612,
    'is_no_better_than_guessing': {
      'synthetic': {'cnn': True, 'svm': False},
      'public': {'cnn': True},
      'real': {'cnn': False},
    },
  }
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'report.json').write_text(json.dumps(report))
  evaluate.say_summary(workdirs.Workdir(epath.Path(tmp_path)))
  said = capsys.readouterr().out
  assert 'RBF SVM 70.0 % (CNN: no better than guessing): trained on' in said
  assert 'CNN 50.0 % (no better than guessing): trained on public' in said
  assert '61.2 %: always one class, the commonest' in said


@pytest.mark.parametrize(
  'low, words',
  [
    (0.6, 'CNN and ensemble of 3 CNNs: no better than guessing'),
    (0.62, 'CNN: no better than guessing'),
  ],
)
def test_the_summary_judges_ensembles_too(tmp_path, capsys, low, words):
  report = {
    'privacy': {'epsilon_pld': None, 'epsilon_rdp': None, 'delta': 1e-4},
    'accuracy': {'synthetic': {'cnn': 0.555, 'svm': 0.9}},
    'ensembles': {
      'num_members': 3,
      'accuracy': {'synthetic': {'cnn': {'value': 0.7, 'low': low}}},
    },
    'majority_share': 0.612,
    'is_no_better_than_guessing': {'synthetic': {'cnn': True, 'svm': False}},
  }
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'report.json').write_text(json.dumps(report))
  evaluate.say_summary(workdirs.Workdir(epath.Path(tmp_path)))
  said = capsys.readouterr().out
  assert f'ensemble of 3 CNNs 70.0 % ({words}): trained on' in said


@pytest.mark.parametrize('is_learned', [True, False])
def test_the_summary_says_whether_the_feature_network_learned(
  tmp_path, capsys, is_learned
):
  report = {
    'privacy': {'epsilon_pld': 9.99, 'epsilon_rdp': 11.2, 'delta': 1e-4},
    'accuracy': {},
    'quality': {
      'features': {
        'name': 'small CNN',
        'num_features': 128,
        'num_live': 77,
        'network': {
          'accuracy': 0.008,
          'chance': 0.005,
          'num_features': 128,
          'num_live': 6,
          'is_better_than_chance': is_learned,
          'has_enough_live': True,
        },
      }
    },
  }
  (tmp_path / 'evaluation').mkdir()
  (tmp_path / 'evaluation' / 'report.json').write_text(json.dumps(report))
  evaluate.say_summary(workdirs.Workdir(epath.Path(tmp_path)))
  said = capsys.readouterr().out
  assert 'small CNN: right on 0.8 %' in said and 'always one class: 0.5' in said
  assert '6 of 128 features live' in said
  assert '77' not in said  # Computed from the training images.
  assert ('left out' in said) != is_learned


@pytest.mark.parametrize(
  'num_made, num_train, num_held_out, is_searched',
  [
    (30, 60, 19, True),
    (30, 60, 2, True),
    (30, 60, 1, True),
    (1, 60, 1, True),
    (30, 2, 1, True),
    (30, 1, 30, False),
    (30, 60, 0, False),
  ],
)
def test_few_held_out_images_leave_the_distances_out_and_the_rest_in(
  tmp_path, capsys, num_made, num_train, num_held_out, is_searched
):
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.features': 'pixels'}
  )
  rng = np.random.default_rng(0)

  def labelled(number):
    images = rng.integers(0, 256, (number, 8, 8, 1)).astype(np.uint8)
    return images, np.zeros(number, np.int32)

  found = image_distances.sections(
    config,
    features.pixels((8, 8, 1)),
    image_distances.ImageSets(
      synthetic=labelled(num_made),
      train=labelled(num_train),
      held_out=labelled(num_held_out),
    ),
    epath.Path(tmp_path),
    interrupts.Stop(''),
  )
  quality, memorization = found
  reason = quality.data['quality']['left_out']
  shown = f'held-out real images: {num_held_out}'
  assert (shown in reason) == (num_held_out < 20)
  assert 'at least 20 images of each set' in reason
  copies = memorization.data['memorization']
  assert ('synthetic' in copies) == is_searched
  assert (copies.get('real') is not None) == (is_searched and num_held_out > 1)
  for section in found:
    page = report_page.render('', '', '', '', [section, section])
    assert 'nan' not in page.split('base64')[0].lower()
  assert 'held-out' not in capsys.readouterr().out


def test_copies_are_looked_for_among_all_training_images(tmp_path):
  """However few images are compared otherwise."""
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.max_distance_images': '20'}
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (80, 8, 8, 1)).astype(np.uint8)
  labels = np.zeros(80, np.int32)
  (found,) = image_distances.sections(
    config,
    None,
    image_distances.ImageSets(
      synthetic=(images[:30], labels[:30]),
      train=(images[:50], labels[:50]),
      held_out=(images[50:], labels[50:]),
    ),
    epath.Path(tmp_path),
    interrupts.Stop(''),
  )
  copies = found.data['memorization']['synthetic']
  assert (copies['num_train'], copies['num_held_out']) == (50, 20)
  assert copies['num_exact'] == copies['num_synthetic'] == 20


def _same_sets(labelled) -> image_distances.ImageSets:
  return image_distances.ImageSets(
    synthetic=labelled, train=labelled, held_out=labelled
  )


def test_a_network_that_learned_nothing_measures_nothing(tmp_path):
  """Shuffled pixels came out as precise as real images in its features."""
  config = config_lib.load(command.DIGITS_SMOKE, {})
  images = np.zeros((30, 8, 8, 1), np.uint8)
  labelled = images, np.zeros(30, np.int32)
  untaught = features.NetExtractor(
    name='small CNN',
    num_features=128,
    apply_fn=lambda *_: pytest.fail('No features are needed.'),
    params=(),
    network_test=features.NetworkTest(
      accuracy=0.008,
      low=0.004,
      high=0.015,
      chance=0.005,
      num_images=2000,
      num_features=128,
      num_live=6,
    ),
  )
  quality = image_distances.sections(
    config,
    untaught,
    _same_sets(labelled),
    epath.Path(tmp_path),
    interrupts.Stop(''),
  )[0]
  assert 'learned too little' in quality.data['quality']['left_out']
  assert set(quality.data['quality']) == {'left_out', 'features'}


@pytest.mark.parametrize('is_blind', [False, True])
def test_a_network_that_takes_noise_for_images_measures_nothing(
  tmp_path, is_blind
):
  """Colours alone, which shuffled pixels keep; a file says no accuracy."""
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.memorization': 'False'}
  )
  rng = np.random.default_rng(0)
  images = np.zeros((60, 8, 8, 1), np.uint8)  # A bright square, somewhere.
  for image, (row, column) in zip(images, rng.integers(0, 5, (60, 2))):
    image[row : row + 4, column : column + 4] = rng.integers(100, 256)
  labelled = images, np.zeros(60, np.int32)

  def colours(params, x):
    del params
    flat = x.reshape(len(x), -1).astype(np.float32)
    return np.stack([flat.mean(axis=1), flat.max(axis=1)], axis=1)

  pixels = features.pixels((8, 8, 1))
  extractor = features.NetExtractor(
    name='net of a file',
    num_features=2 if is_blind else 64,
    apply_fn=colours if is_blind else pixels.apply_fn,
    params=(),
    bind_fn=lambda fn, params: lambda x: fn(params, x),
  )
  (found,) = image_distances.sections(
    config,
    extractor,
    _same_sets(labelled),
    epath.Path(tmp_path),
    interrupts.Stop(''),
  )
  measured = found.data['quality']
  assert ('take noise for images' in measured['left_out']) == is_blind
  assert ('synthetic' in measured) != is_blind
  noise = measured['features']['noise']
  assert noise['is_taken_for_images'] == is_blind and noise['num_images'] == 60


def test_distances_know_the_persons(tmp_path):
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {'evaluate.memorization': 'False', 'evaluate.max_distance_images': '40'},
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
  labelled = images, np.zeros(60, np.int32)
  of_two = np.arange(60, dtype=np.int32) % 2
  widths = []
  for persons in (None, (of_two, of_two)):
    (found,) = image_distances.sections(
      config,
      features.pixels((4, 4, 1)),
      dataclasses.replace(_same_sets(labelled), persons=persons),
      epath.Path(tmp_path),
      interrupts.Stop(''),
    )
    shares = found.data['quality']['real']['precision_recall']
    widths.append(
      np.diff([shares['precision_interval'], shares['recall_interval']])[:, 0]
    )
  assert (widths[1] > 2 * widths[0]).all()


def test_images_that_are_drawn_keep_their_persons():
  images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
  numbers = np.arange(60, dtype=np.int32)
  sets = dataclasses.replace(
    _same_sets((images, numbers)), persons=(numbers, numbers)
  )
  for whole in (False, True):
    found = sets.at_most(20, has_whole_train=whole)
    assert len(found.held_out[0]) == 20
    assert len(found.train[0]) == (60 if whole else 20)
    for labelled, persons in zip((found.train, found.held_out), found.persons):
      np.testing.assert_array_equal(labelled[0].ravel(), persons)
      np.testing.assert_array_equal(labelled[1], persons)


def test_the_search_for_copies_shows_progress_and_can_be_stopped(
  tmp_path, capsys
):
  config = config_lib.load(command.DIGITS_SMOKE, {})
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 4, 4, 1)).astype(np.uint8)
  labelled = images, np.zeros(60, np.int32)
  stop = interrupts.Stop('again')
  args = (config, None, _same_sets(labelled), epath.Path(tmp_path))
  image_distances.sections(*args, stop)
  lines = capsys.readouterr().out.splitlines()
  what = 'looking for copies of training images, percent'
  assert [lines[0], lines[-1]] == [f'{what}: 0/100', f'{what}: 100/100']
  picture = tmp_path / image_distances.PAIRS_NAME
  picture.unlink()
  stop.ask()
  with pytest.raises(errors.Interrupted, match='again'):
    image_distances.sections(*args, stop)
  assert not picture.exists()


def test_one_training_image_more_does_not_show_on_the_terminal(
  tmp_path, capsys
):
  """Who knows all the others could tell from a log whether it was there."""
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {'evaluate.features': 'pixels', 'evaluate.allow_few_images': 'True'},
  )
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (61, 8, 8, 1)).astype(np.uint8)
  labels = np.zeros(61, np.int32)
  extractor = image_distances.extractor(
    config, epath.Path(tmp_path), interrupts.Stop('')
  )
  said = []
  for number in (60, 61):
    image_distances.sections(
      config,
      extractor,
      image_distances.ImageSets(
        synthetic=(images[:50], labels[:50]),
        train=(images[:number], labels[:number]),
        held_out=(images[:40], labels[:40]),
      ),
      epath.Path(tmp_path),
      interrupts.Stop(''),
    )
    said.append(capsys.readouterr())
  assert said[0] == said[1] and 'measuring distances' in said[0].out


def test_inception_sees_few_images_at_a_time_on_a_cpu():
  assert image_distances.images_per_device('inception', 'cpu') <= 8
  assert image_distances.images_per_device('inception', 'cuda') == 64
  assert image_distances.images_per_device('public', 'cpu') == 256
