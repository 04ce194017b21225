"""Tells from names whether two data sections of a config share images.

No image is read. Two sections are `SAME` if, by their names, they may share an
image:

- a dataset of this package with the same split, or with another division
  (`split_seed`, `test_fraction`); one made from a seed, with the same seed;
- a TFDS dataset of the same name, whatever its version, prefix, folder or
  size (`32x32`), with splits that may overlap (`train[:50%]` and `train`);
  slices that cannot be compared by their text are taken to overlap;
- a path that leads to the same folder, zip or file, lies within it, or holds a
  file of the same name and bytes (a copy of the folder, a zip of it).

They are `OTHER_PART` if they are different parts of the same dataset: its
held-out split, or another TFDS config. Otherwise they are `DIFFERENT`. Copies
under other names are found by comparing the images (`equal_images`).
"""

from __future__ import annotations

from collections.abc import Iterator
import filecmp
import json
import math
import os
import pathlib
import re

from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.data import tfds_builders
from dp_diffusion.data.own import labelling
from dp_diffusion.data.own import trees

SAME, OTHER_PART, DIFFERENT = 'same', 'other part', 'different'
_OWN_FILES = 'folder'
_MOST_FILES_COMPARED = 16
_TFDS = re.compile(r'(?P<name>[^/:]+)(/(?P<config>[^:]+))?(:(?P<version>.*))?')
_SIZE = re.compile(r'\d+x\d+')
_SLICE = re.compile(
  r'(?P<base>[^\[\]]+?)(\[(?P<start>[^:\]]*):(?P<end>[^:\]]*)\](\(\w+\))?)?'
)
_BOUND = re.compile(r'(-?[\d_]+(?:\.\d+)?)(%?)')


def compare(one: registry.DataConfig, other: registry.DataConfig) -> str:
  """Compares the training splits of two data sections, by name.

  Args:
    one: a data section; its `split` is compared.
    other: another data section; its `split` is compared.

  Returns:
    SAME, OTHER_PART or DIFFERENT.
  """
  tfds = _tfds_names(one), _tfds_names(other)
  if tfds[0] and tfds[1]:
    return _compare_tfds(one, other)
  if tfds[0] or tfds[1] or one.name != other.name:
    return DIFFERENT
  if is_rendered(one):
    if one.source_seed != other.source_seed:
      return DIFFERENT
    return SAME if one.split == other.split else OTHER_PART
  if one.name == _OWN_FILES and not _are_same_files(one, other):
    return DIFFERENT
  divisions = [(c.split_seed, c.test_fraction) for c in (one, other)]
  is_divided = divisions[0] == divisions[1] and one.split != other.split
  return OTHER_PART if is_divided else SAME


def is_rendered(config: registry.DataConfig) -> bool:
  """Whether the images are made from a seed instead of read from files."""
  return bool(registry.attribute(config.name, 'IS_RENDERED', False))


def places(config: registry.DataConfig) -> tuple[pathlib.Path, ...]:
  """Returns the paths of stored images.

  There are none for images that are made from a seed or not yet downloaded.
  """
  if config.name == _OWN_FILES:
    return (pathlib.Path(config.path).expanduser(),) if config.path else ()
  folder = _prepared(config)
  return (folder,) if folder else ()


def describe(config: registry.DataConfig) -> str:
  """Returns a public name of the data, without folders of this machine."""
  if config.name == _OWN_FILES:
    return f'{config.name} {pathlib.Path(config.path).name}'.strip()
  if is_rendered(config):
    return f'{config.name} of seed {config.source_seed}'
  return config.name


def _tfds_names(config: registry.DataConfig) -> set[str]:
  """Returns the normalised names of a TFDS dataset; none for other sources."""
  alias = registry.attribute(config.name, 'TFDS_NAME', '')
  if not alias and config.name in registry.known_names():
    return set()
  names = {_plain(alias or _split_name(config)[0])}
  folder = _prepared(config)
  if folder:
    try:
      info = json.loads((folder / 'dataset_info.json').read_bytes())
      names.add(_plain(str(info['name'])))
    except (OSError, ValueError, KeyError, TypeError):
      pass  # The dataset is damaged; loading it reports the error.
  return names


def _split_name(config: registry.DataConfig) -> tuple[str, str]:
  """Returns (name, config) of a TFDS dataset."""
  name = registry.tfds_name(config.name)
  match = _TFDS.fullmatch(name)
  return (match['name'], match['config'] or '') if match else (name, '')


def _plain(name: str) -> str:
  """Normalises a name; TFDS takes names with equal results for the same.

  >>> _plain('FashionMNIST') == _plain('fashion_mnist')
  True
  """
  return re.sub(r'[^a-z0-9]', '', name.lower())


def _prepared(config: registry.DataConfig) -> pathlib.Path | None:
  if config.name in registry.known_names():
    return None
  try:
    name = registry.tfds_name(config.name)
    return tfds_builders.find(name, tfds_builders.data_dir(config))
  except (errors.UsageError, OSError):
    return None


def _compare_tfds(one: registry.DataConfig, other: registry.DataConfig) -> str:
  folder, other_folder = _prepared(one), _prepared(other)
  is_same_folder = (
    folder is not None
    and other_folder is not None
    and _is_same_file(folder, other_folder)
  )
  if not (is_same_folder or _tfds_names(one) & _tfds_names(other)):
    return DIFFERENT
  configs = [
    re.sub(_SIZE, '', _split_name(c)[1]) if c.name.count('/') else ''
    for c in (one, other)
  ]
  if all(configs) and configs[0] != configs[1] and not is_same_folder:
    return OTHER_PART
  return SAME if do_overlap(one.split, other.split) else OTHER_PART


def do_overlap(one: str, other: str) -> bool:
  """Whether two TFDS splits may share a record.

  >>> do_overlap('train[:50%]', 'train'), do_overlap('train', 'test')
  (True, False)
  >>> do_overlap('train[:50%]', 'train[50%:]'), do_overlap('all', 'test')
  (False, True)
  >>> do_overlap('test+train[:10]', 'train[10:20]')
  False
  """
  return any(
    _do_parts_overlap(a, b) for a in one.split('+') for b in other.split('+')
  )


def _do_parts_overlap(one: str, other: str) -> bool:
  parts = [_SLICE.fullmatch(text.strip()) for text in (one, other)]
  bases = [
    m['base'] if m else text.strip().partition('[')[0]
    for m, text in zip(parts, (one, other))
  ]
  if 'all' not in bases and bases[0] != bases[1]:
    return False
  span, other_span = (_span(m) if m else None for m in parts)
  if span is None or other_span is None or 'all' in bases:
    return True  # Their texts cannot be compared.
  (unit, start, end), (other_unit, other_start, other_end) = span, other_span
  if unit and other_unit and unit != other_unit:
    return True
  return max(start, other_start) < min(end, other_end)


def _span(match: re.Match[str]) -> tuple[str, float, float] | None:
  """Returns (unit, start, end) of a slice; unit is '' for a whole split."""
  bounds, units = [], set()
  for text, default in ((match['start'], 0.0), (match['end'], math.inf)):
    if not text or not text.strip():
      bounds.append(default)
      continue
    found = _BOUND.fullmatch(text.strip())
    if not found:
      return None
    value, unit = float(found[1].replace('_', '')), found[2] or 'records'
    if value < 0 and unit != '%':
      return None
    bounds.append(value + 100 if value < 0 else value)
    units.add(unit)
  if len(units) > 1:
    return None
  return (units.pop() if units else ''), bounds[0], bounds[1]


def _are_same_files(
  one: registry.DataConfig, other: registry.DataConfig
) -> bool:
  """Whether two paths may hold the same images."""
  paths = [pathlib.Path(c.path).expanduser() for c in (one, other)]
  first, second = (path.resolve() for path in paths)
  if first == second or first in second.parents or second in first.parents:
    return True
  if not (first.exists() and second.exists()):
    return False  # Reading the files reports the error.
  if _is_same_file(first, second):
    return True
  if first.is_file() and second.is_file() and _has_same_bytes(first, second):
    return True
  return _share_a_file(_tree(first, one), _tree(second, other))


def _is_same_file(first: pathlib.Path, second: pathlib.Path) -> bool:
  try:
    return os.path.samefile(first, second)
  except OSError:
    return False


def _has_same_bytes(first: pathlib.Path, second: pathlib.Path) -> bool:
  try:
    return filecmp.cmp(first, second, shallow=False)
  except OSError:
    return False


def _tree(path: pathlib.Path, config: registry.DataConfig) -> trees.Tree | None:
  if path.suffix == '.npz':
    return None
  try:
    return labelling.unwrap(trees.open_any(path), config.class_names)
  except (errors.UsageError, OSError):
    return None


def _share_a_file(one: trees.Tree | None, other: trees.Tree | None) -> bool:
  """Whether a file of the same name and size has the same bytes in both."""
  if one is None or other is None:
    return False
  for name in _same_name_and_size(one, other):
    try:
      if one.read(name) == other.read(name):
        return True
    except OSError:
      continue
  return False


def _same_name_and_size(one: trees.Tree, other: trees.Tree) -> Iterator[str]:
  sizes = {name: size for name, size, _ in one.stamps}
  num_found = 0
  for name, size, _ in other.stamps:
    if sizes.get(name) == size and size and num_found < _MOST_FILES_COMPARED:
      num_found += 1
      yield name
