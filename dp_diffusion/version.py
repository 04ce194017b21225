"""Version and revision of the running code.

The version is stated in pyproject.toml alone. `setup.py` calls `revision` when
it builds the package, and so must be able to run this file by itself.
"""

from __future__ import annotations

from importlib import metadata
import pathlib
import subprocess
import tomllib

_PACKAGE = pathlib.Path(__file__).resolve().parent
REVISION_FILE = 'revision.txt'  # In the installed package.
UNKNOWN = 'unknown'


def of_package() -> str:
  """Version of the running code, a clone or an installed package."""
  project = _project(_PACKAGE.parent)
  if project.get('name') == 'dp_diffusion':
    return str(project['version'])
  return metadata.version('dp_diffusion')


def revision(package: pathlib.Path = _PACKAGE) -> str:
  """Returns the git revision of a package, '+changes' if its files differ.

  Args:
    package: the folder `dp_diffusion` of a clone, where git is asked, or of an
      environment, where the file says it that was written on installation. An
      environment may lie in somebody's repository, whose revision is another.

  Returns:
    The revision, or 'unknown'.
  """
  clone = package.parent
  if _project(clone).get('name') != 'dp_diffusion':
    path = package / REVISION_FILE
    found = path.read_text(encoding='utf-8').strip() if path.is_file() else ''
    return found or UNKNOWN
  try:
    if pathlib.Path(_git(clone, 'rev-parse', '--show-toplevel')) != clone:
      return UNKNOWN  # An archive that lies in another repository.
    head = _git(clone, 'rev-parse', 'HEAD')
    is_changed = bool(_git(clone, 'status', '--porcelain', '--', package.name))
  except (OSError, subprocess.CalledProcessError):
    return UNKNOWN
  return head + ('+changes' if is_changed else '')


def _project(folder: pathlib.Path) -> dict[str, str]:
  """Returns the section `project` of a pyproject.toml; {} without one."""
  path = folder / 'pyproject.toml'
  if not path.is_file():
    return {}
  found: dict[str, str] = tomllib.loads(path.read_text(encoding='utf-8')).get(
    'project', {}
  )
  return found


def _git(folder: pathlib.Path, *arguments: str) -> str:
  return subprocess.run(
    ['git', '-C', str(folder), *arguments],
    check=True,
    capture_output=True,
    text=True,
  ).stdout.strip()
