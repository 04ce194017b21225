"""Loads the images of the source that `data.name` names.

Only the table below maps names to modules. A module is imported when its name
is used, and has a function `load(config, split)`. A module that reads files
also has `check_available(config, splits)`, `check_readable(config, splits)` and
`survey_files(config)`, and may have `find_channels(config)` and
`find_class_names(config)`; the functions of these names here describe them. The
list `READS` of a module names the keys of `DataConfig` that it reads and some
other sources do not. Every other name is a TFDS dataset: `tfds:NAME`, or plain
`NAME` if `data.tfds_dir` is the folder of prepared datasets.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import difflib
import hashlib
import importlib
import math
import re
from types import ModuleType
from typing import Any
import unicodedata

import numpy as np

from dp_diffusion import checks
from dp_diffusion import config_keys
from dp_diffusion import errors
from dp_diffusion import types

UNITS = ('image', 'person')
FRAMES = ('', 'first', 'all')
_TFDS_PREFIX = 'tfds:'
# Values of a person that stand for one who is not known.
_NOBODY = re.compile(
  r'|-\d+(\.0*)?|nan|nat|none|null|unknown|<na>|n/a|\?'
  # What tools that remove names leave in every file.
  r'|anon|anonym(ous|i[sz]ed)?|de-?identified|redacted|removed'
)
_PACKAGE = 'dp_diffusion.data'
_MODULES = {
  'camelyon17': 'camelyon17',
  'digits': 'digits',
  'folder': 'folder',
  'generated': 'generated',
  'glyphs': 'glyphs',
  'rendered': 'rendered',
}


def _check_channels(name: str, channels: int) -> None:
  if channels not in (0, 1, 3):
    raise ValueError(f'Expected {name}={channels!r} to be 0, 1 or 3.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Which images to load, from where, in which shape. It is public."""

  name: str = config_keys.key(
    '',
    'What to load: a source of data/, or a TFDS dataset; to be set.',
    config_keys.Allowed(
      ', '.join(map(repr, (*sorted(_MODULES), f'{_TFDS_PREFIX}NAME')))
    ),
    is_required=True,
  )
  split: str = config_keys.key('train', 'Split of the source to train on.')
  test_split: str = config_keys.key(
    'test', 'Split of the source to hold out, for evaluation.'
  )
  tfds_dir: str = config_keys.key(
    '',
    "Folder of prepared TFDS datasets; '' is TFDS's own. That of pretrain.data"
    ' follows data.tfds_dir, unless it is set itself.',
  )
  manual_dir: str = config_keys.key(
    '', 'Folder where archives placed by hand lie.'
  )
  path: str = config_keys.key(
    '',
    'Own images: a folder, .zip, .npz or .parquet (docs/inputs.md).',
  )
  person_csv: str = config_keys.key(
    '',
    "Own images: a CSV file that names the person of each; '' for none.",
  )
  file_column: str = config_keys.key(
    'file',
    "Column of person_csv with the image's path. A table beside the images,"
    " labels.csv or metadata.csv, may call it 'file_name'.",
  )
  person_column: str = config_keys.key(
    'person',
    'Column with the person, of person_csv or of a table beside the images.',
  )
  image_key: str = config_keys.key(
    '',
    "Images: a TFDS feature, or a column of own tables and parquet files; ''"
    ' finds the only one.',
  )
  label_key: str = config_keys.key(
    '',
    "Labels: a TFDS feature, where '' finds the only one; or a column of own"
    " tables and parquet files, where '' is 'label'.",
  )
  person_key: str = config_keys.key('', "Persons: a TFDS feature; '' for none.")
  image_size: int = config_keys.key(
    0,
    'Height and width, pixels; to be set, as the network is made for it.',
    '>= 0',
  )
  channels: int = config_keys.key(
    0,
    '1 (grey) or 3 (RGB); to be set, as the network is made for it.',
    config_keys.Allowed('0, 1 or 3', _check_channels),
  )
  class_names: tuple[str, ...] = config_keys.key(
    (),
    'Label i is class_names[i]; public. A label outside is an error, an empty'
    ' class is not.',
  )
  split_seed: int = config_keys.key(
    0, 'Seed of a division that the source lacks.', '>= 0'
  )
  test_fraction: float = config_keys.key(
    0.2, 'Share held out by a division that the source lacks.', '(0, 1)'
  )
  source_seed: int = config_keys.key(
    0, 'Seed of a source that makes its images.', '>= 0'
  )
  num_images: int = config_keys.key(
    0, 'Images of a source that makes them; 0 is its own default.', '>= 0'
  )
  max_images: int = config_keys.key(
    0,
    'Images of a folder that are looked at, chosen by split_seed and the names'
    ' alone, evenly from the classes; 0 is all.',
    '>= 0',
  )
  unit: str = config_keys.key(
    'image',
    'What one record is: one image, or all images of one person. Persons of'
    ' DICOM files are those of their headers (PatientID) where no table says'
    ' who they are.',
    UNITS,
  )
  skip_unreadable: bool = config_keys.key(
    False, 'Leave unreadable own files out instead of refusing.'
  )
  value_range: tuple[float, ...] = config_keys.key(
    (),
    'Stored values of black and of white, as 0,4095, the same for all images;'
    ' below is black, above is white. Needed for files deeper than 8 bits whose'
    ' set does not use the whole depth, for signed and for floating pixels. ()'
    ' leaves 8 bits as they are. Of DICOM in modality units, as Hounsfield; ()'
    ' takes the window of each file.',
  )
  frames: str = config_keys.key(
    '',
    'What of a file with several images (a stack, pages, an animation) is used:'
    " 'first' or 'all', each of which is an image of its own, and all of one"
    " person: of the file itself where no other is known. '' refuses it.",
    FRAMES,
  )
  max_image_pixels: int = config_keys.key(
    64_000_000, 'A file with more pixels is refused unopened.', '> 0'
  )
  max_in_memory_bytes: int = config_keys.key(
    1 << 30,
    'A decoded set above this, in bytes, is memory-mapped from the cache folder'
    ' instead of held in memory.',
    '>= 0',
  )
  cache_dir: str = config_keys.key(
    '', "Folder of decoded images; '' is $XDG_CACHE_HOME/dp_diffusion."
  )
  reflect_pad: int = config_keys.key(
    0, 'Pixels of reflected border for the random crop; 0 is off.', '>= 0'
  )
  flip: bool = config_keys.key(False, 'Flip half of the draws left to right.')

  def __post_init__(self) -> None:
    object.__setattr__(self, 'class_names', tuple(self.class_names))
    _check_name(self.name, self.tfds_dir)
    object.__setattr__(self, 'value_range', _value_range(self.value_range))
    config_keys.check(self)
    if 0 < self.image_size <= self.reflect_pad:
      raise ValueError(
        f'Expected reflect_pad={self.reflect_pad!r} to be < '
        f'image_size={self.image_size!r}.'
      )
    if '' in self.class_names:
      raise ValueError(
        f'Expected class_names=({checks.some(self.class_names)}) to have no '
        'empty name.'
      )
    seen = collections.Counter(self.class_names)
    if len(seen) < len(self.class_names):
      raise ValueError(
        'Expected class_names to have no repeats, found twice: '
        + checks.some([n for n in seen if seen[n] > 1])
      )

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return (self.image_size, self.image_size, self.channels)

  @property
  def num_classes(self) -> int:
    """Number of classes, 1 where images have no labels."""
    return max(1, len(self.class_names))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArraySource:
  """A `types.DataSource` of arrays, which are checked at construction.

  Attributes:
    spec: the public facts.
    images: uint8[N, H, W, C]; may be memory-mapped.
    labels: int32[N] in [0, spec.num_classes).
    person: int32[N], or None.
    skipped: (name, class name, reason) of each file that was left out because
      of `data.skip_unreadable`, of both splits: a file that cannot be decoded
      belongs to no split. The list is as sensitive as the images.
    contradictions: equal images that have several classes, of both splits:
      (name, class name) of each, equal ones together. Sensitive as well.
  """

  spec: types.DatasetSpec
  images: np.ndarray
  labels: np.ndarray
  person: np.ndarray | None = None
  skipped: tuple[tuple[str, str, str], ...] = ()
  contradictions: tuple[tuple[tuple[str, str], ...], ...] = ()

  def __post_init__(self) -> None:
    num_images = len(self.images)
    if self.images.dtype != np.uint8 or self.images.ndim != 4:
      raise ValueError(
        'Expected images to be uint8[N, H, W, C], found '
        f'{checks.array_type(self.images.dtype, self.images.shape)}.'
      )
    if self.images.shape[1:] != tuple(self.spec.image_shape):
      raise ValueError(
        f'Expected images of shape {self.spec.image_shape}, found '
        f'{self.images.shape[1:]}.'
      )
    for name in ('labels', 'person'):
      array = getattr(self, name)
      if array is not None and (
        array.dtype != np.int32 or array.shape != (num_images,)
      ):
        raise ValueError(
          f'Expected {name} to be int32[N], as long as the images, found '
          f'{checks.array_type(array.dtype, array.shape)}'
          f'{" of another length" if array.shape[:1] != (num_images,) else ""}.'
        )
    check_labels(self.labels, self.spec.num_classes)
    if self.spec.has_person != (self.person is not None):
      raise ValueError('Expected person exactly when spec.has_person.')


def check_split(split: str, known: Iterable[str]) -> None:
  """Raises UsageError, listing the known splits, unless `split` is one."""
  try:
    checks.check_one_of('split', split, known)
  except ValueError as error:
    raise errors.UsageError(str(error)) from None


def check_labels(labels: np.ndarray, num_classes: int) -> None:
  """Raises UsageError, naming one, if a label is not in [0, num_classes)."""
  outside = (labels < 0) | (labels >= num_classes)
  if (labels == -1).any():
    raise errors.UsageError(
      'Expected every image to have a label, found label=-1, which marks one '
      'without: choose a split that is labelled, or leave those images out.'
    )
  if outside.any():
    raise errors.UsageError(
      f'Expected label={labels[outside][0]} to be in [0, {num_classes}): '
      'data.class_names must list every class.'
    )


def check_persons(persons: Iterable[str], where: str) -> tuple[str, ...]:
  """Returns the names of persons, of which equal ones have equal characters.

  A value that names nobody would join all images that have it to one person,
  whose guarantee would hold for none of those who are on them.

  >>> check_persons(['7 ', 'Jose\u0301'], 'x.csv') == ('7', 'Jos\u00e9')
  True

  Args:
    persons: the person on each image.
    where: the source, for the message.

  Raises:
    UsageError: a value names nobody, as '', '-1' and 'nan' do.
  """
  found = tuple(map(one_form, persons))
  for person in dict.fromkeys(found):
    if is_nobody(person):
      raise errors.UsageError(
        f'Expected {where} to say who is on each image, found {person!r}: leave'
        ' such images out, or give each a person of its own.'
      )
  return found


def one_form(person: str) -> str:
  """Returns the name of a person without spaces around, accents composed."""
  return unicodedata.normalize('NFC', person.strip())


def is_nobody(person: str) -> bool:
  """Whether a value, in the form of `one_form`, stands for nobody.

  >>> is_nobody('-1'), is_nobody('NaN'), is_nobody('7')
  (True, True, False)
  """
  return bool(_NOBODY.fullmatch(person.casefold()))


def known_names() -> tuple[str, ...]:
  """Returns the names of the sources of this package."""
  return tuple(sorted(_MODULES))


def reads(name: str) -> tuple[str, ...]:
  """Returns the keys that this source reads and some other sources do not."""
  return getattr(_module(name), 'READS', ())


def keys_of_sources() -> tuple[str, ...]:
  """Returns the keys of `DataConfig` that only some sources read."""
  names = (*known_names(), _TFDS_PREFIX)
  return tuple(sorted({key for name in names for key in reads(name)}))


def readers_text(key: str) -> str:
  """Names the sources that read a key, for messages."""
  names = [repr(name) for name in known_names() if key in reads(name)]
  if key in reads(_TFDS_PREFIX):
    names.append('a TFDS dataset')
  return ' or '.join(names)


def load(config: DataConfig, split: str | None = None) -> types.DataSource:
  """Loads one split of a dataset.

  Args:
    config: the source and its settings.
    split: name of the split in the source; None is `config.split`.

  Returns:
    The images, in an order that depends on the config alone.

  Raises:
    UsageError: the dataset is missing, a file is unreadable, the source has no
      such split or no persons, a label is outside the classes, or sizes or
      channels differ from the config.
  """
  split = config.split if split is None else split
  source = _module(config.name).load(config, split)
  if config.unit == 'person' and source.person is None:
    raise no_persons(config)
  return source


def no_persons(config: DataConfig) -> errors.UsageError:
  """Returns the error for unit='person' with a source that has no persons."""
  return errors.UsageError(
    f"Expected data.unit='person' only for a source that knows persons; "
    f'{config.name!r} does not: give data.person_csv, data.person_column or '
    "data.person_key, or set data.unit='image'."
  )


def check_available(config: DataConfig, splits: Sequence[str]) -> None:
  """Checks that the dataset and its splits exist, without reading an image.

  It is called before pre-training, so that an error does not appear hours
  later.

  Args:
    config: the source that will be loaded.
    splits: names of the splits that will be loaded.

  Raises:
    UsageError: the error that `load` would raise.
  """
  check = getattr(_module(config.name), 'check_available', None)
  if check:  # Other sources make their images.
    check(config, splits)


def check_readable(config: DataConfig, splits: Sequence[str]) -> None:
  """Checks that the files can be used: headers, and one image of each class.

  It is called before pre-training, so that an error does not appear hours
  later. It takes too long for a plan, and prints nothing about the images.

  Args:
    config: the source that will be loaded.
    splits: names of the splits that will be loaded.

  Raises:
    UsageError: the error that `load` would raise.
  """
  check_available(config, splits)
  check = getattr(_module(config.name), 'check_readable', None)
  if check:
    check(config, splits)


def find_channels(config: DataConfig) -> int:
  """Finds out from a few images whether a set is grey or coloured.

  The choice of these images does not depend on their content. At least nine in
  ten must agree, so no single image can turn one answer into the other.

  Args:
    config: the images, as for `load`.

  Returns:
    1 or 3; 0 if the source cannot tell, or no image can be opened.

  Raises:
    UsageError: fewer than nine in ten images are of one kind.
  """
  find = getattr(_module(config.name), 'find_channels', None)
  return find(config) if find else 0


def find_class_names(config: DataConfig) -> tuple[str, ...]:
  """Names of the classes that a source itself states; for public images.

  Args:
    config: the images, as for `load`; its class_names are not read.

  Returns:
    The names; () if the source does not state them.
  """
  module = _module(config.name)
  given = getattr(module, 'GIVEN_CLASS_NAMES', ())
  find = getattr(module, 'find_class_names', None)
  return find(config) if find else given


def survey(config: DataConfig) -> dict[str, Any]:
  """Counts images, persons and duplicates of both splits of a dataset.

  The counts have no noise, so they may be written to `private/` only.

  Args:
    config: the source to count.

  Returns:
    JSON values. 'splits' holds for each split num_images, num_persons (None if
    unknown), num_per_class by name and num_duplicates (images that equal an
    earlier image of the split). 'num_equal_across' counts held-out images that
    equal a training image, 'num_labelled_twice' the distinct images that have
    several classes, and 'labelled_twice' lists their names and classes, if the
    source has names. 'skipped' lists name, class and reason of each file left
    out. 'files' holds the numbers of files by stored size, bit depth and
    format, if the source reads files.
  """
  splits, labels_of, digests = {}, collections.defaultdict(set), []
  source: Any = None
  for split in (config.split, config.test_split):
    source = _module(config.name).load(config, split)
    found = [
      hashlib.sha256(image.tobytes()).digest() for image in source.images
    ]
    counts = np.bincount(source.labels, minlength=source.spec.num_classes)
    names = source.spec.class_names or ('all',)
    splits[split] = {
      'num_images': len(found),
      'num_persons': (
        None if source.person is None else len(np.unique(source.person))
      ),
      'num_per_class': dict(zip(names, counts.tolist())),
      'num_duplicates': len(found) - len(set(found)),
    }
    for digest, label in zip(found, source.labels.tolist()):
      labels_of[digest].add(label)
    digests.append(found)
  trained_on = set(digests[0])
  survey_files = getattr(_module(config.name), 'survey_files', None)
  return {
    'splits': splits,
    'num_equal_across': sum(d in trained_on for d in digests[1]),
    'num_labelled_twice': sum(len(found) > 1 for found in labels_of.values()),
    'labelled_twice': [
      [{'name': name, 'class': class_name} for name, class_name in together]
      for together in source.contradictions
    ],
    'skipped': [
      {'name': name, 'class': class_name, 'reason': reason}
      for name, class_name, reason in source.skipped
    ],
    'files': survey_files(config) if survey_files else {},
  }


def attribute(name: str, of_module: str, default: Any) -> Any:
  """Returns an attribute of the module of a dataset, or a default."""
  return getattr(_module(name), of_module, default)


def tfds_name(name: str) -> str:
  """Removes the prefix from the name of a TFDS dataset.

  >>> tfds_name('tfds:some_set/config')
  'some_set/config'
  """
  return name.removeprefix(_TFDS_PREFIX)


def _module(name: str) -> ModuleType:
  return importlib.import_module(
    f'{_PACKAGE}.{_MODULES.get(name, "tfds_source")}'
  )


def _value_range(value_range: Iterable[float]) -> tuple[float, ...]:
  """Checks a range and makes whole numbers int, for an exact mapping."""
  bounds = tuple(value_range)
  is_range = len(bounds) == 2 and all(
    isinstance(bound, (int, float))
    and not isinstance(bound, bool)
    and math.isfinite(bound)
    for bound in bounds
  )
  if bounds and not (is_range and bounds[0] < bounds[1]):
    raise ValueError(
      f'Expected value_range={bounds!r} to be (low, high) with low < high, as '
      'in (0, 4095), or ().'
    )
  return tuple(int(b) if float(b).is_integer() else b for b in bounds)


def _check_name(name: str, tfds_dir: str) -> None:
  if not name:
    raise ValueError("Expected data.name='' to be the name of a dataset.")
  if name in _MODULES or name.startswith(_TFDS_PREFIX) or tfds_dir:
    return
  near = difflib.get_close_matches(name, _MODULES, n=1)
  hint = f'; did you mean {near[0]!r}?' if near else '.'
  listed = ', '.join(repr(n) for n in known_names())
  raise ValueError(
    f'Expected data.name={name!r} to be one of {listed}, or a TFDS dataset '
    f'as {_TFDS_PREFIX + name!r}{hint}'
  )
