"""Folders as people have them: a division above the classes, things around."""

from __future__ import annotations

import io
import unicodedata
import zipfile

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import parts as parts_lib

_CLASSES = ('cat', 'dog')
_NUM = 10


def image(label, number, fmt='PNG', side=8):
  """An encoded image whose first pixel is (label, number, 0)."""
  data = io.BytesIO()
  Image.new('RGB', (side, side), (label, number, 0)).save(data, fmt)
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


@pytest.mark.parametrize('part', ['train', 'Test', 'val'])
@pytest.mark.parametrize('kind', ['classes', 'table', 'zip'])
def test_one_side_of_a_division_alone_is_said(tmp_path, capsys, part, kind):
  root = path = tmp_path / 'x'
  if kind == 'table':
    flat(root / part)
    rows = [(f'{part}/{name}', label) for name, label in _FULL]
    table(root / 'labels.csv', 'file_name,label', rows)
  else:
    class_folders(root / part)
  (root / 'dev').mkdir()  # No file tells that it is there.
  if kind == 'zip':
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as archive:
      for file in root.rglob('*.png'):
        archive.write(file, file.relative_to(tmp_path).as_posix())
  assert both(path) == _ALL
  said = capsys.readouterr().err
  assert said.count(f'has images in {part} alone') == 1
  assert 'divided by content' in said


@pytest.mark.parametrize('part', ['', 'train'])
@pytest.mark.parametrize('form', ['NFC', 'NFD'])
def test_class_folders_with_umlauts_of_other_systems(tmp_path, form, part):
  names = [unicodedata.normalize(form, name) for name in ('Läsion', 'é')]
  class_folders(tmp_path / part, classes=names)
  for typed in ('NFC', 'NFD'):
    classes = [unicodedata.normalize(typed, name) for name in names]
    assert both(tmp_path, class_names=classes) == _ALL
  only = tmp_path / 'only'
  class_folders(only, classes=names[:1])
  load(only, class_names=[unicodedata.normalize('NFC', names[0]), 'x'])


def test_a_division_and_classes_called_so_say_nothing(tmp_path, capsys):
  class_folders(tmp_path / 'x/train')
  class_folders(tmp_path / 'x/test', 20)
  load(tmp_path / 'x')
  class_folders(tmp_path / 'y', classes=('train', 'test'))
  load(tmp_path / 'y', class_names=('train', 'test'))
  assert 'warning' not in capsys.readouterr().err


@pytest.mark.parametrize(
  'part',
  [
    *('val', 'valid', 'validation', 'dev'),
    *('test', 'testing', 'eval', 'evaluation'),
  ],
)
def test_every_part_beside_the_training_part_is_held_out(part):
  for name in (part, part.upper()):
    given = parts_lib.given(['train', name], (), 'x')
    assert given == {'train': False, name: True}


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
    (('train', 'test', 'cat'), "'cat' .* is a class by its name and holds"),
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


def test_classes_below_a_class_are_refused(tmp_path):
  class_folders(tmp_path / 'cat')  # It is around all, and its own class.
  refused(tmp_path, "'cat' .* is a class by its name and holds .*, cat, dog")
  assert len(both(tmp_path / 'cat')) == 2 * _NUM


def test_long_lists_of_names_are_cut(tmp_path):
  names = [f'{n:03d}' for n in range(100)]
  for name in names:
    put(tmp_path / name / 'x.png', image(0, 1))
  refused(tmp_path, '000, 001, 002, 003, 004 and more', class_names=())
  refused(tmp_path, 'not list: 000, 001, 002, 003, 004 and more.$')
  more = [f'class {n}' for n in range(100)]
  refused(tmp_path, 'names=.class 0, .* class 4 and more', class_names=more)
  with pytest.raises(ValueError, match='twice: 000, 001, .* and more$'):
    registry.DataConfig(name='folder', class_names=[*names, *names])


def test_images_of_no_class_in_a_part_are_refused(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  put(tmp_path / 'test' / 'stray.png', image(0, 1))
  refused(tmp_path, 'outside the class folders, .*: test/stray.png')


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
  refused(tmp_path, "More than half .* class 'cat' .* and more")
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
    others = ('README.txt', 'LICENSE')
    for name in ('.DS_Store', 'Thumbs.db', '@eaDir/00.png', *others):
      archive.writestr(name, 'text')
      if name not in others:
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
    "More than half .* class 'dog' .* dog/cut0.png.* and more",
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


def test_a_survey_adds_up_rare_sizes(tmp_path):
  """Twenty are named: those of the most images."""
  for number in range(50):
    side = 8 if number < 26 else number - 16  # 10, 11, ..., 33 once each.
    path = tmp_path / _CLASSES[number % 2] / f'{number}.png'
    put(path, image(0, number, side=side))
  config = registry.DataConfig(
    name='folder',
    path=str(tmp_path),
    class_names=_CLASSES,
    image_size=8,
    channels=3,
  )
  sizes = registry.survey(config)['files']['sizes']
  assert len(sizes) == 21 and sizes['8x8'] == 26
  assert sizes['others'] == 5 and sum(sizes.values()) == 50


def test_some_images_of_a_division_are_of_both_sides(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  for split in ('train', 'test'):
    labels = load(tmp_path, split, max_images=8).labels
    assert np.bincount(labels).tolist() == [2, 2]


def flat(root, start=0):
  """Images in one folder; returns {file: label}."""
  found = {}
  for label in range(2):
    for number in range(start, start + _NUM):
      name = f'{label}_{number:02d}.png'
      put(root / name, image(label, number))
      found[name] = label
  return found


def table(path, columns, rows):
  put(path, '\n'.join([columns, *(','.join(map(str, row)) for row in rows)]))


def both(path, **changes):
  """All (label, number), of which no two are alike."""
  whole = found(path, 'train', **changes) + found(path, 'test', **changes)
  assert len(set(whole)) == len(whole)
  return set(whole)


_ALL = {(label, number) for label in range(2) for number in range(_NUM)}


@pytest.mark.parametrize('name', ['labels.csv', 'metadata.csv'])
@pytest.mark.parametrize('value', [str, lambda label: _CLASSES[label]])
@pytest.mark.parametrize('folder', ['', 'images/', 'cells/images/'])
def test_a_table_labels_images(tmp_path, name, value, folder):
  labels = flat(tmp_path / folder)
  start = folder.removeprefix('cells/')
  rows = [(start + file, value(label)) for file, label in labels.items()]
  where = tmp_path / ('cells' if 'cells' in folder else '')
  table(where / name, 'file_name,label', rows[::-1])
  put(tmp_path / 'README.md', 'text')
  assert both(tmp_path) == _ALL


@pytest.mark.parametrize(
  'rename',
  [
    lambda file: f'./{file}',
    lambda file: f'sub/../{file}',
    lambda file: f' {file} ',
    lambda file: f'"{file}"',
  ],
)
def test_paths_of_a_table_may_be_spelt_in_several_ways(tmp_path, rename):
  rows = [(rename(file), label) for file, label in flat(tmp_path).items()]
  table(tmp_path / 'labels.csv', '\ufefffile_name,label', rows)
  assert both(tmp_path) == _ALL


def test_backslashes_and_umlauts_of_other_systems_are_understood(tmp_path):
  rows = []
  for file, label in flat(tmp_path / 'scans').items():
    name = f'a\u0308_{file}'  # As a Mac writes it.
    (tmp_path / 'scans' / file).rename(tmp_path / 'scans' / name)
    rows.append((f'scans\\\u00e4_{file}', label))
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  assert both(tmp_path) == _ALL


def test_tables_of_the_parts_of_a_division(tmp_path):
  for part, start in (('train', 0), ('test', 20)):
    labels = flat(tmp_path / part, start)
    table(tmp_path / part / 'metadata.csv', 'label,file_name', [
      (label, file) for file, label in labels.items()])  # fmt: skip
  assert numbers(tmp_path, 'train') == list(range(_NUM))
  assert numbers(tmp_path, 'test') == list(range(20, 20 + _NUM))
  for part in ('train', 'test'):
    (tmp_path / part / 'metadata.csv').unlink()
  rows = [
    (f'{part}/{file}', label)
    for part, start in (('train', 0), ('test', 20))
    for file, label in flat(tmp_path / part, start).items()
  ]
  table(tmp_path / 'metadata.csv', 'file_name,label', rows)
  assert numbers(tmp_path, 'train') == list(range(_NUM))
  put(tmp_path / 'train' / 'labels.csv', 'file_name,label')
  refused(tmp_path, 'several tables, metadata.csv, train/labels.csv')
  (tmp_path / 'metadata.csv').unlink()
  table(tmp_path / 'train' / 'labels.csv', 'file_name,label', [('0_01.png', 0)])
  refused(tmp_path, 'does not label: test/0_20.png')
  table(tmp_path / 'test' / 'labels.csv', 'file_name,person', [('0_20.png', 0)])
  refused(tmp_path, 'the same columns in .*test/labels.csv and .*train/lab')


def test_columns_of_other_names_and_persons(tmp_path):
  rows = [(f, label, 'x', f'p{i % 5}') for i, (f, label) in
          enumerate(flat(tmp_path).items())]  # fmt: skip
  table(tmp_path / 'labels.csv', 'image_id,diagnosis,age,patient', rows)
  keys = {'file_column': 'image_id', 'label_key': 'diagnosis'}
  keys |= {'person_column': 'patient', 'unit': 'person', 'test_fraction': 0.5}
  assert both(tmp_path, **keys) == _ALL
  train, test = (load(tmp_path, s, **keys) for s in ('train', 'test'))
  assert not set(train.person) & set(test.person)
  assert set(train.person) | set(test.person) == set(range(5))
  refused(tmp_path, "label_key='kind'", **(keys | {'label_key': 'kind'}))


def test_a_table_of_persons_beside_class_folders(tmp_path):
  class_folders(tmp_path / 'x')
  rows = [(f'{c}/{n:02d}.png', f'p{n}') for c in _CLASSES for n in range(_NUM)]
  table(tmp_path / 'x' / 'metadata.csv', 'file_name,person', rows)
  source = load(tmp_path / 'x', unit='person')
  assert source.person.tolist() == source.images[:, 0, 0, 1].tolist()
  other = [(file, f'q{person}') for file, person in rows]
  table(tmp_path / 'p.csv', 'file,person', rows[:-7] + other[-7:])
  refused(
    tmp_path / 'x',
    'two persons to dog/03.png.* and more',
    person_csv=str(tmp_path / 'p.csv'),
  )
  table(tmp_path / 'x' / 'metadata.csv', 'file_name,person', rows[:-7])
  refused(tmp_path / 'x', "person in column 'person' .* and more")


_FULL = [(f'{c}_{n:02d}.png', c) for c in range(2) for n in range(_NUM)]


@pytest.mark.parametrize(
  ('columns', 'rows', 'why'),
  [
    ('file_name,label', _FULL[:-6], 'does not label: 1_04.png.* and more'),
    ('file_name,label', [*_FULL, ('/d/x.png', 0)], "as in '0_00.png'.*: /d/x"),
    ('file_name,label', [*_FULL, ('../x.png', 0)], 'not there .*: ../x.png'),
    ('file_name,label', [*_FULL, ('1_09.png', 0)], 'two different rows'),
    ('file_name,label', [*_FULL[1:], ('0_00.png', '')], 'no label in .*0_00'),
    ('file_name,label', [*_FULL[1:], ('0_00.png', 7)], 'label=7'),
    ('file_name,label', [*_FULL[1:], ('0_00.png', -1)], 'label=-1, which'),
    ('file_name,label', [*_FULL[1:], ('0_00.png', 'x')], 'not list: x'),
    ('file_name,label', [*_FULL[1:], ('0_00.png', '0.0')], 'not list: .*0.0'),
    ('file_name,label', [], 'does not label'),
    ('file_name,kind', _FULL, 'no labels.csv .* has file_name, kind'),
    ('file_name,label,label', [], 'two columns of one name'),
    ('file,file_name,label', [], 'columns file and file_name'),
    ('file_name,label', [(*_FULL[0], 'x'), *_FULL[1:]], 'more fields than'),
    ('', [], 'no labels.csv'),
    ('file_name;label', [], 'save it with commas between'),
  ],
)
def test_a_table_that_leaves_a_doubt_is_refused(tmp_path, columns, rows, why):
  flat(tmp_path)
  table(tmp_path / 'labels.csv', columns, rows)
  refused(tmp_path, why)


@pytest.mark.parametrize('ending', ['', '.IMA', '.0001'])
def test_images_without_a_known_ending_are_not_dropped_unsaid(tmp_path, ending):
  rows = []
  for file, label in flat(tmp_path).items():
    (tmp_path / file).rename(tmp_path / f'{file[:-4]}{ending}')
    rows.append((f'{file[:-4]}{ending}', label))
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  for text in ('README', 'LICENSE', 'notes.txt', 'DICOMDIR'):
    put(tmp_path / text, 'x')
  assert both(tmp_path) == _ALL
  table(tmp_path / 'labels.csv', 'file_name,label', rows[:-1])
  refused(tmp_path, f'does not label: {rows[-1][0]}.$')


@pytest.mark.parametrize('how', ['./{}', '{}', '.\\{}'])
def test_persons_may_be_spelt_as_files_of_other_systems(tmp_path, how):
  class_folders(tmp_path / 'x')
  names = [f'{c}/{n:02d}.png' for c in _CLASSES for n in range(_NUM)]
  names = [name.replace('/', '\\') if '\\' in how else name for name in names]
  rows = [(how.format(name), f'p{i % 9}') for i, name in enumerate(names)]
  table(tmp_path / 'p.csv', 'file,person', rows)
  csv = str(tmp_path / 'p.csv')
  assert both(tmp_path / 'x', person_csv=csv, unit='person') == _ALL


@pytest.mark.parametrize('name', ['Metadata.csv', 'LABELS.CSV'])
def test_a_table_is_read_whatever_the_case_of_its_name(tmp_path, name):
  """Its persons would be missing without a message."""
  class_folders(tmp_path)
  rows = [(f'{c}/{n:02d}.png', f'p{n}') for c in _CLASSES for n in range(_NUM)]
  table(tmp_path / name, 'file_name,person', rows)
  assert len(set(load(tmp_path).person.tolist())) > 1


def test_rows_that_come_twice_and_empty_lines_do_no_harm(tmp_path):
  flat(tmp_path)
  rows = [*_FULL, _FULL[0], ('', ''), (' ', ' ')]
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  assert both(tmp_path) == _ALL


def test_two_forms_at_once_are_refused(tmp_path):
  class_folders(tmp_path)
  rows = [(f'{c}/{n:02d}.png', c) for c in _CLASSES for n in range(_NUM)]
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  assert both(tmp_path) == _ALL  # They say the same.
  put(tmp_path / 'metadata.csv', 'file_name,label')
  refused(tmp_path, 'several tables, labels.csv, metadata.csv')
  (tmp_path / 'metadata.csv').unlink()
  rows[3] = ('cat/03.png', 'dog')
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  refused(tmp_path, 'another class than their folder: cat/03.png')


def test_a_table_of_a_division_may_not_contradict_its_folders(tmp_path):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  rows = [
    (f'{part}/{name}/{start + n:02d}.png', name)
    for part, start in (('train', 0), ('test', 20))
    for name in _CLASSES
    for n in range(_NUM)
  ]
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  assert numbers(tmp_path, 'train') == list(range(_NUM))
  rows[3] = ('train/cat/03.png', 'dog')
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  refused(tmp_path, 'another class than their folder: train/cat/03.png')


@pytest.mark.parametrize(('column', 'mark'), [('x', 'test'), ('is_test', '1')])
def test_a_division_in_a_column_of_few_marks_is_refused(tmp_path, column, mark):
  """Where the others have none, as training images often do."""
  flat(tmp_path)
  rows = [(*row, mark if i % 3 else '') for i, row in enumerate(_FULL)]
  table(tmp_path / 'labels.csv', f'file_name,label,{column}', rows)
  refused(tmp_path, f"a column '{column}', which is not read: put the images")


def test_equal_images_of_two_classes_are_named(tmp_path):
  """Also behind a file that is left out."""
  class_folders(tmp_path)
  put(tmp_path / 'cat' / '00.png', b'no image')
  put(tmp_path / 'dog' / '04.png', image(0, 5))
  source = load(tmp_path, skip_unreadable=True)
  assert source.contradictions == (
    (('cat/05.png', 'cat'), ('dog/04.png', 'dog')),
  )


def test_persons_may_be_given_below_a_folder_around_all(tmp_path):
  class_folders(tmp_path / 'x' / 'cells')
  names = [f'{c}/{n:02d}.png' for c in _CLASSES for n in range(_NUM)]
  for start in ('', 'cells/'):
    rows = [(start + name, f'p{i % 9}') for i, name in enumerate(names)]
    table(tmp_path / 'p.csv', 'file,person', rows)
    csv = str(tmp_path / 'p.csv')
    assert both(tmp_path / 'x', person_csv=csv, unit='person') == _ALL


def test_what_decoding_would_refuse_is_known_before(tmp_path):
  """Before pre-training, which may take days."""

  def check(why, **changes):
    config = registry.DataConfig(
      **{'name': 'folder', 'path': str(tmp_path), 'class_names': _CLASSES},
      **({'image_size': 8} | changes),
    )
    with pytest.raises(errors.UsageError, match=why):
      registry.check_readable(config, ('train', 'test'))

  class_folders(tmp_path)
  whole = (tmp_path / 'dog' / '00.png').read_bytes()
  put(tmp_path / 'dog' / '00.png', whole[:45])  # Its header is there.
  check('dog/00.png .damaged or truncated')
  put(tmp_path / 'dog' / '00.png', whole)
  data = io.BytesIO()
  Image.new('RGB', (9, 8)).save(data, 'PNG')
  put(tmp_path / 'dog' / '03.png', data.getvalue())
  check('dog/03.png .9x8 pixels where the others have 8x8', image_size=0)
  for number, file in enumerate(sorted(tmp_path.rglob('*.png'))):
    data = io.BytesIO()
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60 + number
    Image.fromarray(deep).save(data, 'PNG')
    put(file, data.getvalue())
  check('set data.value_range', channels=1)


def test_numbers_are_names_where_a_class_is_called_so(tmp_path):
  flat(tmp_path)
  table(tmp_path / 'labels.csv', 'file_name,label', _FULL)
  assert both(tmp_path, class_names=('0', '1')) == _ALL
  refused(tmp_path, 'does not list: 0', class_names=('1', '2'))
  labels = load(tmp_path, class_names=('1', '0')).labels
  assert labels.tolist() == (1 - load(tmp_path).labels).tolist()
  refused(tmp_path, r"labels of .* are \('0', '1'\)", class_names=())


@pytest.mark.parametrize('column', ['Split', 'partition', 'set', 'x'])
def test_a_division_in_a_column_of_any_name_is_refused(tmp_path, column):
  flat(tmp_path)
  parts = ('Train', 'Test', 'val')
  rows = [(*row, parts[i % 3]) for i, row in enumerate(_FULL)]
  table(tmp_path / 'labels.csv', f'file_name,label,{column}', rows)
  refused(tmp_path, f"a column '{column}', which is not read: put the images")
  rows = [(*row, 'a' * (i % 3)) for i, row in enumerate(_FULL)]
  table(tmp_path / 'labels.csv', 'file_name,label,note', rows)
  assert both(tmp_path) == _ALL


def test_a_division_in_a_column_is_refused_not_dropped(tmp_path):
  flat(tmp_path)
  rows = [(*row, 'train' if i % 3 else 'test') for i, row in enumerate(_FULL)]
  table(tmp_path / 'labels.csv', 'file_name,label,split', rows)
  refused(tmp_path, "a column 'split', which is not read: put the images into")


@pytest.mark.parametrize('key', ['test_fraction', 'split_seed'])
def test_keys_of_a_division_that_is_not_made_are_refused(tmp_path, key):
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  value = {'test_fraction': 0.3, 'split_seed': 5}[key]
  refused(
    tmp_path,
    f'data.{key}={value} not to be set: .* brings its own',
    **{key: value},
  )
  some = [load(tmp_path, split_seed=seed, max_images=8) for seed in (5, 6)]
  assert not np.array_equal(some[0].images, some[1].images)


def test_a_class_that_is_lost_on_one_side_is_refused(tmp_path):
  """Though it keeps more than half of its images."""
  class_folders(tmp_path / 'train')
  class_folders(tmp_path / 'test', 20)
  for number in range(20, 26):
    put(tmp_path / f'test/cat/{number}.png', b'cut')
  refused(tmp_path, "half of the files of class 'cat'", skip_unreadable=True)
  put(tmp_path / 'test/cat/25.png', image(0, 25))
  assert len(load(tmp_path, 'test', skip_unreadable=True).images) == 15


@pytest.mark.parametrize(
  'change',
  [
    lambda name: './' + name,
    lambda name: name.replace('/', '\\'),
    lambda name: 'all\\' + name.replace('/', '\\'),
  ],
)
def test_names_in_a_zip_may_be_those_of_other_systems(tmp_path, change):
  with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
    for label, name in enumerate(_CLASSES):
      archive.writestr(change(f'{name}/'), '')
      for number in range(_NUM):
        archive.writestr(change(f'{name}/{number}.png'), image(label, number))
  assert both(tmp_path / 'x.zip') == _ALL
  with zipfile.ZipFile(tmp_path / 'x.zip', 'a') as archive:
    archive.writestr(change('cat/../../dog/1.png'), image(0, 99))
  refused(tmp_path / 'x.zip', 'leads outside of it')


def test_labels_that_are_no_numbers_among_others_are_named(tmp_path):
  flat(tmp_path)
  rows = [*_FULL[:-1], (_FULL[-1][0], 'nan')]
  table(tmp_path / 'labels.csv', 'file_name,label', rows)
  refused(tmp_path, 'does not list: nan.$')


@pytest.mark.parametrize('column', ['split', 'x'])
def test_a_column_of_one_side_alone_is_said(tmp_path, capsys, column):
  flat(tmp_path)
  rows = [(*row, 'train') for row in _FULL]
  table(tmp_path / 'labels.csv', f'file_name,label,{column}', rows)
  assert both(tmp_path) == _ALL
  said = capsys.readouterr().err
  assert said.count('warning') == 1  # Though it is opened several times.
  assert f"a column '{column}' that says train of all images" in said
  rows = [(*row, '') for row in _FULL]
  table(tmp_path / 'labels.csv', f'file_name,label,{column}', rows)
  assert both(tmp_path) == _ALL
  assert 'warning' not in capsys.readouterr().err


@pytest.mark.parametrize('column', ['is_test', 'is_training_image', 'Split'])
@pytest.mark.parametrize('what', ['labels', 'persons', 'nothing', 'csv'])
def test_a_division_in_a_table_of_any_kind_is_refused(tmp_path, column, what):
  """Also beside class folders, where no column of the table is read."""
  parts = [i % 3 > 1 for i in range(2 * _NUM)]
  root = tmp_path / 'x'
  if what == 'labels':
    rows = [(*row, part) for row, part in zip(flat(root).items(), parts)]
    table(root / 'labels.csv', f'file_name,label,{column}', rows)
  else:
    class_folders(root)
    names = [f'{c}/{n:02d}.png' for c in _CLASSES for n in range(_NUM)]
    rows = [(name, f'p{i}', p) for i, (name, p) in enumerate(zip(names, parts))]
    columns = f'file_name,person,{column}'
    if what == 'nothing':
      columns = f'file_name,age,{column}'
    if what == 'csv':
      table(tmp_path / 'p.csv', f'file,person,{column}', rows)
      csv = str(tmp_path / 'p.csv')
      refused(root, f'p.csv has a column {column!r}', person_csv=csv)
      return
    table(root / 'metadata.csv', columns, rows)
  refused(root, f'a column {column!r}, which is not read: put the images')


def test_a_column_of_persons_that_is_not_read_is_said(tmp_path, capsys):
  flat(tmp_path)
  rows = [(*row, f'p{i % 7}') for i, row in enumerate(_FULL)]
  for column, is_said in (
    ('patient_id', True),
    ('Subject', True),
    ('diagnosis', False),
    ('person', False),
  ):
    table(tmp_path / 'labels.csv', f'file_name,label,{column}', rows)
    assert both(tmp_path) == _ALL
    said = capsys.readouterr().err
    assert (f'set data.person_column={column!r}' in said) == is_said
    assert said.count('warning') == is_said
  table(tmp_path / 'labels.csv', 'file_name,label,patient_id', rows)
  assert both(tmp_path, person_column='patient_id') == _ALL
  assert 'warning' not in capsys.readouterr().err


def test_a_column_that_no_table_has_is_refused(tmp_path):
  flat(tmp_path / 'x')
  table(tmp_path / 'x' / 'labels.csv', 'file_name,label', _FULL)
  class_folders(tmp_path / 'y')
  for key in ('file_column', 'person_column'):
    for root in (tmp_path / 'x', tmp_path / 'y'):
      refused(root, f"data.{key}='z' to be a column", **{key: 'z'})


def test_a_table_that_is_not_read_beside_class_folders_is_said(
  tmp_path, capsys
):
  class_folders(tmp_path)
  put(tmp_path / 'metadata.csv', 'file_name;person\ncat/00.png;p1\n')
  assert both(tmp_path) == _ALL
  said = capsys.readouterr().err
  assert said.count('warning') == 1
  assert 'metadata.csv is not read' in said and 'save it with commas' in said


def test_names_of_several_lines_come_in_one(tmp_path):
  flat(tmp_path)
  put(tmp_path / 'a\nb.png', image(0, 1))
  table(tmp_path / 'labels.csv', 'file_name,label', [*_FULL, ('"x\ny"', 0)])
  refused(tmp_path, r"not there .*: 'x\\ny'")
  table(tmp_path / 'labels.csv', 'file_name,label', _FULL)
  refused(tmp_path, r"does not label: 'a\\nb.png'")


def test_tables_of_other_kinds_are_named(tmp_path):
  flat(tmp_path)
  put(tmp_path / 'metadata.jsonl', '{}')
  refused(tmp_path, 'has metadata.jsonl: save it as metadata.csv')
