"""Configs: what is refused, in which words, before any compute."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = str(ROOT / 'configs' / 'digits.py')


@pytest.mark.parametrize(
  ('key', 'text', 'words'),
  [
    (
      'privacy.epsilonn',
      '5',
      "Unknown config key 'privacy.epsilonn'; did you mean privacy.epsilon",
    ),
    ('augmult', '5', 'did you mean finetune.augmult'),
    ('privacy', '5', 'to name one value; it holds privacy.'),
    ('data', '5', 'data.file_column, data.flip and '),
    ('privacy.epsilon', 'ten', 'privacy.epsilon=ten to be of type float'),
    ('privacy.epsilon', '0', 'Expected epsilon=0.0 to be > 0'),
    ('privacy.epsilon', '-1', 'Expected epsilon=-1.0 to be > 0'),
    ('privacy.epsilon', 'nan', 'epsilon=nan'),
    ('privacy.delta', '0', 'delta=0.0 to be in (0, 1)'),
    ('privacy.delta', '1', 'delta=1.0 to be in (0, 1)'),
    ('privacy.delta', '0.01', 'delta=0.01 to be <= 1/num_examples'),
    ('privacy.noise_multiplier', '1.5', 'solve_for='),
    ('privacy.expected_batch_size', '1438', '<= num_examples=1437'),
    ('privacy.num_steps', 'none', 'num_steps=None to be a number'),
    ('finetune.augmult', '0', 'finetune.augmult=0 to be >= 1'),
    ('finetune.augmult', '2.5', 'finetune.augmult=2.5 to be of type int'),
    ('finetune.gradient_scales', 'a=b', "'a=b' to be PATTERN=NUMBER"),
    ('finetune.gradient_scales', 'label/*', "'label/*' to be PATTERN=NUMBER"),
    ('finetune.gradient_scales', '=2', "'=2' to be PATTERN=NUMBER"),
    ('finetune.gradient_scales', 'a=0', 'gradient_scales=0.0 to be in [0.001,'),
    ('finetune.gradient_scales', 'a=inf', 'gradient_scales=inf to be in'),
    ('finetune.gradient_scales', 'a=nan', 'gradient_scales=nan to be in'),
    ('finetune.gradient_scales', '3', "'3' to be PATTERN=NUMBER"),
    ('finetune.scaled_quantity', 'parameter', 'gradient_scales to be set'),
    ('finetune.clip_groups', 'a', "'a' to be PATTERN=NUMBER"),
    ('finetune.clip_groups', 'a=0.5', 'clip_groups=[0.5] to sum to 1'),
    ('finetune.clip_groups', 'a=2,b=-1', 'clip_groups=2.0 to be in [1e-06, 1]'),
    ('pretrain.optimizer.name', 'adam_bc', 'gradients without noise'),
    ('finetune.release_weights', 'lst', "did you mean 'last'"),
    ('sample.sampler.name', 'dimm', "did you mean 'ddim'"),
    ('data.image_size', '16', 'images of the size of data'),
    ('data.name', 'digit', "did you mean 'digits'"),
    ('model.num_groups', '5', 'num_groups=5'),
    (
      'pretrain.init_key_map',
      'a.json',
      'init_from to be set, as pretrain.init_',
    ),
    ('pretrain.init_sha256', '00', 'init_from to be set, as pretrain.init_'),
    ('seed', '-1', 'Expected seed=-1 to be in [0, 2**31)'),
    ('seed', '99999999999999999999', 'to be in [0, 2**31)'),
    ('pretrain.data.image_size', '8.5', 'image_size=8.5 to be of type int'),
    # What would otherwise come to light after the training.
    ('sample.labels', '1,2', '10 weights >= 0, one per class'),
    ('sample.labels', 'unifrom', "sample.labels='unifrom'"),
    ('sample.sampler.num_steps', '1001', 'num_steps=1001 to be at most'),
    ('sample.sampler.guidance_weight', '1', 'label_drop_prob to be > 0'),
    ('data.test_split', 'train', 'other than'),
    ('data.test_split', 'train[:10%]', 'share no image'),
    ('data.test_split', 'test+train[5:]', 'share no image'),
    ('data.test_split', 'all', 'share no image'),
    ('evaluate.held_out_split', 'train[1000:]', 'share no image'),
    ('data.class_names', "('a', '')", 'no empty name'),
    ('data.class_names', '()', "name every class of 'digits'"),
    ('pretrain.data.class_names', '()', "name every class of 'glyphs'"),
    ('diffusion.loss_weighting', 'snr', "loss_weighting='snr'"),
    ('evaluate.features', 'inception', 'more than 2048'),
    ('evaluate.selection.names', 'smal_cnn', "did you mean 'small_cnn'"),
    ('evaluate.selection.num_steps', '0,2', 'selection.num_steps=0 to be >= 1'),
    ('distributed.num_processes', '-4', 'num_processes=-4 to be >= 0'),
  ],
)
def test_bad_value_gets_one_line(key: str, text: str, words: str) -> None:
  with pytest.raises(errors.UsageError, match=re.escape(words)) as error:
    config_lib.load(DIGITS, {key: text})
  assert '\n' not in str(error.value)


def test_tries_with_one_class_are_refused_before_the_training() -> None:
  changes = {
    'data.class_names': 'all',
    'pretrain.data.class_names': 'all',
    'sample.sampler.max_tries': '2',
  }
  with pytest.raises(errors.UsageError, match='max_tries=2 to be 1') as raised:
    config_lib.load(DIGITS, changes)
  assert '\n' not in str(raised.value)


def test_public_images_that_nobody_reads_need_no_classes() -> None:
  changed = {'pretrain.num_steps': '0', 'pretrain.data.class_names': '()'}
  assert not config_lib.load(DIGITS, changed).pretrain.data.class_names


def test_classes_in_another_order_are_other_classes() -> None:
  """Label 1 would stand for another class in public and private images."""
  config = config_lib.load(DIGITS, {'pretrain.data.class_names': 'a,b'})
  for names, is_same in ((('a', 'b'), True), (('b', 'a'), False)):
    data = dataclasses.replace(config.data, class_names=names)
    found = dataclasses.replace(config, data=data).has_same_classes
    assert found == is_same


def test_both_stages_weigh_the_loss_as_asked() -> None:
  config = config_lib.load(DIGITS, {'diffusion.loss_weighting': 'min_snr'})
  for diffusion in (config.pretrain_diffusion(), config.finetune_diffusion()):
    assert diffusion.loss_weighting == 'min_snr'


def test_only_private_training_has_antithetic_noise() -> None:
  config = config_lib.load(DIGITS, {'finetune.antithetic_noise': 'true'})
  assert config.finetune_diffusion().antithetic_noise
  assert not config.pretrain_diffusion().antithetic_noise


def test_fid_needs_enough_images_that_are_held_out() -> None:
  config = str(ROOT / 'configs' / 'own_images.py')
  changed = {'data.class_names': "('a', 'b')", 'data.path': '/data'}
  config_lib.load(config, changed)
  with pytest.raises(errors.UsageError, match='held out, not 1111'):
    config_lib.load(config, changed | {'data.test_fraction': '0.1'})


@pytest.mark.parametrize('name', ['image_size', 'channels'])
def test_the_network_needs_the_shape_of_the_images(name: str) -> None:
  changed = {f'data.{name}': '0', f'pretrain.data.{name}': '0'}
  with pytest.raises(errors.UsageError, match=f'data.{name}=0 to be that'):
    config_lib.load(DIGITS, changed)


def test_large_delta_must_be_allowed_by_name() -> None:
  config = config_lib.load(
    DIGITS, {'privacy.delta': '0.01', 'privacy.allow_large_delta': 'true'}
  )
  assert config.privacy.delta == 0.01


def test_overrides_keep_the_type_of_the_key() -> None:
  config = config_lib.load(
    DIGITS,
    {
      'privacy.epsilon': 'inf',
      'finetune.trainable': "('mid*', 'out')",
      'finetune.gradient_scales': 'label/classes=50,mid* out/*=2',
      'model.channel_multipliers': '1,2,2',
      'evaluate.svm': 'false',
      'pretrain.optimizer.max_grad_norm': '2',
    },
  )
  assert math.isinf(config.privacy.epsilon)
  assert config.finetune.trainable == ('mid*', 'out')
  assert config.finetune.gradient_scales == (
    'label/classes=50',
    'mid* out/*=2',
  )
  assert config.model.channel_multipliers == (1, 2, 2)
  assert config.evaluate.svm is False
  assert config.pretrain.optimizer.max_grad_norm == 2.0


@pytest.mark.parametrize(
  'text, names',
  [
    ('0,1,2', ('0', '1', '2')),
    ('(0, 1, 2)', ('0', '1', '2')),
    ("('0', '1')", ('0', '1')),
    ('01,02', ('01', '02')),
    ('True,False', ('True', 'False')),
  ],
)
def test_classes_that_look_like_numbers_need_no_quotes(text, names) -> None:
  config = config_lib.load(
    'configs/digits.py:smoke',
    {
      'data.class_names': text,
      'sample.labels': 'uniform',
    },
  )
  assert config.data.class_names == names


def test_unknown_file_and_variant_name_the_known_ones() -> None:
  with pytest.raises(errors.UsageError, match=r'Did you mean .*digits'):
    config_lib.load(str(ROOT / 'configs' / 'digit.py'))
  with pytest.raises(errors.UsageError, match='one of: .*smoke'):
    config_lib.load(DIGITS + ':smok')


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('def get_config(:\n', 'SyntaxError: .*line 1'),
    ('x = 1\n', 'no attribute .get_config'),
    ('import no_such_module\n', "No module named 'no_such_module' .line 1"),
    ('def get_config(variant):\n  variant.x', "no attribute 'x' .line 2"),
    ('def get_config(variant):\n  pass', 'NoneType, not a ConfigDict'),
    (
      'from configs import digits\n'
      'def get_config(variant):\n'
      '  config = digits.get_config()\n'
      '  config.privacy.epsilonn = 3\n'
      '  return config\n',
      "'privacy.epsilonn'; did you mean privacy.epsilon",
    ),
  ],
)
def test_a_broken_config_file_names_its_line(
  text: str, words: str, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(errors.UsageError, match=words) as error:
    config_lib.load(str(path))
  assert '\n' not in str(error.value)


def _config_files() -> list[str]:
  paths = sorted((ROOT / 'configs').glob('*.py'))
  return [p.name for p in paths if p.stem not in ('default', '__init__')]


@pytest.mark.parametrize('name', _config_files())
def test_every_config_and_its_smoke_variant_build(name: str) -> None:
  for variant in ('', ':smoke'):
    config = config_lib.load(str(ROOT / 'configs' / name) + variant)
    assert config.name


def test_a_config_is_json_with_infinity_in_words() -> None:
  config = config_lib.load(DIGITS, {'privacy.epsilon': 'inf'})
  assert config_lib.to_dict(config)['privacy']['epsilon'] == 'inf'


def test_later_keys_are_recorded_where_they_are_set():
  """So that the record of an earlier run stays that of the same run."""
  as_before = config_lib.to_dict(config_lib.load(DIGITS))
  assert 'num_heads' not in as_before['model']
  assert 'init_format' not in as_before['pretrain']
  assert as_before['model']['num_groups'] == 8
  config = config_lib.load(DIGITS, {'model.num_heads': '2'})
  assert config_lib.to_dict(config.model)['num_heads'] == 2


def test_later_keys_that_were_not_recorded_had_their_default():
  before = config_lib.to_dict(config_lib.load(DIGITS))
  found = config_lib.with_later_keys(before, config_lib.Config)
  assert found['model'].pop('num_heads') == 0
  assert found['finetune']['gradient_scales'] == []  # As JSON has it.
  assert found['finetune']['class_head']['num_steps'] == 0
  assert found['finetune']['warm_up']['rows_from_votes'] is False
  assert {**before['model'], **found['model']} == found['model']
  changed = config_lib.load(DIGITS, {'model.num_heads': '2'})
  set_keys = config_lib.to_dict(changed)
  found = config_lib.with_later_keys(set_keys, config_lib.Config)
  assert found['model']['num_heads'] == 2
  part = {'model': before['model'], 'card': 'damaged'}
  found = config_lib.with_later_keys(part, config_lib.Config)
  assert list(found) == ['model', 'card'] and found['card'] == 'damaged'
