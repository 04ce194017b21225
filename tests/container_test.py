"""The container file: it copies what is there, and runs the command."""

from __future__ import annotations

import fnmatch
import json
import pathlib
import re
import subprocess
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def instructions() -> list[tuple[str, str]]:
  """Returns (instruction, arguments) of the Dockerfile, in order."""
  text = (ROOT / 'Dockerfile').read_text(encoding='utf-8')
  lines = text.replace('\\\n', ' ').splitlines()
  kept = [line for line in lines if line.strip() and line[0] != '#']
  return [tuple(line.split(maxsplit=1)) for line in kept]


def arguments(name: str) -> list[str]:
  return [text for found, text in instructions() if found == name]


def copied() -> dict[str, str]:
  """Returns source -> target of what is copied into the image."""
  found = {}
  for text in arguments('COPY'):
    *sources, target = text.split()
    found.update(dict.fromkeys(sources, target))
  return found


def allowed() -> list[str]:
  lines = (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines()
  return [line[1:] for line in lines if line.startswith('!')]


def test_the_instructions_are_those_of_a_container():
  known = {'FROM', 'WORKDIR', 'COPY', 'ARG', 'RUN', 'ENV', 'ENTRYPOINT', 'CMD'}
  names = [name for name, _ in instructions()]
  assert set(names) == known and names[0] == 'FROM'
  assert json.loads(arguments('CMD')[0]) == ['--help']


def test_all_that_is_copied_is_there():
  assert copied()
  for source, target in copied().items():
    assert (ROOT / source).exists(), source
    is_folder = (ROOT / source).is_dir()
    assert target == (source if is_folder else target) and (
      is_folder or target.endswith('/')
    )


def test_the_package_finds_what_it_is_made_of():
  tools = PROJECT['tool']['setuptools']
  needed = {'pyproject.toml', 'setup.py', 'dp_diffusion'}
  needed.add(PROJECT['project']['readme'])
  needed |= set(PROJECT['project']['license-files'])
  needed |= set(tools['dynamic']['dependencies']['file'])
  needed |= {path.split('/')[0] for path in tools['package-dir'].values()}
  assert needed <= set(copied())


def test_nothing_else_is_sent_to_the_build():
  """Runs have private folders, and a home may have other images."""
  lines = (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines()
  rules = [line for line in lines if line and line[0] != '#']
  assert rules[0] == '*'
  assert set(allowed()) == set(copied())
  for name in ('runs', '.git', 'data', 'tests', '.venv'):
    assert not any(fnmatch.fnmatch(name, rule) for rule in allowed())


def test_versions_are_those_of_the_lock_of_its_python():
  (base,) = arguments('FROM')
  major, minor = re.search(r'python:(\d+)\.(\d+)-slim$', base).groups()
  lock = f'lock/py{major}{minor}.txt'
  assert lock in copied()
  (install, package) = arguments('RUN')
  assert f'--constraint {lock} -r requirements.txt' in install
  assert package.endswith('--no-deps .')
  least = re.search(r'>=(\d+)\.(\d+)', PROJECT['project']['requires-python'])
  assert (int(major), int(minor)) >= tuple(map(int, least.groups()))


def test_it_runs_the_command_of_the_package():
  (entry,) = arguments('ENTRYPOINT')
  assert json.loads(entry) == list(PROJECT['project']['scripts'])


def test_what_is_run_finds_what_was_copied_before():
  there, known = set(), {'PATH'}
  for name, text in instructions():
    if name == 'COPY':
      there |= set(text.split()[:-1])
    elif name == 'ARG':
      known.add(text.partition('=')[0])
    elif name == 'RUN':
      words = set(text.split())
      files = {word for word in words if re.search(r'\.(txt|py)$', word)}
      assert files <= there, files - there
      assert set(re.findall(r'\$(\w+)', text)) <= known
      if '.' in words:  # pip install .
        assert {'pyproject.toml', 'setup.py', 'dp_diffusion'} <= there


def test_its_revision_is_that_of_the_source():
  """There is no clone in the image: the build is told."""
  (told,) = (text for text in arguments('RUN') if text.endswith(' .'))
  assert told.startswith('DP_DIFFUSION_REVISION="$REVISION" ')
  text = (ROOT / 'setup.py').read_text(encoding='utf-8')
  assert "'DP_DIFFUSION_REVISION'" in text
  how = (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8')
  assert '--build-arg REVISION="$(git rev-parse HEAD)"' in how


@pytest.mark.parametrize('text', arguments('RUN'))
def test_commands_are_valid_shell(text):
  done = subprocess.run(
    ['sh', '-n', '-c', text], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
