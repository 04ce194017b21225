"""Smoke runs through the command line, shared by the tests of the road."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import fcntl
import pathlib

import jax
import pytest

from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from tests.conftest import of_all_workers
from tests.stages import command


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A run of `configs/digits.py:smoke` at one level; not to be changed.

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
  return _once(
    of_all_workers(tmp_path_factory) / 'road',
    lambda workdir: command.succeed(
      *(subprocess_environment, f'--workdir={workdir}', command.ONE_LEVEL),
      is_fresh=True,
    ),
  )


@pytest.fixture(scope='session')
def finetuned_run(
  subprocess_environment: Mapping[str, str],
  tmp_path_factory: pytest.TempPathFactory,
) -> FinishedRun:
  """Fine-tuned as `command.quick` says, with a known secret; not sampled."""

  def run(workdir: pathlib.Path) -> str:
    command.plant_secret(workdir)
    return command.succeed_stages(
      subprocess_environment,
      'pretrain,finetune',
      *command.quick(workdir),
    ).stdout

  return _once(of_all_workers(tmp_path_factory) / 'finetuned', run)


def _once(
  folder: pathlib.Path, run: Callable[[pathlib.Path], str]
) -> FinishedRun:
  """The first process that asks goes, and the others wait for it."""
  folder.mkdir(exist_ok=True)
  workdir, printed = folder / 'run', folder / 'stdout'
  with (folder / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not printed.exists():
      printed.write_text(run(workdir))
  return FinishedRun(workdir, printed.read_text())


@pytest.fixture(scope='module')
def one_device() -> Iterator[None]:
  """The stages that a module runs in this process have one device.

  Eight would be waited for one after the other; `parallel_test` has them.
  """
  choose = parallel.DataParallel.__init__

  def choose_one(self: parallel.DataParallel, devices=None) -> None:
    choose(self, devices or jax.local_devices()[:1])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel.DataParallel, '__init__', choose_one)
    yield


@pytest.fixture
def no_private_steps(monkeypatch: pytest.MonkeyPatch) -> None:
  """Private steps are in the ledger, but not taken: they compile for long."""

  def train(steps, run, devices, state, ledger, start_step, stop):
    del steps, devices, start_step, stop
    return state, ledger.with_steps(run.num_steps), run.num_steps

  monkeypatch.setattr(private_loop, 'train_private', train)
