"""A look at the images before the budget is spent; decoded ones forgotten."""

from __future__ import annotations

import io
import json
import pathlib
import re
import stat

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import main
from dp_diffusion.data import cache
from dp_diffusion.data import registry
from dp_diffusion.stages import inspect
from dp_diffusion.stages import runner
from tests.stages import command

_CLASSES = ('first', 'second')


def _write_folder(root: pathlib.Path, num_first: int, num_second: int) -> None:
  """Images that differ, the first class dark and the second bright."""
  rng = np.random.default_rng(0)
  for name, count, base in zip(_CLASSES, (num_first, num_second), (0, 200)):
    (root / name).mkdir(parents=True)
    for i in range(count):
      pixels = rng.integers(base, base + 50, (12, 12), np.uint8)
      Image.fromarray(pixels).save(root / name / f'{i}.png')


def _config(path: pathlib.Path, **more: str) -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE,
    {
      'data.name': 'folder',
      'data.path': str(path),
      'data.class_names': "('first', 'second')",
      'evaluate.features': 'pixels',
      **{key.replace('__', '.'): value for key, value in more.items()},
    },
  )


def _inspect(tmp_path: pathlib.Path, config: config_lib.Config) -> pathlib.Path:
  runner.run(config, str(tmp_path / 'run'), 'inspect', 'command')
  return tmp_path / 'run' / 'private'


def test_the_grid_is_what_the_network_will_see(tmp_path):
  """Resized, a row for each class; files that are there are written anew."""
  _write_folder(tmp_path / 'data', 12, 3)
  for _ in range(2):
    private = _inspect(tmp_path, _config(tmp_path / 'data'))
  path = private / inspect.GRID_NAME
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  with Image.open(io.BytesIO(path.read_bytes())) as image:
    grid = np.asarray(image.convert('L'))
  half = grid.shape[0] // 2
  columns = grid[:, -480:]  # Without the margin with the names.
  assert (columns[:half] < 60).mean() > 0.7
  assert not (columns[half:] < 60).any()
  names = [p.name for p in private.iterdir() if p.name.endswith('.tmp')]
  assert not names


def test_a_grid_of_many_large_images_fits_into_memory():
  for num_classes, side in ((1, 5000), (1000, 32), (20_000, 512), (2, 50_000)):
    rows, columns = inspect.grid_size(num_classes, (side, side, 3))
    assert 1 <= rows <= num_classes and 1 <= columns <= 10
    assert rows * columns == 1 or rows * columns * side**2 <= 64_000_000
  assert inspect.grid_size(40, (64, 64, 1)) == (40, 10)


def test_the_survey_counts_classes_and_what_was_left_out(tmp_path):
  _write_folder(tmp_path / 'data', 20, 5)
  (tmp_path / 'data' / 'first' / 'broken.png').write_bytes(b'no image')
  config = _config(tmp_path / 'data', data__skip_unreadable='true')
  path = _inspect(tmp_path, config) / inspect.SURVEY_NAME
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  found = json.loads(path.read_text())
  assert 'never to be published' in found['notice']
  per_class = [s['num_per_class'] for s in found['splits'].values()]
  assert sum(c['first'] for c in per_class) == 20
  assert sum(c['second'] for c in per_class) == 5
  assert found['num_skipped_per_class'] == {'first': 1}
  (entry,) = found['skipped']
  assert entry['name'] == 'first/broken.png' and entry['reason']


def test_equal_images_under_several_classes_are_named(tmp_path):
  """In private/ alone, whatever their names and file formats."""
  _write_folder(tmp_path / 'data', 20, 20)
  with Image.open(tmp_path / 'data' / 'first' / '3.png') as image:
    image.save(tmp_path / 'data' / 'second' / 'again.bmp')
    image.save(tmp_path / 'data' / 'second' / 'more.tiff')
  private = _inspect(tmp_path, _config(tmp_path / 'data'))
  found = json.loads((private / inspect.SURVEY_NAME).read_text())
  assert found['num_labelled_twice'] == 1
  assert found['labelled_twice'] == [
    [
      {'name': 'first/3.png', 'class': 'first'},
      {'name': 'second/again.bmp', 'class': 'second'},
      {'name': 'second/more.tiff', 'class': 'second'},
    ]
  ]


def test_a_split_that_only_the_evaluation_reads_is_loaded_too(
  tmp_path, monkeypatch
):
  asked, load = [], registry.load

  def note(config, split=None):
    asked.append(split or config.split)
    return load(config, None if split == 'val' else split)

  monkeypatch.setattr(registry, 'load', note)
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.held_out_split': 'val'}
  )
  _inspect(tmp_path, config)
  assert asked == ['train', 'val']


def test_skipped_files_are_counted_per_class(tmp_path, monkeypatch):
  survey = {
    'splits': {},
    'skipped': [
      {'name': f'{name}/{i}.png', 'class': name, 'reason': 'cut short'}
      for name, count in (('first', 3), ('second', 1))
      for i in range(count)
    ],
  }
  monkeypatch.setattr(registry, 'survey', lambda _: survey)
  _write_folder(tmp_path / 'data', 20, 20)
  private = _inspect(tmp_path, _config(tmp_path / 'data'))
  found = json.loads((private / inspect.SURVEY_NAME).read_text())
  assert found['num_skipped_per_class'] == {'first': 3, 'second': 1}
  assert found['skipped'] == survey['skipped']


def test_the_terminal_says_where_and_no_number(tmp_path, capsys):
  """Three sets, of which two have a fault: not a letter differs."""
  printed = []
  for name, counts in (('a', (30, 12)), ('b', (14, 45)), ('c', (30, 12))):
    data = tmp_path / name / 'data'
    _write_folder(data, *counts)
    if name == 'b':
      twin = (data / 'first' / '0.png').read_bytes()
      (data / 'second' / 'twin.png').write_bytes(twin)
    if name == 'c':
      (data / 'first' / 'broken.png').write_bytes(b'no image')
    config = _config(data, data__skip_unreadable='true')
    private = _inspect(tmp_path / name, config)
    survey = json.loads((private / inspect.SURVEY_NAME).read_text())
    assert bool(survey['skipped']) == (name == 'c')
    found = capsys.readouterr()
    text = (found.out + found.err).replace(str(tmp_path / name), '')
    text = re.sub(r', \d+ s, \d+ s left', '', text)
    printed.append(text)
    assert '/run/private/training_images.png' in text
    assert '/run/private/survey.json' in text
  assert printed[0] == printed[1] == printed[2]


def test_images_that_cannot_be_loaded_leave_no_file(tmp_path):
  _write_folder(tmp_path / 'data', 20, 20)
  (tmp_path / 'data' / 'first' / 'broken.png').write_bytes(b'no image')
  with pytest.raises(errors.UsageError, match='broken.png'):
    _inspect(tmp_path, _config(tmp_path / 'data'))
  private = tmp_path / 'run' / 'private'
  assert [p.name for p in private.iterdir()] == ['.lock']


def test_fine_tuning_begins_with_a_look(finetuned_run):
  private = finetuned_run.workdir / 'private'
  for name in (inspect.GRID_NAME, inspect.SURVEY_NAME):
    assert (private / name).stat().st_size > 0
    assert str(private / name) in finetuned_run.stdout
  outside = [
    path
    for path in command.contents(finetuned_run.workdir)
    if not path.startswith('private/')
  ]
  assert not [p for p in outside if inspect.GRID_NAME in p or 'survey' in p]


def test_decoded_images_are_forgotten_by_name_of_the_folder(tmp_path, capsys):
  _write_folder(tmp_path / 'data', 20, 20)
  config = _config(
    tmp_path / 'data',
    data__cache_dir=str(tmp_path / 'cache'),
    data__max_in_memory_bytes='1',
  )
  _inspect(tmp_path, config)
  assert cache.decoded(config.data.cache_dir)
  capsys.readouterr()
  runner.run(config, str(tmp_path / 'other'), 'forget', 'command')
  assert not cache.decoded(config.data.cache_dir)
  place = tmp_path / 'cache'
  out = capsys.readouterr().out.splitlines()
  assert (
    out[0] == f'forget: decoded images of all datasets removed from {place}'
  )
  assert not (tmp_path / 'other').exists()  # No workdir is needed or made.
  runner.run(config, str(tmp_path / 'other'), 'forget', 'command')
  out = capsys.readouterr().out.splitlines()
  assert out[0] == f'forget: no decoded images in {place}'


def test_the_folder_of_public_images_is_emptied_too(tmp_path, capsys):
  """Another config may have decoded sensitive images there."""
  _write_folder(tmp_path / 'data', 20, 20)
  place = str(tmp_path / 'cache')
  config = _config(
    tmp_path / 'data', data__cache_dir=place, data__max_in_memory_bytes='1'
  )
  _inspect(tmp_path, config)
  assert cache.decoded(place)
  other = _config(
    tmp_path / 'data',
    data__cache_dir=str(tmp_path / 'other'),
    pretrain__data__cache_dir=place,
  )
  capsys.readouterr()
  runner.run(other, str(tmp_path / 'run'), 'forget', 'command')
  assert not cache.decoded(place)
  assert f'removed from {place}\n' in capsys.readouterr().out


def test_what_cannot_be_removed_is_one_line(tmp_path, monkeypatch):
  def refuse(_: str) -> None:
    raise PermissionError(13, 'Permission denied', str(tmp_path / 'entry'))

  monkeypatch.setattr(cache, 'forget', refuse)
  config = _config(tmp_path, data__cache_dir=str(tmp_path / 'cache'))
  with pytest.raises(errors.UsageError, match='Permission denied') as e:
    runner.run(config, str(tmp_path / 'run'), 'forget', 'command')
  assert str(tmp_path / 'cache') in str(e.value) and '\n' not in str(e.value)


def test_both_are_stages_of_the_command_line():
  for stage in ('inspect', 'forget'):
    parsed = main.parse([f'--config={command.DIGITS_SMOKE}', '--stage', stage])
    assert parsed.stage == stage
    assert stage in main.__doc__
