"""Forms of own images, each made as a small file: rows of docs/inputs.md.

Images of class `first` are darker than 128 on average, others brighter, so that
whoever reads a row can tell whether a label belongs to its image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import io
import json
import pathlib
from typing import Any
import zipfile

import numpy as np
from PIL import Image

from tests.data import own_files

CLASSES = ('first', 'second')
PARQUET = pathlib.Path('data.parquet')
_SIDE = 8
_NUM = 12  # Of each class.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One form of input.

  Attributes:
    section: heading of its table.
    what: what is given, in words.
    make: makes it in a folder; returns keys of the config to set.
    is_read: whether it is read or refused.
    note: what the reading is, beyond what is computed from it.
  """

  section: str
  what: str
  make: Callable[[pathlib.Path], Mapping[str, Any]]
  is_read: bool = True
  note: str = ''


ROWS: list[Row] = []


def row(section: str, what: str, note: str = '', is_read: bool = True):
  """Adds the decorated maker as a row."""

  def add(make):
    ROWS.append(
      Row(section=section, what=what, make=make, note=note, is_read=is_read)
    )
    return make

  return add


def refused(section: str, what: str):
  """Adds the decorated maker as a row that is refused."""
  return row(section, what, is_read=False)


def pixels(label: int, number: int, dtype=np.uint8, channels=3) -> np.ndarray:
  """[8, 8, C] of class `label`; each number has its own."""
  rng = np.random.default_rng([label, number, channels])
  array = rng.integers(0, 128, (_SIDE, _SIDE, channels)) + 127 * label
  array[0] = 240 + np.arange(_SIDE)[:, None]  # All use their whole depth.
  return (array * (np.iinfo(dtype).max // 255)).astype(dtype)


def encode(array: np.ndarray, fmt: str = 'PNG', **options: Any) -> bytes:
  """An image file."""
  data = io.BytesIO()
  array = array[..., 0] if array.shape[2] == 1 else array
  Image.fromarray(array).save(data, fmt, **options)
  return data.getvalue()


def put(path: pathlib.Path, data: bytes | str) -> None:
  """Writes a file and the folders above it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(data if isinstance(data, bytes) else data.encode())


def class_folders(root: pathlib.Path, start=0, fmt='PNG', names=CLASSES):
  """Images in one subfolder per class; returns their paths below the root."""
  paths = []
  for label, name in enumerate(names):
    for number in range(start, start + _NUM):
      path = f'{name}/{number:02d}.{fmt.lower()}'
      put(root / path, encode(pixels(label, number), fmt))
      paths.append(path)
  return paths


def flat(root: pathlib.Path, start=0) -> list[tuple[str, int]]:
  """Images in one folder; returns (file, label)."""
  found = []
  for label in range(2):
    for number in range(start, start + _NUM):
      put(root / f'{label}_{number}.png', encode(pixels(label, number)))
      found.append((f'{label}_{number}.png', label))
  return found


def table(root: pathlib.Path, name: str, lines: list[str]) -> None:
  """Writes text lines."""
  put(root / name, '\n'.join(lines) + '\n')


def zipped(root: pathlib.Path, prefix: str = '', **beside: str) -> pathlib.Path:
  """A zip of a folder, beside it."""
  path = root.with_suffix('.zip')
  with zipfile.ZipFile(path, 'w') as archive:
    for file in sorted(root.rglob('*')):
      if file.is_file():
        archive.write(file, prefix + file.relative_to(root).as_posix())
    for name, text in beside.items():
      archive.writestr(name.replace('__dot__', '.'), text)
  return path


def arrays(dtype=np.uint8, channels=3, start=0) -> dict[str, np.ndarray]:
  """Images [N, 8, 8, C] and labels [N]."""
  both = [(lab, n) for n in range(start, start + _NUM) for lab in range(2)]
  images = [pixels(lab, n, dtype, channels) for lab, n in both]
  return {
    'images': np.stack(images),
    'labels': np.array([label for label, _ in both]),
  }


def npz(root: pathlib.Path, **named: np.ndarray) -> dict[str, Any]:
  """Writes an .npz; returns the key that names it."""
  root.mkdir(parents=True, exist_ok=True)
  np.savez(root / 'images.npz', **named)
  return {'path': root / 'images.npz'}


def parquet(path: pathlib.Path, columns: Mapping[str, Any], names=None) -> None:
  """Writes a parquet file; `names` are those of Hugging Face's ClassLabel."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  found = pa.table(dict(columns))
  if names:
    label = {'_type': 'ClassLabel', 'names': list(names)}
    features = {'info': {'features': {'label': label}}}
    found = found.replace_schema_metadata({'huggingface': json.dumps(features)})
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(found, path, row_group_size=5)


def structs(start=0) -> tuple[list[dict[str, Any]], list[int]]:
  """Images in the form of Hugging Face, and labels."""
  found = arrays(start=start)
  images = [{'bytes': encode(i), 'path': None} for i in found['images']]
  return images, found['labels'].tolist()


# --- Folders and zips -------------------------------------------------------

_FOLDERS = 'Folders and zips'


@row(_FOLDERS, 'a folder with one subfolder per class')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x'}


@row(_FOLDERS, 'deeper folders below the classes, hidden files, `Thumbs.db`')
def _(root):
  class_folders(root / 'x')
  (root / 'x/first').rename(root / 'x/deep')
  (root / 'x/first').mkdir()
  (root / 'x/deep').rename(root / 'x/first/deep')
  put(root / 'x/first/.DS_Store', 'x')
  put(root / 'x/second/Thumbs.db', 'x')
  put(root / 'x/README.txt', 'x')
  return {'path': root / 'x'}


@row(_FOLDERS, 'a zip of it')
def _(root):
  class_folders(root / 'x')
  return {'path': zipped(root / 'x')}


@row(_FOLDERS, 'a zip with a folder around all, beside text and `__MACOSX`')
def _(root):
  class_folders(root / 'x')
  beside = {'README.txt': 'x', '__MACOSX/x/first/._00.png': 'x'}
  return {
    'path': zipped(root / 'x', 'data/cells/', **beside, **{'__dot__git': 'x'})
  }


@row(_FOLDERS, 'classes named 0 and 1', note='class_names=0,1 needs no quotes')
def _(root):
  class_folders(root / 'x', names=('0', '1'))
  return {'path': root / 'x', 'class_names': ('0', '1')}


@row(_FOLDERS, 'a class without images')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x', 'class_names': (*CLASSES, 'third')}


@row(
  _FOLDERS,
  'equal images under other names and in other formats',
  note='equal ones on one side',
)
def _(root):
  class_folders(root / 'x')
  for name in CLASSES:
    for number in range(_NUM):
      image = encode(pixels(CLASSES.index(name), number), 'BMP')
      put(root / f'x/{name}/copy {number}.bmp', image)
  return {'path': root / 'x'}


@refused(_FOLDERS, 'a subfolder that is no class')
def _(root):
  class_folders(root / 'x', names=(*CLASSES, 'notes'))
  return {'path': root / 'x'}


@refused(_FOLDERS, 'no class names')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x', 'class_names': ()}


@refused(_FOLDERS, 'images outside the class folders')
def _(root):
  class_folders(root / 'x')
  put(root / 'x/stray.png', encode(pixels(0, 0)))
  return {'path': root / 'x'}


@refused(_FOLDERS, 'files in a class that are no images')
def _(root):
  class_folders(root / 'x')
  for number in range(7):
    put(root / f'x/first/notes {number}.txt', 'x')
  return {'path': root / 'x'}


@row(
  _FOLDERS,
  'the same, some left out on request',
  note='what is left out is listed in private/',
)
def _(root):
  class_folders(root / 'x')
  put(root / 'x/first/notes.txt', 'x')
  return {'path': root / 'x', 'skip_unreadable': True}


@refused(_FOLDERS, 'a class of which most files are unreadable, on request too')
def _(root):
  class_folders(root / 'x')
  for number in range(_NUM):
    put(root / f'x/first/{number} cut.png', encode(pixels(0, 50 + number))[:40])
  put(root / 'x/first/last cut.png', b'')
  return {'path': root / 'x', 'skip_unreadable': True}


@refused(_FOLDERS, 'nothing there')
def _(root):
  return {'path': root / 'x'}


@refused(_FOLDERS, 'an empty folder')
def _(root):
  (root / 'x').mkdir()
  return {'path': root / 'x'}


@refused(_FOLDERS, 'a file of another kind')
def _(root):
  put(root / 'x.tar', 'x')
  return {'path': root / 'x.tar'}


@refused(_FOLDERS, 'a zip whose paths leave it')
def _(root):
  class_folders(root / 'x')
  return {'path': zipped(root / 'x', **{'../first/a.png': 'x'})}


@row(_FOLDERS, "a zip with Windows' backslashes, or with `./` before names")
def _(root):
  paths = class_folders(root / 'x')
  with zipfile.ZipFile(root / 'x.zip', 'w') as archive:
    for number, path in enumerate(paths):
      name = './' + path if number % 2 else path.replace('/', '\\')
      archive.write(root / 'x' / path, name)
  return {'path': root / 'x.zip'}


@refused(_FOLDERS, 'the folder of one class')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x/first'}


@refused(_FOLDERS, 'a folder with an `.npz` in it')
def _(root):
  npz(root / 'x', **arrays())
  return {'path': root / 'x'}


@refused(_FOLDERS, 'images that are all equal')
def _(root):
  class_folders(root / 'x')
  for file in root.glob('x/*/*.png'):
    file.write_bytes(encode(pixels(0, 0)))
  return {'path': root / 'x'}


@refused(_FOLDERS, 'images of several sizes, where none is asked for')
def _(root):
  class_folders(root / 'x')
  put(root / 'x/first/odd.png', encode(pixels(0, 0)[:5]))
  return {'path': root / 'x', 'image_size': 0}


# --- A division that the data bring -----------------------------------------

_DIVIDED = 'A division that the data bring'


@row(_DIVIDED, 'folders `train`, `val` and `test` above the classes')
def _(root):
  for start, part in enumerate(('train', 'val', 'test')):
    class_folders(root / 'x' / part, 20 * start)
  return {'path': root / 'x'}


@row(_DIVIDED, '`Training` and `Testing`, in a zip with a folder around all')
def _(root):
  class_folders(root / 'x/Training')
  class_folders(root / 'x/Testing', 20)
  return {'path': zipped(root / 'x', 'chest/')}


@row(
  _DIVIDED,
  '`train` and `valid`, or `validation`, or `dev`',
)
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/valid', 20)
  return {'path': root / 'x'}


@row(
  _DIVIDED,
  'training images that equal a held-out one',
  note='they are left out of training, and named in private/',
)
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/test', 20)
  for name in CLASSES:
    (root / f'x/train/{name}/20.png').write_bytes(
      (root / f'x/test/{name}/20.png').read_bytes()
    )
  return {'path': root / 'x'}


@row(
  _DIVIDED,
  'persons of both parts',
  note='those of the held-out part are left out of training',
)
def _(root):
  paths = [f'train/{p}' for p in class_folders(root / 'x/train')]
  paths += [f'test/{p}' for p in class_folders(root / 'x/test', 20)]
  lines = [
    f'{path},p{(i % _NUM) + 9 * (i // 24)}' for i, path in enumerate(paths)
  ]
  table(root, 'persons.csv', ['file,person', *lines])
  csv = root / 'persons.csv'
  return {'path': root / 'x', 'person_csv': csv, 'unit': 'person'}


@refused(_DIVIDED, 'parts of which most of a class is equal')
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/test')
  return {'path': root / 'x'}


@refused(_DIVIDED, 'two training parts')
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/training', 20)
  class_folders(root / 'x/test', 40)
  return {'path': root / 'x'}


@refused(_DIVIDED, 'a division below the classes')
def _(root):
  for name in CLASSES:
    class_folders(root / 'x' / name, names=('train', 'test'))
  return {'path': root / 'x'}


@row(_DIVIDED, '`train` alone', note='the terminal says so')
def _(root):
  class_folders(root / 'x/train')
  return {'path': root / 'x'}


@refused(_DIVIDED, 'another folder beside `train` and `test`')
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/test', 20)
  class_folders(root / 'x/extra', 40)
  return {'path': root / 'x'}


@refused(_DIVIDED, 'such a division, and `data.test_fraction` or `split_seed`')
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/test', 20)
  return {'path': root / 'x', 'test_fraction': 0.3}


@refused(_DIVIDED, 'a class that unreadable files take out of a part')
def _(root):
  class_folders(root / 'x/train')
  class_folders(root / 'x/test', 20)
  for file in root.glob('x/test/first/*.png'):
    file.write_bytes(b'x')
  return {'path': root / 'x', 'skip_unreadable': True}


# --- Tables -----------------------------------------------------------------

_TABLES = 'Tables beside the images'


@row(_TABLES, '`labels.csv` with the columns `file_name` and `label`')
def _(root):
  lines = [f'{file},{CLASSES[label]}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines])
  return {'path': root / 'x'}


@row(_TABLES, '`metadata.csv` with numbers as labels, and a column `person`')
def _(root):
  found = flat(root / 'x/images')
  lines = [
    f'images/{file},{label},p{i % 7}' for i, (file, label) in enumerate(found)
  ]
  table(root / 'x', 'metadata.csv', ['file_name,label,person', *lines])
  return {'path': root / 'x', 'unit': 'person'}


@row(_TABLES, 'class folders, and a table of persons: `data.person_csv`')
def _(root):
  paths = class_folders(root / 'x')
  lines = [f'{path},p{i % 5}' for i, path in enumerate(paths)]
  table(root, 'persons.csv', ['file,person', *lines])
  csv = root / 'persons.csv'
  return {'path': root / 'x', 'person_csv': csv, 'unit': 'person'}


@row(_TABLES, 'class folders, and a `metadata.csv` of persons alone')
def _(root):
  paths = class_folders(root / 'x')
  lines = [f'{path},p{i % 5}' for i, path in enumerate(paths)]
  table(root / 'x', 'metadata.csv', ['file_name,patient', *lines])
  return {'path': root / 'x', 'person_column': 'patient', 'unit': 'person'}


@refused(_TABLES, 'persons of which some are `-1`, as are those not known')
def _(root):
  paths = class_folders(root / 'x')
  lines = [f'{path},{i % 5 or -1}' for i, path in enumerate(paths)]
  table(root / 'x', 'metadata.csv', ['file_name,person', *lines])
  return {'path': root / 'x', 'unit': 'person'}


@row(_TABLES, 'columns of other names: `data.file_column`, `data.label_key`')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['image_id,diagnosis', *lines])
  keys = {'file_column': 'image_id', 'label_key': 'diagnosis'}
  return {'path': root / 'x', **keys}


@refused(_TABLES, 'a column that divides the images')
def _(root):
  lines = [f'{n},{i},{("train", "test")[i]}' for n, i in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label,part', *lines])
  return {'path': root / 'x'}


@row(_TABLES, 'such a column that says `train` alone', note='this is said')
def _(root):
  lines = [f'{file},{label},train' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label,split', *lines])
  return {'path': root / 'x'}


@row(_TABLES, 'a column `patient_id` that is not read', note='this is said')
def _(root):
  lines = [f'{file},{label},p{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label,patient_id', *lines])
  return {'path': root / 'x'}


@refused(_TABLES, 'a `data.person_column` that no table has')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines])
  return {'path': root / 'x', 'person_column': 'patient'}


@refused(_TABLES, 'images that the table does not label')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines[:-6]])
  return {'path': root / 'x'}


@refused(_TABLES, 'files of the table that are not there')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines, '/d/a.png,0'])
  return {'path': root / 'x'}


@refused(_TABLES, 'a label outside the classes')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(
    root / 'x', 'labels.csv', ['file_name,label', *lines[:-1], '1_11.png,7']
  )
  return {'path': root / 'x'}


@refused(_TABLES, 'an empty label')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines[:-1], '1_11.png,'])
  return {'path': root / 'x'}


@refused(_TABLES, 'an image without a label, -1')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(
    root / 'x', 'labels.csv', ['file_name,label', *lines[:-1], '1_11.png,-1']
  )
  return {'path': root / 'x'}


@refused(_TABLES, 'a class folder and another label')
def _(root):
  paths = class_folders(root / 'x')
  lines = [f'{path},{path.startswith("second")}' for path in paths]
  lines = [line.replace('True', '1').replace('False', '0') for line in lines]
  lines[-1] = lines[-1].replace(',1', ',0')
  table(root / 'x', 'labels.csv', ['file_name,label', *lines])
  return {'path': root / 'x'}


@refused(_TABLES, 'two tables')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  for name in ('labels.csv', 'metadata.csv'):
    table(root / 'x', name, ['file_name,label', *lines])
  return {'path': root / 'x'}


@refused(_TABLES, '`metadata.jsonl`')
def _(root):
  flat(root / 'x')
  table(root / 'x', 'metadata.jsonl', ['{}'])
  return {'path': root / 'x'}


@refused(_TABLES, 'other columns, or other marks between them')
def _(root):
  lines = [f'{file};{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name;label', *lines])
  return {'path': root / 'x'}


@refused(_TABLES, 'two different rows for a file')
def _(root):
  lines = [f'{file},{label}' for file, label in flat(root / 'x')]
  table(root / 'x', 'labels.csv', ['file_name,label', *lines, '1_11.png,0'])
  return {'path': root / 'x'}


@refused(_TABLES, 'images without a person')
def _(root):
  class_folders(root / 'x')
  table(root, 'persons.csv', ['file,person', 'first/00.png,p1'])
  return {'path': root / 'x', 'person_csv': root / 'persons.csv'}


@refused(_TABLES, '`data.unit=person` where nobody is known')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x', 'unit': 'person'}


# --- .npz -------------------------------------------------------------------

_NPZ = 'Arrays in an .npz'


@row(_NPZ, '`images` uint8[N, H, W, C] and `labels` int[N]')
def _(root):
  return npz(root, **arrays())


@row(_NPZ, 'grey `images` [N, H, W], `labels` [N, 1] and `person` [N]')
def _(root):
  found = arrays(channels=1)
  labels = found['labels'][:, None]
  person = np.arange(2 * _NUM) // 2
  images = found['images'][..., 0]
  keys = npz(root, images=images, labels=labels, person=person)
  return {**keys, 'channels': 1, 'unit': 'person'}


@row(_NPZ, 'labels and persons as text, or labels as booleans')
def _(root):
  found = arrays()
  labels = np.array(CLASSES)[found['labels']]
  person = np.array([f'p{i // 2}' for i in range(2 * _NUM)])
  keys = npz(root, images=found['images'], labels=labels, person=person)
  return {**keys, 'unit': 'person'}


@refused(_NPZ, 'persons of which some are -1')
def _(root):
  return npz(root, **arrays(), person=np.arange(2 * _NUM) - 1)


@refused(_NPZ, 'an array `persons`, or another that names persons or parts')
def _(root):
  return npz(root, **arrays(), persons=np.arange(2 * _NUM))


def medmnist(**changes: np.ndarray) -> dict[str, np.ndarray]:
  """The layout of a MedMNIST file."""
  found = {}
  for start, part in enumerate(('train', 'val', 'test')):
    of_part = arrays(channels=1, start=20 * start)
    found[f'{part}_images'] = of_part['images'][..., 0]
    found[f'{part}_labels'] = of_part['labels'][:, None].astype(np.uint8)
  return found | changes


@row(_NPZ, 'a MedMNIST file: `train_images`, `train_labels` [N, 1], ...')
def _(root):
  return npz(root, **medmnist())


@refused(_NPZ, 'parts, and images that are of none')
def _(root):
  found = arrays()
  return npz(root, **medmnist(extra_images=found['images']))


@row(_NPZ, 'uint16 that use the whole depth')
def _(root):
  return npz(root, **arrays(np.uint16))


@row(_NPZ, '12 bits in 16, with `data.value_range=(0, 4095)`')
def _(root):
  found = arrays(np.uint16)
  found['images'] >>= 4
  return {**npz(root, **found), 'value_range': (0, 4095)}


@refused(_NPZ, '12 bits in 16, without')
def _(root):
  found = arrays(np.uint16)
  found['images'] >>= 4
  return npz(root, **found)


@refused(_NPZ, 'several labels of an image, as ChestMNIST has')
def _(root):
  labels = np.zeros((2 * _NUM, 14), np.uint8)
  return npz(root, **medmnist(train_labels=labels))


@refused(_NPZ, 'volumes, as OrganMNIST3D has')
def _(root):
  volumes = np.zeros((2 * _NUM, 8, 8, 8), np.uint8)
  return npz(root, **medmnist(train_images=volumes))


@refused(_NPZ, 'arrays of other names')
def _(root):
  found = arrays()
  return npz(root, x=found['images'], y=found['labels'])


@refused(_NPZ, 'images without a label, -1')
def _(root):
  found = arrays()
  return npz(root, images=found['images'], labels=found['labels'] - 1)


@refused(_NPZ, 'labels that are no whole numbers')
def _(root):
  found = arrays()
  return npz(root, images=found['images'], labels=found['labels'] / 2)


@refused(_NPZ, 'pickled objects')
def _(root):
  found = arrays()
  return npz(root, images=found['images'], labels=np.array([None] * 24))


@refused(_NPZ, 'a truncated file')
def _(root):
  keys = npz(root, **arrays())
  put(keys['path'], keys['path'].read_bytes()[:3000])
  return keys


# --- Parquet ----------------------------------------------------------------

_PARQUET = 'Parquet files'


@row(_PARQUET, "Hugging Face's: `image` {bytes, path}, `label` with its names")
def _(root):
  images, labels = structs()
  swapped = [1 - label for label in labels]
  columns = {'image': images, 'label': swapped}
  parquet(root / PARQUET, columns, names=CLASSES[::-1])
  return {'path': root / PARQUET}


@row(_PARQUET, 'a folder of train-00000-of-00001.parquet and test-...')
def _(root):
  for start, part in enumerate(('train', 'test')):
    images, labels = structs(20 * start)
    path = root / 'x/data' / f'{part}-00000-of-00001.parquet'
    parquet(path, {'image': images, 'label': labels})
  return {'path': root / 'x'}


@row(_PARQUET, 'plain bytes, names as labels, persons')
def _(root):
  images, labels = structs()
  names = [CLASSES[label] for label in labels]
  person = [f'p{i // 2}' for i in range(len(labels))]
  data = [image['bytes'] for image in images]
  columns = {'scan': data, 'kind': names, 'person': person}
  parquet(root / PARQUET, columns)
  return {'path': root / PARQUET, 'label_key': 'kind', 'unit': 'person'}


@row(_PARQUET, 'paths of images beside the file')
def _(root):
  found = flat(root / 'images')
  files = [f'images/{file}' for file, _ in found]
  labels = [label for _, label in found]
  parquet(root / PARQUET, {'image': files, 'label': labels})
  return {'path': root / PARQUET}


@refused(_PARQUET, 'paths that leave its folder')
def _(root):
  found = flat(root / 'images')
  files = [f'../images/{file}' for file, _ in found]
  columns = {'image': files, 'label': [label for _, label in found]}
  parquet(root / 'x' / PARQUET, columns)
  return {'path': root / 'x' / PARQUET}


@refused(_PARQUET, 'files for which another was not downloaded')
def _(root):
  images, labels = structs()
  path = root / 'x' / 'train-00000-of-00002.parquet'
  parquet(path, {'image': images, 'label': labels})
  return {'path': root / 'x'}


@refused(_PARQUET, 'class folders beside them')
def _(root):
  images, labels = structs()
  parquet(root / 'x' / PARQUET, {'image': images, 'label': labels})
  class_folders(root / 'x')
  return {'path': root / 'x'}


@refused(_PARQUET, 'two columns of images')
def _(root):
  images, labels = structs()
  columns = {'image': images, 'mask': images, 'label': labels}
  parquet(root / PARQUET, columns)
  return {'path': root / PARQUET}


@refused(_PARQUET, 'no column `label`')
def _(root):
  images, labels = structs()
  parquet(root / PARQUET, {'image': images, 'digit': labels})
  return {'path': root / PARQUET}


@refused(_PARQUET, 'several labels of an image')
def _(root):
  images, labels = structs()
  columns = {'image': images, 'label': [[label] for label in labels]}
  parquet(root / PARQUET, columns)
  return {'path': root / PARQUET}


@refused(_PARQUET, 'images without a label, -1')
def _(root):
  images, labels = structs()
  columns = {'image': images, 'label': [-1, *labels[1:]]}
  parquet(root / PARQUET, columns)
  return {'path': root / PARQUET}


@refused(_PARQUET, 'a file that is no parquet')
def _(root):
  put(root / PARQUET, 'no parquet')
  return {'path': root / PARQUET}


# --- Files of an image ------------------------------------------------------

_FILES = 'Image files'


def _of_format(fmt):
  def make(root):
    class_folders(root / 'x', fmt=fmt)
    return {'path': root / 'x'}

  return make


for _fmt in ('PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP', 'GIF', 'PPM'):
  row(_FILES, f'{_fmt}, 8 bits')(_of_format(_fmt))


def _deep(root, shift):
  for label, name in enumerate(CLASSES):
    for number in range(_NUM):
      array = pixels(label, number, np.uint16, 1) >> shift
      put(root / f'x/{name}/{number:02d}.png', encode(array))
  return {'path': root / 'x', 'channels': 1}


@row(_FILES, 'PGM and PPM of any largest value, TIFF of 1 to 7 bits')
def _(root):
  for label, name in enumerate(CLASSES):
    for number in range(_NUM):
      array = (pixels(label, number) // 2.55).astype(np.uint8)
      data = b'P6 8 8 100\n' + array.tobytes()
      put(root / f'x/{name}/{number:02d}.ppm', data)
  return {'path': root / 'x'}


@row(_FILES, '16 bits that use the whole depth')
def _(root):
  return _deep(root, 0)


@row(_FILES, '12 bits in 16, with `data.value_range=(0, 4095)`')
def _(root):
  return _deep(root, 4) | {'value_range': (0, 4095)}


@refused(_FILES, '12 bits in 16, without')
def _(root):
  return _deep(root, 4)


def _stacks(root):
  for label, name in enumerate(CLASSES):
    for number in range(_NUM):
      first, second = (
        Image.fromarray(pixels(label, n)) for n in (number, 50 + number)
      )
      data = io.BytesIO()
      first.save(data, 'TIFF', save_all=True, append_images=[second])
      put(root / f'x/{name}/{number:02d}.tiff', data.getvalue())
  return {'path': root / 'x'}


@row(_FILES, "several images in a file, with `data.frames='first'`")
def _(root):
  return _stacks(root) | {'frames': 'first'}


@row(
  _FILES,
  "the same, with `data.frames='all'`",
  note='each is an image; those of a file are of one person, the file itself '
  'where no other is known',
)
def _(root):
  return _stacks(root) | {'frames': 'all'}


@refused(_FILES, 'several images in a file, without')
def _(root):
  return _stacks(root)


@refused(_FILES, 'more pixels than `data.max_image_pixels`')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x', 'max_image_pixels': 60}


@refused(_FILES, '8 bits with a range that they cannot reach')
def _(root):
  class_folders(root / 'x')
  return {'path': root / 'x', 'value_range': (0, 4095)}


# --- DICOM ------------------------------------------------------------------

_DICOM = "DICOM (`pip install 'dp_diffusion[dicom]'`)"


def _series(root, nobody=0):
  """Images of 8 bits; the first `nobody` have no PatientID."""
  for label, name in enumerate(CLASSES):
    for number in range(_NUM):
      person = '' if number < nobody else f'p{number % 5}'
      data = own_files.dicom(100 * label + number + 30, person)
      put(root / f'x/{name}/{number:02d}.dcm', data)
  return {'path': root / 'x', 'channels': 1}


@row(_DICOM, 'files in class folders', note='by their window, or a range')
def _(root):
  return _series(root)


@row(_DICOM, 'with `data.unit=person`', note='as their PatientID says')
def _(root):
  return _series(root) | {'unit': 'person'}


@refused(_DICOM, 'with `data.unit=person`, and files without a PatientID')
def _(root):
  return _series(root, nobody=4) | {'unit': 'person'}


@refused(_DICOM, 'with `data.unit=person`, beside files of other kinds')
def _(root):
  keys = _series(root) | {'unit': 'person'}
  put(root / 'x/first/a.png', encode(pixels(0, 50)))
  return keys
