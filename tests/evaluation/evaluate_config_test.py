"""Bad settings are refused before any compute."""

from __future__ import annotations

import pathlib

import pytest

from dp_diffusion import array_types
from dp_diffusion import config as config_lib

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
    ({'features': 'incepton'}, "'inception', 'public'"),
    ({'inception_path': 'a.pb'}, "features='public' to be 'inception'"),
  ],
)
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(array_types.UsageError, match=message):
    load(**changes)


def test_features_may_be_a_file():
  assert load(features='nets/a.npz').features == 'nets/a.npz'
  assert load(features='').features == ''
