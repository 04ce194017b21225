"""Sets the network of a config to that of its first weights.

With `pretrain.init_format`, the file of `pretrain.init_from` determines the
network, so the user need not type its keys. Keys that are typed must agree with
the file.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from dp_diffusion import errors
from dp_diffusion.models.formats import foreign
from dp_diffusion.models.formats import network as networks

_NUM_STEPS = 'pretrain.num_steps'


def resolve(config: Any, typed: Collection[str]) -> None:
  """Sets the keys that the file of first weights determines.

  Published weights are used without further pre-training, unless the user types
  `pretrain.num_steps`.

  Args:
    config: a `ConfigDict`, changed in place.
    typed: dotted keys that the user typed.

  Raises:
    UsageError: the file cannot be read, or a typed value contradicts it.
  """
  pretrain, data = config.get('pretrain', {}), config.get('data', {})
  if not pretrain.get('init_format') or not pretrain.get('init_from'):
    return
  found = read(config)
  channels = found.architecture.image_channels
  if data.channels and data.channels != channels:
    raise errors.UsageError(
      f'Expected data.channels={data.channels} to be {channels}, as the network'
      f' of {found.path} takes: set data.channels and pretrain.data.channels.'
    )
  if not data.image_size:
    return  # Later checks report the error.
  for key, value in foreign.keys(found, data.image_size).items():
    section, name = key.split('.')
    given = _plain(config[section][name])
    if key in typed and given != value:
      raise errors.UsageError(
        f'Expected --config.{key}={given!r} to be {value!r}, or left out: that'
        f' is what the weights of {found.path} were made with.'
      )
    with config[section].ignore_type():
      config[section][name] = value
  if _NUM_STEPS not in typed:
    pretrain.num_steps = 0


def read(config: Any) -> networks.Network:
  """Reads the network of `pretrain.init_from`, in `pretrain.init_format`.

  Args:
    config: a `ConfigDict`, or a frozen `Config`.

  Raises:
    UsageError: see `foreign.read`.
  """
  pretrain = config.pretrain
  try:
    foreign.check_format(pretrain.init_format)
  except ValueError as error:
    raise errors.UsageError(f'config.pretrain: {error}') from error
  configured = None
  if pretrain.init_as_configured:
    sections = {'model': config.model, 'diffusion': config.diffusion}
    configured = {
      key: getattr(sections[key.split('.')[0]], key.split('.')[1])
      for key in foreign.UNSAID
    }
  return foreign.read(
    pretrain.init_format,
    foreign.find(pretrain.init_format, pretrain.init_from),
    configured=configured,
    is_new_order=pretrain.init_new_attention_order,
  )


def _plain(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value
