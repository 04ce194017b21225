"""Reads the tensors of a safetensors file with the safetensors library."""

from __future__ import annotations

import functools
import os
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models.formats import arrays

_DTYPES = ('F64', 'F32', 'F16')


def read(path: epath.PathLike) -> dict[str, arrays.LazyArray]:
  """Lists the tensors of a file. Their values are read on demand.

  Args:
    path: path of the .safetensors file, on this machine.

  Returns:
    The arrays by name.

  Raises:
    UsageError: the file is missing or damaged, or holds an unsupported dtype.
  """
  if not files.is_local(path) or not os.path.exists(path):
    raise errors.UsageError(
      f'Expected weights at {path}, a file of this machine.'
    )
  try:
    with _open(path) as f:
      found = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
      shapes = {k: tuple(v.get_shape()) for k, v in found.items()}
      dtypes = {k: v.get_dtype() for k, v in found.items()}
  except Exception as error:  # The library's error is not a ValueError.
    raise _refused(path, error) from error
  for name, dtype in dtypes.items():
    if dtype not in _DTYPES:
      raise errors.UsageError(
        f'Expected {name} of {path} to be one of {", ".join(_DTYPES)}, found'
        f' {dtype}.'
      )
    if not name.isprintable():
      raise _refused(path, ValueError(f'the name {name!r}'))
  return {
    name: arrays.LazyArray(shape, functools.partial(_load, path, name))
    for name, shape in shapes.items()
  }


def _open(path: epath.PathLike) -> Any:
  import safetensors

  return safetensors.safe_open(os.fspath(path), framework='numpy')


def _load(path: epath.PathLike, name: str) -> np.ndarray:
  try:
    with _open(path) as f:
      return np.ascontiguousarray(f.get_tensor(name), np.float32)
  except Exception as error:
    raise _refused(path, error) from error


def _refused(path: epath.PathLike, error: Exception) -> errors.UsageError:
  found = ' '.join(str(error).split())[:200].rstrip('.')
  return errors.UsageError(
    f'Expected {path} to be a whole safetensors file, found {found}.'
  )
