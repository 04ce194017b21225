"""Every experiment runs at smoke size, from its command line to its results."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from dp_diffusion import files
from tests import conftest
from tests.experiments import sweeps_test

ROOT = sweeps_test.ROOT


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('name', sweeps_test.FOLDERS)
def test_smoke_runs_to_the_end(name, tmp_path):
  path = ROOT / 'experiments' / name / 'results.json'
  before = path.read_bytes() if path.exists() else None
  command = [sys.executable, '-m', f'experiments.{name}.run', '--smoke']
  done = subprocess.run(
    [*command, f'--out={tmp_path}', '--jobs=2'],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': conftest.QUICK_COMPILATION},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  results = files.read_json(tmp_path / 'results.json')
  assert results['runs'] and not results['missing']
  assert bool(results['rows']) == (name != 'sample_grids')  # Pictures alone.
  for figure in results['figures']:
    assert pathlib.Path(tmp_path, figure['file']).exists()
  assert (path.read_bytes() if path.exists() else None) == before
