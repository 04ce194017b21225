"""The order of the stages, and what is looked at before the first."""

from __future__ import annotations

import contextlib
import pathlib
import types

import jax
import numpy as np
from PIL import Image
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.data import decoding
from dp_diffusion.data import registry
from dp_diffusion.stages import runner
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
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


def _faults(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Own images with one fault each; all but it is right."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (60, 8, 8), np.uint8)
  labels = np.arange(60, dtype=np.int64) % 10
  for name in ('late', 'deep'):
    for index, (image, label) in enumerate(zip(images, labels)):
      pixels = image.astype(np.uint16) if name == 'deep' else image
      path = folder / name / str(label) / f'{index:02}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(pixels).save(path)
  (folder / 'late' / '9' / '59.png').write_bytes(b'no image')
  faulty = {
    'flags': {'images': images > 9, 'labels': labels},
    'labels': {'images': images, 'labels': labels + 1},
    'only_train': {'train_images': images, 'train_labels': labels},
  }
  for name, arrays in faulty.items():
    np.savez(folder / f'{name}.npz', **arrays)
  (folder / 'no_zip.npz').write_bytes(b'no zip')
  paths = {n: folder / n for n in ('late', 'deep')}
  return paths | {n: folder / f'{n}.npz' for n in (*faulty, 'no_zip')}


@pytest.mark.parametrize('stage', ['all', 'finetune'])
@pytest.mark.parametrize(
  ('fault', 'words'),
  [
    ('late', '9/59.png'),
    ('deep', 'data.value_range'),
    ('flags', 'uint8'),
    ('labels', 'label=10'),
    ('only_train', 'has train_images alone'),
    ('no_zip', 'cannot be read'),
  ],
)
def test_a_fault_in_the_images_costs_no_compute_and_no_budget(
  stage: str, fault: str, words: str, tmp_path: pathlib.Path, monkeypatch
) -> None:
  """Files, depths, labels and divisions, before any stage begins."""
  began = []
  for name in ('pretrain', 'finetune'):
    monkeypatch.setitem(
      runner._RUN, name, lambda *_, name=name: began.append(name)
    )
  path = _faults(tmp_path)[fault]
  if stage == 'finetune':
    _run(tmp_path, 'pretrain')
    began.clear()
  with pytest.raises(errors.UsageError, match=words) as error:
    _run(tmp_path, stage, name='folder', path=str(path))
  assert '\n' not in str(error.value) and not began
  private = tmp_path / 'run' / 'private'
  assert {p.name for p in private.iterdir()} <= {'.lock', 'seconds.json'}


def test_own_images_are_decoded_once_in_a_run(tmp_path, monkeypatch) -> None:
  """For the first look, and no more for the stages."""
  rng, folder = np.random.default_rng(0), tmp_path / 'images'
  for index in range(60):
    path = folder / str(index % 10) / f'{index}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(path)
  decoded = []
  decode_all = decoding.decode_all
  monkeypatch.setattr(
    decoding,
    'decode_all',
    lambda *arguments: decoded.append('') or decode_all(*arguments),
  )
  for name in ('pretrain', 'finetune', 'sample', 'evaluate'):
    monkeypatch.setitem(
      runner._RUN, name, lambda config, *_: registry.load(config.data)
    )
  monkeypatch.setattr(runner.evaluate, 'say_summary', lambda _: None)
  _run(tmp_path, 'all', name='folder', path=str(folder))
  assert len(decoded) == 1


def test_pretraining_alone_warns_where_there_are_no_sensitive_images(
  tmp_path: pathlib.Path, monkeypatch, capsys
) -> None:
  began = []
  monkeypatch.setitem(
    runner._RUN, 'pretrain', lambda *arguments: began.append('pretrain')
  )
  _run(tmp_path, 'pretrain', name='folder', path='/absent')
  assert began == ['pretrain']
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1 and "data.path='/absent'" in lines[0]


def test_public_images_that_only_the_evaluation_reads_are_looked_for(
  tmp_path: pathlib.Path, monkeypatch
) -> None:
  """They would be missed after the budget is spent."""
  began = []
  monkeypatch.setitem(
    runner._RUN, 'pretrain', lambda *arguments: began.append('pretrain')
  )
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'pretrain.num_steps': '0',
      'pretrain.optimizer.warmup_steps': '0',
      'pretrain.data.name': 'folder',
      'pretrain.data.path': '/absent/public',
      'pretrain.data.num_images': '0',
    },
  )
  with pytest.raises(errors.UsageError, match='/absent/public'):
    runner.run(config, str(tmp_path / 'run'), 'all', 'command')
  assert not began


@pytest.mark.parametrize('stage', ['finetune', 'sample', 'evaluate', 'audit'])
def test_a_stage_names_the_one_that_it_needs(
  stage: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(errors.UsageError, match='Run --stage='):
    _run(tmp_path, stage)


@pytest.mark.parametrize('stage', ['finetune', 'audit', 'all'])
def test_too_many_devices_end_a_run_before_anything(
  stage, tmp_path, monkeypatch
) -> None:
  """More than the words of an exact sum can be added over."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1025)
  config = config_lib.load('configs/digits.py:smoke', {})
  with pytest.raises(errors.UsageError, match='at most 1024 devices'):
    runner.run(config, str(tmp_path), stage, 'command')
  monkeypatch.setattr(jax, 'device_count', lambda: 1024)
  parallel.check_num_devices()


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
  _run(tmp_path, 'finetune', split_seed='3')
  assert began == ['finetune']
  (workdir.private / 'begun_steps.json').write_text('{}')
  monkeypatch.setitem(runner._RUN, 'finetune', refuse)
  with pytest.raises(errors.UsageError, match='belongs to another'):
    _run(tmp_path, 'finetune', split_seed='4')


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
    _run(tmp_path, 'finetune', split_seed='3')


@pytest.mark.parametrize('is_interrupted', [False, True])
def test_how_long_private_steps_took_is_not_said(
  is_interrupted: bool, tmp_path: pathlib.Path, monkeypatch, capsys
) -> None:
  """Neither here nor beside the config: it depends on the records they read."""
  found = []
  for secs in (1.0, 1000.0):
    now = [0.0]

    def train(*arguments, now=now, secs=secs) -> None:
      del arguments
      now[0] += secs
      if is_interrupted:
        raise errors.Interrupted('Stopped.')

    clock = types.SimpleNamespace(monotonic=lambda now=now: now[0])
    monkeypatch.setattr(runner, 'time', clock)
    monkeypatch.setitem(runner._RUN, 'finetune', train)
    workdir = workdirs.open_workdir(str(tmp_path / str(secs)))
    config = config_lib.load(command.DIGITS_SMOKE, {})
    workdir.begin('pretrain', config)
    workdir.complete('pretrain', 1.0)
    with contextlib.suppress(errors.Interrupted):
      runner._run_stage('finetune', config, workdir, interrupts.Stop(''))
    assert workdir.secs()['finetune'] == secs  # In private/.
    found.append((capsys.readouterr(), workdir.config_path.read_text()))
  assert found[0] == found[1]


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
