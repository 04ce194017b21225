"""Decides which images a config uses, once all keys are known.

A smoke run makes up its images unless the user gives a path of real ones. A
path that is given is used or refused, never ignored. The same holds for other
keys of a source: a key that the user typed, or wrote into a config, and that
the chosen source does not read is refused by name. If the user types another
source, the keys that the config has for its own source are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any

from dp_diffusion import config_keys
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data import same_source

BuildFn = Callable[[Any], registry.DataConfig]
KEYS = {  # Further keys of `data` and `pretrain.data`; `resolve` removes them.
  'stand_in': config_keys.state(
    '',
    'Source that makes images in place of those of the source named, where'
    ' nothing says where they lie; for smoke runs.',
  ),
}
STAND_IN_CLASSES = ('first', 'second')  # Used if the config names none.
_PLACES = ('path', 'tfds_dir', 'manual_dir')  # Keys for paths of images.
# pretrain.data.tfds_dir follows data.tfds_dir: one may read for both.
_SHARED = 'tfds_dir'
_DEFAULTS = {f.name: f.default for f in dataclasses.fields(registry.DataConfig)}


def keep_typed(config: Any, key: str) -> None:
  """Keeps a source that the user has typed from being replaced.

  Args:
    config: a `ConfigDict`, changed in place.
    key: dotted key that the user typed.
  """
  for typed, section in (
    ('data.name', config.get('data')),
    ('pretrain.data.name', config.get('pretrain', {}).get('data')),
  ):
    if key == typed and section and section.get('stand_in'):
      section.stand_in = section.name


def find_channels(config: Any, build: BuildFn) -> tuple[str, ...]:
  """Sets data.channels, if it is 0, to 1 for grey images or 3 for colour.

  The result is taken to be public, as the size and the classes are; see
  `registry.find_channels` for the images that are opened.

  Args:
    config: a `ConfigDict`, changed in place if the images can be opened.
    build: converts a section to a `DataConfig`.

  Returns:
    The keys that were set so, for the card of the release.

  Raises:
    UsageError: some images are grey and others coloured.
  """
  data = config.get('data', {})
  if data.get('channels', 1) or not data.get('path'):
    return ()
  data.channels = registry.find_channels(build(data))
  return ('data.channels',) if data.channels else ()


def find_public_classes(
  config: Any, build: BuildFn, typed: Collection[str], before: str
) -> None:
  """Sets pretrain.data.class_names to those of the source, unless they are set.

  Args:
    config: a `ConfigDict`, changed in place if the source has class names.
    build: converts a section to a `DataConfig`.
    typed: dotted keys that the user has set.
    before: the source that the config file names; if the user typed another
      source, the class names of the file do not apply.
  """
  data = config.get('pretrain', {}).get('data', {})
  if not data or data.get('stand_in') or 'pretrain.data.class_names' in typed:
    return
  if data.class_names and data.name == before:
    return
  # Weights of an earlier run may be given for no step of pre-training. Files
  # are not opened for their classes then.
  warm_up = config.get('finetune', {}).get('warm_up', {})
  has_votes = warm_up.get('chosen_steps') or warm_up.get('rows_from_votes')
  is_read = config.pretrain.num_steps or has_votes
  if not is_read and not same_source.is_rendered(build(data)):
    return
  found = registry.find_class_names(build(data))
  if not set(found) <= set(data.class_names):
    data.class_names = found


def resolve(
  values: Mapping[str, Any], typed: Collection[str] = ()
) -> dict[str, Any]:
  """Replaces a source whose images are not given by its `stand_in`.

  Args:
    values: all keys of a config, nested; not changed.
    typed: dotted keys that the user typed. None of them is changed, except
      `data.name` of a source that is replaced.

  Returns:
    The keys and values without `stand_in`.
  """
  resolved = dict(values)
  if isinstance(values.get('data'), Mapping):
    of_data = {key for key in typed if key.startswith('data.')}
    names = {key.removeprefix('data.') for key in of_data}
    resolved['data'] = _resolved(values['data'], names)
  pretrain = values.get('pretrain')
  if isinstance(pretrain, Mapping):
    start = 'pretrain.'
    below = {k.removeprefix(start) for k in typed if k.startswith(start)}
    resolved['pretrain'] = resolve(pretrain, below)
  return resolved


def _resolved(
  data: Mapping[str, Any], typed: Collection[str]
) -> dict[str, Any]:
  resolved = dict(data)
  stand_in = resolved.pop('stand_in', '')
  if not (stand_in or 'name' in typed):
    return resolved
  reads = registry.reads(data['name'])
  if stand_in and not any(data[key] for key in _PLACES if key in reads):
    resolved.update(
      name=stand_in,
      split='train',
      test_split='test',
      class_names=data['class_names'] or STAND_IN_CLASSES,
    )
    reads = registry.reads(stand_in)
  # These keys belong to the source that the config or its variant named.
  for key in set(registry.keys_of_sources()) - {*reads, *typed, *_PLACES}:
    resolved[key] = _DEFAULTS[key]
  if 'tfds_dir' not in reads:  # Only TFDS knows the slice of a split.
    for key in ('split', 'test_split'):
      resolved[key] = resolved[key].partition('[')[0]
  return resolved


def check_read(data: registry.DataConfig, public: registry.DataConfig) -> None:
  """Refuses a key of a source that the chosen source does not read.

  Args:
    data: data section of the sensitive images.
    public: data section of the public images.

  Raises:
    UsageError: names the key and the sources that would read it.
  """
  shared = {_SHARED} & set(registry.reads(public.name))
  for section, config, others in (
    ('data', data, shared),
    ('pretrain.data', public, {_SHARED}),
  ):
    read = others | set(registry.reads(config.name))
    for key in registry.keys_of_sources():
      if getattr(config, key) != _DEFAULTS[key] and key not in read:
        raise errors.UsageError(
          f'{section}.{key}={getattr(config, key)!r} would not be read by'
          f' {section}.name={config.name!r}, only by'
          f' {registry.readers_text(key)}: set {section}.name, or leave'
          f' {section}.{key} out.'
        )
