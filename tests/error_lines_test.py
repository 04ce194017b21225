"""Lines on the terminal and errors tell no number of sensitive images."""

from __future__ import annotations

import ast
from collections.abc import Iterator
import pathlib
import re
from types import SimpleNamespace
import zipfile

import numpy as np
import pytest

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import cache
from dp_diffusion.data import camelyon17
from dp_diffusion.data import registry
from dp_diffusion.data.own import npz_images

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Parts of the package that hold sensitive images.
READERS = ('baselines', 'data', 'evaluation', 'stages', 'training')
NUM_IMAGES = 137

_A_NUMBER = re.compile(r'\blen\(|\bsum\(|\bnum_|_bytes\b|\bcounts?\b|shape\b')
# What is public: shapes of one image, of networks and of tables, settings, and
# numbers of classes, columns, devices and steps.
_PUBLIC = {
  *('a.num_features', 'b.num_features', 'extractor.num_features'),
  *('self.num_features', 'self.num_seeds', 'num_classes', 'num_bands'),
  *('self.num_steps',),  # Of a class head, as the config says.
  *('mechanism.num_steps', 'mechanism.num_examples', 'num_steps', 'num_lost'),
  *('ours.num_public_steps', 'devices.num_global_devices', 'num_canaries'),
  *('available_bytes / 2 ** 30', 'need.total_bytes(1) / 2 ** 30'),
  *('len(fits)', 'len(named)', 'len(seed)', 'len(keys)', 'len(unknown)'),
  *('len(self.names)', 'len(self.header)', 'len(row)', 'array.shape[1]'),
  *('np.shape(self.counts)', 'image.shape', 'list(found.shape)'),
  *('num_neighbors', 'self.spec.image_shape'),
  *('num_public', 'self.num_chosen'),  # Classes of public images.
}
# Shapes of one image, and of a leaf.
_PUBLIC_IN = {'decoding.py': 'shape', 'named_arrays.py': 'list(shape)'}


def _shown(tree: ast.AST) -> Iterator[tuple[int, str]]:
  """Yields line and expression of each value in errors and in messages."""
  for node in ast.walk(tree):
    if not isinstance(node, ast.Call):
      continue
    name = ast.unparse(node.func).rpartition('.')[2]
    if name.endswith('Error') or name in ('Failed', 'say', 'warn'):
      for part in ast.walk(node):
        if isinstance(part, ast.FormattedValue):
          yield part.lineno, ast.unparse(part.value)


def _numbers(text: str, name: str = '') -> list[str]:
  """Lists values that may tell how many images there are."""
  return [
    f'{line}: {value}'
    for line, value in _shown(ast.parse(text))
    if _A_NUMBER.search(value)
    and value not in (*_PUBLIC, _PUBLIC_IN.get(name))
    and not re.fullmatch(r'checks\.\w+\(.*\)', value)
    and not re.search(r'shape\[1:\]\)?$', value)
    and ' if ' not in value  # A choice of words.
  ]


def test_no_line_counts_images():
  wrong = [
    f'{path.relative_to(ROOT)}:{number}'
    for part in READERS
    for path in sorted((ROOT / 'dp_diffusion' / part).rglob('*.py'))
    for number in _numbers(path.read_text(encoding='utf-8'), path.name)
  ]
  assert not wrong


@pytest.mark.parametrize(
  'line',
  [
    "raise errors.UsageError(f'{path} lacks {len(missing)} images.')",
    "raise ValueError(f'found {list(images.shape)}')",
    "console.say(f'{num_images} images')",
    "console.warn(f'{num_bytes / 1e9:.1f} GB')",
  ],
)
def test_the_search_bites(line):
  (found,) = _numbers(line)
  assert found.startswith('1: ')


def _says_no_number(raised: pytest.ExceptionInfo[BaseException]) -> None:
  assert '\n' not in str(raised.value)
  assert not re.search(f'{NUM_IMAGES}|{NUM_IMAGES - 1}', str(raised.value))


@pytest.mark.parametrize(
  'changed',
  [
    {'labels': np.zeros(NUM_IMAGES - 1, np.int32)},
    {'labels': np.zeros((NUM_IMAGES, 1), np.int32)},
    {'labels': np.int32(0)},
    {'labels': np.zeros(NUM_IMAGES)},
    {'person': np.zeros(NUM_IMAGES - 1, np.int32)},
    {'images': np.zeros((NUM_IMAGES, 8, 8), np.uint8)},
    {'images': np.zeros((NUM_IMAGES, 8, 8, 1))},
  ],
)
def test_arrays_that_do_not_fit_are_refused_without_their_length(changed):
  arrays = {
    'images': np.zeros((NUM_IMAGES, 8, 8, 1), np.uint8),
    'labels': np.zeros(NUM_IMAGES, np.int32),
  }
  spec = types.DatasetSpec(
    name='x', image_shape=(8, 8, 1), class_names=('a',), has_person=False
  )
  with pytest.raises(ValueError, match='Expected') as raised:
    registry.ArraySource(spec=spec, **(arrays | changed))
  _says_no_number(raised)


@pytest.mark.parametrize(
  'changed',
  [
    {'labels': np.zeros(NUM_IMAGES - 1, np.int32)},
    {'labels': np.int32(0)},
    {'labels': np.zeros(NUM_IMAGES)},
    {'person': np.zeros(NUM_IMAGES - 1, np.int32)},
    {'images': np.zeros((NUM_IMAGES, 8, 8, 2), np.uint8)},
    {'images': np.zeros((NUM_IMAGES, 0, 8, 1), np.uint8)},
    {'images': np.zeros((NUM_IMAGES, 8), np.uint8)},
  ],
)
def test_an_npz_is_refused_without_its_length(tmp_path, changed):
  path = tmp_path / 'x.npz'
  arrays = {
    'images': np.zeros((NUM_IMAGES, 8, 8, 1), np.uint8),
    'labels': np.zeros(NUM_IMAGES, np.int32),
  }
  np.savez(path, **(arrays | changed))
  config = registry.DataConfig(
    name='folder', path=str(path), class_names=('a',)
  )
  with pytest.raises(errors.UsageError, match='Expected') as raised:
    npz_images.open_npz(path, config)
  _says_no_number(raised)


def test_a_cut_npz_is_refused_without_its_length(tmp_path):
  whole = {
    'images': np.zeros((NUM_IMAGES, 8, 8, 1), np.uint8),
    'labels': np.zeros(NUM_IMAGES, np.int32),
  }
  paths = {name: tmp_path / f'{name}.npy' for name in whole}
  for name, array in whole.items():
    np.save(paths[name], array)
  paths['labels'].write_bytes(paths['labels'].read_bytes()[:-4])
  path = tmp_path / 'x.npz'
  with zipfile.ZipFile(path, 'w') as archive:
    for file in paths.values():
      archive.write(file, file.name)
  config = registry.DataConfig(
    name='folder', path=str(path), class_names=('a',)
  )
  with pytest.raises(errors.UsageError, match='cannot be read') as raised:
    npz_images.open_npz(path, config)
  _says_no_number(raised)


def test_a_damaged_cache_is_said_without_its_length(tmp_path, capsys):
  def fill(large):
    large[:] = 1
    return {'labels': np.zeros(NUM_IMAGES, np.int32)}

  def decode(num_images):
    return cache.mapped(str(tmp_path), 'x', (num_images, 8, 8, 1), fill)

  decode(NUM_IMAGES - 1)  # The entry of another number of images.
  capsys.readouterr()
  decode(NUM_IMAGES)
  said = capsys.readouterr()
  said = said.out + said.err
  assert 'is damaged and is made again: found uint8[N, N, N, N]' in said
  assert str(NUM_IMAGES) not in said and str(NUM_IMAGES - 1) not in said


def test_another_number_of_patches_is_refused_without_it():
  splits = {'train': SimpleNamespace(num_examples=NUM_IMAGES)}
  with pytest.raises(errors.UsageError, match='it has not') as raised:
    camelyon17.check_counts(splits)
  _says_no_number(raised)


def test_names_are_listed_without_their_number():
  names = [f'scan{letter}.png' for letter in 'abcdefgh']
  said = checks.some(names)
  assert said.endswith('scane.png and more') and not re.search(r'\d', said)
