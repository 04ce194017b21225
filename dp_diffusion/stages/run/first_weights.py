"""First weights mean what they meant where they were trained.

Shapes say how large a network is, but not what its output is (noise, image or
velocity), along which schedule, or how its channels are grouped. So these keys
are compared with those of the run or the release that weights come from. A
bare file says nothing: its key map does, or the user.

Guarantees:
  * Weights that were made with another value of one of `KEYS` are refused.
    `tests/stages/run/first_weights_test.py::test_other_meanings_are_refused`.
  * A bare file is refused unless its key map or the user says what it is.
    `tests/stages/run/first_weights_test.py::test_a_bare_file_says_what_it_is`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import key_map as key_maps

# What changes the meaning of weights, and not their shapes.
KEYS = (
  'diffusion.schedule',
  'diffusion.num_timesteps',
  'diffusion.prediction',
  'model.num_groups',
  'model.head_channels',
)


def check(config: config_lib.Config, path: epath.Path) -> None:
  """Compares what weights were made with and what they are taken for.

  Args:
    config: uses model, diffusion and pretrain.
    path: of the .npz that `pretrain.init_from` leads to.

  Raises:
    UsageError: names the first key that differs, with both values; or a file
      of which nothing is known.
  """
  made_with, where = _of_folder(path)
  key_map = config.pretrain.init_key_map
  if not where and key_map:
    made_with = dict(key_maps.made_with(key_map))
    where = key_map if made_with else ''
  if config.pretrain.init_as_configured:
    if where:
      raise errors.UsageError(
        'Expected pretrain.init_as_configured=False where it is known what'
        f' weights were made with: {where} says so.'
      )
    return
  ours = config_lib.to_dict(config)
  missing = [key for key in KEYS if key not in made_with]
  if missing:
    raise errors.UsageError(
      f'Nothing says what the weights of pretrain.init_from={path} were made'
      f' with ({", ".join(missing)}): give the run or release that made them,'
      " name the keys under 'made_with' in pretrain.init_key_map, or set"
      ' pretrain.init_as_configured=True if they were made with the values of'
      ' this config.'
    )
  for key in KEYS:
    section, name = key.split('.')
    if made_with[key] != ours[section][name]:
      raise errors.UsageError(
        f'Expected {key}={ours[section][name]!r} to be {made_with[key]!r}, with'
        f' which the weights of pretrain.init_from={path} were made ({where}).'
      )


def _of_folder(path: epath.Path) -> tuple[dict[str, Any], str]:
  """(dotted key -> value, the file that says so), empty where none does."""
  model = path.parent / 'model.json'
  if model.exists():  # A release.
    found = _read(model)
    return _dotted(found.get('unet'), found.get('diffusion')), str(model)
  record = path.parent.parent.parent / 'config.json'
  if path.parent.parent.name == 'public' and record.exists():  # A run.
    config = _read(record).get('pretrain', {}).get('config', {})
    found = _dotted(config.get('model'), config.get('diffusion'))
    return found, str(record)
  return {}, ''


def _read(path: epath.Path) -> dict[str, Any]:
  try:
    found = files.read_json(path)
  except ValueError as error:
    raise errors.UsageError(f'{path} is damaged ({error}).') from error
  if not isinstance(found, dict):
    raise errors.UsageError(f'{path} is damaged: expected an object.')
  return found


def _dotted(model: Any, diffusion: Any) -> dict[str, Any]:
  sections = {'model': model, 'diffusion': diffusion}
  return {
    f'{name}.{key}': value
    for name, section in sections.items()
    if isinstance(section, Mapping)
    for key, value in section.items()
  }
