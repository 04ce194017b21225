"""The version of this package, stated in pyproject.toml alone."""

from __future__ import annotations

from importlib import metadata
import pathlib
import tomllib


def of_package() -> str:
  """Version of the running code, a clone or an installed package."""
  clone = pathlib.Path(__file__).resolve().parent.parent / 'pyproject.toml'
  if clone.is_file():
    project = tomllib.loads(clone.read_text(encoding='utf-8')).get(
      'project', {}
    )
    if project.get('name') == 'dp_diffusion':
      return str(project['version'])
  return metadata.version('dp_diffusion')
