"""Classifiers are trained once, kept, and used for nothing else."""

from __future__ import annotations

import dataclasses
import stat

import numpy as np
import pytest

from dp_diffusion.evaluation.classifiers import downstream
from dp_diffusion.evaluation.classifiers import trained_classifiers
from dp_diffusion.evaluation.classifiers import training

CONFIG = training.ClassifierConfig(
  name='logistic_regression', num_steps=6, batch_size=8, num_validations=2
)


def make_set(num=40, seed=0):
  rng = np.random.default_rng(seed)
  labels = rng.integers(3, size=num).astype(np.int32)
  return rng.integers(0, 256, (num, 4, 4, 1)).astype(np.uint8), labels


def make_members(folder, check=lambda: None, **sets):
  sets = sets or {'synthetic': make_set()}
  return trained_classifiers.Members(
    sets, dict.fromkeys(sets, 3), folder, check
  )


def make_member(**changes):
  values = {
    'source': 'synthetic',
    'num_images': 40,
    'config': CONFIG,
    'seed': 0,
  }
  return trained_classifiers.Member(**(values | changes))


@pytest.fixture
def trained(tmp_path):
  """The folder with two members, and what they say."""
  group = make_members(tmp_path)
  group.train([make_member(), make_member(seed=1), make_member()])
  probs = group.get(make_member()).predict_proba(make_set(seed=1)[0])
  return tmp_path, probs


def test_a_rerun_trains_nothing_and_says_the_same(trained, monkeypatch):
  folder, probs = trained
  files = sorted(folder.iterdir())
  assert len(files) == 2
  assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
  monkeypatch.setattr(downstream, 'train_classifier', None)
  group = make_members(folder)
  group.train([make_member(), make_member(seed=1)])
  again = group.get(make_member())
  np.testing.assert_array_equal(again.predict_proba(make_set(seed=1)[0]), probs)
  assert [s.step for s in again.validation] == [3, 6]
  assert again.best_step in (3, 6)
  assert again.validation_accuracy == max(s.accuracy for s in again.validation)


@pytest.mark.parametrize(
  'changes',
  [
    {'seed': 2},
    {'num_images': 39},
    {'config': dataclasses.replace(CONFIG, learning_rate=1e-3)},
  ],
)
def test_another_member_is_trained_anew(trained, changes):
  folder, _ = trained
  make_members(folder).train([make_member(**changes)])
  assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize('what', ['images', 'labels'])
def test_other_images_or_labels_are_trained_on_anew(trained, what):
  folder, _ = trained
  images, labels = make_set()
  if what == 'images':
    images[7, 1, 2, 0] ^= 1
  else:
    labels[7] = (labels[7] + 1) % 3
  make_members(folder, synthetic=(images, labels)).train([make_member()])
  assert len(list(folder.iterdir())) == 3


def make_soft(num=40, seed=0):
  rng = np.random.default_rng(seed)
  return rng.dirichlet(np.ones(3), num).astype(np.float32)


@pytest.mark.parametrize('other', [None, make_soft(seed=1)])
def test_other_soft_labels_are_trained_on_anew(tmp_path, other):
  sets = {'synthetic': make_set()}, {'synthetic': 3}
  for soft in (make_soft(), other):
    found = {} if soft is None else {'synthetic': soft}
    trained_classifiers.Members(*sets, tmp_path, probabilities=found).train(
      [make_member()]
    )
  assert len(list(tmp_path.iterdir())) == 2


def test_a_subset_has_the_soft_labels_of_its_images(tmp_path, monkeypatch):
  """Of its own set alone: real images have labels only."""
  seen, train = [], downstream.train_classifier

  def watched(config, images, labels, *rest, probabilities, **kwargs):
    seen.append((images, labels, probabilities))
    return train(
      config, images, labels, *rest, probabilities=probabilities, **kwargs
    )

  monkeypatch.setattr(downstream, 'train_classifier', watched)
  images, labels = make_set()
  soft = make_soft()
  trained_classifiers.Members(
    {'synthetic': (images, labels), 'real': make_set(seed=2)},
    {'synthetic': 3, 'real': 3},
    tmp_path,
    probabilities={'synthetic': soft},
  ).train([make_member(num_images=11), make_member(source='real')])
  (part, of_part, soft_of_part), (_, _, none) = seen
  assert none is None and len(soft_of_part) == 11
  rows = [
    next(i for i in range(40) if (images[i] == image).all()) for image in part
  ]
  np.testing.assert_array_equal(labels[rows], of_part)
  np.testing.assert_array_equal(soft[rows], soft_of_part)


def test_the_name_of_the_set_does_not_matter(trained, monkeypatch):
  """So that evaluations of several releases share the ceiling."""
  folder, _ = trained
  monkeypatch.setattr(downstream, 'train_classifier', None)
  make_members(folder, other=make_set()).train([make_member(source='other')])


def test_what_is_trained_before_an_interrupt_is_kept(tmp_path):
  num_checks = 0

  def check():
    nonlocal num_checks
    num_checks += 1
    if num_checks == CONFIG.num_steps + 4:
      raise KeyboardInterrupt

  group = make_members(tmp_path, check)
  asked = [make_member(seed=seed) for seed in range(3)]
  with pytest.raises(KeyboardInterrupt):
    group.train(asked)
  assert len(list(tmp_path.iterdir())) == 1
  num_checks = -1000
  group.train(asked)
  assert len(list(tmp_path.iterdir())) == 3


def test_the_reference_is_fitted_but_not_kept(tmp_path):
  group = make_members(tmp_path)
  svm = make_member(config=training.ClassifierConfig(name='svm'))
  group.train([svm])
  assert isinstance(group.get(svm), downstream.SvmClassifier)
  assert not list(tmp_path.iterdir())


def test_a_network_with_moving_statistics_comes_back(tmp_path):
  group = make_members(tmp_path, synthetic=make_set(num=16))
  config = dataclasses.replace(
    CONFIG, name='small_cnn', num_steps=1, num_validations=1
  )
  member = make_member(config=config, num_images=16)
  group.train([member])
  variables = group.get(member).variables
  variables = {**variables, 'batch_stats': {'norm': {'mean': np.ones(3)}}}
  packed = trained_classifiers._pack(
    dataclasses.replace(group.get(member), variables=variables)
  )
  found = trained_classifiers._unpack(packed, group.get(member).fns).variables
  np.testing.assert_array_equal(found['batch_stats']['norm']['mean'], 1)
  assert found['params'].keys() == variables['params'].keys()


def test_subsets_are_nested_and_of_every_part():
  images, labels = make_set(num=100)
  images[:, 0, 0, 0] = np.arange(100)
  small, large = (
    trained_classifiers.subset(images, labels, n)[0][:, 0, 0, 0]
    for n in (20, 60)
  )
  assert set(small) < set(large) and len(large) == 60
  assert (np.diff(large.astype(int)) > 0).all()
  assert small.max() > 60  # Not the first ones: sets may be sorted by class.
  whole, _ = trained_classifiers.subset(images, labels, 100)
  assert whole is images
