"""Folders as people have them: a division above the classes, things around."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry

_CLASSES = ('cat', 'dog')
_NUM = 10


def image(label, number, fmt='PNG'):
  """An encoded image whose first pixel is (label, number, 0)."""
  data = io.BytesIO()
  Image.new('RGB', (8, 8), (label, number, 0)).save(data, fmt)
  return data.getvalue()


def put(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data if isinstance(data, bytes) else data.encode())


def class_folders(root, start=0, classes=_CLASSES):
  for label, name in enumerate(classes):
    for number in range(start, start + _NUM):
      put(root / name / f'{number:02d}.png', image(label, number))
  return root


def load(path, split='train', **changes):
  options = {'class_names': _CLASSES, 'image_size': 8} | changes
  config = registry.DataConfig(name='folder', path=str(path), **options)
  registry.check_readable(config, ('train', 'test'))
  return registry.load(config, split)


def found(path, split, **changes):
  """(label, number) of a split; labels are checked."""
  source = load(path, split, **changes)
  pixels = source.images[:, 0, 0].tolist()
  assert [label for label, _, _ in pixels] == source.labels.tolist()
  return [(label, number) for label, number, _ in pixels]


def numbers(path, split, **changes):
  return sorted({number for _, number in found(path, split, **changes)})


def refused(path, why, **changes):
  with pytest.raises(errors.UsageError, match=why) as caught:
    load(path, **changes)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('train', 'held_out'),
  [
    ('train', ['test']),
    ('train', ['val']),
    ('train', ['val', 'test']),
    ('Training', ['Testing']),
    ('TRAIN', ['valid', 'Test']),
    ('train', ['validation', 'eval']),
  ],
)
def test_a_division_above_the_classes_is_kept(tmp_path, train, held_out):
  class_folders(tmp_path / train)
  for place, part in enumerate(held_out, 1):
    class_folders(tmp_path / part, 20 * place)
  put(tmp_path / 'README.md', 'text')
  assert numbers(tmp_path, 'train') == list(range(_NUM))
  expected = [20 * p + n for p in range(1, 3) for n in range(_NUM)]
  assert numbers(tmp_path, 'test') == expected[: _NUM * len(held_out)]
  for seed in (1, 2):
    assert numbers(tmp_path, 'train', split_seed=seed) == list(range(_NUM))


def test_a_class_may_be_called_as_a_part_is(tmp_path):
  class_folders(tmp_path, classes=('train', 'test'))
  both = [found(tmp_path, s, class_names=('train', 'test')) for s in
          ('train', 'test')]  # fmt: skip
  assert len(both[0]) + len(both[1]) == 2 * _NUM
  class_folders(tmp_path, classes=('train', 'plane'))
  refused(tmp_path, 'does not list: test', class_names=('train', 'plane'))


@pytest.mark.parametrize(
  ('folders', 'why'),
  [
    (('train', 'test', 'extra'), 'extra, test, train; train, val and test ab'),
    (('train', 'test', 'cat'), 'test, train; train, val and test above'),
    (('train', 'training', 'test'), 'several training parts, train, training'),
    (('val', 'test'), 'does not list: test, val'),
  ],
)
def test_what_is_no_clear_division_is_refused(tmp_path, folders, why):
  for folder in folders:
    class_folders(tmp_path / folder)
  refused(tmp_path, why)


def test_a_division_below_the_classes_is_refused(tmp_path):
  for name in _CLASSES:
    class_folders(tmp_path / name, classes=('train', 'test'))
  refused(tmp_path, "division test, train of .* lies below the class 'cat'")


def test_images_of_no_class_in_a_part_are_refused(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  put(tmp_path / 'test' / 'stray.png', image(0, 1))
  refused(tmp_path, 'outside the class folders: test/stray.png')


def test_training_images_that_equal_a_held_out_one_are_left_out(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  for number in (3, 4):
    put(tmp_path / 'test' / 'dog' / f'{number}.bmp', image(1, number, 'BMP'))
  assert (1, 3) not in found(tmp_path, 'train')
  assert len(found(tmp_path, 'train')) == 2 * _NUM - 2
  assert {(1, 3), (1, 4)} <= set(found(tmp_path, 'test'))
  why = 'it equals a held-out image'
  assert load(tmp_path).skipped == (
    ('train/dog/03.png', 'dog', why),
    ('train/dog/04.png', 'dog', why),
  )


def test_a_class_whose_division_is_none_is_refused(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test')
  refused(tmp_path, "More than half .* class 'cat' .* and 5 more")
  class_folders(tmp_path / 'train', 40)
  assert numbers(tmp_path, 'train') == list(range(40, 40 + _NUM))


def test_images_of_held_out_persons_are_left_out_of_training(tmp_path):
  class_folders(tmp_path / 'x' / 'train')
  class_folders(tmp_path / 'x' / 'test', 20)
  lines = ['file,person']
  for part, start in (('train', 0), ('test', 20)):
    for name in _CLASSES:
      for n in range(_NUM):
        # Persons 8 and 9 of the training part are held out.
        person = n if part == 'train' else 8 + n
        lines.append(f'{part}/{name}/{start + n:02d}.png,p{person}')
  put(tmp_path / 'p.csv', '\n'.join(lines))
  options = {'person_csv': str(tmp_path / 'p.csv'), 'unit': 'person'}
  train, test = (load(tmp_path / 'x', s, **options) for s in ('train', 'test'))
  assert not set(train.person) & set(test.person)
  assert numbers(tmp_path / 'x', 'train', **options) == list(range(8))
  assert len(test.labels) == 2 * _NUM
  assert {why for _, _, why in train.skipped} == {'its person is held out'}


def test_what_is_left_out_depends_on_the_held_out_part_alone(tmp_path):
  """So that one image more moves one image at most."""
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  before = found(tmp_path, 'train'), found(tmp_path, 'test')
  put(tmp_path / 'train' / 'cat' / 'more.png', image(0, 21))
  assert (found(tmp_path, 'train'), found(tmp_path, 'test')) == before


@pytest.mark.parametrize('prefix', ['', 'data/', 'my data/cells/'])
@pytest.mark.parametrize('is_divided', [False, True])
def test_things_around_and_beside_are_left_out(tmp_path, prefix, is_divided):
  root = tmp_path / 'x'
  class_folders(root / 'train' if is_divided else root)
  if is_divided:
    class_folders(root / 'test', 20)
  path = tmp_path / 'x.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    for file in sorted(root.rglob('*.png')):
      name = prefix + file.relative_to(root).as_posix()
      archive.write(file, name)
      archive.writestr(f'__MACOSX/{name}', 'resources')
    for name in ('.DS_Store', 'Thumbs.db', 'README.txt', 'LICENSE'):
      archive.writestr(name, 'text')
      if name.startswith(('.', 'T')):
        archive.writestr(f'{prefix}{"train/" * is_divided}cat/{name}', 'text')
  for split in ('train', 'test'):
    assert found(path, split) == found(root, split)


def test_a_folder_around_all_is_left_out_of_a_folder(tmp_path):
  class_folders(tmp_path / 'download' / 'cells')
  put(tmp_path / 'download' / 'README.txt', 'text')
  whole = [found(tmp_path, split) for split in ('train', 'test')]
  inner = tmp_path / 'download' / 'cells'
  assert whole == [found(inner, split) for split in ('train', 'test')]


def test_a_single_class_is_no_folder_around_all(tmp_path):
  class_folders(tmp_path, classes=('cat',))
  assert len(found(tmp_path, 'train', class_names=('cat',))) < _NUM
  refused(tmp_path, r"subfolders of .* are \('cat',\)", class_names=())


def test_a_class_that_loses_more_than_half_is_refused(tmp_path):
  class_folders(tmp_path)
  for number in range(_NUM):
    put(tmp_path / 'dog' / f'cut{number}.png', image(1, number)[:40])
  assert len(load(tmp_path, skip_unreadable=True).skipped) == _NUM
  name, of_class, why = load(tmp_path, skip_unreadable=True).skipped[0]
  assert (name, of_class) == ('dog/cut0.png', 'dog') and why
  put(tmp_path / 'dog' / 'cut_more.png', b'')
  refused(
    tmp_path,
    "More than half .* class 'dog' .* dog/cut0.png .* and 6 more",
    skip_unreadable=True,
  )


def test_files_are_checked_without_decoding_them_all(tmp_path):
  class_folders(tmp_path)
  put(tmp_path / 'cat' / 'large.png', image(0, 1) + b'more')
  config = registry.DataConfig(
    name='folder', path=str(tmp_path), class_names=_CLASSES
  )
  registry.check_readable(config, ('train', 'test'))
  for data, why in ((b'', 'late.png'), (b'text', 'not an image')):
    put(tmp_path / 'dog' / 'late.png', data)
    with pytest.raises(errors.UsageError, match=why):
      registry.check_readable(config, ('train', 'test'))


def test_a_survey_says_how_files_are_stored(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  config = registry.DataConfig(
    name='folder', path=str(tmp_path), class_names=_CLASSES
  )
  survey = registry.survey(config)
  assert survey['files'] == {
    'formats': {'PNG': 4 * _NUM},
    'bits': {'8': 4 * _NUM},
    'sizes': {'8x8': 4 * _NUM},
    'division': 'given',
  }


def test_some_images_of_a_division_are_of_both_sides(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  for split in ('train', 'test'):
    labels = load(tmp_path, split, max_images=8).labels
    assert np.bincount(labels).tolist() == [2, 2]
