"""SIGKILL at the moments that matter; the rerun ends with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import shutil

import pytest

from tests.stages import command


@pytest.fixture(scope='module')
def uninterrupted(
  finetuned_run,
  subprocess_environment: Mapping[str, str],
  tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
  workdir = tmp_path_factory.mktemp('sampled') / 'run'
  shutil.copytree(finetuned_run.workdir, workdir)
  _succeed(subprocess_environment, workdir, 'sample')
  found = command.outcome(workdir)
  assert 'averages' in found  # They too must survive a kill.
  return found


def _succeed(
  environment: Mapping[str, str], workdir: pathlib.Path, stages: str
) -> None:
  command.succeed_stages(environment, stages, *command.quick(workdir))


@pytest.mark.parametrize(
  ('stage', 'crash_at'),
  [
    ('finetune', 'mid_step:3'),  # Beyond the checkpoint of step 2.
    # In the default run: checkpoint_test, test_kill_leaves_the_last_good_step.
    pytest.param('finetune', 'mid_save:2', marks=pytest.mark.slow),
    ('sample', 'mid_sample'),
    ('sample', 'mid_release'),
  ],
)
def test_killed_and_resumed_equals_uninterrupted(
  stage: str,
  crash_at: str,
  uninterrupted: dict[str, bytes],
  finetuned_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  workdir = tmp_path / 'run'
  if stage == 'sample':
    shutil.copytree(finetuned_run.workdir, workdir)
  else:
    command.prepare(finetuned_run.workdir, workdir)
  died = command.run(
    subprocess_environment,
    *command.quick(workdir),
    f'--stage={stage}',
    crash_at=crash_at,
  )
  assert command.killed(died), died.stderr
  _succeed(subprocess_environment, workdir, 'finetune,sample')
  outcome = command.outcome(workdir)
  assert outcome.keys() == uninterrupted.keys()
  for name, data in uninterrupted.items():
    assert outcome[name] == data, name


def test_a_known_secret_is_said_in_the_release(
  uninterrupted: dict[str, bytes],
) -> None:
  statement = json.loads(uninterrupted['privacy.json'])
  assert 'insecure' in json.dumps(statement).lower()
