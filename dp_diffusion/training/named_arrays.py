"""A pytree of arrays as a flat dict of names, and its digest.

What a checkpoint holds (`training/checkpoint.py`): names say what differs
when a state does not fit, and a digest says whether bytes have changed.
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
  """Leaf name ('params/conv/kernel', '/' escaped in parts) to leaf."""
  named = {}
  for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
    parts = (jax.tree_util.keystr((key,), simple=True) for key in path)
    name = '/'.join(part.replace('/', '%2F') for part in parts)
    assert name not in named, name
    named[name] = leaf
  return named


def flatten(state: PyTree) -> dict[str, np.ndarray]:
  """Leaf name to array; leaves without an element, which orbax refuses, go."""
  arrays = {k: np.asarray(v) for k, v in _by_name(state).items()}
  return {name: array for name, array in arrays.items() if array.size}


def unflatten(
  template: PyTree, arrays: Mapping[str, np.ndarray], where: str
) -> PyTree:
  """Puts named arrays into the template's structure, or says what differs."""
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
  """Hex SHA-256 of names, dtypes, shapes and bytes, and of a JSON object.

  Args:
    arrays: by name; the order of the dict does not matter.
    head: what else counts.
  """
  names = sorted(arrays)
  kinds = [[n, str(arrays[n].dtype), list(arrays[n].shape)] for n in names]
  hashed = hashlib.sha256(json.dumps([head, kinds], sort_keys=True).encode())
  for name in names:
    hashed.update(np.ascontiguousarray(arrays[name]).tobytes())
  return hashed.hexdigest()
