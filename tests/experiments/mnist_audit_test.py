from __future__ import annotations

import pytest

from dp_diffusion import errors
from dp_diffusion import files
from experiments import common
from experiments.mnist_audit import run


def result(**changes):
  return {
    'is_passed': True,
    'claim': {'epsilon': 4.0, 'num_steps': 20},
    'confidence': 0.95,
    'steps': {'epsilon_lower_bound': 3.4},
    'white_box': {'epsilon_lower_bound': 1.2},
    'measured_noise_multiplier': 0.65,
    'seconds': 600.0,
    'earlier_runs': [],
    **changes,
  }


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.setattr(run, 'HERE', tmp_path / 'here')
  (tmp_path / 'here').mkdir()
  monkeypatch.setattr(common, 'execute_all', None)  # Nothing is started.


def test_a_row_has_a_bound_per_test():
  found = run.row(result())
  assert found['measures'] == {
    'epsilon at least, step by step': [3.4],
    'epsilon at least, by guesses': [1.2],
  }
  assert 'claims epsilon 4, 20 steps, at 95% confidence' in found['what']
  assert found['seconds'] == 600.0 and not found['unit']


@pytest.mark.parametrize('is_passed', [True, False])
def test_an_audit_is_not_run_again(tmp_path, is_passed):
  path = tmp_path / 'out' / 'audit' / 'evaluation' / 'audit.json'
  path.parent.mkdir(parents=True)
  files.write_json(path, result(is_passed=is_passed))
  assert run.main([f'--out={tmp_path / "out"}']) == (not is_passed)
  found = files.read_json(tmp_path / 'here' / 'results.json')
  assert found['rows'] == [run.row(result())]
  (audit,) = found['runs']
  assert audit['measured_noise_multiplier'] == 0.65
  assert [c.split('--stage=')[1].split()[0] for c in audit['commands']] == [
    'pretrain',
    'audit',
  ]


def test_without_a_result_it_fails_and_writes_nothing(tmp_path, monkeypatch):
  started = []

  def execute(runs, log_dir):
    started.extend(run.arguments for run in runs)
    return []

  monkeypatch.setattr(common, 'execute_all', execute)
  assert run.main([f'--out={tmp_path / "out"}', '--set=seed=3']) == 1
  assert not list((tmp_path / 'here').iterdir())
  assert len(started) == 2
  assert all('--config.seed=3' in arguments for arguments in started)


def test_the_printed_commands_end_with_that_which_collects(tmp_path, capsys):
  assert run.main([f'--out={tmp_path}', '--print']) == 0
  lines = capsys.readouterr().out.splitlines()
  *runs, collects = [line for line in lines if not line.startswith('#')]
  assert ['--stage=pretrain' in runs[0], '--stage=audit' in runs[1]] == [
    True
  ] * 2
  assert collects == f'python -m experiments.mnist_audit.run --out={tmp_path}'


def test_a_stopped_audit_ends_as_other_experiments_do(tmp_path, monkeypatch):
  def stop(*_):
    raise errors.Interrupted('Stopped.')

  monkeypatch.setattr(common, 'execute_all', stop)
  assert run.main([f'--out={tmp_path}']) == common.INTERRUPTED
