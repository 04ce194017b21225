"""Bad settings are refused before any compute."""

from __future__ import annotations

import pathlib

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors

DIGITS = str(pathlib.Path(__file__).parents[2] / 'configs' / 'digits.py')


def load(**changes):
  changes = {k.replace('__', '.'): v for k, v in changes.items()}
  overrides = {f'evaluate.{key}': value for key, value in changes.items()}
  return config_lib.load(f'{DIGITS}:smoke', overrides).evaluate


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'num_seeds': '0'}, 'num_seeds'),
    ({'max_distance_images': '5'}, 'max_distance_images'),
    ({'ensemble_size': '3'}, 'ensemble_size=3 to be at most num_seeds=2'),
    ({'size_shares': '(0.5, 1.5)'}, r'size_shares=1.5 to be in \(0, 1\]'),
    ({'classifiers': 'wrn_40_3'}, "did you mean 'wrn_40_4'"),
    ({'classifiers': 'svm'}, 'classifiers'),
    ({'classifiers': 'small_cnn'}, "others than 'small_cnn'"),
    ({'classifiers': 'wrn_16_4,wrn_16_4'}, 'repeats'),
    ({'selection__learning_rates': '(0.1,)'}, 'at least two settings'),
    ({'selection__learning_rates': '(0.1, -1.0)'}, 'learning_rate'),
    ({'selection__names': 'svm,small_cnn'}, "names='svm' to be one of"),
    (
      {'classifier__name': 'svm', 'selection__learning_rates': '(0.1, 0.2)'},
      'networks',
    ),
    ({'classifier__validation_fraction': '0'}, 'validation_fraction'),
    ({'features': 'incepton'}, "'inception', 'public'"),
    ({'inception_path': 'a.pb'}, "features='public' to be 'inception'"),
  ],
)
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(errors.UsageError, match=message):
    load(**changes)


def test_features_may_be_a_file():
  assert load(features='nets/a.npz').features == 'nets/a.npz'
  assert load(features='').features == ''


def test_a_grid_has_every_combination_and_its_recipes():
  settings = load(
    selection__names='small_cnn,wrn_16_4',
    selection__learning_rates='(0.1, 0.2)',
    selection__num_steps='(5,)',
  )
  found = settings.selection.settings(settings.classifier)
  assert [setting for setting, _ in found] == [
    {'name': name, 'num_steps': 5, 'learning_rate': rate}
    for name in ('small_cnn', 'wrn_16_4')
    for rate in (0.1, 0.2)
  ]
  for setting, config in found:
    assert config.name == setting['name']
    assert config.learning_rate == setting['learning_rate']
    is_wide = config.name == 'wrn_16_4'
    assert config.optimizer == ('sgd' if is_wide else 'adamw')


def test_no_axis_is_no_grid():
  assert not load(selection__learning_rates='()').selection.is_on
