"""One set of own images, of any form: selects, checks and decodes its files."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools
import hashlib
import os
from typing import Any

import numpy as np

from dp_diffusion import checks
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import dicom
from dp_diffusion.data import image_formats
from dp_diffusion.data import registry

_MOST_SIZES = 20  # Number of sizes in a survey; others are added up.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles:
  """Own images that are not decoded yet.

  Attributes:
    root: path of the data, for messages.
    names: names of the N images in the order of the source, for messages.
    labels: int64[N].
    persons: the person on each image, accents composed; None if unknown.
    is_held_out: bool[N], the division that the data state; None if they state
      none.
    read: reads the i-th image; it may raise OSError and is thread-safe.
    stamps: JSON values that change when a file changes.
    may_name_persons: whether, by their names, some files may be DICOM.
  """

  root: str
  names: tuple[str, ...]
  labels: np.ndarray
  persons: tuple[str, ...] | None
  is_held_out: np.ndarray | None
  read: Callable[[int], decoding.Encoded]
  stamps: Any
  may_name_persons: bool = False

  def __post_init__(self) -> None:
    """Checks persons; see `registry.check_persons`."""
    if self.persons is not None:
      persons = registry.check_persons(self.persons, self.root)
      object.__setattr__(self, 'persons', persons)

  def take(self, indices: Sequence[int]) -> ImageFiles:
    """Returns the images at the given indices, which may repeat."""
    some = np.asarray(indices, np.int64)
    persons, divided = self.persons, self.is_held_out
    return dataclasses.replace(
      self,
      names=tuple(self.names[i] for i in some),
      labels=self.labels[some],
      persons=None if persons is None else tuple(persons[i] for i in some),
      is_held_out=None if divided is None else divided[some],
      read=lambda index: self.read(some[index]),
    )

  def shape(self, config: registry.DataConfig) -> tuple[int, int, int]:
    """Returns the shape of all images, from the config or the first image."""
    size, channels = config.image_size, config.channels
    if size and channels:
      return size, size, channels
    failed = {}
    for index in range(len(self.names)):
      image = decoding.decode_or_error(self.read_or_error(index), config)
      if not isinstance(image, decoding.UnreadableError):
        height, width, depth = image.shape
        return height, width, depth
      failed[index] = str(image)
    raise self.refusal(failed)

  def fill(
    self, images: np.ndarray, config: registry.DataConfig
  ) -> tuple[np.ndarray, dict[int, str]]:
    """Decodes all images that can be decoded.

    Args:
      images: uint8[N, H, W, C]; the first n are written.
      config: says how to decode, and whether unreadable files are left out.

    Returns:
      (int64[n], indices of the decoded images; reasons for the others).

    Raises:
      UsageError: a file cannot be used.
    """

    def read(indices: Sequence[int]) -> list[decoding.BytesOrError]:
      return [self.read_or_error(index) for index in indices]

    kept = decoding.decode_all(read, images, config, 'reading images')
    self.check_errors(kept.errors, config)
    return kept.indices, kept.errors

  def check(self, config: registry.DataConfig) -> bool:
    """Checks every header, and decodes one image of each class.

    Returns:
      Whether all images must be decoded for a full check, as for deep images
      without data.value_range, which are judged as a set.

    Raises:
      UsageError: a file cannot be used.
    """
    failed: dict[int, str] = {}
    headers: dict[int, image_formats.Header] = {}
    total = len(self.names)
    with console.progress_of('checking files', total) as advance:
      for index in range(total):
        header = decoding.inspect(self.read_or_error(index), config)
        if isinstance(header, decoding.UnreadableError):
          failed[index] = str(header)
        else:
          headers[index] = header
        advance()
    if not config.image_size:
      failed |= _odd_sizes(headers)
    seen: set[int] = set()
    for index in sorted(set(headers) - set(failed)):
      if (label := int(self.labels[index])) in seen:
        continue
      image = decoding.decode_or_error(self.read_or_error(index), config)
      if isinstance(image, decoding.UnreadableError):
        failed[index] = str(image)
      else:
        seen.add(label)
    self.check_errors(failed, config)
    is_deep = any(header.is_deep for header in headers.values())
    return is_deep and not config.value_range

  def survey(self) -> dict[str, Any]:
    """Counts the files by stored size, bit depth and format."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(
      collections.Counter
    )
    for index in range(len(self.names)):
      try:
        header = decoding.inspect_header(self.read(index))
      except (OSError, decoding.UnreadableError):
        found['formats']['unreadable'] += 1
        continue
      found['formats'][header.format] += 1
      found['bits'][str(header.bits)] += 1
      found['sizes'][f'{header.width}x{header.height}'] += 1
    sizes = found['sizes'].most_common()
    rest = sum(count for _, count in sizes[_MOST_SIZES:])
    most = dict(sizes[:_MOST_SIZES]) | ({'others': rest} if rest else {})
    return {name: dict(counts) for name, counts in found.items()} | {
      'sizes': most
    }

  def read_or_error(self, index: int) -> decoding.BytesOrError:
    """Reads an image without decoding; returns an error instead of raising."""
    try:
      return self.read(index)
    except OSError as error:
      return decoding.UnreadableError(str(error))

  def check_errors(
    self, failed: Mapping[int, str], config: registry.DataConfig
  ) -> None:
    """Refuses files that cannot be used, unless they may be left out.

    Raises:
      UsageError: data.skip_unreadable is not set, or a class would lose more
        than half of its files.
    """
    if failed and not config.skip_unreadable:
      raise self.refusal(failed)
    why = 'cannot be used, too many for data.skip_unreadable'
    sides = self.is_held_out
    sides = np.zeros(len(self.names), bool) if sides is None else sides
    for side in (False, True):
      among = np.flatnonzero(sides == side).tolist()
      of_side = {i: e for i, e in failed.items() if sides[i] == side}
      self.check_rest(of_side, among, config, why)

  def check_rest(
    self,
    left_out: Mapping[int, str],
    among: Sequence[int],
    config: registry.DataConfig,
    why: str,
  ) -> None:
    """Raises UsageError if a class loses more than half of some files."""
    num_labels = max(self.labels, default=0) + 1
    num_files, lost = (
      np.bincount(self.labels[list(indices)], minlength=num_labels)
      for indices in (among, left_out)
    )
    for label in np.flatnonzero(2 * lost > num_files):
      of_class = {i: e for i, e in left_out.items() if self.labels[i] == label}
      raise errors.UsageError(
        f'More than half of the files of class {config.class_names[label]!r} '
        f'in {self.root} {why}: {self.listed(of_class)}.'
      )

  def refusal(self, failed: Mapping[int, str]) -> errors.UsageError:
    """Returns the error that names files which cannot be used."""
    return errors.UsageError(
      f'Files of {self.root} that cannot be used (remove them, or set '
      f'data.skip_unreadable=True): {self.listed(failed)}.'
    )

  def listed(self, failed: Mapping[int, str]) -> str:
    """Lists some names with their reasons; a common reason stands once."""
    names = [self.names[i] for i in sorted(failed)]
    if len(reasons := set(failed.values())) == 1:
      return f'{checks.some(names)} ({reasons.pop()})'
    return checks.some(
      [f'{self.names[i]} ({failed[i]})' for i in sorted(failed)]
    )


def some_of(files: ImageFiles, config: registry.DataConfig) -> ImageFiles:
  """Chooses `max_images` images by name, evenly from classes and parts."""
  if not 0 < config.max_images < len(files.names):
    return files
  seed = f'{config.split_seed}/'.encode()
  order = sorted(
    (hashlib.sha256(seed + os.fsencode(name)).digest(), index)
    for index, name in enumerate(files.names)
  )
  num_before: collections.Counter[Any] = collections.Counter()
  ranked = []
  for place, (_, index) in enumerate(order):
    divided = files.is_held_out
    group = files.labels[index], divided is not None and divided[index]
    ranked.append((num_before[group], place, index))
    num_before[group] += 1
  return files.take(
    sorted(i for _, _, i in sorted(ranked)[: config.max_images])
  )


def name_persons(files: ImageFiles, config: registry.DataConfig) -> ImageFiles:
  """Finds the person of each image, if only headers state it.

  The header of a DICOM file names a person (PatientID), of which a hash is
  kept. Values that stand for nobody are refused, as in tables. With
  data.frames='all' each file of another format counts as a person.

  Raises:
    UsageError: a file names no person. The message has the name of the file and
      no value of its header.
  """
  if config.unit != 'person' or files.persons is not None:
    return files
  persons: list[str] = []
  failed: dict[int, str] = {}
  has_dicom = False
  for index, name in enumerate(files.names):
    data = files.read_or_error(index)
    persons.append(f'file {name}')
    if isinstance(decoding.inspect(data, config), decoding.UnreadableError):
      continue  # Decoding reports the error, or leaves the file out.
    if not (isinstance(data, bytes) and image_formats.is_dicom(data)):
      failed[index] = 'it is no DICOM file'
      continue
    has_dicom = True
    try:
      person = registry.one_form(dicom.person_of(data))
      if registry.is_nobody(person):
        raise decoding.UnreadableError(
          'it names no person: PatientID stands for nobody'
        )
      persons[-1] = hashlib.sha256(person.encode()).hexdigest()
    except decoding.UnreadableError as error:
      failed[index] = str(error)
  if has_dicom and failed:
    raise errors.UsageError(
      f'Files of {files.root} that do not say whose they are (give '
      f'data.person_csv): {files.listed(failed)}.'
    )
  if not has_dicom and config.frames != 'all':
    raise registry.no_persons(config)
  if not has_dicom:
    console.warn('no persons are given: each file is taken for one person')
  return dataclasses.replace(files, persons=tuple(persons))


def expand(files: ImageFiles, config: registry.DataConfig) -> ImageFiles:
  """Lists each image of a file separately, if data.frames='all'.

  It reads the headers. All images of a file have the same person; if persons
  are unknown, each file counts as a person.

  Raises:
    UsageError: a file cannot be used.
  """
  if config.frames != 'all':
    return files
  owners: list[int] = []
  frames: list[int] = []
  headers: dict[int, image_formats.Header] = {}
  failed: dict[int, str] = {}
  for index in range(len(files.names)):
    header = decoding.inspect(files.read_or_error(index), config)
    num_frames = 1
    if isinstance(header, decoding.UnreadableError):
      failed[index] = str(header)
    elif header.frames > 1:
      num_frames = header.frames
      headers[index] = header  # Reading it for every frame would take long.
    owners += [index] * num_frames
    frames += range(num_frames)
  files.check_errors(failed, config)
  read_file = functools.lru_cache(maxsize=2)(files.read)

  def read(index: int) -> decoding.Frame:
    data = read_file(owners[index])
    assert isinstance(data, bytes), 'Arrays have no frames.'
    header = headers.get(owners[index])
    return decoding.Frame(data=data, index=frames[index], header=header)

  counts = collections.Counter(owners)
  names = tuple(
    files.names[owner] + (f' image {frame}' if counts[owner] > 1 else '')
    for owner, frame in zip(owners, frames)
  )
  if files.persons is None:
    files = dataclasses.replace(files, persons=files.names)
  return dataclasses.replace(files.take(owners), names=names, read=read)


def _odd_sizes(headers: Mapping[int, image_formats.Header]) -> dict[int, str]:
  """Returns errors for images whose size differs, even if rotated."""
  failed = {}
  expected: tuple[int, ...] | None = None
  for index, header in headers.items():
    found = tuple(sorted((header.width, header.height)))
    expected = expected or found
    if found != expected:
      failed[index] = (
        f'{header.width}x{header.height} pixels where the others have '
        f'{"x".join(map(str, expected))}; set data.image_size'
      )
  return failed


def codes(persons: Iterable[str]) -> np.ndarray:
  """Returns a number for each person, int32[N]."""
  names = np.array(list(persons), object)
  return np.unique(names, return_inverse=True)[1].astype(np.int32)
