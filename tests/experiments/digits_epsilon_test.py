"""The sweep over epsilon: its results, its rows, its figure."""

from __future__ import annotations

import math

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import main
from experiments import common
from experiments import machines
from experiments import sweeps
from experiments.digits_epsilon import figure
from experiments.digits_epsilon import run as sweep
from tests.experiments import reports


@pytest.mark.parametrize('is_smoke', [False, True])
def test_runs_take_the_network_that_was_pretrained(
  tmp_path, is_smoke, repository, monkeypatch
):
  monkeypatch.chdir(repository)
  plan = sweep.EXPERIMENT.plan(tmp_path, is_smoke)
  (first,) = plan.first
  _, shared = load(first)
  asked = set()
  for run in plan.runs:
    _, config = load(run)
    assert config.unet_config(config.data) == shared.unet_config(shared.data)
    assert config.diffusion == shared.diffusion
    assert config.pretrain.init_from == str(first.workdir)
    assert config.seed == config.data.split_seed
    assert config.privacy.epsilon == (run.facts['epsilon'] or math.inf)
    asked.add((config.privacy.epsilon, config.seed))
  epsilons = (1.0, 2.0, 5.0, 10.0, math.inf)
  seeds = (1,) if is_smoke else (1, 2, 3)
  assert asked == {(e, s) for e in epsilons for s in seeds}


def load(run):
  arguments = main.parse(run.arguments)
  return arguments, config_lib.load(arguments.config, arguments.overrides)


@pytest.fixture
def results(tmp_path, monkeypatch):
  """Of runs that take no time, in a folder instead of the repository."""
  monkeypatch.setattr(sweeps, 'HERE', tmp_path / 'here')
  monkeypatch.setattr(machines, 'facts', lambda: dict(reports.MACHINE))

  def execute(_, run, log):
    if run.name == 'pretrain':
      path = run.workdir / 'private' / 'seconds.json'
      files.write_json(path, {'pretrain': 60.0})
    else:
      seed, epsilon = run.facts['seed'], run.facts['epsilon'] or 20.0
      reports.write(run, synthetic=0.8 + 0.01 * epsilon + 0.001 * seed)
    return 0

  monkeypatch.setattr(common.Processes, 'execute', execute)
  argv = [f'--out={tmp_path / "out"}']
  assert sweeps.main(sweep.EXPERIMENT, '', argv) == 0
  return tmp_path / 'here' / 'digits_epsilon' / 'results.json'


def test_results_and_figure(results):
  found = files.read_json(results)
  assert len(found['runs']) == 15 and not found['missing']
  infinite = [r for r in found['runs'] if r['epsilon'] is None]
  assert len(infinite) == 3 and not any(r['private'] for r in infinite)
  (drawn,) = found['figures']
  assert (results.parent / drawn['file']).read_bytes().startswith(b'\x89PNG')
  assert 'Infinity' not in results.read_text()


def test_rows_of_the_table(results):
  rows = {row['what']: row for row in files.read_json(results)['rows']}
  assert len(rows) == 3
  ten = rows['Digits 8x8, epsilon 10']
  assert ten['measures']['RBF SVM'] == pytest.approx([0.901, 0.902, 0.903])
  assert ten['measures']['Small CNN'] == pytest.approx([0.891, 0.892, 0.893])
  assert ten['aim'] and not ten['is_missed']
  # 3 x (2 + 100 + 20 + 10) s and the shared pre-training.
  assert ten['seconds'] == pytest.approx(3 * 132 + 60)
  svm = rows['Digits 8x8, RBF SVM']
  assert list(svm['measures']) == [
    *('epsilon 1', 'epsilon 2', 'epsilon 5', 'epsilon 10', 'epsilon infinite'),
    *('public images alone', 'real images'),
  ]
  assert svm['measures']['epsilon 10'] == ten['measures']['RBF SVM']
  assert svm['measures']['public images alone'] == [0.5, 0.5, 0.5]
  assert not svm['aim'] and svm['seconds'] == pytest.approx(15 * 132 + 60)


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
  runs = sweep.EXPERIMENT.plan(tmp_path, False).runs
  runs = [r for r in runs if r.facts['epsilon'] == 10.0]
  for run, value in zip(runs, values):
    reports.write(run, synthetic=value)
  row, *_ = sweep.EXPERIMENT.rows([common.read_run(r) for r in runs], 0.0)
  assert row['is_missed'] == is_missed


def test_infinity_has_its_own_place():
  assert figure.place(10.0, 10.0) == 10.0
  assert figure.place(None, 10.0) > 20.0
