"""The mark in files of a released dataset, by which their ledger is found.

Images that were sampled from a released model are not public images: a training
on them spends what the release had spent. Each file of a released dataset
therefore has a mark. It consists of two hashes, of the ledger and of the
weights, which also follow from the release's `privacy.json`. It is an array of
an `.npz`, and part of the description in a TFDS dataset and in the metadata of
a parquet file. This module makes and reads marks, and finds the statement of
images: beside them, in a folder above them, or in the zip that holds them.

Guarantees:
  * A mark leads to the statement of its own release and to no other, also if
    files of several releases were copied to one folder.
    `tests/release_marks_test.py::test_a_mark_finds_its_own_statement`.
  * Marked images without that statement are refused.
    `tests/release_marks_test.py::test_marked_images_without_a_ledger`.
  * So are those in a parquet file anywhere below a folder. `tests/
    release_marks_test.py::test_the_mark_of_a_parquet_file_leads_to_its_own_statement`.
  * Images below a release count as its images, marked or not.
    `tests/release_marks_test.py::test_unmarked_images_below_a_release`.
  * A release anywhere below a folder counts for the folder.
    `tests/release_marks_test.py::test_a_release_below_a_folder_is_found`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any
import zipfile
import zlib

import numpy as np

from dp_diffusion import errors

NAME = 'dp_release'  # Name of the additional array in an .npz.
STATEMENT = 'privacy.json'
_LEDGER = ('version', 'relation', 'unit', 'delta', 'budget_epsilon', 'events')
_MODEL = 'model/params.npz'
_IN_TEXT = re.compile(NAME + r'=(\{[^{}]*\})')
_NUM_PARENTS = (
  5  # release/dataset/tfds/NAME/CONFIG/1.0.0 is as deep as it gets.
)
_MOST_BYTES = 64 << 20  # Largest size of a statement.
_MOST_MARK_BYTES = 1 << 16
_PARQUET = '.parquet'
_PARQUET_MAGIC = b'PAR1'
_HASH = re.compile('[0-9a-f]{64}')
_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
  """Identifies a release.

  Attributes:
    ledger_sha256: SHA-256 of the ledger as canonical JSON.
    model_sha256: SHA-256 of the file with the released weights.
  """

  ledger_sha256: str
  model_sha256: str

  def to_text(self) -> str:
    """Returns the mark as one line of JSON."""
    return json.dumps(dataclasses.asdict(self), sort_keys=True)

  def to_array(self) -> np.ndarray:
    """Returns the text as an array of rank 0, which needs no pickle."""
    return np.array(self.to_text())

  def in_description(self) -> str:
    """Returns the mark as it stands in the description of a dataset."""
    return f'{NAME}={self.to_text()}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """The statement that belongs to released images.

  Attributes:
    where: path of the statement, for messages.
    content: bytes of the `privacy.json`.
  """

  where: str
  content: bytes


def make(ledger: Mapping[str, Any], model_sha256: str) -> Mark:
  """Returns the mark of a release.

  Args:
    ledger: JSON object of the ledger, or a statement, which contains it.
    model_sha256: hex SHA-256 of `model/params.npz`.
  """
  found = {name: ledger[name] for name in _LEDGER if name in ledger}
  text = json.dumps(found, sort_keys=True, separators=(',', ':'))
  digest = hashlib.sha256(text.encode()).hexdigest()
  return Mark(ledger_sha256=digest, model_sha256=model_sha256)


def of_statement(statement: Mapping[str, Any]) -> Mark | None:
  """Returns the mark of a release from its statement; None without weights."""
  hashes = statement.get('files')
  model = hashes.get(_MODEL) if isinstance(hashes, Mapping) else None
  return make(statement, model) if isinstance(model, str) else None


def of_npz(path: str | os.PathLike[str]) -> Mark | None:
  """Returns the mark in an .npz; None if it has none, or is no .npz.

  Raises:
    ValueError: the mark cannot be read.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      infos = {info.filename: info for info in archive.infolist()}
  except _DAMAGED:
    return None  # Reading the images raises this error again.
  info = infos.get(f'{NAME}.npy')
  if info is None:
    return None
  if info.file_size > _MOST_MARK_BYTES:
    raise ValueError('it is too long')
  try:
    with np.load(path, allow_pickle=False) as f:
      return parse(str(f[NAME]))
  except _DAMAGED as error:
    raise ValueError(str(error)) from error


def of_tfds(folder: str | os.PathLike[str]) -> Mark | None:
  """Returns the mark in the description of a TFDS dataset, or None.

  Raises:
    ValueError: the mark cannot be read.
  """
  path = pathlib.Path(folder) / 'dataset_info.json'
  try:
    info = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return None  # Reading the images raises this error again.
  return _in_text(
    str(info.get('description', '')) if isinstance(info, dict) else ''
  )


def of_parquet(path: str | os.PathLike[str]) -> Mark | None:
  """Returns the mark in the metadata of a parquet file, or None.

  The metadata are text at the end of the file, followed by their length and
  four letters.

  Raises:
    ValueError: the mark cannot be read.
  """
  try:
    with open(path, 'rb') as f:
      size = f.seek(0, os.SEEK_END)
      f.seek(max(0, size - 8))
      end = f.read()
      length = int.from_bytes(end[:4], 'little')
      if end[4:] != _PARQUET_MAGIC or not 0 < length <= size - 8:
        return None  # Reading the images reports the error.
      f.seek(size - 8 - length)
      text = f.read(min(length, _MOST_BYTES)).decode('utf-8', 'replace')
  except OSError:
    return None
  return _in_text(text)


def _in_text(text: str) -> Mark | None:
  if f'{NAME}=' not in text:
    return None
  found = _IN_TEXT.search(text)
  if found is None:
    raise ValueError('it is cut off')
  return parse(found[1])


def parse(text: str) -> Mark:
  """Reads `Mark.to_text` back.

  Raises:
    ValueError: the text is no mark.
  """
  value = json.loads(text)
  names = [field.name for field in dataclasses.fields(Mark)]
  if not isinstance(value, dict) or sorted(value) != sorted(names):
    raise ValueError(f'expected {names}')
  if not all(isinstance(v, str) and _HASH.fullmatch(v) for v in value.values()):
    raise ValueError('expected two hashes')
  return Mark(**value)


def places(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Yields a path of images, and what may belong to a release below it.

  These are parquet files, each with a mark, and folders with a statement.
  """
  path = pathlib.Path(path)
  yield path
  if path.is_dir():
    for root, folders, names in os.walk(path):
      folders.sort()
      if STATEMENT in names and pathlib.Path(root) != path:
        yield pathlib.Path(root)
      for name in sorted(names):
        if name.lower().endswith(_PARQUET):
          yield pathlib.Path(root, name)


def find(path: str | os.PathLike[str]) -> Origin | None:
  """Finds the statement of the release to which images belong.

  Args:
    path: local .npz, .parquet, .zip or folder of images, or folder of a TFDS
      version. Files in a folder are asked one by one, see `places`.

  Returns:
    The statement; None for images without a mark outside of a release.

  Raises:
    UsageError: the images have a mark and their release is not found, or the
      mark is damaged.
  """
  path = pathlib.Path(path)
  return _with_mark(path, _mark_of(path))


def _with_mark(path: pathlib.Path, mark: Mark | None) -> Origin | None:
  """Finds the statement of images with this mark; without one the nearest.

  Raises:
    UsageError: the images have a mark and their release is not found.
  """
  for origin in _statements(path):
    statement = _ours(origin)
    if mark is None:
      if statement or _is_damaged(origin):
        return origin
    elif statement and of_statement(statement) == mark:
      return origin
  if mark is not None:
    raise errors.UsageError(
      f'Expected the ledger of {path}, which holds images released under'
      f' differential privacy: put the {STATEMENT} of their release beside'
      ' them, or name them inside the whole release folder.'
    )
  return None


def find_all(path: str | os.PathLike[str]) -> list[Origin]:
  """Finds the statements of all releases to which images belong.

  A zip of pictures may hold those of several releases; all else belongs to one
  release at most.

  Args:
    path: see `find`.

  Raises:
    UsageError: see `find`.
  """
  path = pathlib.Path(path)
  mark = _mark_of(path)
  one = _with_mark(path, mark)
  if one is None:
    return []
  if path.is_dir() or mark is not None:
    return [one]
  inside = [x for x in _in_zip(path) if _ours(x) or _is_damaged(x)]
  return inside or [one]


def _mark_of(path: pathlib.Path) -> Mark | None:
  """Returns the mark of images, see `find`; None if they have none.

  Raises:
    UsageError: the mark is damaged.
  """
  try:
    if path.suffix.lower() == _PARQUET and path.is_file():
      return of_parquet(path)
    return of_npz(path) if path.is_file() else of_tfds(path)
  except ValueError as error:
    raise errors.UsageError(
      f'Expected the mark {NAME} of {path} to be that of a release, but'
      f' {error}: take the files as they were published.'
    ) from error


def _ours(origin: Origin) -> dict[str, Any] | None:
  """Returns a statement of this package; None for another `privacy.json`."""
  try:
    value = json.loads(origin.content)
  except (ValueError, RecursionError):
    return None
  is_ours = isinstance(value, dict) and {'statement_version', 'events'} <= set(
    value
  )
  return value if is_ours else None


def _is_damaged(origin: Origin) -> bool:
  """Whether it may have been a statement; reading it reports the error."""
  return b'"statement_version"' in origin.content


def _statements(path: pathlib.Path) -> Iterator[Origin]:
  """Yields each `privacy.json` in a folder or zip and above, nearest first."""
  if path.is_file():
    yield from _in_zip(path)
  seen = set()
  for start in (path.absolute(), path.resolve()):
    for folder in (start, *list(start.parents)[:_NUM_PARENTS]):
      file = folder / STATEMENT
      if file in seen or not folder.is_dir():
        continue
      seen.add(file)
      try:
        if file.is_file() and file.stat().st_size <= _MOST_BYTES:
          yield Origin(where=str(file), content=file.read_bytes())
      except OSError:
        continue  # A folder above that cannot be read.


def _in_zip(path: pathlib.Path) -> Iterator[Origin]:
  try:
    with zipfile.ZipFile(path) as archive:
      for info in archive.infolist():
        name = info.filename.rpartition('/')[2]
        if name == STATEMENT and info.file_size <= _MOST_BYTES:
          where = f'{path}/{info.filename}'
          yield Origin(where=where, content=archive.read(info))
  except (*_DAMAGED, RuntimeError, NotImplementedError):
    return  # Reading the images raises this error again.
