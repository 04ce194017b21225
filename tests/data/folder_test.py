"""Tests of dp_diffusion.data.folder and dp_diffusion.data.trees."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import npz_images
from dp_diffusion.data.own import trees

_CLASSES = ('cat', 'dog', 'newt')  # There is no newt: an empty class.
_NUM_PER_CLASS = 15
_SPLITS = ('train', 'test')


def _value(name):
  """The grey value that each generated image is filled with."""
  return 100 * name.startswith('dog') + 3 * int(name[-6:-4]) + 1


def _write_images(root, size=(10, 8), mode='RGB'):
  names = []
  for label in ('dog', 'cat'):
    for number in range(_NUM_PER_CLASS):
      name = f'{label}/deep/{number:02d}.png'
      path = root / name
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new('L', size, _value(name)).convert(mode).save(path)
      names.append(name)
  (root / 'cat' / '.hidden.png').write_bytes(b'')
  (root / 'cat' / 'Thumbs.db').write_bytes(b'')
  (root / 'README.txt').write_text('about')
  return sorted(names)


@pytest.fixture
def root(tmp_path):
  path = tmp_path / 'images'
  _write_images(path)
  return path


def _load(path, split='train', **changes):
  options = {'class_names': _CLASSES, 'image_size': 8} | changes
  config = registry.DataConfig(name='folder', path=str(path), **options)
  return registry.load(config, split)


def _zip(root, path, prefix=''):
  with zipfile.ZipFile(path, 'w') as archive:
    for file in sorted(root.rglob('*'), reverse=True):
      if file.is_file():
        archive.write(file, prefix + file.relative_to(root).as_posix())
  return path


def _all(path, **changes):
  """Both splits together, {grey value: label}."""
  found = {}
  for split in ('train', 'test'):
    source = _load(path, split, **changes)
    for image, label in zip(source.images, source.labels):
      found[int(image[0, 0, 0])] = int(label)
  return found


def test_every_image_comes_once_with_its_class(root):
  names = sorted(n.relative_to(root).as_posix() for n in root.rglob('*/*.png'))
  expected = {
    _value(name): _CLASSES.index(name.split('/')[0])
    for name in names
    if 'hidden' not in name
  }
  assert len(expected) == 2 * _NUM_PER_CLASS
  assert _all(root) == expected


def test_spec_lists_the_configs_classes(root):
  source = _load(root, channels=1, image_size=6)
  assert source.spec.class_names == _CLASSES
  assert source.spec.image_shape == (6, 6, 1)
  assert source.person is None


def test_stored_size_and_channels_are_kept_unless_set(tmp_path):
  _write_images(tmp_path, mode='L')
  source = _load(tmp_path, image_size=0)
  assert source.spec.image_shape == (8, 10, 1)


@pytest.mark.parametrize('prefix', ['', 'my images/'])
def test_a_zip_gives_what_its_folder_gives(root, tmp_path, prefix):
  path = _zip(root, tmp_path / 'images.zip', prefix)
  for split in ('train', 'test'):
    from_folder, from_zip = _load(root, split), _load(path, split)
    np.testing.assert_array_equal(from_folder.images, from_zip.images)
    np.testing.assert_array_equal(from_folder.labels, from_zip.labels)


def test_order_does_not_depend_on_when_files_were_written(root):
  before = _load(root)
  for name in sorted(root.rglob('*.png'), reverse=True):
    data = name.read_bytes()
    name.unlink()
    name.write_bytes(data)
  np.testing.assert_array_equal(before.images, _load(root).images)


def test_removing_an_image_moves_no_other_to_the_other_split(root):
  before = {v: s for s in ('train', 'test') for v in _values(root, s)}
  (root / 'dog' / 'deep' / '03.png').unlink()
  after = {v: s for s in ('train', 'test') for v in _values(root, s)}
  assert len(after) == len(before) - 1
  assert after.items() <= before.items()


def _values(path, split, **changes):
  return [int(i[0, 0, 0]) for i in _load(path, split, **changes).images]


def test_the_split_follows_seed_and_fraction(root):
  assert _values(root, 'test') == _values(root, 'test')
  assert _values(root, 'test') != _values(root, 'test', split_seed=1)
  sizes = [
    len(_values(root, 'test', test_fraction=0.5, split_seed=seed))
    for seed in range(5)
  ]
  assert 8 <= np.mean(sizes) <= 22


def _write_csv(path, root, num_persons):
  names = sorted(
    n.relative_to(root).as_posix() for n in root.rglob('[0-9]*.png')
  )
  lines = [f'{n},p{i % num_persons}' for i, n in enumerate(names)]
  path.write_text('\n'.join(['file,person', *lines, 'absent.png,p0']))
  return names


def test_persons_come_from_a_csv_and_stay_in_one_split(root, tmp_path):
  names = _write_csv(tmp_path / 'p.csv', root, 7)
  person_of = {_value(name): i % 7 for i, name in enumerate(names)}
  seen = {}
  for split in ('train', 'test'):
    source = _load(
      root, split, person_csv=str(tmp_path / 'p.csv'), unit='person'
    )
    assert source.spec.has_person
    for image, person in zip(source.images, source.person):
      assert person == person_of[int(image[0, 0, 0])]
    seen[split] = set(source.person)
  assert not seen['train'] & seen['test']
  assert seen['train'] | seen['test'] == set(range(7))


@pytest.mark.parametrize(
  'text, why',
  [
    ('file,who\na,b', 'columns'),
    ('', 'columns'),
    (
      'file,person\ncat/deep/00.png,p1',
      'names no person for some images.*05.* and more',
    ),
    ('file,person\na,p1\na,p2', 'two persons'),
    ('file;person\na;p1', 'save it with commas'),
    ('file\tperson\na\tp1', 'save it with commas'),
    ('file,person\na,M\xfcller', "save it as 'CSV UTF-8'"),
  ],
)
def test_a_csv_that_lacks_persons_is_refused(root, tmp_path, text, why):
  path = tmp_path / 'p.csv'
  path.write_text(text, encoding='latin-1')
  with pytest.raises(errors.UsageError, match=why):
    _load(root, person_csv=str(path))
  with pytest.raises(errors.UsageError, match='cannot be read'):
    _load(root, person_csv=str(tmp_path / 'absent.csv'))


def test_all_unreadable_files_are_named_and_refused(root):
  (root / 'cat' / 'deep' / '02.png').write_bytes(b'no image')
  (root / 'dog' / 'cut.png').write_bytes(
    (root / 'dog' / 'deep' / '01.png').read_bytes()[:40]
  )
  bad = [f'dog/text{i}.txt' for i in range(12)]
  for name in bad:
    (root / name).write_text('text')
  with pytest.raises(errors.UsageError, match='skip_unreadable') as caught:
    _load(root)
  message = str(caught.value)
  assert '\n' not in message
  for name in ('cat/deep/02.png', 'dog/cut.png', bad[0], 'and more'):
    assert name in message
  assert len(_all(root, skip_unreadable=True)) == 2 * _NUM_PER_CLASS - 1


def test_images_of_another_shape_are_named(root):
  Image.new('RGB', (9, 9)).save(root / 'cat' / 'odd.png')
  with pytest.raises(errors.UsageError, match='odd.png.*image_size'):
    for split in ('train', 'test'):
      _load(root, split, image_size=0)
  assert len(_all(root)) == 2 * _NUM_PER_CLASS + 1


def test_image_bombs_are_refused(root):
  for options in ({}, {'image_size': 0}, {'skip_unreadable': True}):
    with pytest.raises(errors.UsageError, match='max_image_pixels=79'):
      _load(root, max_image_pixels=79, channels=3, **options)


def test_large_files_are_refused_unread(root, monkeypatch):
  monkeypatch.setattr(trees, 'MAX_FILE_BYTES', 10)
  with pytest.raises(errors.UsageError, match='more than 10 bytes'):
    _load(root)
  path = _zip(root, root.parent / 'i.zip')
  with pytest.raises(errors.UsageError, match='more than 10 bytes'):
    _load(path)


def test_classes_outside_the_config_are_an_error(root):
  with pytest.raises(errors.UsageError, match='does not list: dog'):
    _load(root, class_names=('cat', 'newt'))
  with pytest.raises(errors.UsageError, match=r"\('cat', 'dog'\)"):
    _load(root, class_names=())


def test_images_outside_class_folders_are_an_error(root):
  (root / 'stray.png').write_bytes(b'')
  with pytest.raises(errors.UsageError, match='stray.png'):
    _load(root)


def test_an_empty_split_is_an_error(root):
  with pytest.raises(errors.UsageError, match="Split 'test'"):
    _load(root, 'test', test_fraction=1e-9)


@pytest.mark.parametrize('path', ['', '/absent/folder'])
def test_a_missing_path_is_an_error(path):
  with pytest.raises(errors.UsageError, match='one subfolder per class'):
    _load(path)


def test_what_is_missing_is_known_without_reading(root, tmp_path):
  def check(splits=('train', 'test'), **changes):
    options = {'path': str(root), 'class_names': _CLASSES} | changes
    config = registry.DataConfig(name='folder', **options)
    registry.check_available(config, splits)

  check()
  for changes, why in (
    ({'path': str(tmp_path / 'absent')}, 'one subfolder per class'),
    ({'person_csv': str(tmp_path / 'absent.csv')}, 'to be a CSV file'),
    ({'splits': ('train', 'validation')}, "'test', 'train'"),
  ):
    with pytest.raises(errors.UsageError, match=why):
      check(**changes)


def test_an_empty_folder_and_a_file_that_is_no_zip_are_errors(tmp_path):
  with pytest.raises(errors.UsageError, match='one subfolder'):
    _load(tmp_path)
  (tmp_path / 'images.zip').write_bytes(b'no zip')
  with pytest.raises(errors.UsageError, match='a .zip'):
    _load(tmp_path / 'images.zip')


@pytest.mark.parametrize(
  'name', ['../cat/a.png', '/cat/a.png', 'cat/../../a.png', 'C:/cat/a.png']
)
def test_a_zip_with_paths_outside_it_is_refused(root, tmp_path, name):
  path = _zip(root, tmp_path / 'images.zip')
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr(name, b'')
  with pytest.raises(errors.UsageError, match='leads outside'):
    _load(path)


def test_a_zip_with_links_is_refused(tmp_path):
  path = tmp_path / 'images.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    link = zipfile.ZipInfo('cat/a.png')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, '/etc/passwd')
  with pytest.raises(errors.UsageError, match='is a link'):
    _load(path)


def test_a_zip_with_two_files_of_one_name_is_refused(root, tmp_path):
  """One of them would be left out without a message."""
  path = _zip(root, tmp_path / 'images.zip')
  with zipfile.ZipFile(path, 'a') as archive:
    with pytest.warns(UserWarning, match='Duplicate name'):
      archive.writestr('cat/deep/03.png', b'another')
  with pytest.raises(errors.UsageError, match="'cat/deep/03.png' comes twice"):
    _load(path)


def test_an_encrypted_zip_is_refused(root, tmp_path):
  path = _zip(root, tmp_path / 'images.zip')
  data = bytearray(path.read_bytes())
  place = data.index(b'PK\x01\x02')  # The first entry of the list of files.
  data[place + 8] |= 1
  path.write_bytes(data)
  with pytest.raises(errors.UsageError, match='is encrypted'):
    _load(path)


def test_a_zip_with_a_damaged_file_names_it(root, tmp_path):
  path = _zip(root, tmp_path / 'images.zip')
  data = bytearray(path.read_bytes())
  data[data.index(b'cat/deep/05.png') + 60] ^= 0xFF
  path.write_bytes(data)
  with pytest.raises(errors.UsageError, match='cat/deep/05.png'):
    _load(path)


def test_a_zip_with_an_unknown_compression_names_the_file(root, tmp_path):
  """As other programs make zips: method 99 is not one of Python's."""
  path = _zip(root, tmp_path / 'images.zip')
  data = bytearray(path.read_bytes())
  local = data.index(b'cat/deep/05.png') - 30
  assert data[local : local + 4] == b'PK\x03\x04'
  listed = data.rindex(b'cat/deep/05.png') - 46
  assert data[listed : listed + 4] == b'PK\x01\x02'
  data[local + 8] = data[listed + 10] = 99
  path.write_bytes(data)
  with pytest.raises(errors.UsageError, match='cat/deep/05.png') as raised:
    _load(path)
  assert '\n' not in str(raised.value)


def test_large_sets_are_decoded_once_and_again_when_a_file_changes(
  root, tmp_path
):
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  first = _load(root, **options)
  assert isinstance(first.images, np.memmap)
  np.testing.assert_array_equal(first.images, _load(root).images)
  assert len(os.listdir(tmp_path / 'cache')) == 1
  _load(root, **options)
  assert len(os.listdir(tmp_path / 'cache')) == 1
  for file in root.rglob('deep/*.png'):
    Image.new('RGB', (10, 8), (9, 9, 9)).save(file)
  assert np.all(_load(root, **options).images == 9)


def test_the_cache_knows_how_the_images_were_divided(root, tmp_path):
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  for changes in ({}, {'split_seed': 1}, {'test_fraction': 0.5}):
    in_memory = _values(root, 'test', **changes)
    assert _values(root, 'test', **changes, **options) == in_memory


def test_the_cache_knows_what_was_left_out(root, tmp_path):
  """A run that leaves nothing out must not get such images."""
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  (root / 'cat' / 'bad.png').write_bytes(b'no image')
  assert len(_load(root, skip_unreadable=True, **options).skipped) == 1
  with pytest.raises(errors.UsageError, match='cat/bad.png'):
    _load(root, **options)


@pytest.mark.parametrize(
  ('changes', 'shape'),
  [({'image_size': 4}, (4, 4, 3)), ({'channels': 1}, (8, 8, 1))],
)
def test_images_in_use_are_taken_for_no_others(root, changes, shape):
  in_use = _load(root)
  assert _load(root, **changes).images.shape[1:] == shape
  with pytest.raises(ValueError, match='read-only'):
    in_use.images[0] = 0  # Whoever loads them next would get it.


@pytest.mark.parametrize('form', ['folder', 'npz'])
def test_what_replaces_a_file_of_its_size_is_decoded(tmp_path, form):
  """Also within the second in which the file was written."""
  path = tmp_path / ('x.npz' if form == 'npz' else 'x')
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  for number, value in enumerate((7, 9)):
    images = np.full((20, 8, 8, 3), value, np.uint8)
    images[..., 1] = np.arange(20)[:, None, None]
    if form == 'npz':
      np.savez(path, images=images, labels=np.arange(20) % 2)
    else:
      for i, image in enumerate(images):
        file = path / _CLASSES[i % 2] / f'{i}.bmp'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    for file in (path, *path.rglob('*.bmp')):
      os.utime(file, ns=(0, 10**18 + number))
    assert np.all(_load(path, **options).images[..., 0] == value)


def test_a_zip_is_decoded_again_when_a_file_of_one_size_replaces_another(
  root, tmp_path
):
  """As when names are blacked out in the images."""
  del root
  path = tmp_path / 'x.zip'
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  for value in (7, 9):
    with zipfile.ZipFile(path, 'w') as archive:
      for i in range(20):
        data = io.BytesIO()
        Image.new('RGB', (10, 8), (value, i, 0)).save(data, 'BMP')
        archive.writestr(
          f'{"cat" if i % 2 else "dog"}/{i}.bmp', data.getvalue()
        )
    assert np.all(_load(path, **options).images[..., 0] == value)


def test_a_file_behind_a_link_is_decoded_again_when_it_changes(root, tmp_path):
  """Tools that version data, such as git-annex, keep links to files."""
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  for i, file in enumerate(sorted(root.rglob('*.png'))):
    target = tmp_path / f'{i}.bin'
    file.rename(target)
    file.symlink_to(target)
  _load(root, **options)
  for file in tmp_path.glob('*.bin'):
    Image.new('RGB', (10, 8), (9, 9, 9)).save(file, 'png')
  assert np.all(_load(root, **options).images == 9)


def _write_npz(path, **changes):
  rng = np.random.default_rng(0)
  arrays = {
    'images': rng.integers(0, 256, (40, 8, 8, 3), np.uint8),
    'labels': np.arange(40) % 2,
  } | changes
  np.savez(path, **arrays)
  return arrays


def test_an_npz_is_split_without_loss(tmp_path):
  path = tmp_path / 'x.npz'
  arrays = _write_npz(path, person=np.arange(40) // 2)
  found = [_load(path, split) for split in ('train', 'test')]
  images = np.concatenate([source.images for source in found])
  rank = {image.tobytes(): i for i, image in enumerate(arrays['images'])}
  order = [rank[image.tobytes()] for image in images]
  assert sorted(order) == list(range(40))
  labels = np.concatenate([source.labels for source in found])
  np.testing.assert_array_equal(labels, arrays['labels'][order])
  assert not set(found[0].person) & set(found[1].person)


def test_an_npz_is_resized_and_recoloured(tmp_path):
  path = tmp_path / 'x.npz'
  _write_npz(path)
  assert _load(path, image_size=4).spec.image_shape == (4, 4, 3)
  assert _load(path, channels=1).spec.image_shape == (8, 8, 1)
  grey = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
  _write_npz(path, images=grey)
  assert _load(path).spec.image_shape == (8, 8, 1)


@pytest.mark.parametrize(
  'changes, why',
  [
    ({'images': np.zeros((40, 8, 8, 3))}, 'floating'),
    ({'images': np.zeros((40, 8, 8, 3), bool)}, 'uint8'),
    ({'images': np.zeros((40, 8, 8, 2), np.uint8)}, '1 or 3'),
    ({'labels': np.zeros(39, int)}, 'labels'),
    ({'labels': np.zeros(40)}, 'labels'),
    ({'labels': np.full(40, 3)}, 'label=3'),
    ({'labels': np.array([None] * 40)}, 'cannot be read'),
    ({'person': np.zeros(3, int)}, 'person'),
    ({'labels': np.full(40, -1)}, 'label=-1'),
    ({'labels': np.full(40, 2**32)}, 'label=4294967296'),
  ],
)
def test_an_npz_of_another_form_is_refused(tmp_path, changes, why):
  path = tmp_path / 'x.npz'
  _write_npz(path, **changes)
  with pytest.raises(errors.UsageError, match=why):
    _load(path)


@pytest.mark.parametrize('shape', [(28, 28), (28, 28, 3)])
def test_a_divided_npz_keeps_its_division(tmp_path, shape):
  """As MedMNIST is published."""
  path, rng = tmp_path / 'm.npz', np.random.default_rng(0)
  parts = {
    part: rng.integers(0, 256, (num, *shape)).astype(np.uint8)
    for part, num in (('train', 20), ('val', 5), ('test', 7))
  }
  arrays = {f'{part}_images': images for part, images in parts.items()}
  for part, images in parts.items():
    arrays[f'{part}_labels'] = (np.arange(len(images)) % 3)[:, None]
  np.savez(path, **arrays)
  train, test = (_load(path, s, image_size=0) for s in ('train', 'test'))
  expected = np.concatenate([parts['val'], parts['test']])
  for found, images in ((train, parts['train']), (test, expected)):
    np.testing.assert_array_equal(
      found.images, images.reshape(len(images), 28, 28, -1)
    )
  assert train.labels.tolist() == [i % 3 for i in range(20)]
  np.savez(path, **{k: v for k, v in arrays.items() if 'train' in k})
  with pytest.raises(errors.UsageError, match='has train_images alone'):
    _load(path, 'test')


def _write_parts(path, *parts, **others):
  rng = np.random.default_rng(0)
  arrays = {}
  for part in parts:
    arrays[f'{part}_images'] = rng.integers(0, 256, (9, 8, 8), np.uint8)
    arrays[f'{part}_labels'] = np.arange(9) % 3
  np.savez(path, **arrays, **others)


@pytest.mark.parametrize(
  'parts', [('train', 'valid', 'test'), ('Training', 'Validation', 'dev')]
)
def test_parts_of_an_npz_may_be_called_as_folders_are(tmp_path, parts):
  path = tmp_path / 'm.npz'
  _write_parts(path, *parts)
  assert [len(_load(path, s).images) for s in ('train', 'test')] == [9, 18]


@pytest.mark.parametrize(
  'parts, others, why',
  [
    (('test',), {}, 'has test_images alone'),
    (('test', 'val'), {}, 'has val_images, test_images alone'),
    (('train', 'test', 'extra'), {}, 'and also extra_images: leave'),
    (('train', 'test'), {'images': np.zeros((9, 8, 8))}, 'and also images'),
    (('train',), {'test_labels': np.zeros(9, int)}, 'lacks test_images'),
    (('train',), {'test_images': np.zeros((9, 8, 8))}, 'lacks test_labels'),
    (('train', 'training', 'test'), {}, 'several training parts'),
  ],
)
def test_images_of_an_npz_are_not_dropped_unsaid(tmp_path, parts, others, why):
  path = tmp_path / 'm.npz'
  _write_parts(path, *parts, **others)
  with pytest.raises(errors.UsageError, match=why):
    _load(path)


def test_a_divided_npz_leaves_copies_of_held_out_images_out(tmp_path):
  path, rng = tmp_path / 'm.npz', np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 8, 8)).astype(np.uint8)
  labels = np.zeros((30, 1), np.uint8)
  np.savez(
    path,
    train_images=images[:22],
    train_labels=labels[:22],
    test_images=images[20:],
    test_labels=labels[20:],
  )
  train, test = (_load(path, split) for split in ('train', 'test'))
  np.testing.assert_array_equal(train.images[..., 0], images[:20])
  np.testing.assert_array_equal(test.images[..., 0], images[20:])
  assert [name for name, _, _ in train.skipped] == [
    'train_images[20]',
    'train_images[21]',
  ]


def test_copies_are_left_out_also_behind_an_unreadable_file(tmp_path):
  """Numbers of the images that are left count the unreadable ones too."""
  root = tmp_path / 'x'
  for split, first in (('train', 0), ('test', 20)):
    (root / split / 'cat').mkdir(parents=True)
    for i in range(first, first + 20):
      image = Image.new('L', (8, 8), i)
      image.save(root / split / 'cat' / f'{i:02d}.png')
  (root / 'train' / 'cat' / '00.png').write_bytes(b'no image')
  copy = (root / 'test' / 'cat' / '25.png').read_bytes()
  (root / 'train' / 'cat' / '07.png').write_bytes(copy)
  train, test = (_load(root, s, skip_unreadable=True) for s in _SPLITS)
  left = sorted(set(range(1, 20)) - {7})
  assert sorted(train.images[:, 0, 0, 0].tolist()) == left
  assert sorted(test.images[:, 0, 0, 0].tolist()) == list(range(20, 40))
  assert [name for name, _, _ in train.skipped] == [
    'train/cat/00.png',
    'train/cat/07.png',
  ]


def test_a_table_of_persons_that_was_mended_is_read(root, tmp_path):
  """Also while the images that were decoded for the old one are in use."""
  table = tmp_path / 'persons.csv'
  names = [p.relative_to(root).as_posix() for p in root.rglob('[0-9]*.png')]

  def persons(per_person):
    lines = [f'{name},{i // per_person}' for i, name in enumerate(names)]
    table.write_text('\n'.join(['file,person', *lines]))
    parts = [_load(root, split, person_csv=str(table)) for split in _SPLITS]
    return parts, sum(len(np.unique(part.person)) for part in parts)

  before, num_before = persons(1)
  assert num_before == len(names) == sum(len(part.images) for part in before)
  assert persons(3)[1] == len(names) // 3


@pytest.mark.parametrize(
  ('name', 'array', 'words'),
  [
    (
      'persons',
      np.arange(40),
      "array 'persons', which is not read: call it 'p",
    ),
    ('patient_id', np.arange(40), "call it 'person', or take it away"),
    ('split', np.arange(40) % 2, 'save train_images, train_labels'),
    ('part', np.array(['train', 'test'] * 20), 'save train_images'),
    ('part', np.array([b'train', b'test'] * 20), 'save train_images'),
    ('part', np.array(['', 'test'] * 20), 'save train_images'),
    ('is_train', np.arange(40) > 9, 'save train_images'),
  ],
)
def test_an_array_of_persons_or_parts_is_not_dropped_unsaid(
  tmp_path, name, array, words
):
  path = tmp_path / 'x.npz'
  _write_npz(path, **{name: array})
  for unit in ('image', 'person'):
    with pytest.raises(errors.UsageError, match=re.escape(words)):
      _load(path, unit=unit)


def test_arrays_that_say_neither_do_no_harm(tmp_path):
  others = {
    'note': np.array(['a', 'b'] * 20),
    'ages': np.arange(40),
    'kind': np.array(['train'] * 40),
    'pickled': np.array([None] * 40),
  }
  _write_npz(tmp_path / 'x.npz', **others)
  assert len(_load(tmp_path / 'x.npz').images)


@pytest.mark.parametrize(
  ('name', 'words'),
  [('person', "call it 'train_person'"), ('test_persons', "it 'test_person'")],
)
def test_persons_of_no_part_are_refused(tmp_path, name, words):
  _write_parts(tmp_path / 'm.npz', 'train', 'test', **{name: np.arange(9)})
  with pytest.raises(errors.UsageError, match=words):
    _load(tmp_path / 'm.npz')


def test_a_person_in_two_parts_of_an_npz_is_one_person(tmp_path):
  """Whose training images are left out, since the others are held out."""
  train_person, test_person = np.arange(9) // 3, np.arange(9) // 3 + 2
  _write_parts(
    tmp_path / 'm.npz',
    *_SPLITS,
    train_person=train_person,
    test_person=test_person,
  )
  train, test = (_load(tmp_path / 'm.npz', split) for split in _SPLITS)
  assert [name for name, _, _ in train.skipped] == [
    f'train_images[{i}]' for i in range(6, 9)
  ]
  assert (len(set(train.person)), len(set(test.person))) == (2, 3)
  assert not set(train.person) & set(test.person)


def test_labels_and_persons_of_an_npz_may_be_text(tmp_path):
  path, labels = tmp_path / 'x.npz', np.arange(40) % 2
  _write_npz(path)
  expected = _load(path)
  for as_given in (np.array(_CLASSES)[labels], labels.astype(bool)):
    _write_npz(path, labels=as_given)
    np.testing.assert_array_equal(_load(path).labels, expected.labels)
  _write_npz(path, labels=np.array(['cat', 'cow'] * 20))
  with pytest.raises(errors.UsageError, match='does not list: cow'):
    _load(path)
  _write_npz(path, person=np.array([f'p{i // 2}' for i in range(40)]))
  by_text = _load(path, unit='person')
  _write_npz(path, person=np.arange(40) // 2)
  by_number = _load(path, unit='person')
  assert len(set(by_text.person)) and by_text.person.dtype == np.int32
  assert len(by_number.images)


@pytest.mark.parametrize('nobody', [-1, ''])
def test_a_person_who_is_nobody_is_refused(tmp_path, nobody):
  """They would be one person, with all of their images."""
  person = np.array([*range(38), nobody, nobody])
  if nobody:
    person = person.astype(int)
  _write_npz(tmp_path / 'x.npz', person=person)
  with pytest.raises(errors.UsageError, match='to say who is on each image'):
    _load(tmp_path / 'x.npz')


@pytest.mark.parametrize('key', ['file_column', 'person_column'])
def test_columns_are_no_keys_of_an_npz(tmp_path, key):
  _write_npz(tmp_path / 'x.npz')
  with pytest.raises(errors.UsageError, match=f"data.{key}='z' not to be set"):
    _load(tmp_path / 'x.npz', **{key: 'z'})


@pytest.mark.parametrize('is_equal', [True, False])
def test_images_that_must_all_lie_on_one_side_are_said_to(tmp_path, is_equal):
  """No seed and no share would divide them."""
  path = tmp_path / 'x.npz'
  arrays = _write_npz(path, person=np.zeros(40, int))
  if is_equal:
    _write_npz(path, images=arrays['images'][:1].repeat(40, axis=0))
  with pytest.raises(errors.UsageError, match='lie on one side: add') as caught:
    for split in ('train', 'test'):
      _load(path, split)
  assert 'split_seed' not in str(caught.value)


@pytest.mark.parametrize('bits', [12, 16])
@pytest.mark.parametrize('channels', [1, 3])
def test_deep_arrays_are_mapped_by_a_range(tmp_path, bits, channels):
  path, rng = tmp_path / 'x.npz', np.random.default_rng(0)
  high = (1 << bits) - 1
  stored = rng.integers(0, high + 1, (40, 8, 8, channels)).astype('>u2')
  _write_npz(path, images=stored)
  expected = (stored.astype(int) * 510 + high) // (2 * high)
  ranges = [(0, high)] if bits < 16 else [(0, high), ()]
  for value_range in ranges:
    found = np.concatenate(
      [_load(path, s, value_range=value_range).images for s in _SPLITS]
    )
    assert sorted(i.tobytes() for i in found) == sorted(
      i.tobytes() for i in expected.astype(np.uint8)
    )
  if bits < 16:
    with pytest.raises(errors.UsageError, match='data.value_range'):
      _load(path)


def test_arrays_of_eight_bits_follow_the_range_too(tmp_path):
  path = tmp_path / 'x.npz'
  stored = _write_npz(path)['images'].astype(int)
  expected = (np.clip(stored - 50, 0, 100) * 510 + 100) // 200
  found = np.concatenate(
    [_load(path, s, value_range=(50, 150)).images for s in _SPLITS]
  )
  assert sorted(i.tobytes() for i in found) == sorted(
    i.tobytes() for i in expected.astype(np.uint8)
  )


@pytest.mark.parametrize(
  ('images', 'changes', 'why'),
  [
    (np.full((40, 8, 8), np.nan), {'value_range': (0, 1)}, 'NaN'),
    (np.zeros((40, 8, 8), np.int16), {}, 'no fixed range'),
    (np.zeros((40, 8, 8), np.uint8), {'value_range': (0, 999)}, 'its 8 bits'),
    (np.zeros((0, 8, 8), np.uint8), {}, 'to hold images'),
    (np.zeros((40, 8, 8), np.uint8), {'frames': 'first'}, 'data.frames'),
  ],
)
def test_arrays_without_a_meaning_are_refused(tmp_path, images, changes, why):
  path = tmp_path / 'x.npz'
  _write_npz(path, images=images)
  with pytest.raises(errors.UsageError, match=why):
    _load(path, **changes)


def test_labels_in_a_column_are_taken_and_several_are_refused(tmp_path):
  path = tmp_path / 'x.npz'
  _write_npz(path, labels=(np.arange(40) % 3)[:, None])
  assert set(_load(path).labels.tolist()) <= {0, 1, 2}
  _write_npz(path, labels=np.zeros((40, 14), int))
  with pytest.raises(errors.UsageError, match='one label per image'):
    _load(path)


def test_the_arrays_that_are_there_are_named(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, pictures=np.zeros(3), classes=np.zeros(3))
  with pytest.raises(errors.UsageError, match='has pictures, classes'):
    _load(path)


def test_a_damaged_npz_and_one_without_labels_are_refused(tmp_path):
  path = tmp_path / 'x.npz'
  path.write_bytes(b'no zip')
  with pytest.raises(errors.UsageError, match='cannot be read'):
    _load(path)
  np.savez(path, images=np.zeros((2, 4, 4), np.uint8))
  with pytest.raises(errors.UsageError, match='lacks'):
    _load(path)
  _write_npz(path)
  with pytest.raises(errors.UsageError, match='class_names'):
    _load(path, class_names=())


def test_the_persons_of_an_npz_are_in_it(root, tmp_path):
  path = tmp_path / 'x.npz'
  _write_npz(path, person=np.arange(40) // 2)
  assert _load(path, unit='person').spec.has_person
  _write_csv(tmp_path / 'p.csv', root, 7)
  with pytest.raises(errors.UsageError, match="named 'person'"):
    _load(path, person_csv=str(tmp_path / 'p.csv'))


@pytest.mark.parametrize('most_bytes', [10, None])
def test_an_npz_beyond_the_memory_is_refused(tmp_path, monkeypatch, most_bytes):
  path = tmp_path / 'x.npz'
  _write_npz(path)
  if most_bytes:
    monkeypatch.setattr(npz_images, '_most_bytes', lambda: most_bytes)
  else:  # A header that lies.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
      header,
      {'descr': '|u1', 'fortran_order': False, 'shape': (1 << 60, 8, 8, 3)},
    )
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('images.npy', header.getvalue())
      archive.writestr('labels.npy', b'')
  with pytest.raises(
    errors.UsageError, match='too large for the memory|cannot be read'
  ):
    _load(path)


@pytest.mark.skipif(os.name != 'posix', reason='needs names of bytes')
def test_a_name_need_not_be_utf_8(root):
  before = len(_load(root).labels) + len(_load(root, 'test').labels)
  image = (root / 'cat' / 'deep' / '00.png').read_bytes()
  with open(os.fsencode(root) + b'/cat/deep/\xff.png', 'wb') as f:
    f.write(image)
  after = len(_load(root).labels) + len(_load(root, 'test').labels)
  assert after == before + 1


def test_an_unknown_split_is_an_error(root):
  with pytest.raises(errors.UsageError, match="'test', 'train'"):
    _load(root, 'validation')


def test_a_damaged_member_is_an_error_of_the_file(root, tmp_path):
  path = tmp_path / 'images.zip'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for file in sorted(root.rglob('*.png')):
      archive.write(file, file.relative_to(root).as_posix())
    (info,) = (i for i in archive.infolist() if i.filename == 'cat/deep/03.png')
  data = bytearray(path.read_bytes())
  start = info.header_offset + 30 + len(info.filename)
  data[start : start + 8] = b'\xff' * 8
  path.write_bytes(data)
  with pytest.raises(errors.UsageError, match='cat/deep/03.png'):
    _load(path)


def test_a_damaged_npz_is_said_without_the_sizes_in_it(tmp_path):
  """They may be the number of sensitive images."""
  path = tmp_path / 'x.npz'
  _write_npz(path)
  header = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    header, {'descr': '<i8', 'fortran_order': False, 'shape': (137,)}
  )
  with zipfile.ZipFile(path) as archive:
    images = archive.read('images.npy')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('images.npy', images)
    archive.writestr('labels.npy', header.getvalue() + bytes(960))
  with pytest.raises(errors.UsageError, match='cannot be read') as caught:
    _load(path)
  said = str(caught.value).replace(str(tmp_path), '')
  assert not set('0123456789') & set(said)


@pytest.mark.parametrize('part', ['train', 'test'])
def test_persons_of_one_part_alone_are_refused(tmp_path, part):
  persons = {f'{part}_person': np.arange(9)}
  _write_parts(tmp_path / 'm.npz', 'train', 'test', **persons)
  with pytest.raises(errors.UsageError, match='for each part of'):
    _load(tmp_path / 'm.npz')


def test_a_damaged_npz_is_one_line(tmp_path):
  path = tmp_path / 'images.npz'
  np.savez_compressed(
    path,
    images=np.random.default_rng(0).integers(0, 256, (9, 8, 8), np.uint8),
    labels=np.zeros(9, np.int32),
  )
  data = bytearray(path.read_bytes())
  middle = len(data) // 4
  data[middle : middle + 40] = b'\xff' * 40
  path.write_bytes(data)
  with pytest.raises(errors.UsageError, match='cannot be read'):
    _load(path)


def test_a_class_folder_that_is_a_link_is_refused(root):
  """It would be left out without a word, and its class stay empty."""
  (root / 'dog').rename(root.parent / 'elsewhere')
  (root / 'dog').symlink_to(root.parent / 'elsewhere')
  with pytest.raises(errors.UsageError, match='dog is a link'):
    _load(root)


def test_a_class_folder_that_cannot_be_opened_is_refused(root, monkeypatch):
  scandir = os.scandir

  def refuse(path):
    if str(path).endswith('dog'):
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(errors.UsageError, match='dog cannot be opened'):
    _load(root)


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'class_names': ()}, 'Set data.class_names'),
    ({'class_names': ('Cat', 'dog')}, 'does not list: cat'),
    ({'unit': 'person'}, 'give data.person_csv'),
  ],
)
def test_what_is_wrong_with_a_folder_is_known_before_images_are(
  root, changes, why
):
  options = {'class_names': _CLASSES, 'path': str(root)} | changes
  config = registry.DataConfig(name='folder', **options)
  with pytest.raises(errors.UsageError, match=why):
    registry.check_available(config, ('train', 'test'))


def test_persons_that_do_not_match_are_shown_beside_the_files(root, tmp_path):
  csv = tmp_path / 'persons.csv'
  csv.write_text('file,person\n/data/scans/cat/deep/00.png,a\n')
  with pytest.raises(errors.UsageError) as caught:
    _load(root, person_csv=str(csv))
  said = str(caught.value)
  assert "'/data/scans/cat/deep/00.png'" in said
  assert 'for some images' in said
  assert "expected as in 'cat/deep/00.png'" in said


@pytest.mark.parametrize('form', ['folder', 'zip', 'npz'])
def test_some_images_are_chosen_evenly_by_a_public_seed(root, tmp_path, form):
  whole = _all(root)
  path = root
  if form == 'zip':
    path = _zip(root, tmp_path / 'images.zip')
  elif form == 'npz':
    path = tmp_path / 'images.npz'
    images = np.array(list(whole), np.uint8)[:, None, None, None]
    np.savez(
      path,
      images=np.broadcast_to(images, (len(whole), 8, 8, 3)),
      labels=np.array(list(whole.values())),
    )
  some = _all(path, max_images=11)
  assert some.items() <= whole.items() and len(some) == 11
  assert sorted(np.bincount(list(some.values())).tolist()) == [5, 6]
  assert _all(path, max_images=11) == some
  assert _all(path, max_images=11, split_seed=1) != some
  assert _all(path, max_images=12).items() > some.items()
  assert _all(path, max_images=1000) == whole
