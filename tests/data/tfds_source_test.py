"""Tests of dp_diffusion.data.tfds_source.

The datasets are written by TFDS itself, from encoded images, which needs no
TensorFlow.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import types

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data import tfds_builders
from dp_diffusion.data import tfds_source

_NUM = {'train': 30, 'test': 10}


def _image(split, number, shape):
  rng = np.random.default_rng([len(split), number])
  return rng.integers(0, 256, shape, np.uint8)


def _encode(array):
  data = io.BytesIO()
  Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(
    data, 'PNG'
  )
  data.seek(0)
  return data


def _make_builder_class(features, example, version='1.0.0'):
  import tensorflow_datasets as tfds

  class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A dataset of random images."""

    VERSION = tfds.core.Version(version)

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=features(tfds))

    def _split_generators(self, dl_manager):
      del dl_manager
      return {split: self._generate_examples(split) for split in _NUM}

    def _generate_examples(self, split):
      for number in range(_NUM[split]):
        yield number, example(split, number)

  return Tiny


def _write(data_dir, features, example, **options):
  import tensorflow_datasets as tfds

  version = options.pop('version', '1.0.0')
  builder_class = _make_builder_class(features, example, version)
  builder = builder_class(
    data_dir=str(data_dir), file_format='array_record', **options
  )
  tfds.disable_progress_bar()
  builder.download_and_prepare()


def _features(tfds):
  return tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(6, 8, 3), encoding_format='png'),
      'label': tfds.features.ClassLabel(names=['a', 'b', 'c']),
      'who': tfds.features.Text(),
    }
  )


def _example(split, number):
  return {
    'image': _encode(_image(split, number, (6, 8, 3))),
    'label': number % 3,
    'who': f'person {number % 4}',
  }


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  _write(path, _features, _example)
  return path


def _config(data_dir, name='tiny', **changes):
  return registry.DataConfig(name=name, tfds_dir=str(data_dir), **changes)


@pytest.mark.parametrize('name', ['tiny', 'tfds:tiny', 'tiny:1.0.0'])
def test_images_labels_and_persons_belong_together(data_dir, name):
  config = _config(data_dir, name, person_key='who', unit='person')
  for split, num_images in _NUM.items():
    source = registry.load(config, split)
    assert len(source.labels) == num_images
    rank = {
      _image(split, number, (6, 8, 3)).tobytes(): number
      for number in range(num_images)
    }
    numbers = np.array([rank[image.tobytes()] for image in source.images])
    assert len(set(numbers)) == num_images
    np.testing.assert_array_equal(source.labels, numbers % 3)
    np.testing.assert_array_equal(source.person, numbers % 4)
  assert source.spec.class_names == ('a', 'b', 'c')
  assert source.spec.image_shape == (6, 8, 3)


def test_part_of_a_split_can_be_asked_for(data_dir):
  whole = registry.load(_config(data_dir))
  part = registry.load(_config(data_dir), 'train[:10%]')
  np.testing.assert_array_equal(part.images, whole.images[:3])


@pytest.mark.parametrize(
  'split',
  [
    *('train[:0]', 'train[30:]', 'train[:1%]', 'train[20:10]', 'train[9shard]'),
    *('train[:0]+test[:0]', 'train+test[9:5]'),
  ],
)
def test_a_part_without_images_is_said_to_be_empty(data_dir, split):
  config = _config(data_dir)
  for check in (
    lambda: registry.check_available(config, ('train', split)),
    lambda: registry.load(config, split),
  ):
    with pytest.raises(errors.UsageError) as caught:
      check()
    assert f"Split {split!r} of 'tiny/1.0.0' is empty" in str(caught.value)


def test_size_and_channels_follow_the_config(data_dir):
  source = registry.load(_config(data_dir, image_size=4, channels=1))
  assert source.images.shape == (30, 4, 4, 1)


def test_large_sets_are_read_from_the_cache(data_dir, tmp_path, monkeypatch):
  config = _config(data_dir, max_in_memory_bytes=10, cache_dir=str(tmp_path))
  in_memory, first = registry.load(_config(data_dir)), registry.load(config)
  assert isinstance(first.images, np.memmap)
  monkeypatch.setattr(tfds_source, '_read', None)
  again = registry.load(config)
  np.testing.assert_array_equal(again.images, in_memory.images)
  np.testing.assert_array_equal(again.labels, first.labels)


def test_the_cache_tells_parts_of_one_size_apart(data_dir, tmp_path):
  config = _config(data_dir, max_in_memory_bytes=10, cache_dir=str(tmp_path))
  halves = [
    {image.tobytes() for image in registry.load(config, split).images}
    for split in ('train[:50%]', 'train[50%:]')
  ]
  assert len(halves[0] | halves[1]) == _NUM['train']


def test_the_cache_tells_labels_and_ranges_apart(tmp_path):
  def features(tfds):
    labels = {
      name: tfds.features.ClassLabel(num_classes=4) for name in ('one', 'two')
    }
    image = tfds.features.Image(shape=(6, 8, 3), encoding_format='png')
    return tfds.features.FeaturesDict({'image': image, **labels})

  def example(split, number):
    image = _encode(_image(split, number, (6, 8, 3)))
    return {'image': image, 'one': number % 4, 'two': 3 - number % 4}

  _write(tmp_path, features, example)
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  one, two, narrow = (
    registry.load(_config(tmp_path, **options, **changes))
    for changes in (
      {'label_key': 'one'},
      {'label_key': 'two'},
      {'label_key': 'one', 'value_range': (0, 100)},
    )
  )
  np.testing.assert_array_equal(one.labels, 3 - two.labels)
  np.testing.assert_array_equal(one.images, two.images)
  assert (narrow.images[one.images > 100] == 255).all()


def test_a_survey_counts_equal_images(tmp_path):
  """Train 0 equals train 1; test 0 and 1 equal both, test 2 equals train 2."""

  def example(split, number):
    if split == 'train' or number < 3:
      image = _image('train', max(number, 1), (6, 8, 3))
    else:
      image = _image(split, number, (6, 8, 3))
    return _example(split, number) | {'image': _encode(image)}

  _write(tmp_path, _features, example)
  found = registry.survey(_config(tmp_path, person_key='who'))
  train, test = (found['splits'][split] for split in ('train', 'test'))
  assert (train['num_images'], train['num_duplicates']) == (30, 1)
  assert (test['num_images'], test['num_duplicates']) == (10, 1)
  assert train['num_persons'] == test['num_persons'] == 4
  assert found['num_equal_across'] == 3
  assert found['num_labelled_twice'] == 1


def test_classes_are_named_in_the_order_of_their_labels(tmp_path):
  def features(tfds):
    names = ['zebra', 'ant', 'cow']
    changed = dict(_features(tfds))
    changed['label'] = tfds.features.ClassLabel(names=names)
    return tfds.features.FeaturesDict(changed)

  _write(tmp_path, features, _example)
  config = _config(tmp_path)
  assert registry.find_class_names(config) == ('zebra', 'ant', 'cow')
  assert registry.load(config).spec.class_names == ('zebra', 'ant', 'cow')


def test_a_dataset_that_was_prepared_again_is_read(tmp_path):
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  for value in (7, 9):

    def example(split, number, value=value):
      image = _encode(np.full((6, 8, 3), value, np.uint8))
      return _example(split, number) | {'image': image}

    shutil.rmtree(tmp_path / 'tiny', ignore_errors=True)
    _write(tmp_path, _features, example)
    source = registry.load(_config(tmp_path, **options))
    assert (source.images == value).all()


def test_an_image_that_cannot_be_read_is_an_error(tmp_path):
  """Left out, it would give the labels of all later ones to others."""

  def example(split, number):
    image = _encode(_image(split, number, (6, 8, 3)))
    image = io.BytesIO(b'no image') if number == 5 else image
    return _example(split, number) | {'image': image}

  _write(tmp_path, _features, example)
  with pytest.raises(errors.UsageError, match='cannot be used; .* not an imag'):
    registry.load(_config(tmp_path))


def test_a_dataset_that_is_half_prepared_is_not_taken(tmp_path):
  half = tmp_path / 'tiny' / '1.0.0.incompleteA1B2'
  half.mkdir(parents=True)
  (half / 'dataset_info.json').write_text('{}')
  assert tfds_builders.find('tiny', tmp_path) is None


def test_damage_is_said_without_the_sizes_in_it():
  with pytest.raises(errors.UsageError, match='not whole') as caught:
    with tfds_builders.damage_named('tiny'):
      raise ValueError('960 records where 137 were expected')
  assert not set('0123456789') & set(str(caught.value))


def test_labels_outside_the_configs_classes_are_an_error(data_dir):
  with pytest.raises(errors.UsageError, match='label=2'):
    registry.load(_config(data_dir, class_names=('a', 'b')))
  names = ('a', 'b', 'c', 'empty')
  source = registry.load(_config(data_dir, class_names=names))
  assert source.spec.class_names == names


@pytest.mark.parametrize(
  'changes, split, why',
  [
    ({}, 'validation', "'test', 'train'"),
    ({}, 'train[:x]', r"a part such as 'test\[:10%\]'"),
    ({'image_key': 'label'}, 'train', r"image_key='label'.*\['image'\]"),
    ({'label_key': 'who'}, 'train', r"label_key='who'.*\['label'\]"),
    ({'person_key': 'patient'}, 'train', "person_key='patient'.*'who'"),
    ({'name': 'tiny/other'}, 'train', 'neither'),
    ({'name': 'tiny:2.0.0'}, 'train', 'neither'),
    ({'name': 'tfds:no such set'}, 'train', "'NAME/CONFIG'"),
    ({'name': 'tfds:no_such_set'}, 'train', 'neither.*data.tfds_dir'),
  ],
)
def test_what_is_missing_is_said_in_one_line(data_dir, changes, split, why):
  with pytest.raises(errors.UsageError, match=why) as caught:
    registry.load(_config(data_dir, **changes), split)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('what', ['info', 'records', 'missing records'])
def test_damage_is_named_in_one_line(data_dir, tmp_path, what):
  shutil.copytree(data_dir / 'tiny', tmp_path / 'tiny')
  (records,) = (tmp_path / 'tiny').rglob('*train*array_record*')
  if what == 'info':
    (tmp_path / 'tiny' / '1.0.0' / 'dataset_info.json').write_text('{')
  elif what == 'records':
    records.write_bytes(records.read_bytes()[:100])
  else:
    records.unlink()
  with pytest.raises(errors.UsageError, match='not whole') as caught:
    registry.load(_config(tmp_path))
  assert '\n' not in str(caught.value)
  assert str(tmp_path / 'tiny' / '1.0.0') in str(caught.value)


@pytest.mark.parametrize(
  'changes, why',
  [
    ({}, ''),
    ({'split': 'validation'}, "'test', 'train'"),
    ({'name': 'tfds:no_such_set'}, 'neither.*data.tfds_dir'),
  ],
)
def test_what_is_missing_is_known_without_reading(
  data_dir, changes, why, monkeypatch
):
  monkeypatch.setattr(tfds_source, '_read', None)
  config = _config(data_dir, **changes)
  splits = ('train[:10%]', config.split)
  if not why:
    registry.check_available(config, splits)
    return
  with pytest.raises(errors.UsageError, match=why):
    registry.check_available(config, splits)


def test_the_newest_version_is_taken_and_an_older_one_by_name(tmp_path):
  _write(tmp_path, _features, _example)
  shape = (2, 2, 3)

  def example(split, number):
    return _example(split, number) | {
      'image': _encode(_image(split, number, shape))
    }

  def features(tfds):
    changed = dict(_features(tfds))
    changed['image'] = tfds.features.Image(shape=shape, encoding_format='png')
    return tfds.features.FeaturesDict(changed)

  _write(tmp_path, features, example, version='1.10.0')
  assert registry.load(_config(tmp_path)).spec.image_shape == shape
  old = registry.load(_config(tmp_path, 'tiny:1.0.0'))
  assert old.spec.image_shape == (6, 8, 3)


def test_versions_are_compared_as_numbers(data_dir, tmp_path):
  for version in ('1.9.0', '1.10.0', '1.2.0'):
    shutil.copytree(data_dir / 'tiny' / '1.0.0', tmp_path / 'tiny' / version)
  assert tfds_builders.find('tiny', tmp_path).name == '1.10.0'


def test_an_ambiguous_config_and_features_are_named(tmp_path):
  import tensorflow_datasets as tfds

  def features(tfds):
    return tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(
          shape=(None, None, 1), encoding_format='png'
        ),
        'coarse': tfds.features.ClassLabel(num_classes=2),
        'fine': tfds.features.ClassLabel(num_classes=4),
      }
    )

  def example(split, number):
    image = _encode(_image(split, number, (4 + number % 2, 5, 1)))
    return {'image': image, 'coarse': number % 2, 'fine': number % 4}

  config = tfds.core.BuilderConfig(name='small', version='1.0.0')
  _write(tmp_path, features, example, config=config)
  with pytest.raises(errors.UsageError, match="'tiny/small'"):
    registry.load(_config(tmp_path))
  with pytest.raises(errors.UsageError, match=r"\['coarse', 'fine'\]"):
    registry.load(_config(tmp_path, 'tiny/small'))
  options = {'name': 'tiny/small', 'label_key': 'fine'}
  with pytest.raises(errors.UsageError, match='set data.image_size'):
    registry.load(_config(tmp_path, **options))
  source = registry.load(_config(tmp_path, **options, image_size=3))
  assert source.images.shape == (30, 3, 3, 1)
  assert source.spec.class_names == ('0', '1', '2', '3')


def test_supervised_keys_choose_among_features_unless_the_config_does():
  import tensorflow_datasets as tfds

  images = {name: tfds.features.Image(shape=(6, 8, 3)) for name in 'xy'}
  labels = {name: tfds.features.ClassLabel(num_classes=2) for name in 'ab'}
  info = types.SimpleNamespace(
    features=tfds.features.FeaturesDict(images | labels),
    supervised_keys=('y', 'b'),
  )
  config = registry.DataConfig(name='tfds:tiny')
  found = tfds_source._find_keys(info, config)
  assert (found.image, found.label, found.person) == ('y', 'b', '')
  config = registry.DataConfig(name='tfds:tiny', image_key='x', label_key='a')
  found = tfds_source._find_keys(info, config)
  assert (found.image, found.label) == ('x', 'a')


def test_without_network_a_known_dataset_says_how_to_get_it(
  tmp_path, monkeypatch
):
  def no_network(*args):
    raise OSError('no network')

  for name in ('http_proxy', 'https_proxy', 'all_proxy'):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setattr(tfds_builders.socket, 'getaddrinfo', no_network)
  config = _config(tmp_path, 'tfds:mnist')
  with pytest.raises(errors.UsageError) as caught:
    registry.load(config)
  message = str(caught.value)
  assert '\n' not in message
  for part in ('tfds build mnist', 'http', f'mnist/3.0.1 into {tmp_path}'):
    assert part in message


def test_neither_loading_nor_importing_needs_tensorflow(
  data_dir, subprocess_environment
):
  code = f"""
import sys
from dp_diffusion.data import camelyon17, folder, registry, tfds_source
assert 'tensorflow_datasets' not in sys.modules
config = registry.DataConfig(name='tiny', tfds_dir={str(data_dir)!r})
assert registry.load(config).images.shape == (30, 6, 8, 3)
assert 'tensorflow' not in sys.modules
"""
  subprocess.run(
    [sys.executable, '-c', code], check=True, env=subprocess_environment
  )


def test_official_sets_are_read(shared_dir):
  config = registry.DataConfig(
    name='tfds:mnist', tfds_dir=str(shared_dir / 'tfds')
  )
  source = registry.load(config, 'test')
  assert source.images.shape == (10_000, 28, 28, 1)
  counts = np.bincount(source.labels)  # As published.
  np.testing.assert_array_equal(
    counts, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  )
  assert source.images.mean() == pytest.approx(33.79, abs=0.01)


def test_encoded_colour_sets_are_read(shared_dir):
  config = registry.DataConfig(
    name='cifar10_jpeg', tfds_dir=str(shared_dir / 'tfds')
  )
  source = registry.load(config, 'test')
  assert source.spec.image_shape == (32, 32, 3)
  assert source.spec.class_names[:2] == ('airplane', 'automobile')
  np.testing.assert_array_equal(np.bincount(source.labels), [1000] * 10)


@pytest.mark.parametrize(
  'name, words',
  [
    ('tfds:mnist/foo', 'no configs; version 3.0.1'),
    ('tfds:mnist:9.9.9', 'no configs; version 3.0.1'),
    ('tfds:emnist/leters', "configs 'byclass', .*; version 3"),
  ],
)
def test_unknown_configs_and_versions_are_one_line(tmp_path, name, words):
  config = registry.DataConfig(name=name, tfds_dir=str(tmp_path))
  with pytest.raises(errors.UsageError, match=words) as caught:
    registry.check_available(config, ['train'])
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('persons', 'codes'),
  [
    ([np.int64(7), np.int64(12), np.int64(7)], [0, 1, 0]),
    ([b'p7', b'p12', b'p7 '], [1, 0, 1]),
    (['Jose\u0301'.encode(), b'Jos', 'Jos\u00e9'.encode()], [1, 0, 1]),
  ],
)
def test_persons_have_numbers_in_the_order_of_their_values(persons, codes):
  config = registry.DataConfig(name='tfds:tiny', person_key='who')
  assert tfds_source._person_codes(persons, config).tolist() == codes


@pytest.mark.parametrize(
  'persons', [[b'p7', b''], [3, -1], [3.0, float('nan')], [[1, 2], [3, 4]]]
)
def test_records_that_do_not_name_one_person_are_refused(persons):
  config = registry.DataConfig(name='tfds:tiny', person_key='who')
  with pytest.raises(errors.UsageError, match="person_key='who'") as raised:
    tfds_source._person_codes(persons, config)
  assert '\n' not in str(raised.value)
