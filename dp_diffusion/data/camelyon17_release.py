"""Reads the published release of Camelyon17-WILDS in each of its forms.

These are the official archive, packed or extracted, and a mirror of it in
parquet files. `metadata.csv` has one row per 96x96 patch (Koh et al. 2021,
arXiv 2012.07421; `wilds` 2.0). Its `split` column distinguishes only training
(0) from in-distribution validation (1). The hospital overrides it: every patch
of hospital 1 is validation and every patch of hospital 2 is test.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
import csv
import dataclasses
import importlib
import json
import os
import pathlib
import tarfile
from typing import Any, Protocol
import urllib.request
import uuid
import zlib

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data import tfds_builders

NAME = 'camelyon17_wilds'
TRAIN_CENTERS = (0, 3, 4)
VAL_CENTER = 1
TEST_CENTER = 2
ARCHIVE_BYTES = 10_658_709_504
ARCHIVE_URL = (
  'https://worksheets.codalab.org/rest/bundles/'
  '0xe45e15f39fb54e9d9e919556af67aabe/contents/blob/'
)
MIRROR = 'wltjr1007/Camelyon17-WILDS'
MIRROR_URL = 'https://huggingface.co'
_FOLDER = 'camelyon17_v1.0'
_ARCHIVES = ('archive.tar.gz', f'{_FOLDER}.tar.gz', f'{_FOLDER}.tar')
_HEADER = ('patient', 'node', 'x_coord', 'y_coord', 'tumor', 'center', 'split')
_TIMEOUT_SECS = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patch:
  """One row of the metadata.

  Attributes:
    split: one of SPLITS, after the hospital has overridden the column.
    label: 1 if there is tumor in the middle 32x32 pixels, else 0.
    patient: the patient as written in the file, zero-padded: '004'.
    center: the hospital, 0 to 4.
  """

  split: str
  label: int
  patient: str
  center: int


class Release(Protocol):
  """The published release in one of its forms."""

  def patches(self, split: str) -> Iterator[tuple[str, Patch, bytes]]:
    """Yields (key, patch, encoded image) of one split."""


def split_of(center: int, column: int) -> str:
  """Returns the split of a patch, from its hospital and its split column.

  >>> [split_of(0, 0), split_of(3, 1), split_of(1, 0), split_of(2, 0)]
  ['train', 'id_val', 'val', 'test']
  """
  if center == TEST_CENTER:
    return 'test'
  if center == VAL_CENTER:
    return 'val'
  if center not in TRAIN_CENTERS or column not in (0, 1):
    raise errors.UsageError(
      f'Expected center={center!r} in 0..4 and split={column!r} in 0..1 in '
      f'the metadata of {NAME}: not the official release.'
    )
  return ('train', 'id_val')[column]


def parse_metadata(lines: Iterator[str]) -> dict[str, Patch]:
  """Reads metadata.csv.

  Args:
    lines: lines of the file; the first column has no name.

  Returns:
    Patches by their path below the release's folder.

  Raises:
    UsageError: a column is missing, or a value does not occur in the release.
  """
  rows = csv.DictReader(lines)
  missing = [c for c in _HEADER if c not in (rows.fieldnames or ())]
  if missing:
    raise errors.UsageError(
      f'Expected metadata.csv of {NAME} to have the columns {missing}; it has '
      f'{checks.some(list(rows.fieldnames or ()))}.'
    )
  patches = {}
  for number, row in enumerate(rows, 2):
    try:
      patch = Patch(
        split=split_of(int(row['center']), int(row['split'])),
        label=_label(int(row['tumor'])),
        patient=row['patient'],
        center=int(row['center']),
      )
      stem = f'patient_{row["patient"]}_node_{int(row["node"])}'
      place = f'x_{int(row["x_coord"])}_y_{int(row["y_coord"])}'
    except (ValueError, TypeError) as error:
      raise errors.UsageError(
        f'metadata.csv of {NAME}, line {number}: {error}'
      ) from error
    patches[f'patches/{stem}/patch_{stem}_{place}.png'] = patch
  return patches


def _label(value: int) -> int:
  if value not in (0, 1):
    raise ValueError(f'Expected tumor={value!r} to be 0 or 1.')
  return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderRelease:
  """The extracted archive."""

  path: pathlib.Path

  def patches(self, split: str) -> Iterator[tuple[str, Patch, bytes]]:
    """See `Release`."""
    with (self.path / 'metadata.csv').open(newline='') as f:
      chosen = _of_split(parse_metadata(f), split)
    missing = [name for name in chosen if not (self.path / name).is_file()]
    _check_none_missing(missing, self.path)
    for name, patch in chosen.items():
      yield name, patch, (self.path / name).read_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarRelease:
  """The packed archive, which is streamed and never extracted."""

  path: pathlib.Path

  def patches(self, split: str) -> Iterator[tuple[str, Patch, bytes]]:
    """See `Release`."""
    missing = _of_split(self._metadata(), split)
    for name, data in self._read(missing):
      yield name, missing.pop(name), data
    _check_none_missing(list(missing), self.path)

  def _metadata(self) -> dict[str, Patch]:
    for _, data in self._read(('metadata.csv',)):
      return parse_metadata(iter(data.decode().splitlines()))
    raise errors.UsageError(f'{self.path} holds no metadata.csv.')

  def _read(self, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Yields the named files in the order of the archive."""
    try:
      with tarfile.open(self.path, 'r|*') as tar:
        for member in tar:
          name = member.name.removeprefix('./').removeprefix(f'{_FOLDER}/')
          file = tar.extractfile(member) if name in names else None
          if file is not None:
            yield name, file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
      raise errors.UsageError(
        f'{self.path} is damaged or cut short ({error}): get it again, '
        f'{ARCHIVE_BYTES:,} bytes.'
      ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetRelease:
  """A mirror in parquet files, which are named after the splits.

  The columns are image, label, center (the hospital's number), patient (a
  number), image_id, node, x_coord, y_coord and slide. The validation file holds
  both validation splits: 33,560 and 34,904 rows.
  """

  paths: tuple[pathlib.Path, ...]

  def patches(self, split: str) -> Iterator[tuple[str, Patch, bytes]]:
    """See `Release`."""
    parquet = _import_parquet()
    for path in self.paths:
      try:
        table = parquet.ParquetFile(path)
        column = _split_column(path)
        _check_parquet_columns(path, table.schema_arrow.names)
        for number, batch in enumerate(table.iter_batches(batch_size=256)):
          for index, row in enumerate(batch.to_pylist()):
            patch = _parquet_patch(row, column)
            if patch.split == split:
              image = row['image']
              data = image['bytes'] if isinstance(image, Mapping) else image
              yield f'{path.name}/{number}/{index}', patch, data
      except (ValueError, OSError) as error:
        raise errors.UsageError(
          f'{path} cannot be read: {error}'.splitlines()[0]
        ) from error


def _import_parquet() -> Any:
  try:
    return importlib.import_module('pyarrow.parquet')
  except ImportError as error:
    raise errors.UsageError(
      f'The parquet mirror of {NAME} needs the package pyarrow ({error}): '
      '`pip install pyarrow`.'
    ) from error


def _split_column(path: pathlib.Path) -> int:
  """Returns the value of the split column for a file of the mirror."""
  name = path.name.lower()
  if name.startswith(('train', 'test')):  # The hospital tells test.
    return 0
  if name.startswith('val'):
    return 1
  raise errors.UsageError(
    f"Expected {path.name!r} to begin with 'train', 'validation' or 'test'."
  )


def _check_parquet_columns(path: pathlib.Path, names: list[str]) -> None:
  wanted = ('image', 'label', 'center', 'patient')
  missing = [name for name in wanted if name not in names]
  if missing:
    raise errors.UsageError(
      f'Expected {path} to have the columns {missing}; it has '
      f'{checks.some(names)}.'
    )


def _parquet_patch(row: Mapping[str, Any], column: int) -> Patch:
  center = int(row['center'])
  return Patch(
    split=split_of(center, int(row.get('split', column))),
    label=_label(int(row['label'])),
    patient=str(row['patient']).zfill(3),
    center=center,
  )


def _of_split(patches: dict[str, Patch], split: str) -> dict[str, Patch]:
  return {k: patch for k, patch in patches.items() if patch.split == split}


def _check_none_missing(missing: list[str], path: pathlib.Path) -> None:
  if missing:
    raise errors.UsageError(
      f'{path} lacks patches that metadata.csv lists: {checks.some(missing)}.'
      ' Get it again.'
    )


def find_release(config: registry.DataConfig) -> Release | None:
  """Finds a release that was placed in `data.manual_dir`, in any form."""
  if not config.manual_dir:
    return None
  folder = pathlib.Path(config.manual_dir).expanduser()
  if not folder.is_dir():
    raise errors.UsageError(
      f'Expected data.manual_dir={config.manual_dir!r} to be a folder.'
    )
  for place in (folder, folder / _FOLDER):
    if (place / 'metadata.csv').is_file():
      return FolderRelease(path=place)
  for name in _ARCHIVES:
    if (folder / name).is_file():
      return TarRelease(path=folder / name)
  paths = tuple(sorted(folder.glob('**/*.parquet')))
  if paths:
    return ParquetRelease(paths=paths)
  raise errors.UsageError(_how_to_get(config))


def _how_to_get(config: registry.DataConfig) -> str:
  return (
    f'{NAME} is neither prepared in {tfds_builders.data_dir(config)} nor found '
    f'in data.manual_dir={config.manual_dir!r}: download {_ARCHIVES[0]} '
    f'({ARCHIVE_BYTES / 1e9:.1f} GB) from {ARCHIVE_URL}, or the parquet files '
    f'of {MIRROR_URL}/datasets/{MIRROR}, to a folder, and set data.manual_dir '
    'to it.'
  )


def check_can_download(config: registry.DataConfig) -> None:
  """Raises UsageError, saying what to do, if there is no network."""
  if not (
    tfds_builders.is_online(ARCHIVE_URL) or tfds_builders.is_online(MIRROR_URL)
  ):
    raise errors.UsageError(
      f'{_how_to_get(config)} (There is no network here.)'
    )


def download(config: registry.DataConfig, data_dir: pathlib.Path) -> Release:
  """Downloads the archive, or if that fails the mirror, below `data_dir`.

  Raises:
    UsageError: neither host can be reached; the message says what to download
      by hand and where to put it.
  """
  folder = data_dir / 'downloads' / NAME
  archive = folder / _ARCHIVES[0]
  try:
    _fetch(ARCHIVE_URL, archive, ARCHIVE_BYTES)
    return TarRelease(path=archive)
  except OSError as error:
    console.warn(f'{ARCHIVE_URL}: {error}; trying the mirror')
  try:
    with urllib.request.urlopen(
      f'{MIRROR_URL}/api/datasets/{MIRROR}', timeout=_TIMEOUT_SECS
    ) as reply:
      listed = [file['rfilename'] for file in json.load(reply)['siblings']]
    paths = []
    for name in sorted(n for n in listed if n.endswith('.parquet')):
      path = folder / 'mirror' / pathlib.PurePosixPath(name).name
      _fetch(f'{MIRROR_URL}/datasets/{MIRROR}/resolve/main/{name}', path, None)
      paths.append(path)
  except (OSError, ValueError, KeyError) as error:
    raise errors.UsageError(
      f'{_how_to_get(config)} (Downloading failed: {error}.)'
    ) from error
  return ParquetRelease(paths=tuple(paths))


def _fetch(url: str, path: pathlib.Path, num_bytes: int | None) -> None:
  """Downloads a file, whole or not at all, unless it exists."""
  if path.is_file():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.tmp')
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECS) as reply:
      total = num_bytes or int(reply.headers.get('Content-Length') or 0)
      done = _copy(reply, temporary, total, f'downloading {path.name}')
    if total and done != total:
      raise OSError(f'{done:,} bytes came, {total:,} were expected')
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _copy(reply: Any, path: pathlib.Path, total: int, title: str) -> int:
  done = 0
  with console.progress(title, 100) as advance, path.open('wb') as out:
    shown = 0
    while block := reply.read(1 << 20):
      out.write(block)
      done += len(block)
      percent = min(100, 100 * done // total) if total else 0
      advance(percent - shown)
      shown = percent
  return done
