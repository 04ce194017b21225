"""Reads the files below a folder or in a zip, without extracting the zip.

The files are untrusted. A zip is refused if its paths lead outside, if it holds
links, or if it is encrypted. A file that is too large is refused too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib
import stat
import zipfile
import zlib

from dp_diffusion import errors

MAX_FILE_BYTES = 1 << 28
_NO_IMAGES = (
  *('thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', 'dicomdir'),
)
# Folders that macOS adds to a zip, and Synology's folder of thumbnails.
_NO_FOLDERS = ('__MACOSX', '@eaDir')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
  """Files below a root.

  Attributes:
    root: path of the root, for messages.
    names: relative paths with '/', sorted.
    read: returns the bytes of a file; it may raise OSError and is thread-safe.
    stamps: values that change when a file changes.
  """

  root: str
  names: tuple[str, ...]
  read: Callable[[str], bytes]
  stamps: tuple[tuple[str, int, int], ...]


def open_folder(path: pathlib.Path) -> Tree:
  """Lists a folder without hidden files and folders.

  Raises:
    UsageError: a subfolder is a link or cannot be opened. Otherwise its images
      would be missing without a message.
  """
  found = {}
  for folder, folders, names in os.walk(path, onerror=_refuse_folder):
    for name in folders:
      relative = pathlib.Path(folder, name).relative_to(path).as_posix()
      if os.path.islink(os.path.join(folder, name)) and not _is_ignored(
        relative
      ):
        raise errors.UsageError(
          f'The folder {path / relative} is a link: put the folder itself'
          ' there.'
        )
    for name in names:
      file = pathlib.Path(folder, name)
      relative = file.relative_to(path).as_posix()
      if not _is_ignored(relative):
        found[relative] = file

  def read(name: str) -> bytes:
    if found[name].stat().st_size > MAX_FILE_BYTES:
      raise OSError(f'more than {MAX_FILE_BYTES} bytes')
    return found[name].read_bytes()

  stamps = []
  for name in sorted(found):
    status = _status(found[name])
    stamps.append((name, status.st_size, status.st_mtime_ns))
  return Tree(
    root=str(path), names=tuple(sorted(found)), read=read, stamps=tuple(stamps)
  )


def _status(file: pathlib.Path) -> os.stat_result:
  """Returns the status of a file, or of what a link leads to, if it exists."""
  try:
    return file.stat()
  except OSError:  # The link leads nowhere, and the file cannot be read.
    return file.lstat()


def open_any(path: pathlib.Path) -> Tree:
  """Lists a folder or a zip; see `open_folder` and `open_zip`."""
  return open_folder(path) if path.is_dir() else open_zip(path)


def below(tree: Tree, folder: str) -> Tree:
  """Returns the part of a tree in one of its folders."""
  start = f'{folder}/'
  return Tree(
    root=f'{tree.root}/{folder}',
    names=tuple(n[len(start) :] for n in tree.names if n.startswith(start)),
    read=lambda name: tree.read(start + name),
    stamps=tuple(
      (name[len(start) :], size, mark)
      for name, size, mark in tree.stamps
      if name.startswith(start)
    ),
  )


def open_zip(path: pathlib.Path) -> Tree:
  """Lists a zip.

  Returns:
    Its files without hidden ones.

  Raises:
    UsageError: the file is not a zip, or is refused.
  """
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError) as error:
    raise errors.UsageError(
      f'Expected data.path={str(path)!r} to be a folder, a .zip, an .npz or a '
      f'.parquet file ({error}).'
    ) from error
  named = [(_name_in_zip(info), info) for info in archive.infolist()]
  named = [(name, info) for name, info in named if not name.endswith('/')]
  _check_zip(path, named)
  by_name = {name: info for name, info in named if not _is_ignored(name)}

  def read(name: str) -> bytes:
    if by_name[name].file_size > MAX_FILE_BYTES:
      raise OSError(f'more than {MAX_FILE_BYTES} bytes')
    try:
      return archive.read(by_name[name])
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
      raise OSError(str(error)) from error

  names = tuple(sorted(by_name))
  return Tree(
    root=str(path),
    names=names,
    read=read,
    stamps=tuple((n, by_name[n].file_size, by_name[n].CRC) for n in names),
  )


def _name_in_zip(info: zipfile.ZipInfo) -> str:
  """Path of a file with '/' as separator and without './'."""
  parts = info.filename.replace('\\', '/').split('/')
  return '/'.join(part for part in parts if part != '.')


def _check_zip(
  path: pathlib.Path, named: Sequence[tuple[str, zipfile.ZipInfo]]
) -> None:
  """Refuses paths outside the zip, links, encryption and repeated names."""
  seen = set()
  for name, info in named:
    parts = name.split('/')
    if name.startswith('/') or '..' in parts or ':' in parts[0]:
      why = 'leads outside of it'
    elif stat.S_ISLNK(info.external_attr >> 16):
      why = 'is a link'
    elif info.flag_bits & 1:
      why = 'is encrypted'
    elif name in seen:
      why = 'comes twice'
    else:
      seen.add(name)
      continue
    raise errors.UsageError(
      f'{path} is refused: its path {name!r} {why}. Make the zip again.'
    )


def _refuse_folder(error: OSError) -> None:
  raise errors.UsageError(
    f'The folder {error.filename} cannot be opened ({error.strerror}): mend'
    ' its permissions, or move it away.'
  ) from error


def _is_ignored(name: str) -> bool:
  parts = name.split('/')
  return (
    any(part.startswith('.') or part in _NO_FOLDERS for part in parts)
    or parts[-1].lower() in _NO_IMAGES
  )
