"""Runs the command line in a process of its own, as a user does.

The process is a fork of one that has imported the project, or a fresh one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
import shutil
import signal
import subprocess
import sys

from dp_diffusion.privacy import key_streams
from tests import conftest
from tests.stages import fork_server

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DIGITS_SMOKE = str(ROOT / 'configs' / 'digits.py') + ':smoke'
# Less to compile. The slow smoke_test has two levels.
ONE_LEVEL = '--config.model.channel_multipliers=(1,)'
TIMEOUT_SECS = 600


def run(
  environment: Mapping[str, str],
  *arguments: str,
  config: str = DIGITS_SMOKE,
  num_devices: int = 2,
  crash_at: str = '',
  is_fresh: bool = False,
  code: str = '',
) -> subprocess.CompletedProcess[str]:
  """`python -m dp_diffusion.main --config=... ARGUMENTS`, output as text.

  Args:
    environment: what `process_environment` adds to.
    *arguments: beside the config.
    config: FILE[:VARIANT].
    num_devices: of the process.
    crash_at: the crash point at which it is killed.
    is_fresh: as a user starts it; what importing prints is seen too.
    code: Python that is run first, in the same process; not if `is_fresh`.
  """
  environment = process_environment(environment, num_devices, crash_at)
  if not is_fresh:
    return _fork(
      (f'--config={config}', *arguments), ('',), environment, ROOT, code
    )
  assert not code
  return subprocess.run(
    [
      sys.executable,
      '-m',
      'dp_diffusion.main',
      f'--config={config}',
      *arguments,
    ],
    env=environment,
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=TIMEOUT_SECS,
    check=False,
  )


def _fork(
  arguments: Sequence[str],
  stages: Sequence[str],
  environment: Mapping[str, str],
  folder: pathlib.Path,
  code: str = '',
) -> subprocess.CompletedProcess[str]:
  """The command line, once for each stage; '' is what `arguments` say."""
  return fork_server.run(
    fork_server.Job(
      argv=(str(ROOT / 'dp_diffusion' / 'main.py'), *arguments),
      code=code,
      commands=[
        (*arguments, f'--stage={stage}') if stage else arguments
        for stage in stages
      ],
      environment=environment,
      folder=str(folder),
      timeout_secs=TIMEOUT_SECS,
    )
  )


def start(
  environment: Mapping[str, str], *arguments: str, config: str = DIGITS_SMOKE
) -> subprocess.Popen[str]:
  """Like `run`, but does not wait."""
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'dp_diffusion.main',
      f'--config={config}',
      *arguments,
    ],
    env=process_environment(environment, 2, ''),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def succeed_stages(
  environment: Mapping[str, str],
  stages: str,
  *arguments: str,
  config: str = DIGITS_SMOKE,
  cwd: pathlib.Path | None = None,
) -> subprocess.CompletedProcess[str]:
  """Like `run` once for each of 'a,b', in one process: imports are slow.

  Fails the test on an error.
  """
  done = _fork(
    (f'--config={config}', *arguments),
    stages.split(','),
    process_environment(environment),
    cwd or ROOT,
  )
  _check(done)
  return done


def succeed(*arguments: object, **keywords: object) -> str:
  """Like `run`, and returns standard output; fails the test on an error."""
  done = run(*arguments, **keywords)
  _check(done)
  return done.stdout


def _check(done: subprocess.CompletedProcess[str]) -> None:
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'


def killed(done: subprocess.CompletedProcess[str]) -> bool:
  """Whether the process died of SIGKILL."""
  return done.returncode == -signal.SIGKILL


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Relative path -> bytes of every file below."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def arguments(workdir: pathlib.Path) -> tuple[str, ...]:
  """Of the command line, for stages in a workdir."""
  return (
    f'--workdir={workdir}',
    '--config.sample.write_tfds=false',  # TensorFlow takes seconds to import.
  )


def quick(workdir: pathlib.Path) -> tuple[str, ...]:
  """The same for a small network, and noise whose epsilon is soon computed."""
  return (
    *arguments(workdir),
    '--config.pretrain.num_steps=0',
    '--config.pretrain.optimizer.warmup_steps=0',
    ONE_LEVEL,
    '--config.privacy.solve_for=epsilon',
    '--config.privacy.epsilon=none',
    '--config.privacy.noise_multiplier=1.25',
    '--config.finetune.power_averages=(0.05,0.1)',
  )


def prepare(finished: pathlib.Path, workdir: pathlib.Path) -> None:
  """A workdir with public weights and a known secret, nothing private done."""
  shutil.copytree(finished / 'public', workdir / 'public')
  record = json.loads((finished / 'config.json').read_text())
  (workdir / 'config.json').write_text(
    json.dumps({'pretrain': record['pretrain']})
  )
  plant_secret(workdir)


def plant_secret(workdir: pathlib.Path) -> None:
  """A known secret; the folder `private` is made."""
  (workdir / 'private').mkdir(mode=0o700, parents=True)
  key_streams.Secret.insecure(7).save(workdir / 'private' / 'secret')


def outcome(workdir: pathlib.Path) -> dict[str, bytes]:
  """Weights, averages, ledger, samples and statement: what a run leaves."""
  found = contents(workdir / 'release')
  averages = workdir / 'private' / 'averages.npz'
  if averages.exists():
    found['averages'] = averages.read_bytes()
  found['ledger'] = (workdir / 'private' / 'ledger.json').read_bytes()
  return found


def process_environment(
  base: Mapping[str, str], num_devices: int = 2, crash_at: str = ''
) -> dict[str, str]:
  """What a process of the project runs in."""
  return {
    **base,
    'XLA_FLAGS': (
      f'--xla_force_host_platform_device_count={num_devices}'
      f' {conftest.QUICK_COMPILATION}'
    ),
    'DP_DIFFUSION_CRASH_AT': crash_at,
    'JAX_DEBUG_KEY_REUSE': '0',  # Costs compilation; checked in process.
  }
