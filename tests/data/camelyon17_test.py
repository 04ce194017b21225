"""Tests of dp_diffusion.data.camelyon17 on generated archives.

They have the exact layout of the official one, with patches whose colour says
which they are.
"""

from __future__ import annotations

import functools
import http.server
import io
import json
import pathlib
import shutil
import tarfile
import threading

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import errors
from dp_diffusion.data import camelyon17
from dp_diffusion.data import camelyon17_release
from dp_diffusion.data import registry

_HEADER = ',patient,node,x_coord,y_coord,tumor,slide,center,split'
# (patient, node, center, split column): the column says 0 or 1 everywhere,
# the hospitals 1 and 2 override it.
_GROUPS = (
  ('004', 4, 0, 0),
  ('004', 4, 0, 1),
  ('010', 2, 1, 0),
  ('017', 1, 1, 1),
  ('020', 0, 2, 0),
  ('022', 3, 2, 1),
  ('060', 3, 3, 0),
  ('075', 4, 4, 0),
  ('099', 4, 4, 1),
)
_PER_GROUP = 4
_COUNTS = {'train': 12, 'id_val': 8, 'val': 8, 'test': 8}


def _rows():
  """(index, patient, node, x, y, tumor, slide, center, split) of each patch."""
  index = 0
  for slide, (patient, node, center, column) in enumerate(_GROUPS):
    for _ in range(_PER_GROUP):
      yield (
        *(index, patient, node, 3328 + 96 * index, 21792 + index),
        *(index % 2, slide, center, column),
      )
      index += 1


def _relative(row):
  _, patient, node, x, y, *_ = row
  folder = f'patches/patient_{patient}_node_{node}'
  return f'{folder}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png'


def _colour(row):
  """RGB that tells index, hospital and label."""
  index, _, _, _, _, tumor, _, center, _ = row
  return (5 * index, 50 * center, 200 * tumor)


def _png(row):
  data = io.BytesIO()
  image = Image.new('RGB', (96, 96), _colour(row))
  image.convert('RGBA').save(data, 'PNG')  # The release's patches have alpha.
  return data.getvalue()


def _write_folder(root):
  root.mkdir(parents=True)
  (root / 'RELEASE_v1.0.txt').write_text('v1.0')
  lines = [_HEADER, *(','.join(map(str, row)) for row in _rows())]
  (root / 'metadata.csv').write_text('\n'.join(lines) + '\n')
  for row in _rows():
    path = root / _relative(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(row))


def _write_tar(folder, path, prefix=''):
  with tarfile.open(path, 'w:gz') as tar:
    tar.add(folder / 'camelyon17_v1.0', f'{prefix}camelyon17_v1.0')


def _write_parquet(folder):
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  files = {'train': [], 'validation': [], 'test': []}
  for row in _rows():
    index, patient, node, x, y, tumor, slide, center, column = row
    split = {1: 'validation', 2: 'test'}.get(
      center, ('train', 'validation')[column]
    )
    files[split].append(
      {
        'image': {'bytes': _png(row), 'path': _relative(row)},
        'label': tumor,
        'center': center,
        'patient': int(patient),
        'node': node,
        'slide': slide,
      }
    )
  folder.mkdir(parents=True, exist_ok=True)
  for split, rows in files.items():
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / f'{split}-00000-of-00001.parquet')


@pytest.fixture(autouse=True)
def _small_counts(monkeypatch):
  monkeypatch.setattr(camelyon17, 'PUBLISHED_COUNTS', _COUNTS)
  for name in ('ARCHIVE_URL', 'MIRROR_URL'):  # Never the real hosts.
    monkeypatch.setattr(camelyon17_release, name, 'http://localhost:1')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('folder')
  _write_folder(path / 'camelyon17_v1.0')
  return path


def _config(tfds_dir, manual_dir='', **changes):
  return registry.DataConfig(
    name='camelyon17',
    tfds_dir=str(tfds_dir),
    manual_dir=str(manual_dir),
    **({'image_size': 32} | changes),
  )


def _found(config, split):
  """Rows of the patches in a split, by their colour."""
  source = registry.load(config, split)
  by_colour = {_colour(row): row for row in _rows()}
  rows = [by_colour[tuple(int(c) for c in i[0, 0])] for i in source.images]
  assert [row[5] for row in rows] == list(source.labels)
  return rows, source


def _manual_dir(form, folder, tmp_path):
  if form == 'folder':
    return folder
  if form == 'folder itself':
    return folder / 'camelyon17_v1.0'
  path = tmp_path / 'manual'
  path.mkdir()
  if form == 'archive':
    _write_tar(folder, path / 'archive.tar.gz')
  elif form == 'archive with dots':
    _write_tar(folder, path / 'camelyon17_v1.0.tar.gz', './')
  else:
    _write_parquet(path / 'data')
  return path


@pytest.mark.parametrize(
  'form',
  ['folder', 'folder itself', 'archive', 'archive with dots', 'parquet'],
)
def test_every_form_gives_the_published_splits(form, folder, tmp_path):
  config = _config(tmp_path / 'tfds', _manual_dir(form, folder, tmp_path))
  seen = []
  for split in camelyon17.SPLITS:
    rows, source = _found(config, split)
    assert len(rows) == _COUNTS[split]
    assert source.spec.image_shape == (32, 32, 3)
    assert source.spec.class_names == ('normal', 'tumor')
    seen += [row[0] for row in rows]
    patients = np.unique([row[1] for row in rows], return_inverse=True)[1]
    np.testing.assert_array_equal(source.person, patients)
  assert sorted(seen) == list(range(len(_GROUPS) * _PER_GROUP))


def test_the_test_hospital_never_reaches_training(folder, tmp_path):
  config = _config(tmp_path, folder)
  hospitals = {
    split: {row[7] for row in _found(config, split)[0]}
    for split in camelyon17.SPLITS
  }
  assert hospitals == {
    'train': {0, 3, 4},
    'id_val': {0, 4},
    'val': {1},
    'test': {2},
  }


def test_reading_the_column_alone_would_fail_that_test(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    camelyon17_release,
    'split_of',
    lambda center, column: ('train', 'id_val')[column],
  )
  with pytest.raises(errors.UsageError, match='20|not the official'):
    registry.load(_config(tmp_path, folder), 'train')


def test_patients_are_strings():
  metadata = f'{_HEADER}\n0,004,4,3328,21792,1,0,0,0\n'
  (found,) = camelyon17_release.parse_metadata(
    iter(metadata.splitlines())
  ).items()
  assert found == (
    'patches/patient_004_node_4/patch_patient_004_node_4_x_3328_y_21792.png',
    camelyon17_release.Patch(split='train', label=1, patient='004', center=0),
  )


@pytest.mark.parametrize(
  'row, why',
  [
    ('0,004,4,3328,21792,1,0,5,0', 'center=5'),
    ('0,004,4,3328,21792,1,0,0,2', 'split=2'),
    ('0,004,4,3328,21792,2,0,0,0', 'tumor=2'),
    ('0,004,4,x,21792,1,0,0,0', 'line 2'),
    ('0,004,4', 'line 2'),
  ],
)
def test_metadata_of_another_form_is_refused(row, why):
  with pytest.raises(errors.UsageError, match=why):
    camelyon17_release.parse_metadata(iter([_HEADER, row]))
  with pytest.raises(errors.UsageError, match='columns'):
    camelyon17_release.parse_metadata(iter(['a,b', '0,1']))


def test_a_prepared_set_needs_the_archive_no_more(folder, tmp_path):
  manual_dir = tmp_path / 'manual'
  shutil.copytree(folder, manual_dir)
  first = registry.load(_config(tmp_path, manual_dir), 'train')
  shutil.rmtree(manual_dir)
  again = registry.load(_config(tmp_path), 'train')
  np.testing.assert_array_equal(first.images, again.images)
  assert (tmp_path / 'camelyon17_wilds/32x32/1.0.0').is_dir()


def test_a_prepared_set_of_another_size_is_refused(
  folder, tmp_path, monkeypatch
):
  """It may have been prepared by other code."""
  registry.load(_config(tmp_path, folder), 'train')
  counts = _COUNTS | {'id_val': 9}
  monkeypatch.setattr(camelyon17, 'PUBLISHED_COUNTS', counts)
  with pytest.raises(errors.UsageError, match='remove the prepared dataset'):
    registry.load(_config(tmp_path, folder), 'train')


def test_sizes_are_prepared_side_by_side(folder, tmp_path):
  assert _found(_config(tmp_path, folder, image_size=0), 'val')[
    1
  ].spec.image_shape == (96, 96, 3)
  assert _found(_config(tmp_path, folder), 'val')[1].images.shape == (
    *(8, 32, 32, 3),
  )


def _copy(folder, tmp_path):
  path = tmp_path / 'copy'
  shutil.copytree(folder, path)
  return path


def test_missing_patches_are_refused(folder, tmp_path):
  path = _copy(folder, tmp_path)
  name = _relative(next(_rows()))
  (path / 'camelyon17_v1.0' / name).unlink()
  with pytest.raises(errors.UsageError, match=f'lacks patches .*{name}'):
    registry.load(_config(tmp_path / 'a', path), 'train')
  (tmp_path / 'tar').mkdir()
  _write_tar(path, tmp_path / 'tar' / 'archive.tar.gz')
  with pytest.raises(errors.UsageError, match=f'lacks patches .*{name}'):
    registry.load(_config(tmp_path / 'b', tmp_path / 'tar'), 'train')


def test_a_smaller_release_is_refused(folder, tmp_path):
  path = _copy(folder, tmp_path)
  metadata = path / 'camelyon17_v1.0' / 'metadata.csv'
  metadata.write_text('\n'.join(metadata.read_text().splitlines()[:-1]))
  with pytest.raises(errors.UsageError, match='not the official release'):
    registry.load(_config(tmp_path, path), 'train')
  with pytest.raises(errors.UsageError, match='not the official release'):
    registry.load(_config(tmp_path, path), 'train')  # Nothing half remains.


def test_damage_is_named(folder, tmp_path):
  path = _copy(folder, tmp_path)
  name = _relative(next(_rows()))
  (path / 'camelyon17_v1.0' / name).write_bytes(b'no image')
  with pytest.raises(errors.UsageError, match=name):
    registry.load(_config(tmp_path / 'a', path), 'train')
  (tmp_path / 'tar').mkdir()
  archive = tmp_path / 'tar' / 'archive.tar.gz'
  _write_tar(folder, archive)
  archive.write_bytes(archive.read_bytes()[:-2000])
  with pytest.raises(errors.UsageError, match='cut short|lacks'):
    registry.load(_config(tmp_path / 'b', archive.parent), 'train')


def test_a_parquet_mirror_of_another_form_is_refused(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  parquet = pytest.importorskip('pyarrow.parquet')
  table = pyarrow.table({'image': [b''], 'label': [0]})
  (tmp_path / 'm').mkdir()
  parquet.write_table(table, tmp_path / 'm' / 'train-0.parquet')
  with pytest.raises(errors.UsageError, match="'center', 'patient'"):
    registry.load(_config(tmp_path, tmp_path / 'm'), 'train')
  (tmp_path / 'm' / 'train-0.parquet').rename(tmp_path / 'm' / 'x.parquet')
  with pytest.raises(errors.UsageError, match="begin with 'train'"):
    registry.load(_config(tmp_path, tmp_path / 'm'), 'train')
  (tmp_path / 'm' / 'x.parquet').unlink()
  (tmp_path / 'm' / 'train-0.parquet').write_bytes(b'no parquet')
  with pytest.raises(errors.UsageError, match='cannot be read'):
    registry.load(_config(tmp_path, tmp_path / 'm'), 'train')


@pytest.mark.parametrize('has_manual_dir', [False, True])
def test_without_archive_and_network_the_error_says_what_to_do(
  tmp_path, has_manual_dir
):
  manual_dir = tmp_path if has_manual_dir else ''
  with pytest.raises(errors.UsageError) as caught:
    registry.load(_config(tmp_path, manual_dir), 'train')
  message = str(caught.value)
  assert '\n' not in message
  for part in ('archive.tar.gz', '10.7 GB', 'parquet', 'set data.manual_dir'):
    assert part in message


def test_what_is_missing_is_known_without_reading(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(camelyon17_release.tfds_builders, 'is_online', bool)
  check = functools.partial(registry.check_available, splits=('train', 'test'))
  check(_config(tmp_path))  # It can be downloaded.
  with pytest.raises(errors.UsageError, match="'id_val'"):
    check(_config(tmp_path), splits=('train', 'validation'))
  monkeypatch.setattr(
    camelyon17_release.tfds_builders, 'is_online', lambda url: False
  )
  with pytest.raises(errors.UsageError, match='archive.tar.gz'):
    check(_config(tmp_path))
  check(_config(tmp_path, folder))


class _Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path):
  root = tmp_path / 'server'
  root.mkdir()
  handler = functools.partial(_Handler, directory=str(root))
  with http.server.ThreadingHTTPServer(('localhost', 0), handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield root, f'http://localhost:{httpd.server_port}'
    httpd.shutdown()
    thread.join()


def test_the_archive_is_downloaded(folder, tmp_path, server, monkeypatch):
  root, url = server
  _write_tar(folder, root / 'blob')
  monkeypatch.setattr(camelyon17_release, 'ARCHIVE_URL', f'{url}/blob')
  size = (root / 'blob').stat().st_size
  monkeypatch.setattr(camelyon17_release, 'ARCHIVE_BYTES', size)
  config = _config(tmp_path / 'tfds')
  assert len(registry.load(config, 'test').labels) == _COUNTS['test']


def test_the_mirror_is_downloaded_where_the_archive_is_not(
  tmp_path, server, monkeypatch, capsys
):
  root, url = server
  monkeypatch.setattr(camelyon17_release, 'MIRROR_URL', url)
  mirror = camelyon17_release.MIRROR
  _write_parquet(root / 'datasets' / mirror / 'resolve' / 'main' / 'data')
  names = sorted((root / 'datasets').rglob('*.parquet'))
  listing = pathlib.Path(root, 'api', 'datasets', mirror)
  listing.parent.mkdir(parents=True)
  siblings = [{'rfilename': f'data/{name.name}'} for name in names]
  siblings.append({'rfilename': 'README.md'})
  listing.write_text(json.dumps({'siblings': siblings}))
  source = registry.load(_config(tmp_path / 'tfds'), 'test')
  assert len(source.labels) == _COUNTS['test']
  assert 'trying the mirror' in capsys.readouterr().err


def test_a_download_cut_short_leaves_nothing(
  folder, tmp_path, server, monkeypatch
):
  root, url = server
  (root / 'blob').write_bytes(b'short')
  monkeypatch.setattr(camelyon17_release, 'ARCHIVE_URL', f'{url}/blob')
  with pytest.raises(errors.UsageError, match='Downloading failed'):
    registry.load(_config(tmp_path / 'tfds'), 'test')
  assert not [p for p in (tmp_path / 'tfds').rglob('*') if p.is_file()]


def test_unknown_splits_and_classes_are_refused(tmp_path):
  with pytest.raises(errors.UsageError, match="'id_val'"):
    registry.load(_config(tmp_path), 'validation')
  with pytest.raises(errors.UsageError, match='class_names'):
    registry.load(_config(tmp_path, class_names=('a', 'b')))
