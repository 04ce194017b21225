"""Names and layouts of published weights, turned into ours.

A key map is a JSON object with one entry for each leaf of our network: the name
of the array in the foreign .npz or, where that is laid out in another way, what
to do with it. So a convolution, [Cout, Cin, H, W] there and [H, W, Cin, Cout]
here, and the bias of six heads whose queries, keys and values are interleaved:

  {"stem/bias": "input_blocks.0.0.bias",
   "stem/kernel": {"array": "input_blocks.0.0.weight",
                   "then": [["transpose", [2, 3, 1, 0]]]},
   "middle_attention/qkv/bias": {"array": "middle_block.1.qkv.bias",
                                 "then": [["reshape", [6, 3, 64]],
                                          ["transpose", [1, 0, 2]],
                                          ["reshape", [-1]]]}}

What the weights were made with may stand beside them, and is compared with the
config before they are used (`stages/run/first_weights.py` lists the keys):

  {"made_with": {"diffusion.prediction": "eps", "model.num_groups": 32, ...}}

All names of ours are in `public/model/params.npz` of any run of the network, as
of `--stage=pretrain --config.pretrain.num_steps=0`. A network that was trained
without a null class has no row for it ('label/null'): put one into the .npz,
the mean of the classes' rows for instance.
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
  """What a key map says of the model and diffusion of its weights.

  Args:
    key_map: path of a JSON file, see the module.

  Returns:
    Dotted config key -> JSON value; empty where it says nothing.

  Raises:
    UsageError: no such map, or not an object.
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
  """Renames arrays, and lays them out, as a key map says.

  Args:
    key_map: path of a JSON file, see the module.
    arrays: by foreign name.
    name: of where they come from, for messages.

  Returns:
    Arrays by our name.

  Raises:
    UsageError: no such map, an entry of another form, an array that is not
      there or does not have the shape for what is to be done with it.
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
  """The foreign array, and the operations on it."""
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
