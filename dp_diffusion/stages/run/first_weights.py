"""Checks that first weights are used with the settings of their training.

The shapes of weights show the size of a network. They do not show what it
predicts (noise, image or velocity), with which schedule, or how its channels
are grouped. Therefore these keys, `foreign.UNSAID`, are compared with those of
the run or release from which the weights come. For a file without such a
source, its key map or the user must state them.

Guarantees:
  * Weights that were made with another value of one of the keys are refused.
    `tests/stages/run/first_weights_test.py::test_other_meanings_are_refused`.
  * A file alone is refused unless its key map or the user states the keys.
    `tests/stages/run/first_weights_test.py::test_a_bare_file_says_what_it_is`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import config_keys
from dp_diffusion import config_weights
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import key_map as key_maps
from dp_diffusion.models.formats import foreign

_FOREIGN = ('.pt', '.pth', '.bin', '.ckpt', '.pkl', '.safetensors')
# Values of keys that did not exist when older weights were made.
_DEFAULTS = {
  f'model.{field.name}': field.default
  for field in dataclasses.fields(config_lib.ModelConfig)
  if config_keys.is_later(field)
}


def check(config: config_lib.Config, path: epath.Path) -> None:
  """Compares the settings of the weights' training with those of the config.

  Args:
    config: gives model, diffusion and pretrain.
    path: the .npz file to which `pretrain.init_from` leads.

  Raises:
    UsageError: a key differs (the message has both values), or nothing is known
      about the weights.
  """
  if config.pretrain.init_format:
    _check_foreign(config)
    return
  if path.suffix in _FOREIGN:
    raise errors.UsageError(
      f'Expected pretrain.init_format to name the format of {path}, one of'
      f' {", ".join(foreign.FORMATS)}: without it weights are an .npz.'
    )
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
  missing = [
    key for key in foreign.UNSAID if key not in {**_DEFAULTS, **made_with}
  ]
  if missing:
    raise errors.UsageError(
      f'Nothing says what the weights of pretrain.init_from={path} were made'
      f' with ({", ".join(missing)}): give the run or release that made them,'
      " name the keys under 'made_with' in pretrain.init_key_map, or set"
      ' pretrain.init_as_configured=True if they were made with the values of'
      ' this config.'
    )
  made_with = {key: {**_DEFAULTS, **made_with}[key] for key in foreign.UNSAID}
  _compare(
    config, made_with, f'{config.pretrain.init_from} were made ({where})'
  )


def _check_foreign(config: config_lib.Config) -> None:
  """Compares the settings for a file of another project."""
  found = config_weights.read(config)
  made_with = foreign.keys(found, config.data.image_size)
  _compare(config, made_with, f'{found.path} were made')


def _compare(
  config: config_lib.Config, made_with: Mapping[str, Any], whose: str
) -> None:
  has_heads = made_with.get('model.num_heads')
  for key, value in made_with.items():
    if key == 'model.head_channels' and has_heads:
      continue  # The key has no effect here.
    section, name = key.split('.')
    ours = getattr(getattr(config, section), name)
    if ours != value:
      raise errors.UsageError(
        f'Expected {key}={ours!r} to be {value!r}, with which the weights of'
        f' pretrain.init_from={whose}.'
      )


def _of_folder(path: epath.Path) -> tuple[dict[str, Any], str]:
  """Returns (values by dotted key, name of the file that states them)."""
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
