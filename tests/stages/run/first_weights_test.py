"""Weights are not taken for what they were not trained as."""

from __future__ import annotations

import dataclasses
import json

from etils import epath
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models.formats import foreign
from dp_diffusion.stages.run import first_weights
from tests.stages import command

CHANGES = {
  'diffusion.schedule': 'linear',
  'diffusion.num_timesteps': '500',
  'diffusion.prediction': 'eps',
  'model.num_groups': '2',
  'model.head_channels': '4',
  'model.num_heads': '2',
  'model.norm_eps': '1e-6',
  'model.time_scale': '4',
  'model.time_offset': '3',
}
LATER = ('num_heads', 'norm_eps', 'time_scale', 'time_offset')


def load(init_from, **more):
  return config_lib.load(
    command.DIGITS_SMOKE, {'pretrain.init_from': str(init_from), **more}
  )


def make(tmp_path, kind):
  """Weights of the smoke config's network, as a run or a release has them."""
  config = config_lib.to_dict(load('x'))
  if kind == 'run':
    path = tmp_path / 'public' / 'model' / 'params.npz'
    record = {'pretrain': {'config': config}}
    files.write_json(epath.Path(tmp_path / 'config.json'), record)
  else:
    path = tmp_path / 'model' / 'params.npz'
    path.parent.mkdir()
    files.write_json(
      epath.Path(path.parent / 'model.json'),
      {'unet': config['model'], 'diffusion': config['diffusion']},
    )
  return epath.Path(path)


@pytest.mark.parametrize('kind', ['run', 'release'])
def test_other_meanings_are_refused(tmp_path, kind):
  path = make(tmp_path, kind)
  first_weights.check(load(tmp_path), path)
  first_weights.check(load(tmp_path, **{'model.dropout': '0.1'}), path)
  assert set(CHANGES) == set(foreign.UNSAID)
  for key, value in CHANGES.items():
    with pytest.raises(errors.UsageError, match=f'Expected {key}='):
      first_weights.check(load(tmp_path, **{key: value}), path)


def test_a_bare_file_says_what_it_is(tmp_path):
  path = epath.Path(tmp_path / 'x.npz')
  with pytest.raises(errors.UsageError, match='init_as_configured=True'):
    first_weights.check(load(path), path)
  vouched = load(path, **{'pretrain.init_as_configured': 'true'})
  first_weights.check(vouched, path)
  config = config_lib.to_dict(load(path))
  said = {
    key: config[key.split('.')[0]][key.split('.')[1]]
    for key in CHANGES
    if not key.endswith(LATER)  # Nothing says these of older weights.
  }
  key_map = tmp_path / 'map.json'
  for made_with, words in (
    (said, ''),
    ({**said, 'model.num_groups': 77}, 'model.num_groups=.*77'),
    ({**said, 'model.num_heads': 4}, 'model.num_heads=.*4'),
    ({'model.num_groups': 4}, 'diffusion.prediction'),
    ([], 'made_with'),
  ):
    key_map.write_text(json.dumps({'made_with': made_with}))
    mapped = load(path, **{'pretrain.init_key_map': str(key_map)})
    if not words:
      first_weights.check(mapped, path)
      continue
    with pytest.raises(errors.UsageError, match=words):
      first_weights.check(mapped, path)


def test_what_nothing_says_is_not_taken_for_the_default(tmp_path):
  """But for keys that did not exist when older weights were made."""
  path = epath.Path(tmp_path / 'x.npz')
  config = config_lib.to_dict(load(path))
  said = {
    key: config[key.split('.')[0]][key.split('.')[1]]
    for key in CHANGES
    if not key.endswith(LATER)
  }
  key_map = tmp_path / 'map.json'
  for key in said:
    rest = {k: v for k, v in said.items() if k != key}
    key_map.write_text(json.dumps({'made_with': rest}))
    mapped = load(path, **{'pretrain.init_key_map': str(key_map)})
    with pytest.raises(errors.UsageError, match=rf'made with \({key}\)'):
      first_weights.check(mapped, path)


def test_what_is_known_is_not_vouched_for(tmp_path):
  path = make(tmp_path, 'run')
  config = load(tmp_path)
  pretrain = dataclasses.replace(config.pretrain, init_as_configured=True)
  with pytest.raises(errors.UsageError, match='config.json says so'):
    first_weights.check(dataclasses.replace(config, pretrain=pretrain), path)


@pytest.mark.parametrize('ending', ['pt', 'safetensors', 'pkl'])
def test_a_file_of_another_project_needs_its_format(tmp_path, ending):
  path = epath.Path(tmp_path / f'x.{ending}')
  with pytest.raises(errors.UsageError, match='init_format .*diffusers'):
    first_weights.check(load(path), path)
