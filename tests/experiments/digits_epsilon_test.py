"""The sweep over epsilon: its command lines, its results, its figure."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import main
from experiments import common
from experiments.digits_epsilon import figure
from experiments.digits_epsilon import run as sweep_lib
from tests.experiments import reports


def load(run):
  arguments = main.parse(run.arguments)
  return arguments, config_lib.load(arguments.config, arguments.overrides)


@pytest.fixture
def in_repository(repository, monkeypatch):
  monkeypatch.chdir(repository)


@pytest.mark.usefixtures('in_repository')
def test_every_command_line_loads(tmp_path):
  sweep = sweep_lib.make_sweep(tmp_path)
  asked = set()
  for run in sweep.runs:
    arguments, config = load(run)
    assert arguments.stage == 'all'
    assert arguments.workdir == str(run.workdir)
    assert config.pretrain.num_steps == 0
    assert config.pretrain.init_from == str(sweep.pretrain.workdir)
    assert config.seed == config.data.split_seed
    asked.add((config.privacy.epsilon, config.data.split_seed))
  epsilons = (1.0, 2.0, 5.0, 10.0, math.inf)
  assert asked == {(e, s) for e in epsilons for s in (1, 2, 3)}
  assert len({run.workdir for run in sweep.runs}) == len(sweep.runs) == 15


@pytest.mark.usefixtures('in_repository')
@pytest.mark.parametrize('is_smoke', [False, True])
def test_runs_take_the_network_that_was_pretrained(tmp_path, is_smoke):
  sweep = sweep_lib.make_sweep(tmp_path, is_smoke)
  arguments, shared = load(sweep.pretrain)
  assert arguments.stage == 'pretrain' and shared.pretrain.num_steps > 0
  for run in sweep.runs:
    _, config = load(run)
    assert config.unet_config(config.data) == shared.unet_config(shared.data)
    assert config.diffusion == shared.diffusion


@pytest.mark.usefixtures('in_repository')
def test_smoke_is_small_and_keeps_to_its_folder(monkeypatch):
  arguments = sweep_lib.parse(['--smoke'])
  assert arguments.out != sweep_lib.parse([]).out
  sweep = sweep_lib.make_sweep(arguments.out, is_smoke=True)
  assert len(sweep.runs) == 2
  assert all(':smoke' in run.command for run in sweep.runs)


@pytest.mark.usefixtures('in_repository')
def test_print_runs_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(common, 'execute_all', None)
  assert sweep_lib.main([f'--out={tmp_path}', '--print']) == 0
  lines = capsys.readouterr().out.splitlines()
  commands = [line for line in lines if not line.startswith('#')]
  assert len(commands) == 1 + 15 + 1
  for command in commands[:-1]:
    words = shlex.split(command)
    main.parse(words[words.index('dp_diffusion.main') + 1 :])
  assert commands[-1] == (
    f'python -m experiments.digits_epsilon.run --out={tmp_path}'
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('argv', [['--jobs=0'], ['--jobs=x'], ['--smok']])
def test_bad_usage_exits_with_2(argv, capsys):
  with pytest.raises(SystemExit) as raised:
    sweep_lib.main(argv)
  assert raised.value.code == 2
  assert '--' in capsys.readouterr().err


@pytest.fixture
def fake_sweep(tmp_path, monkeypatch):
  """Runs take no time; results go to a folder instead of the repository."""
  here = tmp_path / 'here'
  monkeypatch.setattr(sweep_lib, 'HERE', here)
  monkeypatch.setattr(common, 'machine_facts', lambda: dict(reports.MACHINE))

  def run(*argv, fails=()):
    started = []

    def execute(run, log):
      started.append(run.name)
      if run.name in fails:
        return 1
      if run.name == 'pretrain':
        files.write_json(
          run.workdir / 'private' / 'seconds.json', {'pretrain': 60.0}
        )
      else:
        seed, epsilon = run.facts['seed'], run.facts['epsilon'] or 20.0
        reports.write(run, synthetic=0.8 + 0.01 * epsilon + 0.001 * seed)
      return 0

    with monkeypatch.context() as patch:
      patch.setattr(
        common.Processes, 'execute', lambda _, run, log: execute(run, log)
      )
      code = sweep_lib.main([f'--out={tmp_path / "out"}', *argv])
    return code, started, here

  return run


def test_results_hold_every_run(fake_sweep, tmp_path):
  code, started, here = fake_sweep('--jobs=3')
  assert code == 0 and started[0] == 'pretrain' and len(started) == 16
  results = files.read_json(here / 'results.json')
  assert results['experiment'] == 'digits_epsilon'
  assert len(results['runs']) == 15 and not results['missing']
  assert results['machine']['runs_at_a_time'] == 3
  assert results['pretrain']['seconds'] == 60.0
  infinite = [r for r in results['runs'] if r['epsilon'] is None]
  assert len(infinite) == 3 and not any(r['private'] for r in infinite)
  assert {r['split_seed'] for r in results['runs']} == {1, 2, 3}
  (drawn,) = results['figures']
  assert (here / drawn['file']).read_bytes().startswith(b'\x89PNG')
  assert 'Infinity' not in (here / 'results.json').read_text()


def test_rows_of_the_table(fake_sweep):
  fake_sweep()
  results = files.read_json(sweep_lib.HERE / 'results.json')
  rows = {row['what']: row for row in results['rows']}
  assert len(rows) == 5 + 2
  ten = rows['Digits 8x8, epsilon 10']
  assert ten['measures']['RBF SVM'] == pytest.approx([0.901, 0.902, 0.903])
  assert ten['measures']['Small CNN'] == pytest.approx([0.891, 0.892, 0.893])
  assert ten['aim'] and not ten['is_missed']
  # 3 x (2 + 100 + 20 + 10) s and the shared pre-training.
  assert ten['seconds'] == pytest.approx(3 * 132 + 60)
  assert not rows['Digits 8x8, epsilon 5']['aim']
  floor = rows['Digits 8x8, public images alone']
  assert floor['measures']['RBF SVM'] == [0.5, 0.5, 0.5]
  assert floor['seconds'] is None


@pytest.mark.parametrize(
  ('values', 'is_missed'),
  [
    ((0.90, 0.90, 0.90), False),
    ((0.87, 0.92, 0.93), False),
    ((0.86, 0.95, 0.95), True),  # One is too low.
    ((0.89, 0.90, 0.90), True),  # The mean is.
  ],
)
def test_a_missed_aim_is_said(tmp_path, values, is_missed):
  runs = sweep_lib.make_sweep(tmp_path).runs
  runs = [r for r in runs if r.facts['epsilon'] == 10.0]
  for run, value in zip(runs, values):
    reports.write(run, synthetic=value)
  row, *_ = sweep_lib.make_rows([common.read_run(r) for r in runs], 0.0)
  assert row['is_missed'] == is_missed


def test_a_failed_run_is_left_out_and_said(fake_sweep, capsys):
  code, started, here = fake_sweep(fails=('epsilon_5-seed_2',))
  assert code == 1 and len(started) == 16
  results = files.read_json(here / 'results.json')
  assert results['missing'] == ['epsilon_5-seed_2']
  assert len(results['runs']) == 14
  assert 'epsilon_5-seed_2 failed' in capsys.readouterr().err


def test_an_old_result_of_a_failed_run_is_not_believed(fake_sweep):
  fake_sweep()
  code, _, here = fake_sweep(fails=('epsilon_5-seed_2',))
  assert code == 1
  results = files.read_json(here / 'results.json')
  assert results['missing'] == ['epsilon_5-seed_2']


def test_without_pretraining_nothing_else_starts(fake_sweep):
  code, started, here = fake_sweep(fails=('pretrain',))
  assert (code, started) == (1, ['pretrain'])
  assert not here.exists()


def test_smoke_leaves_the_repository_alone(fake_sweep, tmp_path):
  code, started, here = fake_sweep('--smoke')
  assert code == 0 and len(started) == 3 and not here.exists()
  results = json.loads((tmp_path / 'out' / 'results.json').read_text())
  assert [r['epsilon'] for r in results['runs']] == [10.0, None]


def test_infinity_has_its_own_place():
  assert figure.place(10.0, 10.0) == 10.0
  assert figure.place(None, 10.0) > 20.0
