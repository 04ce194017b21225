"""The revision that a release states: of this code, not of what is around."""

from __future__ import annotations

import pathlib
import runpy
import shutil
import subprocess
import sys
import types

import pytest

from dp_diffusion import version

ROOT = pathlib.Path(__file__).resolve().parent.parent


def git(folder, *arguments):
  user = ('-c', 'user.name=a', '-c', 'user.email=a@example.org')
  subprocess.run(
    ['git', '-C', str(folder), *user, *arguments],
    check=True,
    capture_output=True,
  )


def commit_all(folder):
  git(folder, 'init')
  git(folder, 'add', '--all', '--force')
  git(folder, 'commit', '-m', 'All')


def source(folder):
  """A copy of the source with two modules."""
  (folder / 'dp_diffusion' / 'privacy').mkdir(parents=True)
  for name in ('pyproject.toml', 'setup.py', 'dp_diffusion/version.py'):
    shutil.copyfile(ROOT / name, folder / name)
  (folder / 'dp_diffusion' / 'privacy' / 'noise.py').write_text('std = 1\n')
  return folder / 'dp_diffusion'


def is_revision(found):
  return len(found) == 40 and set(found) <= set('0123456789abcdef')


def test_revision_of_a_clone(tmp_path):
  package = source(tmp_path)
  commit_all(tmp_path)
  found = version.revision(package)
  assert is_revision(found)
  (tmp_path / 'notes.txt').write_text('of the user')
  assert version.revision(package) == found
  (package / 'privacy' / 'noise.py').write_text('std = 0\n')
  assert version.revision(package) == f'{found}+changes'


def test_an_archive_has_none(tmp_path):
  package = source(tmp_path / 'inner')
  assert version.revision(package) == 'unknown'
  commit_all(tmp_path)  # Unpacked in somebody's repository.
  assert version.revision(package) == 'unknown'


def test_an_environment_in_the_repository_of_a_user_has_its_own(tmp_path):
  package = tmp_path / '.venv' / 'lib' / 'dp_diffusion'
  package.mkdir(parents=True)
  (tmp_path / 'pyproject.toml').write_text('[project]\nname = "theirs"\n')
  commit_all(tmp_path)
  assert version.revision(package) == 'unknown'
  (package / version.REVISION_FILE).write_text('abc\n')
  assert version.revision(package) == 'abc'


class Build:
  """Stands for the command of setuptools, which no Python need have."""

  def __init__(self, build_lib, is_editable):
    self.build_lib, self.editable_mode = str(build_lib), is_editable

  def run(self):
    pathlib.Path(self.build_lib, 'dp_diffusion').mkdir(parents=True)


@pytest.mark.parametrize('given', ['', 'def'])
@pytest.mark.parametrize('is_editable', [False, True])
def test_a_built_package_knows_its_revision(
  tmp_path, given, is_editable, monkeypatch
):
  package = source(tmp_path / 'source')
  commit_all(tmp_path / 'source')
  made = {}
  module = types.SimpleNamespace(build_py=Build)
  tools = types.SimpleNamespace(setup=made.update)
  for name, stub in (
    ('setuptools', tools),
    ('setuptools.command', types.SimpleNamespace(build_py=module)),
    ('setuptools.command.build_py', module),
  ):
    monkeypatch.setitem(sys.modules, name, stub)
  monkeypatch.setenv('DP_DIFFUSION_REVISION', given)
  runpy.run_path(str(tmp_path / 'source' / 'setup.py'))
  made['cmdclass']['build_py'](tmp_path / 'lib', is_editable).run()
  built = tmp_path / 'lib' / 'dp_diffusion'
  revision = given or version.revision(package)
  assert version.revision(built) == ('unknown' if is_editable else revision)
  assert not (package / version.REVISION_FILE).exists()
