"""Which images a config means: made up, or those that the user names."""

from __future__ import annotations

import pathlib
import re

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'


def _load(name: str, **changed: str) -> config_lib.Config:
  file, _, variant = name.partition(':')
  return config_lib.load(
    f'{CONFIGS / file}.py:{variant}',
    {key.replace('__', '.'): value for key, value in changed.items()},
  )


def _names(config: config_lib.Config) -> tuple[str, str]:
  return config.data.name, config.pretrain.data.name


@pytest.mark.parametrize(
  ('name', 'changed', 'expected'),
  [
    ('own_images:smoke', {}, ('generated', 'generated')),
    ('own_images:smoke', {'data__path': '/x'}, ('folder', 'generated')),
    ('own_images:1k,smoke', {'data__path': '/x'}, ('folder', 'generated')),
    ('own_images:smoke', {'data__name': 'digits'}, ('digits', 'generated')),
    ('own_images:smoke', {'data__name': 'folder'}, ('folder', 'generated')),
    (
      'own_images:smoke',
      {'pretrain__data__name': 'folder', 'pretrain__data__path': '/x'},
      ('generated', 'folder'),
    ),
    ('mnist:smoke', {'data__tfds_dir': '/x'}, ('tfds:mnist', 'generated')),
    (
      'mnist:smoke,letters',
      {'data__tfds_dir': '/x'},
      ('tfds:mnist', 'tfds:emnist_letters'),
    ),
    ('fashion_mnist:smoke', {}, ('generated', 'generated')),
    (
      'cifar10:smoke',
      {'data__tfds_dir': '/x'},
      ('tfds:cifar10', 'tfds:imagenet_resized/32x32'),
    ),
    ('camelyon:smoke', {'data__manual_dir': '/x'}, ('camelyon17', 'generated')),
  ],
)
def test_smoke_reads_what_is_given_and_makes_up_the_rest(
  name: str, changed: dict[str, str], expected: tuple[str, str]
) -> None:
  assert _names(_load(name, **changed)) == expected


def test_a_smoke_run_takes_a_part_of_the_images_that_are_given() -> None:
  own = _load('own_images:smoke', data__path='/x')
  assert (own.data.split, own.data.test_split) == ('train', 'test')
  assert 0 < own.data.max_images < 1000 and own.data.class_names == ()
  prepared = _load('imagenet32:smoke', data__tfds_dir='/x')
  assert prepared.data.split == 'train[:96]'
  assert prepared.data.test_split == 'validation[:96]'
  made = _load('imagenet32:smoke')
  assert (made.data.split, made.data.test_split) == ('train', 'test')
  assert made.data.max_images == 0


def test_a_folder_in_place_of_a_dataset_has_its_own_splits() -> None:
  config = _load('mnist:smoke', data__name='folder', data__path='/x')
  assert (config.data.split, config.data.test_split) == ('train', 'test')


def test_made_up_images_have_classes_and_own_ones_those_of_the_user() -> None:
  assert _load('own_images:smoke').data.class_names == ('first', 'second')
  own = _load('own_images:smoke', data__path='/x', data__class_names='a,b,c')
  assert own.data.class_names == ('a', 'b', 'c')


@pytest.mark.parametrize(
  ('name', 'changed', 'words'),
  [
    ('digits', {'data__path': '/x'}, "data.path='/x' would not be read"),
    ('digits:smoke', {'data__path': '/x'}, "data.name='digits', only by"),
    ('cifar10:smoke', {'data__path': '/x'}, "only by 'folder': set data.name"),
    ('digits', {'data__tfds_dir': '/x'}, 'a TFDS dataset'),
    ('digits', {'data__manual_dir': '/x'}, "'camelyon17' or a TFDS dataset"),
    ('own_images:smoke', {'data__person_csv': 'p.csv'}, 'data.person_csv'),
    ('own_images', {'data__person_key': 'patient'}, 'data.person_key'),
    ('mnist', {'pretrain__data__path': '/x'}, 'pretrain.data.path'),
    ('mnist', {'data__max_images': '7'}, 'data.max_images=7'),
    ('mnist', {'data__num_images': '7'}, "only by 'generated' or 'glyphs' or"),
    ('mnist', {'data__split_seed': '7'}, "only by 'digits' or 'folder'"),
    ('mnist', {'data__test_fraction': '0.3'}, 'data.test_fraction=0.3'),
    ('mnist', {'data__person_column': 'p'}, "data.person_column='p'"),
    ('mnist', {'data__skip_unreadable': 'true'}, 'data.skip_unreadable=True'),
    ('camelyon', {'data__value_range': '(0, 9)'}, 'data.value_range=(0, 9)'),
    ('digits', {'data__source_seed': '7'}, 'data.source_seed=7'),
    ('digits', {'data__max_image_pixels': '7'}, 'data.max_image_pixels=7'),
    (
      'digits:smoke',
      {'pretrain__data__split_seed': '7'},
      "pretrain.data.split_seed=7 would not be read by pretrain.data.name='gl",
    ),
    (
      'own_images:smoke',
      {'data__path': '/x', 'data__num_images': '7'},
      "data.num_images=7 would not be read by data.name='folder'",
    ),
    ('own_images:smoke', {'data__max_images': '7'}, "'generated', only by 'fo"),
    (
      'digits:smoke',
      {'pretrain__data__name': 'digits', 'pretrain__data__num_images': '5'},
      'pretrain.data.num_images=5',
    ),
  ],
)
def test_what_nothing_reads_is_refused(
  name: str, changed: dict[str, str], words: str
) -> None:
  with pytest.raises(errors.UsageError, match=re.escape(words)) as error:
    _load(name, **changed)
  assert '\n' not in str(error.value)


def test_keys_of_the_source_that_a_config_had_are_dropped() -> None:
  """Only what was typed must be read: a variant sets what its own reads."""
  own = _load('own_images:smoke', data__path='/x').data
  assert (own.num_images, own.source_seed) == (0, 0) and own.max_images
  digits = _load('digits:smoke', pretrain__data__name='digits').pretrain.data
  assert digits.num_images == 0
  assert _load('digits:smoke').pretrain.data.num_images == 300
  read = _load('mnist:smoke,letters', data__tfds_dir='/x')
  assert {d.num_images for d in (read.data, read.pretrain.data)} == {0}


def test_one_folder_of_datasets_may_serve_the_public_images_alone() -> None:
  config = _load('own_images:1k', data__path='/x', data__tfds_dir='/t')
  assert config.pretrain.data.tfds_dir == '/t'
