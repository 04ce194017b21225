"""Tests of dp_diffusion.data.registry."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import registry


def _arrays(**changes):
  arrays = {
    'spec': types.DatasetSpec(
      name='toy', image_shape=(2, 2, 1), class_names=('a', 'b')
    ),
    'images': np.zeros((3, 2, 2, 1), np.uint8),
    'labels': np.array([0, 1, 0], np.int32),
  }
  return arrays | changes


def test_unknown_name_lists_the_known_ones_and_the_nearest():
  with pytest.raises(ValueError, match="'folder'.*did you mean 'folder'"):
    registry.DataConfig(name='foldr')


@pytest.mark.parametrize(
  'name, extra', [('tfds:any', {}), ('any', {'tfds_dir': '/data'})]
)
def test_a_tfds_name_needs_the_prefix_or_a_folder(name, extra):
  assert registry.DataConfig(name=name, **extra).name == name


@pytest.mark.parametrize(
  'bad',
  [
    {'name': ''},
    {'unit': 'pixel'},
    {'test_fraction': 0.0},
    {'test_fraction': 1.0},
    {'image_size': -1},
    {'channels': 2},
    {'reflect_pad': 8, 'image_size': 8},
    {'reflect_pad': -1},
    {'class_names': ('a', 'a')},
    {'class_names': ('a', '')},
    {'max_image_pixels': 0},
  ],
)
def test_bad_values_are_refused_in_one_line(bad):
  with pytest.raises(ValueError) as caught:
    registry.DataConfig(**({'name': 'generated'} | bad))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'bad',
  [
    {'images': np.zeros((3, 2, 2, 1), np.float32)},
    {'images': np.zeros((3, 2, 2), np.uint8)},
    {'images': np.zeros((3, 4, 2, 1), np.uint8)},
    {'labels': np.array([0, 1, 0], np.int64)},
    {'labels': np.array([0, 1], np.int32)},
    {'labels': np.array([0, 2, 0], np.int32)},
    {'labels': np.array([0, -1, 0], np.int32)},
    {'person': np.zeros(3, np.int32)},
  ],
)
def test_a_source_checks_its_arrays(bad):
  registry.ArraySource(**_arrays())
  with pytest.raises(ValueError, match='Expected'):
    registry.ArraySource(**_arrays(**bad))


def test_an_empty_class_is_no_error():
  source = registry.ArraySource(**_arrays(labels=np.zeros(3, np.int32)))
  assert source.spec.num_classes == 2
  assert isinstance(source, types.DataSource)


def test_persons_must_be_known_where_they_are_the_unit():
  config = registry.DataConfig(name='digits', unit='person')
  with pytest.raises(errors.UsageError, match='person_csv'):
    registry.load(config)


def test_sources_that_make_their_images_are_always_available():
  for name in ('digits', 'glyphs', 'generated', 'rendered'):
    registry.check_available(registry.DataConfig(name=name), ('train',))


def test_split_defaults_to_the_configs():
  config = registry.DataConfig(name='generated', split='test', num_images=40)
  assert len(registry.load(config).labels) == 10
  assert len(registry.load(config, 'train').labels) == 40


def test_an_image_without_a_label_is_said_to_have_none():
  with pytest.raises(errors.UsageError, match='-1, which marks one with'):
    registry.check_labels(np.array([0, -1]), 2)


def test_sources_that_make_their_images_are_always_readable():
  for name in ('digits', 'glyphs', 'generated', 'rendered'):
    registry.check_readable(registry.DataConfig(name=name), ('train',))


def test_a_survey_counts_what_there_is():
  config = registry.DataConfig(name='generated', num_images=40)
  found = registry.survey(config)
  assert json.loads(json.dumps(found)) == found
  train, test = registry.load(config), registry.load(config, 'test')
  assert found['splits'] == {
    split: {
      'num_images': len(source.labels),
      'num_persons': len(np.unique(source.person)),
      'num_per_class': {
        'first': int((source.labels == 0).sum()),
        'second': int((source.labels == 1).sum()),
      },
      'num_duplicates': 0,
    }
    for split, source in (('train', train), ('test', test))
  }
  assert found['num_equal_across'] == found['num_labelled_twice'] == 0
  assert found['skipped'] == [] and found['files'] == {}
  assert found['labelled_twice'] == []


@pytest.mark.parametrize(
  'nobody',
  [
    *('', ' ', '-1', '-1.0', '-99', 'nan', 'NaN', 'NaT', 'None', '<NA>'),
    *('Unknown', 'N/A', 'null', '?', ' unknown '),
    *('ANONYMOUS', 'Anonymized', 'anon', 'De-identified', 'REMOVED'),
  ],
)
def test_a_value_that_names_nobody_is_no_person(nobody):
  """Those on the images would be protected as a group, none by itself."""
  with pytest.raises(errors.UsageError, match='x.csv to say who') as raised:
    registry.check_persons(['a', nobody], 'x.csv')
  assert '\n' not in str(raised.value)


def test_one_name_of_a_person_has_one_form():
  names = ['Jose\u0301', ' Jos\u00e9', '7', 'NA', 'a-1', 'Nanna']
  found = registry.check_persons(names, 'x.csv')
  assert found == ('Jos\u00e9', 'Jos\u00e9', '7', 'NA', 'a-1', 'Nanna')


def test_a_config_gives_the_shape_and_the_classes_of_its_images():
  unlabelled = registry.DataConfig(name='folder', image_size=8, channels=3)
  assert unlabelled.image_shape == (8, 8, 3)
  assert unlabelled.num_classes == 1
  labelled = dataclasses.replace(unlabelled, class_names=('a', 'b'))
  assert labelled.num_classes == 2
