"""One smoke run through the command line, shared by the tests of the road."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib

import pytest

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
  """Goes the whole road once, in one command."""
  workdir = tmp_path_factory.mktemp('road') / 'run'
  stdout = command.succeed(subprocess_environment, f'--workdir={workdir}')
  return FinishedRun(workdir, stdout)
