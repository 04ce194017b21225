"""The secret of a run, which is made once and used by no other run.

Guarantees:
  * Two runs never use one secret, whatever `privacy.secret_dir` says. Their
    noise would be equal, and would cancel in the difference of their releases.
    `tests/stages/run/run_secret_test.py::test_a_secret_belongs_to_one_workdir`.
  * A run that has begun is not given another secret.
    `tests/stages/finetune_test.py::test_a_lost_secret_is_not_made_anew`.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import uuid

from etils import epath

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages.run import workdirs


def load_or_make(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> key_streams.Secret:
  """Loads the secret, or makes one for a new run.

  Raises:
    UsageError: the secret is missing or belongs to another workdir, or its
      folder cannot be written.
  """
  path = claimed_path(config, workdir)
  if has_begun(workdir):  # An error names the file if it is missing.
    secret = key_streams.Secret.load(path)
  else:
    secret = load_or_create(path)
  if secret.is_insecure:
    console.warn('the secret is a known one, for tests: NOT private')
  return secret


def load_or_create(path: epath.Path) -> key_streams.Secret:
  """Loads the secret of a file, or creates the file.

  Raises:
    UsageError: the file is no secret, or its folder cannot be written.
  """
  if path.exists():
    return key_streams.Secret.load(path)
  with _written(path.parent):
    return key_streams.Secret.create(path)


def has_begun(workdir: workdirs.Workdir) -> bool:
  """Whether randomness was drawn from the secret."""
  return any((workdir.private / name).exists() for name in workdirs.BEGUN)


def claimed_path(
  config: config_lib.Config, workdir: workdirs.Workdir
) -> epath.Path:
  """Returns the path of the secret, in a folder that no other workdir uses.

  Raises:
    UsageError: the workdir is remote and `privacy.secret_dir` is not set, or
      the folder belongs to another workdir or cannot be written.
  """
  if config.privacy.secret_dir:
    folder = epath.Path(config.privacy.secret_dir)
    _claim(folder, workdir)
    return folder / 'secret'
  if not files.is_local(workdir.root):
    raise errors.UsageError(
      'Expected privacy.secret_dir to name a local folder, since'
      f' --workdir={workdir.root} is remote: the secret must not leave this'
      ' machine.'
    )
  return workdir.private / 'secret'


def _claim(folder: epath.Path, workdir: workdirs.Workdir) -> None:
  """Reserves a folder of secrets for this workdir, which may be moved."""
  own = workdir.private / 'workdir_id'
  if not own.exists():
    files.write_text(own, uuid.uuid4().hex, mode=0o600)
  with _written(folder):
    key_streams.claim(folder, own.read_text())


@contextlib.contextmanager
def _written(folder: epath.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    if error.errno in files.NO_SPACE:
      raise
    raise errors.UsageError(
      f'Expected {folder} to be a folder that can be written, for the secret'
      f' ({error.strerror}): set privacy.secret_dir to another.'
    ) from error
