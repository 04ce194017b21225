"""Reads weights that another project has published, to start training from.

`read` finds which network a file holds, `keys` gives the values of
`config.model` and `config.diffusion` that this network needs, and
`Network.params` returns its weights in our names and layout.

Guarantees:
  * A converted network gives the same output as its owner's code.
    `tests/models/formats/foreign_test.py::test_answers_as_its_owners_code`.
  * Rows of classes that a file does not hold are zeros.
    `tests/models/formats/foreign_test.py::test_absent_classes_are_zeros`.
  * A file with names or shapes of another network is refused, naming them.
    `tests/models/formats/foreign_test.py::test_other_networks_are_refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
import difflib
from typing import Any

from etils import epath

from dp_diffusion import errors
from dp_diffusion.models.formats import diffusers_unet
from dp_diffusion.models.formats import network as networks
from dp_diffusion.models.formats import openai_unet
from dp_diffusion.models.formats import published
from dp_diffusion.models.formats import torch_file

_ENTRIES: Mapping[str, published.Entries] = {
  'improved_diffusion': published.IMPROVED,
  'guided_diffusion': published.GUIDED,
}
FORMATS = (*_ENTRIES, 'diffusers')
# Keys that decide what the weights mean and that their shapes do not show.
UNSAID = (
  'diffusion.schedule',
  'diffusion.num_timesteps',
  'diffusion.prediction',
  'model.num_groups',
  'model.head_channels',
  'model.num_heads',
  'model.norm_eps',
  'model.time_scale',
  'model.time_offset',
)
_EDM = ('edm', 'edm2')


def check_format(name: str) -> None:
  """Raises ValueError unless `name` is a format, or '' for none."""
  if name in _EDM:
    raise ValueError(
      f'Expected init_format={name!r} to be one of {", ".join(FORMATS)}: files'
      ' of EDM are pickles that hold code to be run, and their licence forbids'
      ' commercial use.'
    )
  if name and name not in FORMATS:
    near = difflib.get_close_matches(name, FORMATS, n=1)
    hint = f'; did you mean {near[0]}?' if near else '.'
    raise ValueError(
      f'Expected init_format={name!r} to be one of {", ".join(FORMATS)}{hint}'
    )


def find(format_name: str, init_from: epath.PathLike) -> epath.Path:
  """Returns the file of weights that `pretrain.init_from` names.

  Args:
    format_name: one of FORMATS.
    init_from: a file; for diffusers a folder will also do.

  Raises:
    UsageError: the path does not exist, or is a folder of another format.
  """
  path = epath.Path(init_from)
  if path.is_dir() and format_name == 'diffusers':
    return diffusers_unet.find(path)
  if path.is_dir():
    raise errors.UsageError(
      f'Expected pretrain.init_from={path} to be a file of weights, not a'
      ' folder.'
    )
  if not path.exists():
    raise errors.UsageError(
      f'Expected weights at {path}, which does not exist.'
    )
  return path


def read(
  format_name: str,
  path: epath.Path,
  *,
  configured: Mapping[str, Any] | None = None,
  is_new_order: bool = False,
) -> networks.Network:
  """Finds which network a file holds. Its arrays are not read yet.

  Args:
    format_name: one of FORMATS.
    path: the file.
    configured: the values of UNSAID that the user vouches for; None takes them
      from the table of published weights or from the files beside the weights.
    is_new_order: the flag `use_new_attention_order` of guided-diffusion, the
      order of queries, keys and values. It is used with `configured` only.

  Raises:
    UsageError: the file is missing or damaged, holds another network, or
      the values of UNSAID are not known.
  """
  if format_name == 'diffusers':
    return diffusers_unet.read(path, configured)
  found = openai_unet.read(
    str(path),
    torch_file.read(path),
    _ENTRIES[format_name],
    configured,
    is_new_order,
  )
  if not found.said:
    known = [name for e in _ENTRIES[format_name] for name in e.names]
    raise errors.UsageError(
      f'{path} is none of the published weights of {format_name}'
      f' ({", ".join(known)}), so nothing says what it was made with. Give'
      f' {", ".join(UNSAID)} as they were, and'
      ' pretrain.init_as_configured=True.'
    )
  return found


def keys(found: networks.Network, side: int) -> dict[str, Any]:
  """Returns the values of the config that a network needs, by dotted key.

  Args:
    found: the network.
    side: side length of our images, in pixels.
  """
  model = found.architecture.model_keys(side)
  return {**{f'model.{k}': v for k, v in model.items()}, **found.said}
