"""Writes .pt files as `torch.save` does, and wrong ones; without PyTorch."""

from __future__ import annotations

import io
import pathlib
import struct
import zipfile

import numpy as np

MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
VERSION = b'\x80\x02M\xe9\x03.'
SYSTEM = b'\x80\x02}X\r\x00\x00\x00little_endian\x88s.'
STORAGES = {'<f4': 'FloatStorage', '<f2': 'HalfStorage', '<f8': 'DoubleStorage'}


def text(value: str) -> bytes:
  """Pushes text."""
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def number(value: int) -> bytes:
  """Pushes an int."""
  return b'J' + struct.pack('<i', value)


def numbers(values) -> bytes:
  """Pushes a tuple of ints."""
  return b'(' + b''.join(number(int(v)) for v in values) + b't'


def name(dotted: str) -> bytes:
  """Pushes what a name stands for."""
  module, _, leaf = dotted.rpartition('.')
  return f'c{module}\n{leaf}\n'.encode()


def tensor(
  key: str, array: np.ndarray, *, shape=None, is_legacy=False
) -> bytes:
  """Pushes a tensor of a storage of its own."""
  kind = STORAGES[array.dtype.str]
  strides = [s // array.itemsize for s in array.strides]
  return (
    name('torch._utils._rebuild_tensor_v2')
    + b'((' + text('storage') + name(f'torch.{kind}') + text(key) + text('cpu')
    + number(array.size) + (b'N' if is_legacy else b'') + b'tQ'
    + number(0) + numbers(shape or array.shape) + numbers(strides)
    + b'\x89' + name('collections.OrderedDict') + b')RtR'
  )  # fmt: skip


def state_dict(arrays, *, is_legacy=False) -> bytes:
  """The program of `{name: tensor}`."""
  items = b''.join(
    text(key) + tensor(str(i), array, is_legacy=is_legacy)
    for i, (key, array) in enumerate(arrays.items())
  )
  return b'\x80\x02' + name('collections.OrderedDict') + b')R(' + items + b'u.'


def write_zip(path: pathlib.Path, program: bytes, arrays=(), **options) -> None:
  """A .zip of a program and storages."""
  with zipfile.ZipFile(path, 'w', **options) as archive:
    archive.writestr('model/data.pkl', program)
    for i, array in enumerate(arrays):
      archive.writestr(f'model/data/{i}', np.asarray(array).tobytes())


def save(path: pathlib.Path, arrays, *, is_legacy: bool = False) -> None:
  """Writes a state dict in one of the two forms."""
  program = state_dict(arrays, is_legacy=is_legacy)
  if not is_legacy:
    write_zip(path, program, arrays.values())
    return
  out = io.BytesIO()
  keys = b''.join(text(str(i)) for i in range(len(arrays)))
  out.write(MAGIC + VERSION + SYSTEM + program + b'\x80\x02](' + keys + b'e.')
  for array in arrays.values():
    out.write(struct.pack('<q', array.size) + array.tobytes())
  path.write_bytes(out.getvalue())
