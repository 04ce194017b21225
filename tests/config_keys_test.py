"""Tests of dp_diffusion.config_keys: one statement for each key."""

from __future__ import annotations

import dataclasses
import math
import re

import ml_collections
import numpy as np
import pytest

from configs import default
from dp_diffusion import config as config_lib
from dp_diffusion import config_keys
from dp_diffusion import errors

SECTIONS = list(config_keys.sections(config_lib.Config))
KEYS = [key for _, _, keys, _ in SECTIONS for key in keys]


@pytest.mark.parametrize(
  ('words', 'good', 'bad'),
  [
    ('> 0', (1e-300, 1, np.float32(2)), (0, -1, math.nan, math.inf, '1')),
    ('> 0, or inf', (1, math.inf), (0, -math.inf, math.nan, None)),
    ('>= 1', (1, 10**30, True), (0, 0.5, math.inf)),
    ('(0, 1)', (0.5,), (0, 1, math.nan)),
    ('[0, 1)', (0, 0.5), (1, -1e-9)),
    ('(0, 1]', (1, 0.5), (0, 1.1)),
    ('[0, 1]', (0, 1), (-1, 2, math.inf)),
    ('[0, 2**31)', (0, 2**31 - 1), (2**31, 10**400)),
    ('finite', (0, -1e300), (math.inf, -math.inf, math.nan)),
  ],
)
def test_a_range_is_what_its_words_say(words, good, bad):
  check = config_keys.in_range(words).check
  for value in good:
    check('x', value)
  for value in bad:
    with pytest.raises(ValueError, match=re.escape(words.split(',')[0])) as e:
      check('x', value)
    assert str(e.value).startswith('Expected x=') and '\n' not in str(e.value)


def test_infinity_is_told_what_is_wrong_with_it():
  with pytest.raises(ValueError, match='x=inf to be > 0 and finite'):
    config_keys.in_range('> 0').check('x', math.inf)


@pytest.mark.parametrize('words', ['', '1', '< 1', '0, 1', '[0; 1]'])
def test_words_that_are_no_range_are_refused(words):
  with pytest.raises(ValueError):
    config_keys.in_range(words)


def test_every_element_of_a_tuple_is_checked():
  @dataclasses.dataclass(frozen=True)
  class Config:
    shares: tuple[float, ...] = config_keys.key((), 'Shares.', '(0, 1]')
    limit: float | None = config_keys.key(None, 'Limit.', '> 0')

    def __post_init__(self):
      config_keys.check(self, 'a.')

  assert Config(shares=(0.5, 1)).limit is None
  with pytest.raises(ValueError, match=r'a\.shares=2 to be in \(0, 1\]'):
    Config(shares=(0.5, 2))
  with pytest.raises(ValueError, match=r'a\.limit=0 to be > 0'):
    Config(limit=0)


def test_every_field_of_a_config_is_a_key_or_a_section():
  facts = []
  for path, kind, _, _ in SECTIONS:
    for field in dataclasses.fields(kind):
      name = f'{path}.{field.name}'
      if config_keys.is_fact(field):
        facts.append(name)
      else:
        assert config_keys.of(field) is not None, name
  assert facts == ['.found']


def _leaves(config: ml_collections.ConfigDict, prefix: str = '') -> dict:
  found = {}
  for name in config:
    if isinstance(config[name], ml_collections.ConfigDict):
      found |= _leaves(config[name], f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = config[name]
  return found


def test_every_key_of_the_defaults_has_its_statement():
  """And starts with its default, where `configs/default.py` says nothing."""
  assert _leaves(default.get_config()) == {
    key.path: key.default for key in KEYS
  }


def test_no_default_is_stated_twice():
  for path, kind, keys, _ in SECTIONS:
    for field in dataclasses.fields(kind):
      said = config_keys.of(field)
      if isinstance(said, config_keys.Section):
        own = {k.path.rpartition('.')[2]: k for k in _keys_of(path, field.name)}
        for name, value in said.changed.items():
          assert value != own[name].statement.default, f'{path}.{name}'
      elif said and field.default is not dataclasses.MISSING:
        assert field.default is said.default
    assert len({key.path for key in keys}) == len(keys)


def _keys_of(path, name):
  inner = f'{path}.{name}' if path else name
  (keys,) = (keys for p, _, keys, _ in SECTIONS if p == inner)
  return keys


@pytest.mark.parametrize('key', KEYS, ids=lambda key: key.path)
def test_a_statement_is_whole(key):
  """It has a text and a type, and allows its default, unless that is unset."""
  assert re.search(r'^.+\.$', key.statement.text)
  assert key.values and '\n' not in key.values + key.statement.text
  allowed = key.statement.allowed
  if allowed and allowed.check and key.default is not None:
    if 'to be set' in key.statement.text and not key.default:
      return
    values = key.default if isinstance(key.default, tuple) else (key.default,)
    for value in values:
      allowed.check(key.path, value)


def _wrong(key):
  """A value of the right type that the words of a statement exclude."""
  words = key.statement.allowed.words
  if words == 'a line of text':
    return 'two\nlines'
  if config_keys.type_of(key) is str:
    return 'nonsense'
  if config_keys.type_of(key) is bool:
    return 'yes'
  if key.kind == tuple[str, ...]:
    return ('nonsense',)
  number = math.inf if words == 'finite' else -2
  return (number,) if config_keys.type_of(key) is tuple else number


def _replaced(config, path, value):
  """The config with another value of a dotted key, made anew to the top."""
  name, _, rest = path.partition('.')
  if rest:
    value = _replaced(getattr(config, name), rest, value)
  return dataclasses.replace(config, **{name: value})


@pytest.fixture(scope='module')
def digits(repository):
  return config_lib.load(str(repository / 'configs' / 'digits.py'))


@pytest.mark.parametrize(
  'key',
  [key for key in KEYS if key.statement.allowed],
  ids=lambda key: key.path,
)
def test_what_a_statement_excludes_is_refused(key, digits):
  """Whoever states what is allowed also checks it, in one line."""
  name = key.path.rpartition('.')[2]
  with pytest.raises((ValueError, errors.UsageError), match=name) as error:
    _replaced(digits, key.path, _wrong(key))
  assert '\n' not in str(error.value)


def test_an_unknown_key_of_a_section_is_refused():
  said = config_keys.Section(text='', changed={'no': 1}, also={})
  with pytest.raises(ValueError, match='no'):
    list(config_keys.sections(config_lib.ModelConfig, 'model', said))
