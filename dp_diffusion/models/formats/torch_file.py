"""Reads the tensors of a PyTorch `.pt` file, without PyTorch.

`torch.save(state_dict)` writes a pickle in which every tensor refers to a
storage, a flat array outside the pickle. Since PyTorch 1.6 the file is a .zip
(`NAME/data.pkl`, `NAME/data/KEY`). The older format, which can still be asked
for, is five pickles followed by the storages ("legacy"). Both are read; the tar
files of 2016 are not.

Sources: torch/serialization.py and torch/_utils.py of PyTorch.

Guarantees:
  * Code that the file names is never run: see `pickle_program`.
    `tests/models/formats/torch_file_test.py::test_code_is_refused_by_name`.
  * A damaged file gives an error of one line.
    `tests/models/formats/torch_file_test.py::test_damaged_files`.
  * No array is larger than what lies in the file.
    `tests/models/formats/torch_file_test.py::test_no_tensor_exceeds_its_storage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import io
import math
import struct
from typing import IO, Any
import zipfile

from etils import epath
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion.models.formats import arrays
from dp_diffusion.models.formats import pickle_program

_DTYPES: Mapping[str, np.dtype] = {
  'FloatStorage': np.dtype('<f4'),
  'HalfStorage': np.dtype('<f2'),
  'BFloat16Storage': np.dtype(jnp.bfloat16),
  'DoubleStorage': np.dtype('<f8'),
  'LongStorage': np.dtype('<i8'),
  'IntStorage': np.dtype('<i4'),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # Its pickle.
_LEGACY_VERSION = 1001
_ZIP_START = b'PK\x03\x04'
_OTHER_ORDER = 'numbers of the other byte order'
_MAX_TENSORS = 100_000
_MAX_AXES = 8
_NUM_CACHED = 4  # Storages kept in memory; one may hold many tensors.
_MAX_QUOTED = 200  # Longest part of a file that a message quotes, in letters.
_UNREADABLE = (  # Raised by `zipfile`, `struct` and here for damaged bytes.
  OSError,
  EOFError,
  ValueError,
  RuntimeError,
  OverflowError,
  struct.error,
  zipfile.BadZipFile,
)
_EDM = ('torch_utils.persistence', 'dnnlib.')


@dataclasses.dataclass(frozen=True)
class _Storage:
  """A flat array of the file.

  Attributes:
    key: its name in the file.
    dtype: dtype of its elements.
    size: number of its elements.
  """

  key: str
  dtype: np.dtype
  size: int

  @property
  def num_bytes(self) -> int:
    return self.size * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage; offset and strides count elements, as in PyTorch."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read(path: epath.PathLike) -> dict[str, arrays.LazyArray]:
  """Lists the tensors of a state dict. Their values are read on demand.

  Args:
    path: path of the .pt file.

  Returns:
    The arrays by name.

  Raises:
    UsageError: the file is missing, damaged or holds something else.
  """
  path = epath.Path(path)
  try:
    with path.open('rb') as f:
      start = f.read(len(_LEGACY_START))
      f.seek(0)
      if start.startswith(_ZIP_START):
        tensors, fetch = _of_zip(path, f)
      elif start == _LEGACY_START:
        tensors, fetch = _of_legacy(path, f)
      else:
        raise ValueError(_other(start, f))
    tensors = _checked(tensors)
  except _UNREADABLE as error:
    raise refused(path, error) from error
  cached = functools.lru_cache(maxsize=_NUM_CACHED)(fetch)
  return {
    name: arrays.LazyArray(
      tensor.shape, functools.partial(_load, path, cached, tensor)
    )
    for name, tensor in tensors.items()
  }


def refused(path: epath.Path, error: Exception) -> errors.UsageError:
  """Returns the error for a file that cannot be read."""
  if isinstance(error, FileNotFoundError):
    return errors.UsageError(
      f'Expected weights at {path}, which does not exist.'
    )
  found = ' '.join((str(error) or type(error).__name__).split())
  if any(name in found for name in _EDM):
    return errors.UsageError(
      f'{path} is a pickle of EDM or EDM2, which holds code to be run and has'
      ' a licence that forbids commercial use: it is not read.'
    )
  return errors.UsageError(
    f'Expected {path} to be a .pt file of PyTorch with the tensors of a state'
    f' dict, found {found[:_MAX_QUOTED].rstrip(".")}.'
  )


def _other(start: bytes, f: IO[bytes]) -> str:
  """Describes a file that `torch.save` did not write, by its first bytes."""
  if not start:
    return 'an empty file'
  if start[:1] == b'\x80':  # The first byte of a pickle.
    pickle_program.load(f, _names(), _storage)
    return 'a pickle that torch.save has not written'
  return f'a file that starts with {start[:8]!r}'


def _names() -> dict[str, Any]:
  """Returns the replacements of all names that a state dict may hold."""
  return {
    'collections.OrderedDict': pickle_program.Call(_empty_dict),
    'torch._utils._rebuild_tensor': pickle_program.Call(_rebuild),
    'torch._utils._rebuild_tensor_v2': pickle_program.Call(_rebuild),
    'torch._utils._rebuild_parameter': pickle_program.Call(_of_parameter),
    **{f'torch.{name}': dtype for name, dtype in _DTYPES.items()},
  }


def _empty_dict() -> dict[str, Any]:
  return {}


def _of_parameter(tensor: Any, *_: Any) -> Any:
  return tensor


def _rebuild(
  storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> _Tensor:
  """Returns a tensor; raises ValueError unless it lies within its storage."""
  numbers = (offset, *shape, *strides)
  if (
    not isinstance(storage, _Storage)
    or not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    or not len(shape) == len(strides) <= _MAX_AXES
  ):
    raise ValueError('a damaged tensor')
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides) if n)
  size = math.prod(shape)
  if size and (last >= storage.size or size > storage.size):
    raise ValueError(
      f'a tensor of shape {list(shape)} beyond the {storage.size} elements of'
      ' its storage'
    )
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(found: Any) -> _Storage:
  """Returns the storage that a persistent id of `torch.save` describes."""
  if not isinstance(found, tuple) or len(found) < 5:
    raise ValueError('a damaged storage')
  kind, dtype, key, _, size, *view = found
  if kind != 'storage' or any(v is not None for v in view):
    raise ValueError(f'a persistent {kind!r} that is no whole storage')
  if not isinstance(dtype, np.dtype) or not isinstance(key, str):
    raise ValueError('a damaged storage')
  if type(size) is not int or not 0 <= size < 2**63:
    raise ValueError('a damaged storage')
  return _Storage(key, dtype, size)


_Fetch = Callable[[_Storage], bytes]
_Found = tuple[Any, _Fetch]


def _of_zip(path: epath.Path, f: IO[bytes]) -> _Found:
  with zipfile.ZipFile(f) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    length = f.seek(0, io.SEEK_END)
    for info in entries.values():
      if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f'{info.filename} compressed, as torch.save does not')
      if not info.file_size == info.compress_size <= length:
        raise ValueError(f'{info.filename} with a size that is not its own')
    programs = [n for n in entries if n.split('/')[1:] == ['data.pkl']]
    if len(programs) != 1:
      raise ValueError('a .zip without NAME/data.pkl')
    folder = programs[0].removesuffix('data.pkl')
    order = f'{folder}byteorder'
    if order in entries and archive.read(order).strip() != b'little':
      raise ValueError(_OTHER_ORDER)

    def persistent(found: Any) -> _Storage:
      storage = _storage(found)
      info = entries.get(f'{folder}data/{storage.key}')
      if info is None:
        raise ValueError(f'no storage {storage.key!r}')
      if info.file_size < storage.num_bytes:
        raise ValueError(f'a storage {storage.key!r} that is cut short')
      return storage

    with archive.open(programs[0]) as program:
      found = pickle_program.load(program, _names(), persistent)

  def fetch(storage: _Storage) -> bytes:
    with path.open('rb') as f, zipfile.ZipFile(f) as archive:
      return archive.read(f'{folder}data/{storage.key}')

  return found, fetch


def _of_legacy(path: epath.Path, f: IO[bytes]) -> _Found:
  storages: dict[str, _Storage] = {}

  def persistent(found: Any) -> _Storage:
    storage = _storage(found)
    if storages.setdefault(storage.key, storage) != storage:
      raise ValueError(f'two storages of one key {storage.key!r}')
    return storage

  magic, version, system, found, keys = (
    pickle_program.load(f, _names(), persistent) for _ in range(5)
  )
  if (magic, version) != (_LEGACY_MAGIC, _LEGACY_VERSION):
    raise ValueError(f'a file of another version, {version!r}')
  if not isinstance(system, dict) or system.get('little_endian') is not True:
    raise ValueError(_OTHER_ORDER)
  if not isinstance(keys, list) or {str(k) for k in keys} != set(storages):
    raise ValueError('a list of other storages than those of its tensors')
  at = f.tell()
  length = f.seek(0, io.SEEK_END)
  places = {}
  for key in keys:  # The number of elements precedes each storage.
    f.seek(at)
    size, places[key] = *struct.unpack('<q', f.read(8)), at + 8
    at += 8 + storages[key].num_bytes
    if size != storages[key].size or at > length:
      raise ValueError(f'a storage {key!r} that is cut short')

  def fetch(storage: _Storage) -> bytes:
    with path.open('rb') as f:
      f.seek(places[storage.key])
      return f.read(storage.num_bytes)

  return found, fetch


def _checked(found: Any) -> dict[str, _Tensor]:
  """Returns the tensors by name; raises ValueError for anything else."""
  if not isinstance(found, dict):
    raise ValueError(f'a {type(found).__name__} instead of tensors by name')
  for name, value in found.items():
    if not isinstance(name, str) or not isinstance(value, _Tensor):
      raise ValueError(f'no tensor as {name!r} ({type(value).__name__})')
    if not name.isprintable():
      raise ValueError(f'the name {name!r}')
  if not 0 < len(found) <= _MAX_TENSORS:
    raise ValueError(f'{len(found)} tensors')
  return found


def _load(path: epath.Path, fetch: _Fetch, tensor: _Tensor) -> np.ndarray:
  """Reads the values of one tensor as float32."""
  storage = tensor.storage
  try:
    data = fetch(storage)
    if len(data) < storage.num_bytes:
      raise ValueError(f'a storage {storage.key!r} that is cut short')
  except _UNREADABLE as error:
    raise refused(path, error) from error
  flat = np.frombuffer(data, storage.dtype, storage.size)
  view = np.lib.stride_tricks.as_strided(  # `_rebuild` has checked its bounds.
    flat[tensor.offset :],
    tensor.shape,
    tuple(s * storage.dtype.itemsize for s in tensor.strides),
    writeable=False,
  )
  return np.ascontiguousarray(view, np.float32).reshape(tensor.shape)
