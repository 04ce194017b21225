"""One smoke run through the command line, shared by the tests of the road."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import fcntl
import pathlib

import pytest

from tests.conftest import of_all_workers
from tests.stages import command


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A finished run of `configs/digits.py:smoke`; not to be changed.

  Attributes:
    workdir: its folder.
    stdout: what it printed.
  """

  workdir: pathlib.Path
  stdout: str


@pytest.fixture(scope='session')
def finished_run(
  subprocess_environment: Mapping[str, str],
  tmp_path_factory: pytest.TempPathFactory,
) -> FinishedRun:
  """Goes the whole road in one command, once for all workers of a session."""
  folder = of_all_workers(tmp_path_factory) / 'road'
  folder.mkdir(exist_ok=True)
  workdir, printed = folder / 'run', folder / 'stdout'
  with (folder / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not printed.exists():
      text = command.succeed(subprocess_environment, f'--workdir={workdir}')
      printed.write_text(text)
  return FinishedRun(workdir, printed.read_text())
