"""Sets of runs: what fails is named, what is complete is read."""

from __future__ import annotations

import math
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import main
from experiments import common
from experiments import machines
from tests.experiments import reports


class Fake(common.Processes):
  def __init__(self, execute):
    super().__init__()
    self.execute = execute


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
  assert common.execute_all(runs, tmp_path / 'logs', 1, Fake(execute)) == ['b']
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
  assert not common.execute_all(runs, tmp_path, 3, Fake(execute))


SLOW_RUN = """
import pathlib, signal, sys, time
def stop(*_):
  print('saved', flush=True)
  sys.exit(130)
signal.signal(signal.SIGINT, stop)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_runs_in_progress_and_starts_no_more(
  tmp_path, monkeypatch, number
):
  """Real processes, which save when they are asked once."""
  popen = subprocess.Popen

  def start(command, **kwargs):
    mark = tmp_path / command[-1].removeprefix('--config.name=')
    return popen([sys.executable, '-c', SLOW_RUN, str(mark)], **kwargs)

  monkeypatch.setattr(subprocess, 'Popen', start)
  # A job in the background inherits that SIGINT is ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  runs = [
    common.make_run(n, config='c', out=tmp_path, overrides={'name': n})
    for n in 'abcd'
  ]

  def send_when_started():
    while not ((tmp_path / 'a').exists() and (tmp_path / 'b').exists()):
      time.sleep(0.02)
    os.kill(os.getpid(), number)

  threading.Thread(target=send_when_started, daemon=True).start()
  with pytest.raises(errors.Interrupted, match='same command continues'):
    common.execute_all(runs, tmp_path / 'logs', 2)
  assert [(tmp_path / n).exists() for n in 'abcd'] == [True, True, False, False]
  for name in 'ab':
    assert (tmp_path / 'logs' / f'{name}.log').read_text() == 'saved\n'
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_stopped_set_starts_nothing(tmp_path):
  processes = common.Processes()
  processes.stop()
  (run,) = make(tmp_path, 'a')
  log = tmp_path / 'a.log'
  assert processes.execute(run, log) == common.INTERRUPTED
  assert not log.read_text()


def test_process_is_run_and_its_words_are_kept(tmp_path, monkeypatch):
  """A real process of `main`: a config that is not there is exit code 2."""
  monkeypatch.setenv(
    'PYTHONPATH', str(pathlib.Path(common.__file__).parents[1])
  )
  (run,) = make(tmp_path, 'a')
  log = tmp_path / 'logs' / 'a.log'
  assert common.Processes().execute(run, log) == 2
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
  assert 'audit' not in found


def test_the_search_for_copies_is_read(tmp_path):
  (run,) = make(tmp_path, 'a')
  reports.write(run)
  path = run.workdir / 'evaluation' / 'report.json'
  searched = {
    'is_copying': False,
    'c_t': 1.5,
    'closer_to_train': {'fraction': 0.85, 'expected': 0.86},
    'num_exact': 0,
    'space': 'pixels',
    'distance_quantiles': {},
  }
  memorization = {'synthetic': searched, 'real': searched, 'closest_pairs': ''}
  files.write_json(
    path, {**files.read_json(path), 'memorization': memorization}
  )
  found = common.read_run(run)['memorization']
  assert found['synthetic'] == found['real']
  assert found['synthetic']['closer_to_train']['expected'] == 0.86
  assert 'distance_quantiles' not in found['synthetic']


def test_an_audit_in_the_same_folder_is_read(tmp_path):
  (run,) = make(tmp_path, 'a')
  reports.write(run)
  audit = {
    'is_passed': True,
    'claim': {'epsilon': 1.0},
    'confidence': 0.95,
    'white_box': {'epsilon_lower_bound': 0.2, 'num_right': 60},
    'measured_noise_multiplier': 3.5,
    'earlier_runs': [{'is_passed': True}],
  }
  files.write_json(run.workdir / 'evaluation' / 'audit.json', audit)
  found = common.read_run(run)['audit']
  assert found['epsilon_lower_bound'] == 0.2 and found['is_passed']
  assert found['num_earlier_audits'] == 1


def test_machine_is_the_one_that_began(tmp_path, monkeypatch):
  monkeypatch.setattr(machines, '_devices', lambda: '1 x cpu')
  first = common.machine(tmp_path, 4)
  assert first['cores'] >= 1 and first['cpu'] and first['runs_at_a_time'] == 4
  monkeypatch.setattr(machines, 'facts', lambda: {'cpu': 'other'})
  assert common.machine(tmp_path, 1) == first
