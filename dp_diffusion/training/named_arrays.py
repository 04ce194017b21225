"""Converts a pytree of arrays to a flat dict of named arrays and its digest.

Checkpoints (`training/checkpoint.py`) use it: the names tell which array does
not fit a config, and the digest tells whether bytes have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import jax
import numpy as np

from dp_diffusion import errors
from dp_diffusion import types

PyTree = types.PyTree


def _by_name(state: PyTree) -> dict[str, Any]:
  """Returns leaves by name ('params/conv/kernel', '/' escaped in parts)."""
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
    parts = (jax.tree_util.keystr((key,), simple=True) for key in path)
    name = '/'.join(part.replace('/', '%2F') for part in parts)
    assert name not in named, name
    named[name] = leaf
  return named


def flatten(state: PyTree) -> dict[str, np.ndarray]:
  """Returns arrays by leaf name, without empty arrays, which orbax refuses."""
  arrays = {k: np.asarray(v) for k, v in _by_name(state).items()}
  return {name: array for name, array in arrays.items() if array.size}


def unflatten(
  template: PyTree, arrays: Mapping[str, np.ndarray], where: str
) -> PyTree:
  """Returns the named arrays in the structure of a template.

  Args:
    template: pytree of arrays or shapes.
    arrays: arrays by leaf name, as from `flatten`.
    where: name of their source, for messages.

  Raises:
    UsageError: names a leaf that is missing, unknown or of another shape.
  """
  leaves = []
  for name, wanted in _by_name(template).items():
    shape, dtype = np.shape(wanted), np.dtype(wanted.dtype)
    if not np.prod(shape):
      leaves.append(np.zeros(shape, dtype))
      continue
    found = arrays.get(name)
    if found is None:
      raise errors.UsageError(
        f'Expected {where} to have the leaf {name}, which this config needs.'
      )
    if (found.shape, found.dtype) != (shape, dtype):
      raise errors.UsageError(
        f'Expected {where} to have {name} as {dtype}{list(shape)}, found '
        f'{found.dtype}{list(found.shape)}: it belongs to another config.'
      )
    leaves.append(found)
  unknown = sorted(set(arrays) - set(_by_name(template)))
  if unknown:
    raise errors.UsageError(
      f'Expected {where} to hold what this config needs and no more, found '
      f'{len(unknown)} other leaves, such as {unknown[0]}.'
    )
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def digest(arrays: Mapping[str, np.ndarray], head: Mapping[str, Any]) -> str:
  """Returns the hex SHA-256 of named arrays and of a JSON object.

  Args:
    arrays: arrays by name, in any order. Their names, dtypes, shapes and bytes
      are hashed.
    head: the JSON object.
  """
  names = sorted(arrays)
  kinds = [[n, str(arrays[n].dtype), list(arrays[n].shape)] for n in names]
  hashed = hashlib.sha256(json.dumps([head, kinds], sort_keys=True).encode())
  for name in names:
    hashed.update(np.ascontiguousarray(arrays[name]).tobytes())
  return hashed.hexdigest()
