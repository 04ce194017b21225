"""Tests of dp_diffusion.config_help: what is said of a key.

`DP_DIFFUSION_WRITE=1 python -m pytest tests/config_help_test.py` writes
docs/config.md.
"""

from __future__ import annotations

import os
import re

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import config_help
from dp_diffusion import config_keys
from dp_diffusion import errors

SECTIONS = list(config_keys.sections(config_lib.Config))
KEYS = [key for _, _, keys, _ in SECTIONS for key in keys]


def test_the_page_says_what_the_code_says(repository):
  path = repository / 'docs' / 'config.md'
  if os.environ.get('DP_DIFFUSION_WRITE'):
    path.write_text(config_help.page())
  assert path.read_text() == config_help.page(), 'Set DP_DIFFUSION_WRITE=1.'


def test_the_page_has_each_key_and_section_once():
  page = config_help.page()
  for path, kind, keys, text in SECTIONS:
    assert page.count(f'- `{path}`: {text}') == bool(path)
    for key in keys:
      name = key.path.rpartition('.')[2]
      same = {k for _, k, ks, _ in SECTIONS if name in _names(ks)}
      assert kind in same
      assert len(re.findall(rf'^\| `{name}` \|', page, re.M)) == len(same)
  assert '| `warmup_steps` | `0`, `5000` in `pretrain.optimizer` |' in page
  assert '| `learning_rate` | `0.1` |' in page  # Of evaluate.classifier alone.
  assert 'None' not in page and 'none' in page


def _names(keys):
  return [key.path.rpartition('.')[2] for key in keys]


def test_the_same_keys_are_stated_once_for_sections_of_one_kind():
  """A row of the page holds for all of them: only defaults may differ."""
  by_kind = {}
  for _, kind, keys, _ in SECTIONS:
    said = [(key.path.rpartition('.')[2], key.statement) for key in keys]
    assert by_kind.setdefault(kind, said) == said


def test_a_key_is_shown_with_all_that_is_said():
  assert config_help.of('finetune.augmult') == (
    'finetune.augmult = 128 [R]\n'
    '  integer >= 1\n'
    '  K, draws per record and step. Default: agreed by two re-implementations'
    ' of its\n'
    '  hyper-parameter table.'
  )
  assert config_help.of('--config.privacy.epsilon').startswith(
    'privacy.epsilon = none\n  number > 0, or inf, or none\n'
  )
  assert 'pretrain.optimizer.warmup_steps = 5000\n' in config_help.of(
    'pretrain.optimizer.warmup_steps'
  )


@pytest.mark.parametrize('path', [p for p, _, _, _ in SECTIONS if p])
def test_a_section_is_shown_with_its_keys(path):
  shown = config_help.of(path)
  (keys,) = (keys for p, _, keys, _ in SECTIONS if p == path)
  for key in keys:
    assert f'\n\n{key.path} = ' in shown
  for inner, _, _, _ in SECTIONS:
    if inner.startswith(f'{path}.'):
      assert re.search(rf'--help={inner}$', shown, re.M)
  assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize('key', KEYS, ids=lambda key: key.path)
def test_every_key_can_be_asked_for(key):
  assert config_help.of(key.path).startswith(f'{key.path} = ')


@pytest.mark.parametrize(
  ('topic', 'near'),
  [
    ('privcy', 'privacy'),
    ('augmult', 'finetune.augmult'),
    ('privacy.', 'privacy'),
    ('config', ''),
    ('', ''),
  ],
)
def test_an_unknown_topic_is_one_line(topic, near):
  with pytest.raises(errors.UsageError, match='Unknown config key') as error:
    config_help.of(topic)
  assert near in str(error.value) and '\n' not in str(error.value)


def test_a_section_says_where_it_is_stated(repository):
  for path, kind, _, _ in config_keys.sections(config_lib.Config):
    if path:
      place = config_help.of(path).rpartition('Stated in ')[2].rstrip('.')
      assert f'class {kind.__name__}' in (repository / place).read_text()
