"""The order of the stages, and what is looked at before the first."""

from __future__ import annotations

import pathlib

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.stages import runner
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import processes
from tests.stages import command


def _run(tmp_path: pathlib.Path, stage: str, **data: str) -> None:
  held_out = data.pop('held_out', '')
  changed = {f'data.{key}': value for key, value in data.items()}
  changed['evaluate.held_out_split'] = held_out
  config = config_lib.load(command.DIGITS_SMOKE, changed)
  runner.run(config, str(tmp_path / 'run'), stage, 'command')


@pytest.mark.parametrize(
  ('data', 'words'),
  [
    ({'name': 'folder', 'path': '/absent'}, "data.path='/absent'"),
    ({'name': 'tfds:absent', 'tfds_dir': '/'}, 'data.tfds_dir'),
    ({'name': 'folder', 'path': '.', 'test_split': 'val'}, "'test', 'train'"),
    ({'name': 'folder', 'path': '.', 'held_out': 'val'}, "'test', 'train'"),
  ],
)
def test_missing_sensitive_images_end_a_run_before_pretraining(
  data: dict[str, str], words: str, tmp_path: pathlib.Path, monkeypatch
) -> None:
  began = []
  monkeypatch.setitem(
    runner._RUN, 'pretrain', lambda *arguments: began.append('pretrain')
  )
  with pytest.raises(errors.UsageError, match=words) as error:
    _run(tmp_path, 'all', **data)
  assert '\n' not in str(error.value) and not began
  assert not (tmp_path / 'run' / 'public').exists()
  _run(tmp_path, 'pretrain', **data)  # Which does not read them.
  assert began == ['pretrain']


@pytest.mark.parametrize('stage', ['finetune', 'sample', 'evaluate', 'audit'])
def test_a_stage_names_the_one_that_it_needs(
  stage: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(errors.UsageError, match='Run --stage='):
    _run(tmp_path, stage)


@pytest.mark.parametrize('kind', [ValueError, RuntimeError])
def test_a_job_that_is_not_there_is_refused_in_one_line(
  kind: type[Exception], tmp_path: pathlib.Path, monkeypatch
) -> None:
  def initialize(*arguments: object) -> None:
    assert arguments == (None, None, None)  # To be detected.
    raise kind('coordinator_address should be defined.')

  config = config_lib.load(command.DIGITS_SMOKE, {'distributed.enable': 'true'})
  monkeypatch.setattr(processes.jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(processes.jax.distributed, 'initialize', initialize)
  with pytest.raises(errors.UsageError, match='distributed.process_id'):
    runner.run(config, str(tmp_path / 'run'), 'all', 'command')
  assert not (tmp_path / 'run').exists()


def test_numbers_of_processes_in_the_environment_are_checked(
  monkeypatch,
) -> None:
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'localhost:1')
  monkeypatch.setenv('JAX_NUM_PROCESSES', 'two')
  monkeypatch.setenv('JAX_PROCESS_ID', '0')
  with pytest.raises(errors.UsageError, match="'two' and '0'"):
    processes.initialize(enable=False)


def test_a_config_that_never_ran_binds_nothing(
  tmp_path: pathlib.Path, monkeypatch
) -> None:
  """What is wrong is said, mended, and the pre-training stays of use."""

  def refuse(config, workdir, stop):
    del config, workdir, stop
    raise errors.UsageError('Expected another class.')

  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  config = config_lib.load(command.DIGITS_SMOKE, {})
  workdir.begin('pretrain', config)
  workdir.complete('pretrain', 1.0)
  monkeypatch.setitem(runner._RUN, 'finetune', refuse)
  with pytest.raises(errors.UsageError, match='another class'):
    _run(tmp_path, 'finetune')
  began = []
  monkeypatch.setitem(
    runner._RUN, 'finetune', lambda *arguments: began.append('finetune')
  )
  _run(tmp_path, 'finetune', source_seed='3')
  assert began == ['finetune']
  (workdir.private / 'begun_steps.json').write_text('{}')
  monkeypatch.setitem(runner._RUN, 'finetune', refuse)
  with pytest.raises(errors.UsageError, match='belongs to another'):
    _run(tmp_path, 'finetune', source_seed='4')


@pytest.mark.parametrize('drawn', ['begun_steps', 'label_histogram'])
def test_a_begun_run_stays_bound_to_its_config(
  drawn: str, tmp_path: pathlib.Path, monkeypatch
) -> None:
  def refuse(config, workdir, stop):
    del config, stop
    (workdir.private / f'{drawn}.json').write_text('{}')
    raise errors.UsageError('Expected more room.')

  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  workdir.begin('pretrain', config_lib.load(command.DIGITS_SMOKE, {}))
  workdir.complete('pretrain', 1.0)
  monkeypatch.setitem(runner._RUN, 'finetune', refuse)
  with pytest.raises(errors.UsageError, match='more room'):
    _run(tmp_path, 'finetune')
  with pytest.raises(errors.UsageError, match='belongs to another'):
    _run(tmp_path, 'finetune', source_seed='3')


def test_two_processes_in_one_workdir_are_one_too_many(
  tmp_path: pathlib.Path,
) -> None:
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  with workdir.held():
    with pytest.raises(errors.UsageError, match='is in use by process'):
      _run(tmp_path, 'evaluate')
  with pytest.raises(errors.UsageError, match='Run --stage='):
    _run(tmp_path, 'evaluate')


@pytest.mark.parametrize('content', ['[]', '{"finetune": 1}', '{'])
def test_a_damaged_record_is_one_line(content, tmp_path: pathlib.Path) -> None:
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  workdir.config_path.write_text(content)
  with pytest.raises(errors.UsageError, match='is damaged'):
    _run(tmp_path, 'evaluate')


def test_features_that_are_missing_end_a_run_before_pretraining(
  tmp_path: pathlib.Path,
) -> None:
  config = config_lib.load(
    command.DIGITS_SMOKE, {'evaluate.features': '/absent.npz'}
  )
  with pytest.raises(errors.UsageError, match='/absent.npz'):
    runner.run(config, str(tmp_path / 'run'), 'all', 'command')
  assert not (tmp_path / 'run' / 'public').exists()
