"""The commands of the documents are understood, and nothing stands unchecked.

Whole runs are in `stages/road_test.py` and `stages/smoke_test.py`; here each
command that a reader would paste is parsed, and its config loaded.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shlex
from unittest import mock

import pytest

import dp_diffusion
from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import main
from dp_diffusion import released_model
from dp_diffusion import sample

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = (
  *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
  *sorted((ROOT / 'docs').glob('*.md')),
)
_BLOCK = re.compile(r'```(\w*)\n(.*?)```', re.DOTALL)
_INLINE = re.compile(r'`((?:python -m|make|dp-diffusion) [^`]+)`')
# A tree of folders, which nobody pastes.
_TREE = re.compile(r'[a-z_/]+/\n  ')
# Others' programs, which the tests do not run.
_OTHERS = ('docker build', 'tensorboard', 'pre-commit', 'pip install')


def _commands(page: pathlib.Path) -> list[str]:
  """Returns each shell command of a page as a line."""
  text = page.read_text(encoding='utf-8')
  found = []
  for language, block in _BLOCK.findall(text):
    if not language and not _TREE.match(block):
      lines = block.replace('\\\n', ' ').splitlines()
      found += [line for line in lines if line and line[0] != '#']
  rest = _BLOCK.sub('', text)
  found += [' '.join(code.split()) for code in _INLINE.findall(rest)]
  return list(dict.fromkeys(found))


COMMANDS = [
  pytest.param(line, id=f'{page.stem}: {line[:60]}')
  for page in PAGES
  for line in _commands(page)
]


def _check_main(arguments: list[str]) -> None:
  topic = main.help_topic(arguments)
  if topic is not None:
    main.show_help(topic)
  else:
    parsed = main.parse(arguments)
    try:
      config_lib.load(parsed.config, parsed.overrides)
    except errors.UsageError as error:  # Weights that the reader downloads.
      assert 'pretrain.init_from' in parsed.overrides
      assert 'Expected weights at' in str(error)


def _check_make(arguments: list[str]) -> None:
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  targets = set(re.findall(r'^([a-z-]+):', makefile, re.MULTILINE))
  variables = set(re.findall(r'^([A-Z_]+) \?=', makefile, re.MULTILINE))
  for argument in arguments:
    name, is_set, _ = argument.partition('=')
    assert name in (variables if is_set else targets), argument


def _check_module(name: str, arguments: list[str]) -> None:
  if arguments and name in ('dp_diffusion.main', 'dp_diffusion'):
    _check_main(arguments)
  elif name == 'dp_diffusion.sample':
    sample.parse(arguments)
  else:
    assert importlib.util.find_spec(name), name
    if name == 'dp_diffusion.privacy.verify':
      assert len(arguments) == 1


@pytest.mark.parametrize('line', COMMANDS)
def test_a_command_of_the_documents_is_understood(line, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  words = shlex.split(line, comments=True)
  if words[:2] == ['python', '-m']:
    _check_module(words[2], words[3:])
  elif words[0] == 'dp-diffusion':
    _check_main(words[1:])
  elif words[0] == 'make':
    _check_make(words[1:])
  elif words[0].startswith('--config.'):  # Keys to add to a command.
    assert all(word.startswith('--config.') for word in words)
    _check_main(['--config=configs/cifar10.py', *words])
  elif words[:2] == ['docker', 'run']:
    _check_main(words[words.index('dp-diffusion') + 1 :])
  else:
    assert line.startswith(_OTHERS), f'no check knows {line!r}'


def test_commands_are_found():
  lines = [parameters.values[0] for parameters in COMMANDS]
  for start in ('make demo', 'docker run', '--config.evaluate', 'python -m'):
    assert any(line.startswith(start) for line in lines), start


def test_the_code_of_the_api_page_calls_what_is_there(monkeypatch):
  text = (ROOT / 'docs' / 'api.md').read_text(encoding='utf-8')
  (code,) = (code for kind, code in _BLOCK.findall(text) if kind == 'python')
  release = mock.create_autospec(released_model.Release, instance=True)
  release.sample.return_value = mock.create_autospec(
    released_model.Samples, instance=True, images=0, labels=0
  )
  load = mock.create_autospec(dp_diffusion.load_release, return_value=release)
  monkeypatch.setattr(dp_diffusion, 'load_release', load)
  exec(compile(code, 'docs/api.md', 'exec'), {})
  release.sample.assert_called_once()
  release.sample.return_value.save.assert_called_once_with('more.npz')
