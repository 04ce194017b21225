"""Renames the arrays of published weights and changes their layout.

A key map is a JSON object with one entry for each leaf of our network. The
entry is the name of the array in the foreign .npz; where the layout differs, it
also lists the operations that convert it. The example shows a convolution,
[Cout, Cin, H, W] there and [H, W, Cin, Cout] here, and the bias of six heads
whose queries, keys and values are interleaved:

  {"stem/bias": "input_blocks.0.0.bias",
   "stem/kernel": {"array": "input_blocks.0.0.weight",
                   "then": [["transpose", [2, 3, 1, 0]]]},
   "middle_attention/qkv/bias": {"array": "middle_block.1.qkv.bias",
                                 "then": [["reshape", [6, 3, 64]],
                                          ["transpose", [1, 0, 2]],
                                          ["reshape", [-1]]]}}

The map may also state the settings with which the weights were trained. They
are compared with the config (`stages/run/first_weights.py` lists the keys):

  {"made_with": {"diffusion.prediction": "eps", "model.num_groups": 32, ...}}

To list our names, run `--stage=pretrain --config.pretrain.num_steps=0`: they
are in its `public/model/params.npz`. Weights that were trained without a null
class lack its embedding ('label/null'). Add one to the .npz, for instance the
mean of the embeddings of the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import files

_OPERATIONS: Mapping[str, Callable[[np.ndarray, Any], np.ndarray]] = {
  'reshape': np.reshape,
  'transpose': np.transpose,
}


_MADE_WITH = 'made_with'


def made_with(key_map: epath.PathLike) -> Mapping[str, Any]:
  """Returns the settings that a key map states for its weights.

  Args:
    key_map: path of a JSON file, see the module.

  Returns:
    JSON values by dotted config key; empty if the map states none.

  Raises:
    UsageError: the file is missing or is not a JSON object.
  """
  found = _read(key_map).get(_MADE_WITH, {})
  if not isinstance(found, dict):
    raise errors.UsageError(
      f'Expected {_MADE_WITH!r} of the key map {key_map} to be a JSON object.'
    )
  return found


def apply(
  key_map: epath.PathLike, arrays: Mapping[str, np.ndarray], name: str
) -> dict[str, np.ndarray]:
  """Renames arrays and changes their layout as a key map says.

  Args:
    key_map: path of a JSON file, see the module.
    arrays: the arrays by their foreign names.
    name: name of their source, for messages.

  Returns:
    The arrays by our names.

  Raises:
    UsageError: the map is missing or malformed, it names an array that is
      missing, or an array's shape does not allow an operation.
  """
  mapping = {k: v for k, v in _read(key_map).items() if k != _MADE_WITH}
  entries = {ours: _parse(key_map, ours, mapping[ours]) for ours in mapping}
  missing = sorted({theirs for theirs, _ in entries.values()} - set(arrays))
  if missing:
    raise errors.UsageError(
      f'Expected {name} to hold every array that {key_map} names; it lacks'
      f' {checks.some(missing)}.'
    )
  found = {}
  for ours, (theirs, steps) in entries.items():
    array = arrays[theirs]
    for operation, argument in steps:
      try:
        array = _OPERATIONS[operation](array, argument)
      except (TypeError, ValueError) as error:
        raise errors.UsageError(
          f'{key_map}, {ours}: cannot {operation} {theirs} of shape'
          f' {list(array.shape)} to {argument} ({error}).'
        ) from error
    found[ours] = array
  return found


def _read(key_map: epath.PathLike) -> dict[str, Any]:
  try:
    mapping = files.read_json(key_map)
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise errors.UsageError(
      f'Expected the key map {key_map} to be a JSON object: {error}.'
    ) from error
  if not isinstance(mapping, dict):
    raise errors.UsageError(
      f'Expected the key map {key_map} to be a JSON object, found a'
      f' {type(mapping).__name__}.'
    )
  return mapping


def _parse(
  key_map: epath.PathLike, ours: str, entry: Any
) -> tuple[str, Sequence[tuple[str, Any]]]:
  """Returns the name of the foreign array, and the operations on it."""
  if isinstance(entry, str):
    return entry, ()
  if isinstance(entry, dict) and set(entry) == {'array', 'then'}:
    theirs, steps = entry['array'], entry['then']
    if (
      isinstance(theirs, str)
      and isinstance(steps, list)
      and all(
        isinstance(s, list) and len(s) == 2 and s[0] in _OPERATIONS
        for s in steps
      )
    ):
      return theirs, [(operation, argument) for operation, argument in steps]
  raise errors.UsageError(
    f'{key_map}: expected {ours} to be a name or {{"array": name, "then":'
    f' [[operation, argument], ...]}}, with {" or ".join(_OPERATIONS)}, not'
    f' {json.dumps(entry)}.'
  )
