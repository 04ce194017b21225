"""The secret of a run belongs to its workdir alone."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import workdirs
from tests.stages import command


def load(secret_dir: pathlib.Path) -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE, {'privacy.secret_dir': str(secret_dir)}
  )


def test_a_secret_belongs_to_one_workdir(tmp_path: pathlib.Path) -> None:
  config = load(tmp_path / 'secrets')
  first = workdirs.open_workdir(str(tmp_path / 'a' / 'run'))
  secret = run_secret.load_or_make(config, first)
  second = workdirs.open_workdir(str(tmp_path / 'b' / 'run'))
  with pytest.raises(errors.UsageError, match='no other workdir uses'):
    run_secret.load_or_make(config, second)
  # Also after the workdir was moved; it is the same run.
  shutil.move(first.root, tmp_path / 'moved')
  moved = workdirs.Workdir(workdirs.epath.Path(tmp_path / 'moved'))
  assert run_secret.load_or_make(config, moved).value == secret.value


def test_a_folder_that_cannot_hold_the_secret_is_named(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'file').write_text('')
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  with pytest.raises(errors.UsageError, match='privacy.secret_dir'):
    run_secret.load_or_make(load(tmp_path / 'file' / 'in'), workdir)
  path = workdirs.epath.Path(tmp_path / 'file' / 'audit' / 'secret')
  with pytest.raises(errors.UsageError, match='privacy.secret_dir'):
    run_secret.load_or_create(path)


def test_the_secret_of_a_run_lies_in_private(tmp_path: pathlib.Path) -> None:
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  config = config_lib.load(command.DIGITS_SMOKE, {})
  secret = run_secret.load_or_make(config, workdir)
  assert (workdir.private / 'secret').read_bytes() == secret.value
  assert run_secret.load_or_make(config, workdir).value == secret.value


@pytest.mark.parametrize(
  'begun',
  [
    'begun_steps.json',
    'label_histogram.json',
    'begun_embedding.json',
    'begun_warm_up.json',
    'begun_class_head.json',
    'begun_class_gaussians.json',
  ],
)
def test_a_secret_that_was_drawn_from_is_not_made_anew(
  tmp_path: pathlib.Path, begun: str
) -> None:
  """Other noise would be another release, which the ledger does not count."""
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  config = config_lib.load(command.DIGITS_SMOKE, {})
  run_secret.load_or_make(config, workdir)
  (workdir.private / 'secret').unlink()
  (workdir.private / begun).write_text('{}')
  with pytest.raises(errors.UsageError, match='secret'):
    run_secret.load_or_make(config, workdir)
  assert not (workdir.private / 'secret').exists()


def test_a_planted_secret_is_warned_of_at_each_start(
  tmp_path: pathlib.Path, capsys
) -> None:
  config = load(tmp_path / 'secrets')
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  run_secret.load_or_make(config, workdir)
  assert not capsys.readouterr().err
  (tmp_path / 'secrets' / 'secret').unlink()
  key_streams.Secret.insecure(0).save(tmp_path / 'secrets' / 'secret')
  for _ in range(2):
    assert run_secret.load_or_make(config, workdir).is_insecure
    assert 'NOT private' in capsys.readouterr().err


def test_the_secret_of_a_remote_run_is_not_kept_with_it() -> None:
  root = workdirs.epath.Path('gs://bucket/run')
  config = config_lib.load(command.DIGITS_SMOKE, {})
  with pytest.raises(errors.UsageError, match='must not leave this') as raised:
    run_secret.claimed_path(config, workdirs.Workdir(root))
  assert '\n' not in str(raised.value)
