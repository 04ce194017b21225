"""Sets of runs: what fails is named, what is complete is read."""

from __future__ import annotations

import math
import pathlib
import shlex
import threading
import time

import pytest

from dp_diffusion import array_types
from dp_diffusion import main
from experiments import common
from tests.experiments import reports


def make(out: pathlib.Path, *names: str) -> list[common.Run]:
  return [
    common.make_run(
      name,
      config='configs/a.py',
      out=out,
      overrides={'seed': 1},
      facts={'epsilon': 10.0},
    )
    for name in names
  ]


def test_command_is_what_main_reads(tmp_path):
  (run,) = make(tmp_path / 'with space', 'a')
  words = shlex.split(run.command)
  assert words[:3] == ['python', '-m', 'dp_diffusion.main']
  assert main.parse(words[3:]) == main.Arguments(
    'configs/a.py', str(tmp_path / 'with space' / 'a'), 'all', {'seed': '1'}
  )


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, capsys):
  ran = []

  def execute(run, log):
    ran.append(run.name)
    log.parent.mkdir(exist_ok=True)
    log.write_text('first\nerror: the disk is full\n\n')
    return 2 if run.name == 'b' else 0

  runs = make(tmp_path, 'a', 'b', 'c')
  assert common.execute_all(runs, tmp_path / 'logs', 1, execute) == ['b']
  assert ran == ['a', 'b', 'c']
  out, err = capsys.readouterr()
  assert 'b failed with exit code 2' in err and 'the disk is full' in err
  assert 'c: done' in out and '3/3' in out


def test_as_many_at_a_time_as_asked(tmp_path):
  barrier = threading.Barrier(3)

  def execute(run, log):
    barrier.wait(timeout=30)  # Passed only when three wait.
    return 0

  runs = make(tmp_path, *'abcdef')
  assert not common.execute_all(runs, tmp_path, 3, execute)


def test_interrupt_starts_nothing_more(tmp_path):
  ran = []

  def execute(run, log):
    ran.append(run.name)
    if len(ran) == 1:
      raise KeyboardInterrupt
    time.sleep(0.5)  # The run that had started by then ends as it likes.
    return 0

  with pytest.raises(array_types.Interrupted, match='same command continues'):
    common.execute_all(make(tmp_path, *'abcdef'), tmp_path, 1, execute)
  assert len(ran) < 6


def test_process_is_run_and_its_words_are_kept(tmp_path, monkeypatch):
  """A real process of `main`: a config that is not there is exit code 2."""
  monkeypatch.setenv(
    'PYTHONPATH', str(pathlib.Path(common.__file__).parents[1])
  )
  (run,) = make(tmp_path, 'a')
  log = tmp_path / 'logs' / 'a.log'
  assert common.execute(run, log) == 2
  assert 'error: Expected --config=configs/a.py' in log.read_text()


def test_incomplete_run_is_not_read(tmp_path):
  (run,) = make(tmp_path, 'a')
  assert common.read_run(run) is None
  reports.write(run)
  (run.workdir / 'release' / 'privacy.json').unlink()
  assert common.read_run(run) is None


def test_run_is_read(tmp_path):
  (run,) = make(tmp_path, 'a')
  reports.write(run, synthetic=0.75)
  found = common.read_run(run)
  assert found['private'] and found['epsilon_pld'] == 10.0
  assert math.isclose(found['epsilon_rdp'], 11.0)
  assert found['noise_multiplier'] == 2.0 and found['delta'] == 1e-4
  assert found['accuracy']['synthetic']['svm'] == 0.75
  assert found['accuracy_interval']['synthetic']['svm'] == [0.7, 0.8]
  assert found['code_revision'] == 'abc' and len(found['config_sha256']) == 64
  assert found['command'] == run.command
  assert 'accuracy_per_class' not in found and 'config' not in found


def test_machine_is_the_one_that_began(tmp_path, monkeypatch):
  monkeypatch.setattr(common, '_devices', lambda: '1 x cpu')
  first = common.machine(tmp_path, 4)
  assert first['cores'] >= 1 and first['cpu'] and first['runs_at_a_time'] == 4
  monkeypatch.setattr(common, 'machine_facts', lambda: {'cpu': 'other'})
  assert common.machine(tmp_path, 1) == first
