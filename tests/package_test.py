"""The installed package: what it holds, and its configs from any folder."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

from dp_diffusion import config_values
from dp_diffusion import errors
from dp_diffusion import main as main_lib
from dp_diffusion import version

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Configs lie at the top level, and are installed inside the package.
CONFIGS = {
  'dp_diffusion.configs': 'configs',
  'dp_diffusion.configs.recipes': 'configs/recipes',
}
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


def test_every_folder_of_modules_is_installed():
  folders = {p.parent for p in (ROOT / 'dp_diffusion').rglob('*.py')}
  names = {'.'.join(p.relative_to(ROOT).parts) for p in folders}
  setuptools = PROJECT['tool']['setuptools']
  assert set(setuptools['packages']) == names | set(CONFIGS)
  assert setuptools['package-dir'] == CONFIGS


def test_every_other_file_of_the_package_is_installed():
  data = PROJECT['tool']['setuptools']['package-data']
  for path in (ROOT / 'dp_diffusion').rglob('*'):
    if path.is_file() and path.suffix not in ('.py', '.pyc'):
      package = '.'.join(path.parent.relative_to(ROOT).parts)
      assert any(path.match(pattern) for pattern in data[package]), path


def test_the_command_is_the_entry_point():
  script = PROJECT['project']['scripts']['dp-diffusion']
  assert script == f'{main_lib.__name__}:{main_lib.main.__name__}'


def test_version(capsys):
  assert main_lib.main(['--version']) == 0
  assert capsys.readouterr().out == (
    f'dp_diffusion {PROJECT["project"]["version"]}\n'
  )
  assert version.of_package() == PROJECT['project']['version']


@pytest.mark.parametrize(
  'name', ['digits', 'digits.py', 'configs/digits.py', 'configs/digits']
)
def test_names_of_configs_are_known_in_any_folder(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config_values.find_file(name) == ROOT / 'configs' / 'digits.py'


def test_a_file_of_the_working_folder_comes_first(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'digits').write_text('')
  assert config_values.find_file('digits') == pathlib.Path('digits')


@pytest.mark.parametrize('name', ['digit', 'configs/digit.py', 'no/digit.py'])
def test_near_names_are_suggested(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(
    errors.UsageError, match=r'Did you mean configs/digits.py'
  ):
    config_values.find_file(name)


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """The package with its configs, and what Python compiled of them."""
  folder = tmp_path_factory.mktemp('site') / 'dp_diffusion'
  shutil.copytree(ROOT / 'dp_diffusion', folder)
  shutil.copytree(ROOT / 'configs', folder / 'configs')
  return folder


@pytest.mark.parametrize('folder', ['mine', 'configs'])
def test_installed_configs_run_from_anywhere(installed, tmp_path, folder):
  own = tmp_path / 'work' / folder / 'own.py'
  own.parent.mkdir(parents=True)
  own.write_text(
    'from configs import digits\n'
    'def get_config(variant):\n'
    '  return digits.get_config(variant)\n'
  )
  code = (
    'import sys; from dp_diffusion import config_values as c;'
    'a, _ = c.load_file("digits:smoke");'
    f'b, _ = c.load_file("{folder}/own.py:smoke");'
    'assert a.to_json() == b.to_json();'
    'assert sys.modules["types"].__file__.endswith("lib/" + '
    'f"python{sys.version_info[0]}.{sys.version_info[1]}/types.py");'
    'import configs.digits; print(configs.digits.__file__)'
  )
  env = {**os.environ, 'PYTHONPATH': str(installed.parent)}
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path / 'work',
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == str(installed / 'configs' / 'digits.py')
