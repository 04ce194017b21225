"""The generic runner, and the command lines of every folder that uses it."""

from __future__ import annotations

import importlib
import math
import pathlib
import shlex
import shutil

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion import main
from dp_diffusion.stages.run import workdirs
from experiments import common
from experiments import copies
from experiments import machines
from experiments import sweeps
from experiments import table_rows
from experiments.figure2_digits import figure
from tests.experiments import reports

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FOLDERS = sorted(
  path.parent.name
  for path in (ROOT / 'experiments').glob('*/run.py')
  if 'sweeps.main' in path.read_text()
)


def experiment_of(name):
  return importlib.import_module(f'experiments.{name}.run').EXPERIMENT


@pytest.mark.parametrize('name', FOLDERS)
@pytest.mark.parametrize('flags', [(), ('--smoke',)])
def test_every_printed_command_line_loads(
  name, flags, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(common, 'execute_all', None)
  argv = [f'--out={tmp_path}', '--print', *flags]
  assert sweeps.main(experiment_of(name), '', argv) == 0
  lines = capsys.readouterr().out.splitlines()
  commands = [line for line in lines if not line.startswith('#')]
  assert commands[-1].startswith(f'python -m experiments.{name}.run --out=')
  stages = set()
  for line in commands[:-1]:
    command = line.rsplit(' && ', 1)[-1]
    words = [w for w in shlex.split(command) if not w.startswith('--method=')]
    arguments = main.parse(words[3:])
    config_lib.load(arguments.config, arguments.overrides)
    assert (':smoke' in command or ',smoke' in command) == bool(flags)
    stages.add((arguments.workdir, arguments.stage))
  assert len(stages) == len(commands) - 1 > 0
  whole = {workdir for workdir, stage in stages if stage == 'all'}
  assert whole.isdisjoint(w for w, stage in stages if stage != 'all')
  assert not list(tmp_path.iterdir())
  assert experiment_of(name).name == name
  readme = (ROOT / 'experiments' / name / 'README.md').read_text()
  assert f'experiments.{name}.run' in readme


def test_there_are_the_folders_of_the_paper():
  assert len(FOLDERS) == 21


PLAN = sweeps.grid(
  'configs/digits.py', {'K 1': {'finetune.augmult': 1}, 'K 2': {}}, seeds=(1, 2)
)


def rows(found, first_secs):
  return table_rows.grouped('what', found, table_rows.accuracy, first_secs)


@pytest.fixture
def fake_run(tmp_path, monkeypatch):
  """Runs take no time; results go to a folder instead of the repository."""
  monkeypatch.setattr(sweeps, 'HERE', tmp_path / 'here')
  monkeypatch.setattr(machines, 'facts', lambda: dict(reports.MACHINE))

  def run(*argv, fails=()):
    started = []

    def execute(_, run, log):
      started.append(run.name)
      if run.name == 'pretrain':
        path = run.workdir / 'private' / 'seconds.json'
        files.write_json(path, {'pretrain': 60.0})
      elif run.name not in fails:
        reports.write(
          common.Run(
            name=run.name,
            workdir=run.workdir,
            arguments=(),
            facts={'epsilon': 10.0},
          ),
          synthetic=0.8 + 0.01 * run.facts['seed'],
        )
      return int(run.name in fails)

    with monkeypatch.context() as patch:
      patch.setattr(common.Processes, 'execute', execute)
      experiment = sweeps.Experiment(name='x', plan=PLAN, rows=rows)
      code = sweeps.main(experiment, '', [f'--out={tmp_path / "out"}', *argv])
    return code, started, tmp_path / 'here' / 'x' / 'results.json'

  return run


def test_results_hold_every_run(fake_run):
  code, started, path = fake_run()
  assert code == 0 and started[0] == 'pretrain' and len(started) == 5
  results = files.read_json(path)
  assert results['first_seconds'] == 60.0 and not results['missing']
  (row,) = results['rows']
  assert row['measures']['K 1'] == pytest.approx([0.80, 0.81])
  assert row['seconds'] == pytest.approx(60 + 4 * 132)
  assert results['runs'][0]['overrides'] == {'finetune.augmult': 1}


def test_a_failed_run_is_left_out_and_said(fake_run, capsys):
  code, started, path = fake_run(fails=('K_1-seed_2',))
  assert code == 1 and len(started) == 5
  results = files.read_json(path)
  assert results['missing'] == ['K_1-seed_2'] and len(results['runs']) == 3
  assert 'K_1-seed_2 failed' in capsys.readouterr().err


def test_an_old_result_of_a_failed_run_is_not_believed(fake_run):
  fake_run()
  code, _, path = fake_run(fails=('K_1-seed_2',))
  assert code == 1
  assert files.read_json(path)['missing'] == ['K_1-seed_2']


def test_only_some_run_and_the_others_stay(fake_run, tmp_path, capsys):
  _, _, path = fake_run()
  before = files.read_json(path)
  shutil.rmtree(tmp_path / 'out')
  code, started, _ = fake_run('--only=K_1-')
  assert code == 0 and started == ['pretrain', 'K_1-seed_1', 'K_1-seed_2']
  assert files.read_json(path)['rows'] == before['rows']
  assert len(files.read_json(path)['runs']) == 4
  path.unlink()
  shutil.rmtree(tmp_path / 'out')
  code, _, _ = fake_run('--only=K_1-')
  assert code == 1 and len(files.read_json(path)['missing']) == 2
  code, started, _ = fake_run('--only=K_3')
  assert code == 2 and not started and '--only=K_3' in capsys.readouterr().err


def test_without_what_all_need_nothing_else_starts(fake_run):
  code, started, path = fake_run(fails=('pretrain',))
  assert code == 1 and started[0] == 'pretrain' and len(started) == 1
  assert not path.exists()


def test_smoke_leaves_the_repository_alone(fake_run, tmp_path):
  code, started, path = fake_run('--smoke')
  assert code == 0 and len(started) == 3 and not path.exists()
  assert (tmp_path / 'out' / 'results.json').exists()


@pytest.mark.parametrize(
  'argv', [['--jobs=0'], ['--smok'], ['--jobs=x'], ['--set=seed']]
)
def test_bad_usage_exits_with_2(argv):
  with pytest.raises(SystemExit) as raised:
    sweeps.main(experiment_of('mnist'), '', argv)
  assert raised.value.code == 2


def test_figure_reads_every_method():
  def run(method, source, value, epsilon=1.0, **more):
    accuracy = {source: {'cnn': value}, 'public': {'cnn': 0.4, 'svm': 0.4}}
    return {'method': method, 'epsilon': epsilon, 'accuracy': accuracy, **more}

  found = [
    run('dp_merf', 'synthetic', 0.5),
    run('dp_classifier', 'direct', 0.7),
  ]
  ours = [
    run('', 'synthetic', 0.9, seed=1),
    run('', 'synthetic', 0.95, None, seed=1),
  ]
  values = {
    method: figure.points(found, ours, method, 'cnn')
    for method in ('ours', 'dp_merf', 'dp_mepf', 'dp_classifier')
  }
  assert values == {
    'ours': {1.0: [90.0], math.inf: [pytest.approx(95.0)]},
    'dp_merf': {1.0: [50.0]},
    'dp_mepf': {},
    'dp_classifier': {1.0: [70.0]},
  }


def test_figure_shows_distances(tmp_path):
  def run(method, epsilon, value):
    quality = {
      source: {'frechet': {'value': x}}
      for source, x in (
        ('synthetic', -1.0),  # Of another number of images.
        ('synthetic_at_equal_number', value),
        ('real', 0.1),
      )
    }
    accuracy = {'synthetic': {'cnn': 0.5}, 'public': {'cnn': 0.4, 'svm': 0.4}}
    facts = {'method': method, 'epsilon': epsilon, 'seed': 1}
    return {**facts, 'accuracy': accuracy, 'quality': quality}

  found = [run('dp_merf', 10.0, 5.0), run('dp_merf', 1.0, 9.0)]
  ours = [run('', 1.0, 3.0), run('', None, 2.0)]
  values = figure.points(found, ours, 'dp_merf', 'frechet')
  assert list(values.items()) == [(1.0, [9.0]), (10.0, [5.0])]
  assert figure.points(found, ours, 'ours', 'frechet')[math.inf] == [2.0]
  figure.write(found, ours, tmp_path / 'x.png')
  assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


def test_fid_is_of_inception_alone():
  def entry(is_inception):
    found = {'value': 9.8, 'is_inception': is_inception}
    return {'quality': {'synthetic': {'frechet': found}}}

  assert table_rows.fid(entry(True)) == 9.8
  assert table_rows.fid(entry(False)) is None and table_rows.fid({}) is None


def test_a_key_is_set_in_every_run_and_wins(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  argv = ['--print', '--set=finetune.augmult=3', '--set', 'data.tfds_dir=a b']
  assert sweeps.main(experiment_of('ablation_k'), '', argv) == 0
  lines = capsys.readouterr().out.splitlines()
  commands = [line for line in lines if '--workdir' in line]
  assert len(commands) == 13
  for command in commands:
    overrides = main.parse(shlex.split(command)[3:]).overrides
    assert overrides['finetune.augmult'] == '3'
    assert overrides['data.tfds_dir'] == 'a b'


def test_each_ablation_of_the_optimizer_varies_one_thing():
  experiment = experiment_of('ablation_optimizer')
  plan = experiment.plan(pathlib.Path('runs'), False)
  found = [
    {**run.facts, 'accuracy': {'synthetic': {'cnn': 0.5}}, 'seconds': {}}
    for run in plan.runs
  ]
  clip, ema = experiment.rows(found, 0.0)
  assert clip['what'].startswith('Clip norm')
  assert list(clip['measures']) == ['0.1', '0.3', '1']
  assert ema['what'].startswith('Decay')
  assert list(ema['measures']) == ['0.9', '0.97', '0.99']


def test_dropped_labels_are_dropped_in_public_too():
  plan = experiment_of('ablation_guidance').plan(pathlib.Path('runs'), False)
  assert len(plan.first) == 1 + 2 * 3  # One pre-training, then each seed's two.
  for run in (*plan.first, *plan.runs):
    assert '--config.diffusion.label_drop_prob=0.1' in run.command


@pytest.mark.parametrize('name', ['ablation_guidance', 'ablation_sampler'])
def test_settings_of_the_sampling_go_on_from_one_training(name, monkeypatch):
  """Its workdir accepts them: up to the fine-tuning nothing is different."""
  monkeypatch.chdir(ROOT)
  plan = experiment_of(name).plan(pathlib.Path('runs'), False)

  def config_of(run):
    arguments = main.parse(shlex.split(run.command.split(' && ')[-1])[3:])
    return config_lib.load(arguments.config, arguments.overrides)

  trained = {run.workdir: config_of(run) for run in plan.first[1:]}
  assert [run.name for run in plan.first[1:3]] == [
    'pretrain-seed_1',
    'finetune-seed_1',
  ]
  assert len(trained) == 3
  for run in plan.runs:
    copy = copies.command(run.source, run.workdir)
    assert run.command.startswith(f'{copy} && python -m ')
    before = trained[run.source]
    assert before.seed == run.facts['seed']
    for stage in ('pretrain', 'finetune'):
      assert workdirs._resolved(stage, before) == workdirs._resolved(
        stage, config_of(run)
      )
