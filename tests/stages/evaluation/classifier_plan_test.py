"""Everything that is tested is planned, and nothing is trained twice."""

from __future__ import annotations

import pathlib

from dp_diffusion import config as config_lib
from dp_diffusion.evaluation.classifiers import training
from dp_diffusion.stages.evaluation import classifier_plan
from dp_diffusion.training import processes

DIGITS = str(pathlib.Path(__file__).parents[3] / 'configs' / 'digits.py')
NUM_IMAGES = {'synthetic': 60, 'real': 50}


def load(**changes):
  overrides = {f'evaluate.{key}': value for key, value in changes.items()}
  return config_lib.load(f'{DIGITS}:smoke', overrides).evaluate


def test_every_source_meets_every_classifier():
  plan = classifier_plan.make(load(num_seeds='3'), NUM_IMAGES, 0)
  assert set(plan.main) == {
    (source, key)
    for source in NUM_IMAGES
    for key in ('cnn', 'logistic_regression', 'svm')
  }
  for (source, key), group in plan.main.items():
    assert len(group) == (1 if key == 'svm' else 3)
    assert {m.num_images for m in group} == {NUM_IMAGES[source]}
    assert len({m.config for m in group}) == 1


def test_the_curve_ends_where_the_main_result_is():
  settings = load(size_shares='(0.1, 1.0, 0.5)')
  plan = classifier_plan.make(settings, NUM_IMAGES, 0)
  assert list(plan.by_number) == [6, 30, 60]
  assert plan.by_number[60] == plan.main['synthetic', 'cnn']


def test_the_grid_is_of_synthetic_images():
  plan = classifier_plan.make(load(), NUM_IMAGES, 0)
  assert [s for s, _ in plan.grid] == [
    {'learning_rate': 1e-3},
    {'learning_rate': 1e-2},
  ]
  for setting, group in plan.grid:
    assert {m.source for m in group} == {'synthetic'}
    assert {m.config.learning_rate for m in group} == {setting['learning_rate']}
    assert {m.seed for m in group} == {0, 1}
  asked = plan.all()
  assert {m for _, group in plan.grid for m in group} <= set(asked)


def test_without_synthetic_images_there_is_neither():
  plan = classifier_plan.make(load(), {'real': 50}, 0)
  assert not plan.by_number and not plan.grid
  assert {source for source, _ in plan.main} == {'real'}


def test_nothing_more_is_planned_than_asked_for():
  settings = config_lib.load(DIGITS).evaluate
  plan = classifier_plan.make(settings, NUM_IMAGES, 0)
  assert set(plan.main) == {(s, k) for s in NUM_IMAGES for k in ('cnn', 'svm')}
  assert not plan.by_number and not plan.grid
  reference = plan.main['real', 'svm'][0].config
  assert reference == training.ClassifierConfig(name='svm')


def test_runs_of_two_seeds_train_no_network_alike():
  """A spread over seeds holds that of the classifiers, public ones too."""
  first, second = (
    {
      m.seed
      for m in classifier_plan.make(load(num_seeds='5'), NUM_IMAGES, s).all()
    }
    for s in (1, 2)
  )
  assert len(first) == len(second) == 5 and not first & second


def test_more_seeds_keep_the_first_ones():
  few, more = (
    classifier_plan.make(load(num_seeds=n), NUM_IMAGES, 2**31 - 1).all()
    for n in ('2', '4')
  )
  assert set(few) <= set(more)
  assert all(0 <= member.seed < 2**31 for member in more)


def test_processes_share_the_classifiers_of_each_kind():
  settings = load(num_seeds='5', svm='true')
  plan = classifier_plan.make(settings, NUM_IMAGES, 0)
  shares = [plan.share(processes.Share(index, 3)) for index in range(3)]
  dealt = [member for share in shares for member in share]
  assert len(dealt) == len(set(dealt)) and set(dealt) == set(plan.all())
  names = [[member.config.name for member in share] for share in shares]
  # Process 0 tests the SVMs, which have no file.
  assert [share.count('svm') for share in names] == [2, 0, 0]
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1
  of_main = [share.count(settings.classifier.name) for share in names]
  assert max(of_main[1:]) - min(of_main[1:]) <= 1
  assert plan.share(processes.Share()) == list(dict.fromkeys(plan.all()))


def test_more_processes_than_classifiers():
  plan = classifier_plan.make(
    load(num_seeds='1', ensemble_size='0'), {'real': 50}, 0
  )
  shares = [plan.share(processes.Share(index, 9)) for index in range(9)]
  assert sorted(map(len, shares)) == [0] * 6 + [1] * 3
