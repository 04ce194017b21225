"""Parquet files with images, as Hugging Face and others write them."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile

import numpy as np
from PIL import Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import parquet_images
from dp_diffusion.data.own import trees

_CLASSES = ('cat', 'dog')
_NUM = 12
_ALL = {(label, number) for label in range(2) for number in range(_NUM)}


def image(label, number):
  data = io.BytesIO()
  Image.new('RGB', (8, 8), (label, number, 0)).save(data, 'PNG')
  return data.getvalue()


def rows(start=0):
  """Encoded images and labels, mixed."""
  both = [(lab, n) for n in range(start, start + _NUM) for lab in range(2)]
  return [image(*pair) for pair in both], [label for label, _ in both]


def structs(start=0):
  images, labels = rows(start)
  return [{'bytes': data, 'path': None} for data in images], labels


def write(path, columns, names=None):
  """`names` are those of Hugging Face's ClassLabel in column 'label'."""
  found = pa.table(dict(columns))
  if names:
    label = {'_type': 'ClassLabel', 'names': list(names)}
    features = {'info': {'features': {'label': label}}}
    found = found.replace_schema_metadata({'huggingface': json.dumps(features)})
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(found, path, row_group_size=5)
  return path


def load(path, split='train', **changes):
  options = {'class_names': _CLASSES, 'image_size': 8} | changes
  config = registry.DataConfig(name='folder', path=str(path), **options)
  registry.check_available(config, ('train', 'test'))
  registry.check_readable(config, ('train', 'test'))
  return registry.load(config, split)


def found(path, split, **changes):
  source = load(path, split, **changes)
  pixels = source.images[:, 0, 0].tolist()
  assert [label for label, _, _ in pixels] == source.labels.tolist()
  return [(label, number) for label, number, _ in pixels]


def both(path, **changes):
  return {
    p for split in ('train', 'test') for p in found(path, split, **changes)
  }


def refused(path, why, **changes):
  with pytest.raises(errors.UsageError, match=why) as caught:
    load(path, **changes)
  assert '\n' not in str(caught.value)


def test_images_in_structs_as_hugging_face_writes_them(tmp_path):
  images, labels = structs()
  path = write(tmp_path / 'x.parquet', {'image': images, 'label': labels})
  assert both(path) == both(tmp_path) == _ALL
  swapped = [1 - label for label in labels]
  columns = {'image': images, 'label': swapped}
  write(path, columns, names=_CLASSES[::-1])  # Their own names count.
  assert both(path) == _ALL
  refused(path, r'list: dog', class_names=('cat', 'newt'))
  refused(path, r"labels of .* are \('cat', 'dog'\)", class_names=())


@pytest.mark.parametrize('is_coded', [False, True])
def test_a_division_in_a_column_is_refused_not_dropped(tmp_path, is_coded):
  images, labels = structs()
  parts = pa.array([('train', 'test')[i % 3 == 0] for i in range(len(labels))])
  notes = pa.array(['x', 'test'] * _NUM)
  columns = {'image': images, 'label': labels, 'note': notes}
  columns['part'] = parts.dictionary_encode() if is_coded else parts
  path = write(tmp_path / 'x.parquet', columns)
  refused(path, "a column 'part', which is not read: put the images into")
  columns['part'] = pa.array(['train'] * len(labels))
  assert both(write(path, columns)) == _ALL
  columns['is_test'] = pa.array([i % 3 > 1 for i in range(len(labels))])
  refused(write(path, columns), "a column 'is_test', which is not read: put")


def test_columns_of_persons_are_read_said_or_refused(tmp_path, capsys):
  images, labels = structs()
  people = [f'p{i // 2}' for i in range(len(labels))]
  columns = {'image': images, 'label': labels, 'patient_id': people}
  path = write(tmp_path / 'x.parquet', columns)
  assert both(path) == _ALL
  said = capsys.readouterr().err
  assert said.count('warning') == 1
  assert "set data.person_column='patient_id'" in said
  assert both(path, person_column='patient_id') == _ALL
  assert 'warning' not in capsys.readouterr().err
  refused(path, "person_column='patient' to be a col", person_column='patient')
  refused(path, "file_column='name' only for image f", file_column='name')


def test_one_side_of_a_division_alone_is_said(tmp_path, capsys):
  images, labels = structs()
  columns = {'image': images, 'label': labels}
  path = write(tmp_path / 'train-00000-of-00001.parquet', columns)
  assert both(path) == _ALL
  assert 'warning' not in capsys.readouterr().err  # The file itself is named.
  assert both(tmp_path) == _ALL
  assert capsys.readouterr().err.count('has images in train alone') == 1


@pytest.mark.parametrize(
  'values',
  [
    lambda labels: [_CLASSES[label] for label in labels],
    lambda labels: [bool(label) for label in labels],
    lambda labels: pa.array(labels, pa.uint8()),
    lambda labels: pa.array(map(str, labels)).dictionary_encode(),
    lambda labels: pa.array([_CLASSES[i] for i in labels]).dictionary_encode(),
  ],
)
def test_labels_of_several_types(tmp_path, values):
  images, labels = rows()
  columns = {'scan': images, 'label': values(labels)}
  assert both(write(tmp_path / 'x.parquet', columns)) == _ALL


@pytest.mark.parametrize(
  'name',
  [
    '{}-00000-of-00001.parquet',
    '{}.parquet',
    '{}/0000.parquet',
    'default/{}/0000.parquet',
    'data/{}-00000-of-00001-abcdef.parquet',
  ],
)
def test_names_of_files_are_a_division(tmp_path, name):
  for start, part in ((0, 'train'), (20, 'validation'), (40, 'test')):
    images, labels = structs(start)
    path = tmp_path / name.format(part)
    write(path, {'image': images, 'label': labels})
  (tmp_path / 'README.md').write_text('text')
  assert {n for _, n in found(tmp_path, 'train')} == set(range(_NUM))
  held_out = {n for _, n in found(tmp_path, 'test')}
  assert held_out == {20 + n for n in range(_NUM)} | {
    40 + n for n in range(_NUM)
  }


def test_shards_are_joined_and_missing_ones_named(tmp_path):
  for number in range(3):
    images, labels = structs(20 * number)
    path = tmp_path / f'train-{number:05d}-of-00003.parquet'
    write(path, {'image': images, 'label': labels})
  assert len(both(tmp_path)) == 3 * 2 * _NUM
  (tmp_path / 'train-00001-of-00003.parquet').unlink()
  refused(tmp_path, 'not there: train-00001-of-00003.parquet')


def test_persons_are_those_of_a_column(tmp_path):
  images, labels = structs()
  person = [f'p{i // 2 % 7}' for i in range(len(labels))]
  columns = {'image': images, 'kind': labels, 'patient': person}
  path = write(tmp_path / 'x.parquet', columns)
  options = {'label_key': 'kind', 'person_column': 'patient', 'unit': 'person'}
  train, test = (load(path, s, **options) for s in ('train', 'test'))
  assert not set(train.person) & set(test.person)
  numbers = train.images[:, 0, 0, 1]
  assert (train.person == numbers % 7).all()
  refused(path, "label_key='label'", person_column='patient')
  refused(path, 'knows persons', label_key='kind', unit='person')
  refused(path, 'only for image files', person_csv='p.csv', label_key='kind')


@pytest.mark.parametrize('column', ['image', 'file_name', 'path'])
def test_paths_lead_to_images_beside_the_file(tmp_path, column):
  images, labels = rows()
  names = [f'images/{i}.png' for i in range(len(images))]
  (tmp_path / 'x' / 'images').mkdir(parents=True)
  for name, data in zip(names, images):
    (tmp_path / 'x' / name).write_bytes(data)
  path = write(tmp_path / 'x' / 'a.parquet', {column: names, 'label': labels})
  assert both(path) == both(tmp_path / 'x') == _ALL
  (tmp_path / 'x' / 'images' / 'more.png').write_bytes(image(0, 0))
  refused(tmp_path / 'x', 'images that they do not name, images/more.png')
  (tmp_path / 'x' / names[0]).unlink()
  refused(path, 'not there .*: images/0.png')
  (tmp_path / 'out.png').write_bytes(image(0, 0))
  for name in ('../out.png', str(tmp_path / 'out.png')):
    write(path, {column: [name, *names[1:]], 'label': labels})
    refused(path, 'leads outside of')
  os.symlink(tmp_path / 'out.png', tmp_path / 'x' / names[0])
  write(path, {column: names, 'label': labels})
  refused(path, 'leads outside of')


def test_a_struct_may_hold_paths(tmp_path):
  images, labels = rows()
  for number, data in enumerate(images):
    (tmp_path / f'{number}.png').write_bytes(data)
  values = [{'bytes': None, 'path': f'{i}.png'} for i in range(len(images))]
  columns = {'image': pa.array(values, pa.struct(
    {'bytes': pa.binary(), 'path': pa.string()})), 'label': labels}  # fmt: skip
  path = write(tmp_path / 'x.parquet', columns)
  assert both(path) == both(tmp_path) == _ALL
  values[3] = {'bytes': None, 'path': '/etc/hostname'}
  values[4] = {'bytes': None, 'path': None}
  columns['image'] = pa.array(values, columns['image'].type)
  write(path, columns)
  refused(path, 'row 3 .its path .* leads outside.*row 4 .no image in this')


def test_large_files_that_are_named_are_refused_unread(tmp_path, monkeypatch):
  images, labels = rows()
  names = [f'{i}.png' for i in range(len(images))]
  for name, data in zip(names, images):
    (tmp_path / name).write_bytes(data)
  path = write(tmp_path / 'x.parquet', {'image': names, 'label': labels})
  monkeypatch.setattr(trees, 'MAX_FILE_BYTES', 10)
  refused(path, 'more than 10 bytes')


_IMAGES, _LABELS = structs()


@pytest.mark.parametrize(
  ('columns', 'why', 'changes'),
  [
    ({'image': _IMAGES, 'mask': _IMAGES, 'label': _LABELS}, 'set data.ima', {}),
    ({'image': _LABELS, 'label': _LABELS}, 'one column of images', {}),
    ({'image': _IMAGES, 'digit': _LABELS}, "label_key='label'", {}),
    ({'image': _IMAGES, 'label': [[i] for i in _LABELS]}, 'one whole num', {}),
    ({'image': _IMAGES, 'label': [0.5] * 24}, 'one whole number', {}),
    ({'image': _IMAGES, 'label': [-1, *_LABELS[1:]]}, 'label=-1, which', {}),
    ({'image': _IMAGES, 'label': [7, *_LABELS[1:]]}, 'label=7', {}),
    ({'image': _IMAGES, 'label': [None, *_LABELS[1:]]}, 'value in row 0', {}),
    ({'image': _IMAGES, 'label': _LABELS}, "'scan'", {'image_key': 'scan'}),
    ({'image': _IMAGES, 'label': _LABELS}, "'label'", {'image_key': 'label'}),
    ({'image': _IMAGES[:0], 'label': []}, 'rows with images|one column', {}),
    ({'image': [b'text', *rows()[0][1:]], 'label': _LABELS}, 'row 0 .not', {}),
  ],
)
def test_what_leaves_a_doubt_is_refused(tmp_path, columns, why, changes):
  refused(write(tmp_path / 'x.parquet', columns), why, **changes)


def test_labels_outside_their_own_names_are_refused(tmp_path):
  for label, why in ((2, 'found 2'), (-1, 'label=-1, which')):
    columns = {'image': _IMAGES, 'label': [label, *_LABELS[1:]]}
    refused(write(tmp_path / 'x.parquet', columns, _CLASSES), why)


def test_the_cache_tells_columns_and_changed_files_apart(tmp_path):
  """Also where what replaces a file has its size."""
  options = {'max_in_memory_bytes': 10, 'cache_dir': str(tmp_path / 'cache')}
  images, labels = rows()
  masks = [image(label, 50 + i) for i, label in enumerate(labels)]
  columns = {'image': images, 'mask': masks, 'label': labels}
  path = write(tmp_path / 'x.parquet', columns)

  def pixels(path, place, **changes):
    source = load(path, **options, **changes)
    return {pixel[place] for pixel in source.images[:, 0, 0].tolist()}

  assert max(pixels(path, 1, image_key='image')) < 50
  assert min(pixels(path, 1, image_key='mask')) >= 50
  files = [tmp_path / 'y' / f'{i}.bmp' for i in range(len(labels))]
  names = [file.name for file in files]
  both_kinds = [
    {'bytes': None, 'path': name} if i % 2 else {'bytes': data, 'path': 'lost'}
    for i, (name, data) in enumerate(zip(names, images))
  ]
  (tmp_path / 'y').mkdir()
  for column in (names, both_kinds):
    table = {'image': column, 'label': labels}
    path = write(tmp_path / 'y' / 'x.parquet', table)
    for value in (7, 9):
      for i, file in enumerate(files):
        Image.new('RGB', (8, 8), (value, i, 0)).save(file)
        os.utime(file, ns=(0, 10**18 + value))
      stored = set() if column is names else {0, 1}
      assert pixels(path, 0) - stored == {value}


def test_of_two_columns_of_classes_none_is_chosen(tmp_path):
  named = {'_type': 'ClassLabel', 'names': list(_CLASSES)}
  images, labels = structs()
  other = [1 - label for label in labels]
  for columns, why in (
    ({'kind': labels}, ''),
    ({'kind': labels, 'state': other}, "label_key='label' to be a column"),
  ):
    found = pa.table({'image': images, **columns})
    features = {'info': {'features': dict.fromkeys(columns, named)}}
    found = found.replace_schema_metadata({'huggingface': json.dumps(features)})
    pq.write_table(found, tmp_path / 'x.parquet')
    if why:
      refused(tmp_path / 'x.parquet', why)
    else:
      assert both(tmp_path / 'x.parquet') == _ALL


@pytest.mark.parametrize('kind', [pa.string(), pa.large_string()])
def test_a_division_in_a_column_is_found_in_any_row_group(tmp_path, kind):
  """Images to be held out often come last."""
  images, labels = structs()
  for train in ('train', '', None):
    parts = [train] * (len(labels) - 2) + ['test'] * 2
    columns = {'image': images, 'label': labels, 'part': pa.array(parts, kind)}
    path = write(tmp_path / 'x.parquet', columns)
    refused(path, "a column 'part', which is not read: put the images into")


def test_damage_is_said_without_the_sizes_in_it(tmp_path):
  path = write(tmp_path / 'a.parquet', {'image': _IMAGES, 'label': _LABELS})
  with pytest.raises(errors.UsageError, match='cannot be read as') as caught:
    with parquet_images._opened(path):
      raise ValueError('expected 960 rows, found 137')
  said = str(caught.value).replace(str(tmp_path), '')
  assert not set('0123456789') & set(said)


def test_two_forms_at_once_are_refused(tmp_path):
  write(tmp_path / 'a.parquet', {'image': _IMAGES, 'label': _LABELS})
  (tmp_path / 'cat').mkdir()
  (tmp_path / 'cat' / '0.png').write_bytes(image(0, 0))
  refused(tmp_path, 'and images that they do not name, cat/0.png')
  (tmp_path / 'cat' / '0.png').unlink()
  (tmp_path / 'labels.csv').write_text('file_name,label')
  refused(tmp_path, 'has parquet files and labels.csv')
  (tmp_path / 'labels.csv').unlink()
  write(tmp_path / 'train.parquet', {'image': _IMAGES, 'label': _LABELS})
  refused(tmp_path, 'no part of its division .*: a.parquet')
  (tmp_path / 'a.parquet').unlink()
  write(tmp_path / 'b' / 'test.parquet', {'image': _IMAGES, 'label': _LABELS})
  refused(tmp_path, r'several folders, \., b')
  with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
    archive.write(tmp_path / 'train.parquet', 'train.parquet')
  refused(tmp_path / 'x.zip', 'has parquet files: unpack it')


def test_damaged_files_and_other_columns_are_named(tmp_path):
  path = tmp_path / 'x' / 'b.parquet'
  write(path, {'image': _IMAGES, 'label': _LABELS})
  whole = path.read_bytes()
  for data in (b'', b'no parquet', whole[:-9], whole[:3000]):
    path.write_bytes(data)
    refused(path, 'b.parquet cannot be read as parquet')
  damaged = bytearray(whole)
  damaged[100:400] = b'\xff' * 300  # A page of images.
  path.write_bytes(damaged)
  refused(path, 'b.parquet')
  path.write_bytes(whole)
  write(tmp_path / 'x' / 'a.parquet', {'scan': _IMAGES, 'label': _LABELS})
  refused(tmp_path / 'x', 'same columns; b.parquet differs from a.parquet')


def test_row_groups_are_read_as_a_whole_and_may_not_be_too_large(
  tmp_path, monkeypatch
):
  path = write(tmp_path / 'x.parquet', {'image': _IMAGES, 'label': _LABELS})
  monkeypatch.setattr(parquet_images, '_MOST_KEPT_BYTES', 1)
  assert both(path) == _ALL
  monkeypatch.setattr(parquet_images, '_MOST_GROUP_BYTES', 100)
  refused(path, 'write it again with a row_group_size')


def test_keys_of_parquet_files_are_refused_for_others(tmp_path):
  np.savez(tmp_path / 'x.npz', images=np.zeros((2, 8, 8)), labels=[0, 1])
  refused(tmp_path / 'x.npz', 'data.image_key', image_key='image')
  (tmp_path / 'x').mkdir()
  (tmp_path / 'x' / 'a.png').write_bytes(image(0, 0))
  refused(tmp_path / 'x', "image_key='image' only for", image_key='image')


def test_without_pyarrow_one_line_says_how_to_install(tmp_path, monkeypatch):
  path = write(tmp_path / 'x.parquet', {'image': _IMAGES, 'label': _LABELS})
  monkeypatch.setitem(sys.modules, 'pyarrow', None)
  refused(path, 'pip install pyarrow')
