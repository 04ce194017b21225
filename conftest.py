"""What the examples in docstrings need beside their own module."""

from __future__ import annotations

import pathlib
import re

import pytest


@pytest.fixture(autouse=True)
def _names_of_examples(request: pytest.FixtureRequest) -> None:
  """Gives an example the names that it uses, and a cache of its own."""
  test = getattr(request.node, 'dtest', None)
  if test is None:
    return
  monkeypatch = request.getfixturevalue('monkeypatch')
  folder = request.getfixturevalue('tmp_path')
  monkeypatch.setenv('XDG_CACHE_HOME', str(folder))
  text = ''.join(example.source for example in test.examples)
  for name in ('release_dir', 'config_file', 'workdir'):
    if re.search(rf'\b{name}\b', text):
      test.globs[name] = request.getfixturevalue(f'example_{name}')


@pytest.fixture(scope='session')
def example_release_dir(
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A tiny release; not to be changed."""
  from tests import tiny_release  # noqa: PLC0415

  return tiny_release.make(tmp_path_factory.mktemp('tiny') / 'release')


@pytest.fixture
def example_config_file() -> str:
  """A config file and its variant."""
  return 'configs/digits.py:smoke'


@pytest.fixture
def example_workdir(example_config_file: str, tmp_path: pathlib.Path) -> str:
  """The folder of a run whose stage `sample` is complete."""
  from dp_diffusion import config as config_lib  # noqa: PLC0415
  from dp_diffusion.stages.run import workdirs  # noqa: PLC0415

  folder = workdirs.open_workdir(str(tmp_path / 'run'))
  folder.begin('sample', config_lib.load(example_config_file))
  folder.complete('sample', 0.0)
  return str(tmp_path / 'run')
