"""Frames of files, and whose the images of DICOM files are."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
import pytest
import tifffile

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data.own import image_files
from tests.data import own_files

_CLASSES = ('cat', 'dog')
_NUM = 12
_SECRET = 'Planted^Secret'


def _config(path, **changes):
  options = {'class_names': _CLASSES, 'image_size': 8} | changes
  return registry.DataConfig(name='folder', path=str(path), **options)


def _load(path, split='train', **changes):
  config = _config(path, **changes)
  registry.check_available(config, ('train', 'test'))
  registry.check_readable(config, ('train', 'test'))
  return registry.load(config, split)


def _put(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data)


def _stack(label, number, frames, fmt='TIFF'):
  images = [
    Image.new('RGB', (8, 8), (label, number, frame)) for frame in range(frames)
  ]
  data = io.BytesIO()
  images[0].save(data, fmt, save_all=True, append_images=images[1:])
  return data.getvalue()


@pytest.fixture
def stacks(tmp_path):
  """File `number` of a class has number % 4 + 1 frames."""
  for label, name in enumerate(_CLASSES):
    for number in range(_NUM):
      data = _stack(label, number, number % 4 + 1)
      _put(tmp_path / name / f'{number:02d}.tiff', data)
  return tmp_path


def _listed(files, **more):
  """Encoded files that are images of one class."""
  options = {'labels': np.zeros(len(files), np.int64), 'persons': None} | more
  return image_files.ImageFiles(
    root='scans',
    names=tuple(map(str, range(len(files)))),
    is_held_out=None,
    read=lambda index: files[index],
    stamps=[],
    **options,
  )


def test_each_frame_is_an_image_and_those_of_a_file_stay_together(stacks):
  options = {'frames': 'all', 'test_fraction': 0.4}
  sources = [_load(stacks, split, **options) for split in ('train', 'test')]
  files, found = [], []
  for source in sources:
    pixels = source.images[:, 0, 0].tolist()
    assert [label for label, _, _ in pixels] == source.labels.tolist()
    found += [tuple(pixel) for pixel in pixels]
    files.append({(label, number) for label, number, _ in pixels})
    persons = {tuple(pixel[:2]): set() for pixel in pixels}
    for pixel, person in zip(pixels, source.person.tolist()):
      persons[tuple(pixel[:2])].add(person)
    assert all(len(of_file) == 1 for of_file in persons.values())
  assert sorted(found) == [
    (label, number, frame)
    for label in range(2)
    for number in range(_NUM)
    for frame in range(number % 4 + 1)
  ]
  assert not files[0] & files[1] and len(files[0] | files[1]) == 2 * _NUM


def test_files_of_one_name_in_two_folders_are_two_persons(stacks):
  options = {'frames': 'all', 'test_fraction': 0.4}
  whole = 0
  for split in ('train', 'test'):
    source = _load(stacks, split, **options)
    files = {(label, number) for label, number, _ in
             source.images[:, 0, 0].tolist()}  # fmt: skip
    assert len(np.unique(source.person)) == len(files)
    whole += len(files)
  assert whole == 2 * _NUM


def test_frames_are_of_the_person_of_their_file(stacks, tmp_path, capsys):
  lines = [f'{c}/{n:02d}.tiff,p{n % 6}' for c in _CLASSES for n in range(_NUM)]
  _put(tmp_path / 'p.csv', '\n'.join(['file,person', *lines]).encode())
  options = {'frames': 'all', 'unit': 'person'}
  source = _load(stacks, person_csv=str(tmp_path / 'p.csv'), **options)
  numbers = source.images[:, 0, 0, 1]
  assert (source.person == numbers % 6).all()
  assert 'each file is taken' not in capsys.readouterr().err
  _load(stacks, **options)  # Without a table the file is the person.
  assert 'each file is taken for one person' in capsys.readouterr().err


def test_frames_of_one_file_in_a_cache_and_some_files(stacks, tmp_path):
  options = {'frames': 'all', 'cache_dir': str(tmp_path / 'cache')}
  whole = _load(stacks, **options)
  mapped = _load(stacks, max_in_memory_bytes=10, **options)
  np.testing.assert_array_equal(whole.images, mapped.images)
  some = [_load(stacks, s, max_images=6, frames='all') for s in
          ('train', 'test')]  # fmt: skip
  pixels = np.concatenate([source.images[:, 0, 0] for source in some])
  assert len({tuple(pixel[:2]) for pixel in pixels.tolist()}) == 6


def test_blank_frames_join_no_files(tmp_path):
  """Each stack begins with one; equal ones would make all one group."""
  rng = np.random.default_rng(0)
  for label, name in enumerate(_CLASSES):
    for number in range(_NUM):
      frames = [np.zeros((8, 8), np.uint8)]
      frames += list(rng.integers(0, 256, (2, 8, 8)).astype(np.uint8))
      frames[1][0, 0], frames[1][0, 1] = 100 * label + number, 1
      first, *rest = (Image.fromarray(frame) for frame in frames)
      data = io.BytesIO()
      first.save(data, 'TIFF', save_all=True, append_images=rest)
      _put(tmp_path / name / f'{number}.tiff', data.getvalue())
  options = {'frames': 'all', 'test_fraction': 0.4}
  train, test = (_load(tmp_path, s, **options) for s in ('train', 'test'))
  assert len(train.labels) + len(test.labels) == 6 * _NUM
  assert not set(train.person) & set(test.person)


def test_frames_of_deep_stacks_and_of_pages_that_are_thumbnails(tmp_path):
  """Each frame is read by its own page."""
  pixels = np.arange(16 * 64, dtype=np.uint16).reshape(16, 8, 8) * 60
  for dtype in (np.uint16, np.uint8):
    for label, name in enumerate(_CLASSES):
      for number in range(4):
        data = io.BytesIO()
        with tifffile.TiffWriter(data) as tiff:
          for frame in range(2):
            index = 8 * label + 2 * number + frame
            page = (pixels[index] >> (8 * (dtype == np.uint8))).astype(dtype)
            tiff.write(page, photometric='minisblack')
            tiff.write(page[::2, ::2], subfiletype=1, photometric='minisblack')
        _put(tmp_path / name / f'{number}.tiff', data.getvalue())
    options = {'frames': 'all', 'channels': 1, 'test_fraction': 0.5}
    if dtype == np.uint16:
      options['value_range'] = (0, 65535)
    found = np.concatenate(
      [_load(tmp_path, s, **options).images for s in ('train', 'test')]
    )
    expected = np.floor(pixels.astype(int) * 255 / 65535 + 0.5)
    if dtype == np.uint8:
      expected = pixels >> 8
    assert sorted(i.tobytes() for i in found) == sorted(
      i.tobytes() for i in expected.astype(np.uint8)
    )


def test_a_damaged_stack_is_named_and_counts_as_one_file(stacks):
  _put(stacks / 'dog' / 'cut.tiff', _stack(1, 99, 3)[:60])
  with pytest.raises(errors.UsageError, match='dog/cut.tiff'):
    _load(stacks, frames='all')
  source = _load(stacks, frames='all', skip_unreadable=True)
  assert [name for name, _, _ in source.skipped] == ['dog/cut.tiff']
  for number in range(_NUM):
    _put(stacks / 'dog' / f'cut{number}.tiff', b'II*\0')
  with pytest.raises(errors.UsageError, match="half .* class 'dog'"):
    registry.load(_config(stacks, frames='all', skip_unreadable=True))


def test_a_single_frame_needs_no_option_and_several_do(stacks):
  with pytest.raises(errors.UsageError, match="frames='first' or 'all'"):
    _load(stacks)
  first = _load(stacks, frames='first')
  assert (first.images[:, 0, 0, 2] == 0).all() and first.person is None


def _dicom(label, number, person, frames=1):
  return own_files.dicom(100 * label + number, person, frames, name=_SECRET)


def _series(path, ending='.dcm', frames=1):
  """Image n of each class is of person n % 5."""
  for label, name in enumerate(_CLASSES):
    for number in range(_NUM):
      data = _dicom(label, number, f'{_SECRET}-{number % 5}', frames)
      _put(path / name / f'{number:02d}{ending}', data)


_BY_PERSON = {'unit': 'person', 'channels': 1, 'test_fraction': 0.4}


@pytest.mark.parametrize('ending', ['.dcm', '', '.1'])
def test_the_person_of_dicom_files_is_that_of_their_header(tmp_path, ending):
  _series(tmp_path, ending)
  train, test = (_load(tmp_path, s, **_BY_PERSON) for s in ('train', 'test'))
  seen = {}
  for source in (train, test):
    numbers = source.images[:, 0, 0, 0] % 100
    for number, person in zip(numbers.tolist(), source.person.tolist()):
      assert seen.setdefault(number % 5, person) == person
  assert len(set(seen.values())) == 5
  assert not set(train.person) & set(test.person)
  by_image = _load(tmp_path, channels=1)
  assert by_image.person is None


def test_frames_of_dicom_files_are_of_their_persons(tmp_path):
  _series(tmp_path, frames=3)
  source = _load(tmp_path, frames='all', **_BY_PERSON)
  assert len(np.unique(source.person)) < 5
  assert len(source.labels) % 3 == 0


@pytest.mark.parametrize('skip', [False, True])
@pytest.mark.parametrize('person', [None, '', '  '])
def test_dicom_files_of_nobody_are_refused(tmp_path, person, skip, capfd):
  _series(tmp_path)
  for number in range(7):
    _put(tmp_path / 'dog' / f'{number:02d}.dcm', _dicom(1, number, person))
  with pytest.raises(errors.UsageError, match='PatientID is empty') as caught:
    _load(tmp_path, skip_unreadable=skip, **_BY_PERSON)
  said = str(caught.value) + ''.join(capfd.readouterr())
  assert 'dog/00.dcm' in said and 'and more' in said
  assert _SECRET not in said and '\n' not in str(caught.value)


@pytest.mark.parametrize('person', ['-1', 'UNKNOWN', 'n/a', 'ANONYMOUS'])
def test_a_patient_who_stands_for_nobody_is_refused(tmp_path, person, capfd):
  """As in tables: all such images would be those of one person."""
  _series(tmp_path)
  for number in range(3):
    _put(tmp_path / 'dog' / f'{number:02d}.dcm', _dicom(1, number, person))
  with pytest.raises(errors.UsageError, match='stands for nobody') as caught:
    _load(tmp_path, **_BY_PERSON)
  said = str(caught.value) + ''.join(capfd.readouterr())
  said = said.replace(str(tmp_path), '')
  assert 'dog/00.dcm' in said and person not in said


def test_a_patient_whose_name_is_stored_in_two_forms_is_one_person():
  import pydicom

  files = []
  for person in ('Jose\u0301', 'Jos\u00e9', 'Jose'):
    file = pydicom.dcmread(io.BytesIO(_dicom(0, len(files), 'x')))
    file.SpecificCharacterSet = 'ISO_IR 192'
    file.PatientID = person
    data = io.BytesIO()
    pydicom.dcmwrite(data, file)
    files.append(data.getvalue())
  found = image_files.name_persons(_listed(files), _config('x', unit='person'))
  first, second, third = found.persons
  assert first == second != third
  assert 'Jos' not in ''.join(found.persons)  # A hash is kept.


def test_a_file_of_another_kind_among_dicom_files_is_refused(tmp_path):
  _series(tmp_path)
  _put(tmp_path / 'dog' / 'a.png', _stack(1, 1, 1, 'PNG'))
  with pytest.raises(errors.UsageError, match='dog/a.png .it is no DICOM'):
    _load(tmp_path, **_BY_PERSON)


def test_a_table_says_more_than_the_headers(tmp_path):
  _series(tmp_path / 'x')
  lines = [f'{c}/{n:02d}.dcm,p{n}' for c in _CLASSES for n in range(_NUM)]
  _put(tmp_path / 'p.csv', '\n'.join(['file,person', *lines]).encode())
  source = _load(tmp_path / 'x', person_csv=str(tmp_path / 'p.csv'),
                 **_BY_PERSON)  # fmt: skip
  numbers = (source.images[:, 0, 0, 0] % 100).astype(int)
  of_number = dict(zip(numbers.tolist(), source.person.tolist()))
  assert len(set(of_number.values())) == len(of_number) > 5


def test_damaged_dicom_files_may_be_left_out(tmp_path):
  _series(tmp_path)
  _put(tmp_path / 'dog' / 'cut.dcm', _dicom(1, 99, 'x')[:150])
  with pytest.raises(errors.UsageError, match='dog/cut.dcm'):
    _load(tmp_path, **_BY_PERSON)
  source = _load(tmp_path, skip_unreadable=True, **_BY_PERSON)
  assert [name for name, _, _ in source.skipped] == ['dog/cut.dcm']


def test_behind_an_unreadable_file_each_image_keeps_its_person(tmp_path):
  for part, start in (('train', 0), ('test', 50)):
    _series(tmp_path / part)
    for file in (tmp_path / part).rglob('*.dcm'):
      number = start + int(file.stem)
      _put(file, _dicom(file.parent.name == 'dog', number, f'p{number}'))
  _put(tmp_path / 'train' / 'cat' / '00.dcm', _dicom(0, 0, 'p0')[:300])
  options = _BY_PERSON | {'skip_unreadable': True, 'image_size': 0}
  options.pop('test_fraction')
  sources = [_load(tmp_path, s, **options) for s in ('train', 'test')]
  numbers, persons = (
    np.concatenate(of_all)
    for of_all in zip(*((s.images[:, 0, 0, 0], s.person) for s in sources))
  )
  assert sources[0].skipped[0][0] == 'train/cat/00.dcm'
  for number, person in zip(numbers % 100, persons):
    assert ((numbers % 100 == number) == (persons == person)).all()


def test_where_nobody_is_known_persons_are_no_unit(tmp_path):
  for number in range(_NUM):
    _put(tmp_path / 'dog' / f'{number}', _stack(1, number, 1, 'PNG'))
  config = _config(tmp_path, unit='person')
  registry.check_available(config, ('train',))  # Names say nothing.
  with pytest.raises(errors.UsageError, match='knows persons'):
    registry.check_readable(config, ('train', 'test'))
  with pytest.raises(errors.UsageError, match='knows persons'):
    registry.load(config)


def test_persons_are_those_that_their_names_say():
  """Whatever form of own images names them."""
  found = _listed([b'', b''], persons=('Jose\u0301', 'Jos\u00e9'))
  assert len({*found.persons}) == 1
  with pytest.raises(errors.UsageError, match="scans to say who .* '-1'"):
    _listed([b'', b''], persons=('7', '-1'))


def test_a_later_version_chooses_the_same_images():
  listed = _listed([b''] * 8, labels=np.array([0, 1] * 4))
  config = _config('x', max_images=4, split_seed=3)
  found = image_files.some_of(listed, config)
  assert found.names == ('0', '1', '4', '7')


def test_checking_tells_neither_how_many_there_are_nor_how_long(capsys):
  data, said = io.BytesIO(), []
  Image.new('L', (8, 8)).save(data, 'PNG')
  for num in (3, 30):
    _listed([data.getvalue()] * num).check(_config('scans', channels=1))
    said.append(capsys.readouterr().out)
  assert said[0] == said[1] and '100/100' in said[0] and ' s' not in said[0]
