"""Whether own images are grey or coloured, and which classes they have."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import config_values
from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import registry

ROOT = pathlib.Path(__file__).parent.parent.parent
GREY, STORED_AS_COLOUR, COLOUR = 'grey', 'stored as colour', 'colour'


def _write(folder: pathlib.Path, kinds: list[str], suffix='.png') -> str:
  rng = np.random.default_rng(0)
  for index, kind in enumerate(kinds):
    pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
    if kind != COLOUR:
      pixels[:] = pixels[..., :1]
    image = Image.fromarray(pixels[..., 0] if kind == GREY else pixels)
    place = folder / 'ab'[index % 2]
    place.mkdir(parents=True, exist_ok=True)
    image.save(place / f'{index}{suffix}')
  return str(folder)


def _find(path: str) -> int:
  config = registry.DataConfig(name='folder', path=path, class_names=('a', 'b'))
  return registry.find_channels(config)


def test_names_of_files_need_not_be_utf_8(tmp_path) -> None:
  """As they are in archives of before."""
  path = pathlib.Path(_write(tmp_path, [GREY] * 6))
  for file in sorted(path.rglob('*.png')):
    name = os.fsencode(file.parent) + b'/r\xf6ntgen ' + os.fsencode(file.name)
    os.rename(file, name)
  assert _find(str(path)) == 1


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
@pytest.mark.parametrize(
  ('kinds', 'channels'),
  [
    ([GREY] * 6, 1),
    ([STORED_AS_COLOUR] * 6, 1),
    ([GREY] * 3 + [STORED_AS_COLOUR] * 3, 1),
    ([COLOUR] * 6, 3),
  ],
)
def test_pixels_decide_not_how_they_are_stored(
  tmp_path, kinds, channels, suffix
) -> None:
  assert _find(_write(tmp_path, kinds, suffix)) == channels


def test_few_images_are_looked_at(tmp_path, monkeypatch) -> None:
  looked_at = []
  look = decoding.decode_or_error
  monkeypatch.setattr(
    decoding,
    'decode_or_error',
    lambda *given: looked_at.append(1) or look(*given),
  )
  assert _find(_write(tmp_path, [GREY] * 70)) == 1
  assert len(looked_at) == 64


@pytest.mark.parametrize('odd', range(2))
def test_one_image_decides_nothing(tmp_path, odd) -> None:
  assert _find(_write(tmp_path / 'g', [GREY] * 80 + [COLOUR] * odd)) == 1
  assert _find(_write(tmp_path / 'c', [COLOUR] * 80 + [GREY] * odd)) == 3


@pytest.mark.parametrize(('most', 'channels'), [(GREY, 1), (COLOUR, 3)])
def test_one_odd_image_that_is_looked_at_decides_nothing(
  tmp_path, most, channels
) -> None:
  odd = COLOUR if most == GREY else GREY
  assert _find(_write(tmp_path, [most] * 19 + [odd])) == channels


def test_an_image_more_changes_at_most_one_that_is_looked_at(
  tmp_path, monkeypatch
) -> None:
  from dp_diffusion.data import folder  # noqa: PLC0415

  def looked_at(number: int, extra: str) -> set[bytes]:
    path = _write(tmp_path / extra, [GREY] * number)
    Image.new('L', (9, 9), 7).save(tmp_path / extra / 'a' / f'{extra}.png')
    seen = []
    config = registry.DataConfig(
      name='folder', path=path, class_names=('a', 'b')
    )
    real = folder.decoding.decode_or_error

    def decode(data, options):
      seen.append(bytes(data))
      return real(data, options)

    with monkeypatch.context() as patch:
      patch.setattr(folder.decoding, 'decode_or_error', decode)
      registry.find_channels(config)
    return set(seen)

  first, second = looked_at(70, 'x'), looked_at(70, 'y')
  assert len(first - second) <= 2 and len(second - first) <= 2


def test_a_mixed_set_has_to_be_declared(tmp_path) -> None:
  path = _write(tmp_path, [GREY] * 3 + [COLOUR] * 3)
  with pytest.raises(errors.UsageError, match=r'set data.channels=1 \(all gr'):
    _find(path)
  changed = {'data.class_names': 'a,b', 'privacy.num_examples': '100'}
  own = str(ROOT / 'configs' / 'own_images.py:cpu')
  with pytest.raises(errors.UsageError, match='set data.channels=1'):
    config_lib.load(own, {**changed, 'data.path': path})
  declared = {**changed, 'data.path': path, 'data.channels': '3'}
  assert config_lib.load(own, declared).data.channels == 3


def test_what_cannot_be_looked_at_is_left_to_others(tmp_path) -> None:
  assert _find(str(tmp_path / 'missing')) == 0
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / '1.png').write_bytes(b'no image')
  assert _find(str(tmp_path)) == 0
  assert registry.find_channels(registry.DataConfig(name='digits')) == 0


def test_a_variant_by_machine_follows_the_files(tmp_path, capsys) -> None:
  path = _write(tmp_path, [STORED_AS_COLOUR] * 6)
  config = config_lib.load(
    str(ROOT / 'configs' / 'own_images.py:cpu'),
    {'data.path': path, 'data.class_names': 'a,b', 'privacy.num_examples': '9'},
  )
  assert config.data.channels == config.pretrain.data.channels == 1
  assert 'read as grey, as in their files' in capsys.readouterr().out


def test_a_folder_says_its_classes_where_it_is_public(tmp_path) -> None:
  path = _write(tmp_path, [GREY] * 4)
  config = config_lib.load(
    str(ROOT / 'configs' / 'own_images.py:cpu'),
    {
      'data.class_names': 'x,y',
      'privacy.num_examples': '100',
      'pretrain.data.name': 'folder',
      'pretrain.data.path': path,
    },
  )
  public = config.pretrain.data
  assert public.class_names == ('a', 'b')
  images = registry.load(public).images
  assert images.shape[1:] == (24, 24, 3)  # As the run has them.


def test_another_public_source_has_other_classes() -> None:
  cifar10 = str(ROOT / 'configs' / 'cifar10.py')
  config = config_lib.load(cifar10, {'pretrain.data.name': 'rendered'})
  assert config.pretrain.data.class_names[0] == 'clouds'
  # One that has none of its own takes those of the config.
  config = config_lib.load(cifar10, {'pretrain.data.name': 'generated'})
  assert config.pretrain.data.class_names[-1] == '999'


def _load(path: str, **typed: str) -> config_lib.Config:
  named = {f'data.{key}': text for key, text in typed.items()}
  given = {'data.path': path, 'data.class_names': 'a,b', **named}
  config = ROOT / 'configs/own_images.py'
  return config_lib.load(
    f'{config}:cpu', {**given, 'privacy.num_examples': '9000'}
  )


def test_a_config_knows_whether_images_decided_it(tmp_path) -> None:
  path = _write(tmp_path, [GREY] * 6)
  found, typed = _load(path), _load(path, channels='1')
  assert found.found == ('data.channels',) and typed.found == ()
  assert config_lib.to_dict(found) == config_lib.to_dict(typed)
  assert 'found' not in config_lib.to_dict(found)
  assert _load(str(tmp_path / 'none')).found == ()


def test_what_images_decided_is_no_key() -> None:
  config, _ = config_values.load_file(str(ROOT / 'configs/digits.py'))
  with pytest.raises(errors.UsageError, match="Unknown config key 'found'"):
    config_lib.load(str(ROOT / 'configs/digits.py'), {'found': 'a'})
  with config.unlocked():
    config.found = ('data.channels',)
  with pytest.raises(errors.UsageError, match="Unknown config key 'found'"):
    config_lib.freeze(config)
