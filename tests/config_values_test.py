"""Tests of dp_diffusion.config_values: typed text."""

from __future__ import annotations

import pathlib
import re

import hypothesis
from hypothesis import strategies as st
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import config_values
from dp_diffusion import errors

OWN = str(pathlib.Path(__file__).parent.parent / 'configs/own_images.py:smoke')


@pytest.mark.parametrize(
  ('text', 'names'),
  [
    ('0,1,2', ('0', '1', '2')),
    ('(0,1,2)', ('0', '1', '2')),
    ('[0, 1, 2]', ('0', '1', '2')),
    ('True,False', ('True', 'False')),
    ('01,1e3,0x10,1_0', ('01', '1e3', '0x10', '1_0')),
    ('None,none', ('None', 'none')),
    ('none', ('none',)),
    ('7', ('7',)),
    ('(7,)', ('7',)),
    ('benign , in situ', ('benign', 'in situ')),
    ("('benign', 'in situ')", ('benign', 'in situ')),
    ("'benign','in situ'", ('benign', 'in situ')),
    ('"a, b",c', ('a, b', 'c')),
    ("'a, b',0", ('a, b', '0')),
    ("Crohn's,healthy", ("Crohn's", 'healthy')),
    ('(low),(high)', ('(low)', '(high)')),
    ('a,b,', ('a', 'b')),
    ('a\r b,\nc', ('a  b', 'c')),
    ('', ()),
    ('()', ()),
  ],
)
def test_names_are_text(text, names):
  assert config_values.parse_names(text) == names
  if len(set(names)) == len(names) and len(names) > 1:
    config = config_lib.load(OWN, {'data.class_names': text})
    assert config.data.class_names == names


@hypothesis.given(st.lists(st.text(), max_size=4))
def test_what_python_writes_is_read(names):
  assert config_values.parse_names(repr(tuple(names))) == tuple(names)


@hypothesis.given(st.text())
def test_any_text_gives_names(text):
  assert all(isinstance(n, str) for n in config_values.parse_names(text))


def test_numbers_stay_numbers_elsewhere():
  config = config_lib.load(OWN, {'model.channel_multipliers': '1,2'})
  assert config.model.channel_multipliers == (1, 2)


def test_numbers_in_a_config_file_are_taken_or_shown_with_quotes():
  kind = config_lib.registry.DataConfig
  values = {'name': 'generated', 'class_names': (0, True)}
  assert config_values.build(kind, values, '').class_names == ('0', 'True')
  words = "class_names=0.5 to be of type str, in quotes: '0.5'"
  with pytest.raises(errors.UsageError, match=re.escape(words)):
    config_values.build(kind, values | {'class_names': (0.5,)}, 'data.')


def test_configs_are_described_without_being_run(tmp_path):
  texts = {
    'a.py': '"""A.\n\nMore."""\ndef get_config(): raise 1\nVARIANTS = {"b": 1}',
    'b.py': 'def get_config(:',
    'c.py': 'def get_config(variant=""): pass',
    'default.py': 'def get_config(): pass',
    'helper.py': 'x = 1',
  }
  for name, text in texts.items():
    (tmp_path / name).write_text(text)
  (tmp_path / 'latin.py').write_bytes(b'# \xe9')
  assert config_values.describe_files(tmp_path) == (
    f'  {tmp_path}/a.py: A.\n    variants: b\n  {tmp_path}/c.py'
  )
  assert config_values.describe_files(tmp_path / 'none') == ''


@pytest.mark.parametrize('name', ['cifar10', 'mnist', 'own_images'])
def test_every_variant_that_is_described_exists(name):
  config = f'{pathlib.Path(OWN).parent}/{name}.py'
  shown = config_values.describe_files(pathlib.Path(config).parent)
  (line,) = re.findall(rf'/{name}\.py: .*\n    variants: (.*)', shown)
  for variant in line.split(', '):
    config_values.load_file(f'{config}:{variant}')
  with pytest.raises(errors.UsageError) as error:
    config_values.load_file(f'{config}:none')
  known = str(error.value).rpartition('one of: ')[2].rstrip('.')
  assert sorted(known.split(', ')) == sorted(line.split(', '))
