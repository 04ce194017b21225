"""SIGKILL at the moments that matter; the rerun ends with the same bits."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
import shutil

import pytest

from dp_diffusion.privacy import key_streams
from tests.stages import command

_SEED = 7


def _prepare(finished_run, workdir: pathlib.Path) -> None:
  """A workdir with public weights and a known secret, nothing private done."""
  shutil.copytree(finished_run.workdir / 'public', workdir / 'public')
  record = json.loads((finished_run.workdir / 'config.json').read_text())
  (workdir / 'config.json').write_text(
    json.dumps({'pretrain': record['pretrain']})
  )
  (workdir / 'private').mkdir(mode=0o700)
  key_streams.Secret.insecure(_SEED).save(workdir / 'private' / 'secret')


def _outcome(workdir: pathlib.Path) -> dict[str, bytes]:
  """Weights, ledger, samples and statement: all that a run leaves."""
  found = command.contents(workdir / 'release')
  found['ledger'] = (workdir / 'private' / 'ledger.json').read_bytes()
  return found


def _arguments(workdir: pathlib.Path, stage: str) -> tuple[str, ...]:
  return (
    f'--workdir={workdir}',
    f'--stage={stage}',
    '--config.sample.write_tfds=false',  # TensorFlow takes seconds to import.
  )


@pytest.fixture(scope='module')
def uninterrupted(
  finished_run,
  subprocess_environment: Mapping[str, str],
  tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
  workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  _prepare(finished_run, workdir)
  for stage in ('finetune', 'sample'):
    command.succeed(subprocess_environment, *_arguments(workdir, stage))
  return _outcome(workdir)


@pytest.mark.parametrize(
  ('stage', 'crash_at'),
  [
    ('finetune', 'mid_step:3'),  # Beyond the checkpoint of step 2.
    ('finetune', 'mid_save:2'),
    ('sample', 'mid_sample'),
    ('sample', 'mid_release'),
  ],
)
def test_killed_and_resumed_equals_uninterrupted(
  stage: str,
  crash_at: str,
  uninterrupted: dict[str, bytes],
  finished_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  workdir = tmp_path / 'run'
  _prepare(finished_run, workdir)
  if stage == 'sample':
    command.succeed(subprocess_environment, *_arguments(workdir, 'finetune'))
  died = command.run(
    subprocess_environment, *_arguments(workdir, stage), crash_at=crash_at
  )
  assert command.killed(died), died.stderr
  for name in ('finetune', 'sample'):
    command.succeed(subprocess_environment, *_arguments(workdir, name))
  outcome = _outcome(workdir)
  assert outcome.keys() == uninterrupted.keys()
  for name, data in uninterrupted.items():
    assert outcome[name] == data, name


def test_a_known_secret_is_said_in_the_release(
  uninterrupted: dict[str, bytes],
) -> None:
  statement = json.loads(uninterrupted['privacy.json'])
  assert 'insecure' in json.dumps(statement).lower()
