from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import zipfile

import numpy as np
import pytest

from dp_diffusion.data import registry
from dp_diffusion.data import same_source
from tests.data import own_files

SAME, OTHER, DIFFERENT = (
  same_source.SAME,
  same_source.OTHER_PART,
  same_source.DIFFERENT,
)


def config(name, split='train', **more):
  return registry.DataConfig(name=name, split=split, **more)


def check(expected, one, other):
  assert same_source.compare(one, other) == expected
  assert same_source.compare(other, one) == expected


@pytest.mark.parametrize(
  ('expected', 'one', 'other'),
  [
    (SAME, {'name': 'digits'}, {'name': 'digits'}),
    (SAME, {'name': 'digits'}, {'name': 'digits', 'source_seed': 3}),
    (SAME, {'name': 'digits'}, {'name': 'digits', 'tfds_dir': 'x'}),
    (OTHER, {'name': 'digits'}, {'name': 'digits', 'split': 'test'}),
    (  # Another division: what one trains on, the other holds out.
      SAME,
      {'name': 'digits'},
      {'name': 'digits', 'split': 'test', 'split_seed': 1},
    ),
    (SAME, {'name': 'digits'}, {'name': 'digits', 'split_seed': 1}),
    (DIFFERENT, {'name': 'digits'}, {'name': 'glyphs'}),
    (DIFFERENT, {'name': 'digits'}, {'name': 'tfds:digits'}),
    (SAME, {'name': 'generated'}, {'name': 'generated', 'num_images': 9}),
    (DIFFERENT, {'name': 'generated'}, {'name': 'generated', 'source_seed': 1}),
    (OTHER, {'name': 'glyphs'}, {'name': 'glyphs', 'split': 'test'}),
    (SAME, {'name': 'camelyon17'}, {'name': 'tfds:camelyon17_wilds/32x32'}),
    (
      OTHER,
      {'name': 'camelyon17'},
      {'name': 'camelyon17', 'split': 'val', 'split_seed': 1},
    ),
  ],
)
def test_sources_of_this_package(expected, one, other):
  check(expected, config(**one), config(**other))


@pytest.mark.parametrize(
  ('expected', 'other'),
  [
    (SAME, 'tfds:mnist'),
    (SAME, 'mnist'),
    (SAME, 'tfds:mnist:3.0.1'),
    (SAME, 'mnist:9.9.9'),
    (SAME, 'tfds:MNIST'),
    (SAME, 'tfds:mnist/anything'),
    (DIFFERENT, 'tfds:fashion_mnist'),
    (DIFFERENT, 'digits'),
  ],
)
def test_names_of_tfds_datasets(tmp_path, expected, other):
  folder = str(tmp_path)
  check(expected, config('tfds:mnist'), config(other, tfds_dir=folder))


def test_configs_of_tfds_datasets():
  sizes = [config(f'tfds:imagenet_resized/{n}x{n}') for n in (32, 64)]
  check(SAME, *sizes)
  letters, numbers = (config(f'tfds:emnist/{n}') for n in ('letters', 'digits'))
  check(OTHER, letters, numbers)
  check(SAME, letters, config('tfds:emnist/letters:3.1.0'))
  check(SAME, config('tfds:FashionMNIST'), config('tfds:fashion_mnist'))


def _prepare(folder: pathlib.Path, name: str) -> pathlib.Path:
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text(json.dumps({'name': name}))
  return folder


def test_prepared_datasets_under_other_names(tmp_path):
  a, b = tmp_path / 'a', tmp_path / 'b'
  _prepare(a / 'shapes' / '1.0.0', 'shapes')
  one = config('tfds:shapes', tfds_dir=str(a))
  b.mkdir()
  (b / 'linked').symlink_to(a / 'shapes')
  shutil.copytree(a / 'shapes', b / 'copied')
  _prepare(b / 'else' / '1.0.0', 'else')
  for name, expected in (
    ('linked', SAME),
    ('copied', SAME),
    ('else', DIFFERENT),
  ):
    check(expected, one, config(f'tfds:{name}', tfds_dir=str(b)))


@pytest.mark.parametrize(
  ('is_overlapping', 'one', 'other'),
  [
    (True, 'train', 'train'),
    (True, 'train', 'train[:50%]'),
    (True, 'train[:50%]', 'train[40%:]'),
    (True, 'train[:50%]', 'train[:1000]'),
    (True, 'train[:50%]', 'train[600:700]'),
    (True, 'train[90:]', 'train[:10%]'),
    (True, 'train[-10%:]', 'train[90%:95%]'),
    (True, 'train[:-10%]', 'train[80%:]'),
    (True, 'train[-30%:-20%]', 'train[75%:76%]'),
    (True, 'test+train', 'train[99%:]'),
    (True, ' train ', 'train'),
    (True, 'all', 'test'),
    (True, 'train[5shard]', 'train'),
    (True, 'train[-10:]', 'train[:10]'),  # Nobody knows how many there are.
    (True, 'train[:10](pct1_dropremainder)', 'train[5:]'),
    (True, 'train[1_000:]', 'train[:1_001]'),
    (False, 'train', 'test'),
    (False, 'train[:50%]', 'train[50%:]'),
    (False, 'train[:-10%]', 'train[-10%:]'),
    (False, 'train[:1000]', 'train[1000:2000]'),
    (False, 'test+train[:10%]', 'train[10%:]'),
    (False, 'train', 'train_extra'),
  ],
)
def test_slices_of_tfds_splits(is_overlapping, one, other):
  assert same_source.do_overlap(one, other) is is_overlapping
  expected = SAME if is_overlapping else OTHER
  check(expected, config('tfds:x', one), config('tfds:x', other))


@pytest.fixture
def scans(tmp_path):
  folder = tmp_path / 'data' / 'scans'
  own_files.write_folder(folder, num_images=3)
  return folder


def own(path, split='train', **more):
  return config('folder', split, path=str(path), class_names=('a', 'b'), **more)


def test_the_place_of_images_is_where_they_are_read(scans, monkeypatch):
  """A statement beside them is looked for there."""
  monkeypatch.setenv('HOME', str(scans.parent.parent))
  for path in (scans, '~/data/scans'):
    assert same_source.places(own(path)) == (scans,)
  assert same_source.places(own('')) == ()


def test_paths_to_the_same_files(scans, tmp_path, monkeypatch):
  link = tmp_path / 'link'
  link.symlink_to(scans)
  copy, copied_zip = tmp_path / 'copy', tmp_path / 'z.zip'
  shutil.copytree(scans, copy)
  for zipped, root in (('a.zip', scans), ('b.zip', scans.parent)):
    with zipfile.ZipFile(tmp_path / zipped, 'w') as archive:
      for file in sorted(scans.rglob('*.png')):
        archive.write(file, file.relative_to(root))
  shutil.copyfile(tmp_path / 'a.zip', copied_zip)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  spellings = [
    *(scans, link, f'{scans}/', 'data/scans', './data/../link', '~/data/scans'),
    *(scans.parent, scans / 'a', copy, 'a.zip', 'b.zip'),
  ]
  for path in spellings:
    check(SAME, own(scans), own(path))
  check(SAME, own('a.zip'), own(copied_zip))
  check(OTHER, own(scans), own(link, 'test'))
  check(SAME, own(scans), own(link, 'test', test_fraction=0.5))
  other = tmp_path / 'other'
  own_files.write_folder(other, num_images=3, seed=1)
  for path in (other, 'absent', ''):
    check(DIFFERENT, own(scans), own(path) if path else own(tmp_path / 'no'))


@pytest.mark.parametrize('place', [0, 1, -1])
def test_one_file_that_two_folders_share_is_enough(place, scans, tmp_path):
  """Whichever it is: others of the same name and size may be other images."""
  other = tmp_path / 'other'
  shutil.copytree(scans, other)
  names = sorted(other.rglob('*.png'))
  for file in names:
    if file != names[place]:
      file.write_bytes(file.read_bytes()[::-1])
  check(SAME, own(scans), own(other))
  names[place].write_bytes(names[place].read_bytes()[::-1])
  check(DIFFERENT, own(scans), own(other))


def test_sixteen_files_of_equal_names_and_sizes_are_compared(
  tmp_path, monkeypatch
):
  """Of thousands, in two folders that share a naming scheme, no more."""
  for name, fill in (('one', b'a'), ('other', b'b')):
    for number in range(40):
      file = tmp_path / name / 'a' / f'{number:02}.png'
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(fill * 100)
  make_tree, read = same_source._tree, []

  def counted(path, config):
    tree = make_tree(path, config)
    return dataclasses.replace(
      tree, read=lambda name: read.append(name) or tree.read(name)
    )

  monkeypatch.setattr(same_source, '_tree', counted)
  check(DIFFERENT, own(tmp_path / 'one'), own(tmp_path / 'other'))
  assert len(set(read)) == 16
  assert len(read) == 4 * 16  # In both folders, for either order of them.


def test_a_file_that_cannot_be_read_hides_no_other(
  scans, tmp_path, monkeypatch
):
  other, tried = tmp_path / 'other', []
  shutil.copytree(scans, other)
  make_tree = same_source._tree

  def tree_without_one(path, config):
    tree = make_tree(path, config)

    def read(name):
      tried.append(name)
      if name == tried[0]:
        raise PermissionError(name)
      return tree.read(name)

    return dataclasses.replace(tree, read=read)

  monkeypatch.setattr(same_source, '_tree', tree_without_one)
  check(SAME, own(scans), own(other))
  assert len(set(tried)) > 1


def test_copied_npz(tmp_path):
  one, other = tmp_path / 'one.npz', tmp_path / 'other.npz'
  np.savez(one, images=np.zeros((2, 4, 4, 1), np.uint8), labels=np.arange(2))
  shutil.copyfile(one, other)
  check(SAME, own(one), own(other))
  os.link(one, tmp_path / 'hard.npz')
  check(SAME, own(one), own(tmp_path / 'hard.npz'))
  np.savez(other, images=np.ones((2, 4, 4, 1), np.uint8), labels=np.arange(2))
  check(DIFFERENT, own(one), own(other))


def test_public_names_hold_no_folders(tmp_path):
  assert same_source.describe(own(tmp_path / 'scans.zip')) == 'folder scans.zip'
  assert same_source.describe(config('generated')) == 'generated of seed 0'
  assert same_source.describe(config('tfds:mnist:3.0.1')) == 'tfds:mnist:3.0.1'
