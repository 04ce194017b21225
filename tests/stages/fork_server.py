"""Runs the command line, or other code, in processes that have imported it.

Importing the project takes seconds of processor time. A server imports it once
and forks for each command. The fork is a process of its own, with its own
environment, folder, output, devices and death. JAX starts no thread before it
computes, so nothing of it is running when the server forks.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import gc
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import warnings

# Read when a command starts to compute, so a fork may have its own.
_OF_A_FORK = ('XLA_FLAGS', 'DP_DIFFUSION_CRASH_AT')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """Code and stages to run, one after the other, in one process.

  Attributes:
    argv: what the process finds in `sys.argv`.
    code: Python to run before the stages; '' for none.
    commands: the command line of each stage.
    environment: all of its environment variables.
    folder: where it works.
    timeout_secs: when it is killed.
  """

  argv: Sequence[str]
  code: str = ''
  commands: Sequence[Sequence[str]] = ()
  environment: Mapping[str, str]
  folder: str
  timeout_secs: int = 600


def run(job: Job) -> subprocess.CompletedProcess[str]:
  """Waits for the process; its output is text."""
  shared = {
    name: value
    for name, value in job.environment.items()
    if name not in _OF_A_FORK and not name.startswith('PYTEST_')
  }
  server = _server(tuple(sorted(shared.items())))
  with tempfile.TemporaryDirectory() as folder:
    streams = [pathlib.Path(folder, name) for name in ('stdout', 'stderr')]
    request = {**dataclasses.asdict(job), 'streams': list(map(str, streams))}
    server.stdin.write(json.dumps(request) + '\n')
    server.stdin.flush()
    code = int(server.stdout.readline())
    stdout, stderr = (path.read_text() for path in streams)
  return subprocess.CompletedProcess(list(job.argv), code, stdout, stderr)


@functools.cache
def _server(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
  """One for each environment that was imported under; ends with the tests."""
  server = subprocess.Popen(
    [sys.executable, '-P', __file__],
    env=dict(environment),
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )

  def stop() -> None:
    server.stdin.close()
    server.wait()
    server.stdout.close()

  atexit.register(stop)
  return server


def _serve() -> None:
  """Forks for each line of standard input, and writes the exit code."""
  main = importlib.import_module('dp_diffusion.main')
  importlib.import_module('dp_diffusion.stages.runner')
  warnings.filterwarnings('ignore', 'This process .* is multi-threaded')
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 50)  # As in tests/conftest.py.
  for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
      _become(request)
      exec(request['code'], {'__name__': '__main__'})
      for command in request['commands']:
        code = main.main(command)
        if code:
          sys.exit(code)
      sys.exit(0)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: Mapping) -> None:
  """Makes this process what the command would find itself to be."""
  for number, name in enumerate((os.devnull, *request['streams'])):
    flags = os.O_RDWR | (os.O_CREAT if number else 0)
    opened = os.open(name, flags)
    os.dup2(opened, number)
    os.close(opened)
  os.fsync = _no_fsync
  os.environ.clear()
  os.environ.update(request['environment'])
  os.chdir(request['folder'])
  sys.argv = list(request['argv'])
  signal.alarm(request['timeout_secs'])


def _no_fsync(descriptor: int) -> None:
  """As in tests/conftest.py: a kill of the process loses nothing of a file."""


if __name__ == '__main__':
  _serve()
