"""Builds the package, and records the revision that it is built from.

All else is in pyproject.toml. A release states the revision of the code, and an
installed package has no git to ask. DP_DIFFUSION_REVISION gives the revision
where the source is no clone, as in the container.
"""

from __future__ import annotations

import os
import pathlib
import runpy

import setuptools
from setuptools.command import build_py

_PACKAGE = pathlib.Path(__file__).resolve().parent / 'dp_diffusion'


class BuildPy(build_py.build_py):
  """Copies the modules, and writes the revision beside them."""

  def run(self) -> None:
    """Builds."""
    super().run()
    if self.editable_mode:
      return
    version = runpy.run_path(str(_PACKAGE / 'version.py'))
    revision = os.environ.get('DP_DIFFUSION_REVISION')
    revision = revision or version['revision'](_PACKAGE)
    folder = pathlib.Path(self.build_lib, _PACKAGE.name)
    path = folder / version['REVISION_FILE']
    path.write_text(f'{revision}\n', encoding='utf-8')


setuptools.setup(cmdclass={'build_py': BuildPy})
