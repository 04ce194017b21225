"""Two real processes through the command line, a kill, another device count."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.privacy import key_streams
from tests.stages import command

# The noise is given, so that nothing has to be searched for.
_NOISE = (
  '--config.privacy.solve_for=epsilon',
  '--config.privacy.epsilon=none',
  '--config.privacy.noise_multiplier=1.25',
)
_NUM_DEVICES = 2  # Of each of the two processes.
_KILLED_AFTER_SECS = 300


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


@contextlib.contextmanager
def _two_processes(
  environment: Mapping[str, str], *arguments: str, crash_at: str = ''
):
  """Yields both processes of one job; none is left behind.

  Args:
    environment: of both.
    arguments: of both.
    crash_at: where the second one dies.
  """
  port = _free_port()
  processes = []
  for i in range(2):
    processes.append(
      subprocess.Popen(
        [
          sys.executable,
          '-m',
          'dp_diffusion.main',
          f'--config={command.DIGITS_SMOKE}',
          '--config.distributed.enable=true',
          f'--config.distributed.coordinator_address=localhost:{port}',
          '--config.distributed.num_processes=2',
          f'--config.distributed.process_id={i}',
          *_NOISE,
          *arguments,
        ],
        # Compiled as the run on one process is: else bits of noise differ.
        env=command.process_environment(
          environment, _NUM_DEVICES, crash_at if i == 1 else ''
        ),
        cwd=command.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  try:
    yield processes
  finally:
    for process in processes:
      process.kill()
      process.wait()
      for pipe in (process.stdout, process.stderr):
        pipe.close()


def _succeed(environment: Mapping[str, str], *arguments: str) -> str:
  """Standard output of process 0; the other one must say nothing."""
  with _two_processes(environment, *arguments) as processes:
    outputs = [p.communicate(timeout=command.TIMEOUT_SECS) for p in processes]
    codes = [p.returncode for p in processes]
  assert codes == [0, 0], outputs
  said = [x for x in outputs[1][0].splitlines() if not x.startswith('[Gloo]')]
  assert said == []
  return outputs[0][0]


def _new_workdir(path: pathlib.Path) -> pathlib.Path:
  """With a known secret, so that two runs draw the same numbers."""
  (path / 'private').mkdir(parents=True)
  os.chmod(path / 'private', 0o700)
  key_streams.Secret.insecure(0).save(path / 'private' / 'secret')
  return path


@pytest.mark.slow
def test_killed_on_two_processes_and_resumed_on_one(
  subprocess_environment: Mapping[str, str], tmp_path: pathlib.Path
) -> None:
  alone = _new_workdir(tmp_path / 'alone')
  for stage in ('pretrain', 'finetune'):
    command.succeed(
      subprocess_environment,
      f'--workdir={alone}',
      f'--stage={stage}',
      *_NOISE,
      num_devices=1,
    )

  shared = _new_workdir(tmp_path / 'shared')
  arguments = (f'--workdir={shared}', '--stage=finetune')
  out = _succeed(
    subprocess_environment, f'--workdir={shared}', '--stage=pretrain'
  )
  assert 'public pre-training, step: 6/6' in out
  with _two_processes(
    subprocess_environment, *arguments, crash_at='mid_step:3'
  ) as processes:
    processes[1].wait(timeout=_KILLED_AFTER_SECS)
    assert processes[1].returncode == -signal.SIGKILL
  steps = (shared / 'private' / 'checkpoints').glob('[0-9]*')
  assert [path.name for path in steps] == ['2']

  out = command.succeed(
    subprocess_environment, *arguments, *_NOISE, num_devices=3
  )
  assert 'finetune: continues from step 2' in out
  expected, _ = release.read_model(alone / 'release')
  found, _ = release.read_model(shared / 'release')
  assert set(found) == set(expected)
  for name, array in expected.items():
    np.testing.assert_allclose(found[name], array, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_two_processes_sample_and_evaluate_as_one(
  finetuned_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  alone, shared = tmp_path / 'alone', tmp_path / 'shared'
  for workdir in (alone, shared):
    shutil.copytree(finetuned_run.workdir, workdir)
  # Two shards that a process makes alone, and one of which each makes a part.
  shards = ('--config.sample.shard_size=20', '--config.sample.batch_size=5')
  arguments = (*command.quick(shared), *shards)
  evaluate = (*arguments, '--stage=evaluate')
  _succeed(subprocess_environment, *arguments, '--stage=sample')
  with _two_processes(
    subprocess_environment, *evaluate, crash_at='mid_evaluate:2'
  ) as processes:
    processes[1].wait(timeout=_KILLED_AFTER_SECS)  # It trains classifiers too.
    assert processes[1].returncode == -signal.SIGKILL
  assert len(list((shared / 'private' / 'classifiers').iterdir())) >= 2
  assert not (shared / 'evaluation' / 'report.json').exists()
  _succeed(subprocess_environment, *evaluate)
  stages = files.read_json(shared / 'config.json')
  assert len(stages) == 4 and all(s['complete'] for s in stages.values())

  command.succeed_stages(
    subprocess_environment, 'sample,evaluate', *command.quick(alone), *shards
  )
  images, labels = release.read_dataset(shared / 'release')
  assert len(images) == 60 and np.bincount(labels).tolist() == [6] * 10
  releases = [command.contents(w / 'release') for w in (alone, shared)]
  assert releases[0] == releases[1]
  reports = []
  for workdir in (alone, shared):
    report = files.read_json(workdir / 'evaluation' / 'report.json')
    assert report['quality']['real']['frechet']['num_reference'] == 1437
    assert report['diffusion_classifier']['num_images'] == 20
    del report['command'], report['seconds'], report['config']['distributed']
    reports.append(report)
  assert reports[0] == reports[1]  # To the bit.


@pytest.mark.slow
def test_a_refusal_ends_both_processes(
  subprocess_environment: Mapping[str, str], tmp_path: pathlib.Path
) -> None:
  with _two_processes(
    subprocess_environment, f'--workdir={tmp_path}', '--stage=sample'
  ) as processes:
    outputs = [p.communicate(timeout=command.TIMEOUT_SECS) for p in processes]
  assert processes[0].returncode == 2, outputs
  assert 'finetune stage to be complete' in outputs[0][1]
  assert processes[1].returncode != 0
