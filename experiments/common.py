"""Starts the runs of an experiment, and reads their results.

An experiment is a set of runs of `dp_diffusion.main`, each in its own folder
and resumable, and a `results.json` with their results:

  experiment   name of the folder below experiments/
  notice       says that the numbers are computed from real images
  command      the command that was typed
  machine      the machine on which it ran
  rows         lines of the README's table, see `row`
  figures      figures for the README: [{'file': ..., 'alt': ...}]
  runs         one entry per run, see `read_run`
  missing      names of runs that are not complete
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.privacy import statement
from experiments import copies
from experiments import machines

NOTICE = (
  'Accuracies and seconds are computed from real images without noise: they'
  ' are outside the privacy guarantee.'
)
INTERRUPTED = 130  # Exit code of a run that was stopped by Ctrl-C.
# Fields of a run's report that results.json keeps.
_REPORTED = (
  'accuracy',
  'accuracy_interval',
  'num_held_out_images',
  'num_train_images',
)
# Fields that a report has only if the config asks for them.
_OPTIONAL = (
  'accuracy_by_number',
  'auroc',
  'diffusion_classifier',
  'class_head',
  'ensembles',
  'has_soft_labels',
  'model_selection',
  'quality',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One run of `dp_diffusion.main`.

  Attributes:
    name: unique name, also of its log.
    workdir: its folder.
    arguments: arguments of the command line, without the program.
    module: the Python module that is run.
    facts: entries of `results.json` that distinguish it from other runs.
    source: folder of an earlier run; this run continues in a copy of it. None
      for a run that starts anew.
  """

  name: str
  workdir: pathlib.Path
  arguments: tuple[str, ...]
  module: str = 'dp_diffusion.main'
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  source: pathlib.Path | None = None

  @property
  def command(self) -> str:
    """The command line as a user would type it."""
    command = shlex.join(('python', '-m', self.module, *self.arguments))
    if self.source is None:
      return command
    return f'{copies.command(self.source, self.workdir)} && {command}'


def is_check(
  module: str, doc: str | None, argv: Sequence[str] | None = None
) -> bool:
  """Whether a program that writes files shall only compare them.

  Args:
    module: of the program, below experiments/.
    doc: its help.
    argv: its arguments, `--check` or none; None takes those of the process.
  """
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{module}',
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--check', action='store_true', help='write nothing')
  return bool(parser.parse_args(argv).check)


def make_run(
  name: str,
  *,
  config: str,
  out: pathlib.Path,
  overrides: Mapping[str, object],
  stage: str = 'all',
  facts: Mapping[str, Any] | None = None,
  source: pathlib.Path | None = None,
) -> Run:
  """Makes a run whose folder is `out/name`.

  Args:
    name: name of the run.
    config: FILE[:VARIANT].
    out: folder of the experiment's runs.
    overrides: config key -> value.
    stage: one of `main.STAGES`.
    facts: see `Run`.
    source: see `Run`.

  Returns:
    The run.
  """
  arguments = (
    f'--config={config}',
    f'--workdir={out / name}',
    f'--stage={stage}',
    *(f'--config.{key}={value}' for key, value in overrides.items()),
  )
  return Run(
    name=name,
    workdir=out / name,
    arguments=arguments,
    facts=facts or {},
    source=source,
  )


def make_baseline_run(
  name: str,
  *,
  method: str,
  config: str,
  out: pathlib.Path,
  overrides: Mapping[str, object],
  facts: Mapping[str, Any],
) -> Run:
  """Makes a run of `experiments.baseline` whose folder is `out/name`.

  Args:
    name: name of the run.
    method: one of `baselines.settings.METHODS`.
    config: FILE[:VARIANT].
    out: folder of the experiment's runs.
    overrides: config key -> value.
    facts: see `Run`; the method is added.

  Returns:
    The run.
  """
  return Run(
    name=name,
    workdir=out / name,
    module='experiments.baseline',
    arguments=(
      f'--method={method}',
      f'--config={config}',
      f'--workdir={out / name}',
      *(f'--config.{key}={value}' for key, value in overrides.items()),
    ),
    facts={**facts, 'method': method},
  )


class Processes:
  """Processes of `main`; none outlives the process that started it.

  The terminal's Ctrl-C does not reach them; `stop` signals each of them once.
  """

  def __init__(self) -> None:
    self._running: set[subprocess.Popen] = set()
    self._is_stopped = False
    self._lock = threading.Lock()

  def execute(self, run: Run, log: pathlib.Path) -> int:
    """Runs `run` to its end; returns its exit code. Output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if run.source is not None:
      copies.make(run.source, run.workdir)
    with log.open('ab') as f:
      with self._lock:
        if self._is_stopped:
          return INTERRUPTED
        process = subprocess.Popen(
          [sys.executable, '-m', run.module, *run.arguments],
          stdin=subprocess.DEVNULL,
          stdout=f,
          stderr=subprocess.STDOUT,
          start_new_session=True,
        )
        self._running.add(process)
      try:
        return process.wait()
      finally:
        with self._lock:
          self._running.discard(process)

  def stop(self) -> None:
    """Tells all processes to save and end, and starts no more."""
    with self._lock:
      self._is_stopped = True
      for process in self._running:
        process.send_signal(signal.SIGINT)


@contextlib.contextmanager
def stops_on_signals() -> Iterator[None]:
  """Treats SIGTERM and SIGHUP as Ctrl-C, unless they are ignored."""
  before = {}
  for name in ('SIGTERM', 'SIGHUP'):
    number = getattr(signal, name, None)  # None if the system has no such one.
    if number and signal.getsignal(number) == signal.SIG_DFL:
      before[number] = signal.signal(number, signal.default_int_handler)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def execute_all(
  runs: Sequence[Run],
  log_dir: pathlib.Path,
  num_parallel: int = 1,
  processes: Processes | None = None,
) -> list[str]:
  """Executes all runs; a run that fails is reported and the others continue.

  A run that is already complete ends by itself within seconds.

  Args:
    runs: the runs, in the order in which they start.
    log_dir: folder for NAME.log of each run.
    num_parallel: number of processes at a time.
    processes: executes one run and returns its exit code.

  Returns:
    Names of the runs that failed.

  Raises:
    Interrupted: Ctrl-C was pressed; runs in progress stopped after a step.
  """
  processes = processes or Processes()
  failed: list[str] = []
  start = time.monotonic()

  def one(run: Run) -> tuple[int, float]:
    console.say(f'{run.name}: starts')
    begin = time.monotonic()
    code = processes.execute(run, log_dir / f'{run.name}.log')
    return code, time.monotonic() - begin

  with (
    stops_on_signals(),
    concurrent.futures.ThreadPoolExecutor(num_parallel) as pool,
  ):
    futures = {pool.submit(one, run): run for run in runs}
    try:
      done = concurrent.futures.as_completed(futures)
      for count, future in enumerate(done, 1):
        run, (code, secs) = futures[future], future.result()
        if code:
          failed.append(run.name)
          console.warn(_failure(run.name, code, log_dir / f'{run.name}.log'))
        left = (time.monotonic() - start) * (len(runs) - count) / count
        console.say(
          f'{run.name}: {"FAILED" if code else "done"} after {secs:.0f} s;'
          f' {count}/{len(runs)}, {left / 60:.0f} min left'
        )
    except KeyboardInterrupt:
      console.say('stopping: runs in progress save and end')
      processes.stop()
      pool.shutdown(wait=True, cancel_futures=True)
      raise errors.Interrupted(
        'Stopped; everything is saved. The same command continues.'
      ) from None
  return failed


def _failure(name: str, code: int, log: pathlib.Path) -> str:
  lines = log.read_text(errors='replace').split('\n') if log.exists() else []
  last = next((line for line in reversed(lines) if line.strip()), '')
  return f'{name} failed with exit code {code}, see {log}: {last.strip()}'


def read_run(run: Run) -> dict[str, Any] | None:
  """The results of a complete run; None if it is not complete.

  Args:
    run: the run; if complete, its folder has evaluation/report.json and
      release/privacy.json.

  Returns:
    Its facts; epsilon_pld, epsilon_rdp, delta, noise_multiplier (an infinite
    epsilon is null, and then `private` is false); accuracies by source and
    classifier with their intervals; seconds of each stage; command, revision,
    versions, SHA-256 of the resolved config; the result of an audit in the same
    folder, if there was one; distances of the images to the training images.
  """
  report_path = run.workdir / 'evaluation' / 'report.json'
  privacy_path = run.workdir / 'release' / statement.FILE_NAME
  if not report_path.exists() or not privacy_path.exists():
    return None
  report, privacy = files.read_json(report_path), files.read_json(privacy_path)
  numbers = ('epsilon_pld', 'epsilon_rdp', 'delta', 'noise_multiplier')
  return {
    'name': run.name,
    **run.facts,
    'private': privacy['private'],
    **{name: statement.number(privacy, name) for name in numbers},
    **{name: report[name] for name in _REPORTED},
    **{name: report[name] for name in _OPTIONAL if name in report},
    'seconds': copies.own_seconds(run.source, report['seconds'])
    if run.source
    else report['seconds'],
    **_copies(report),
    **_audit(run.workdir / 'evaluation' / 'audit.json'),
    'command': run.command,
    'code_revision': privacy['code_revision'],
    'versions': privacy['versions'],
    'config_sha256': config_sha256(report['config']),
  }


def _copies(report: Mapping[str, Any]) -> dict[str, Any]:
  """Results of the search for copies of training images, if there was one."""
  if 'memorization' not in report:
    return {}
  names = ('is_copying', 'c_t', 'closer_to_train', 'num_exact', 'space')
  return {
    'memorization': {
      source: {name: report['memorization'][source][name] for name in names}
      for source in ('synthetic', 'real')
      if report['memorization'].get(source)
    }
  }


def _audit(path: pathlib.Path) -> dict[str, Any]:
  """Results of an audit; they depend on public images and canaries only."""
  if not path.exists():
    return {}
  found = files.read_json(path)
  return {
    'audit': {
      'is_passed': found['is_passed'],
      'claim': found['claim'],
      'confidence': found['confidence'],
      'epsilon_lower_bound': max(
        found[name]['epsilon_lower_bound']
        for name in ('white_box', 'steps')
        if name in found
      ),
      'tests': [name for name in ('white_box', 'steps') if name in found],
      'measured_noise_multiplier': found['measured_noise_multiplier'],
      'num_earlier_audits': len(found['earlier_runs']),
    }
  }


def config_sha256(config: Mapping[str, Any]) -> str:
  """Hex SHA-256 of a resolved config, whatever the order of its keys.

  >>> config_sha256({'a': 1, 'b': 2}) == config_sha256({'b': 2, 'a': 1})
  True
  """
  text = json.dumps(config, sort_keys=True, separators=(',', ':'))
  return hashlib.sha256(text.encode()).hexdigest()


def row(
  what: str,
  measures: Mapping[str, Sequence[float]],
  *,
  unit: str = '%',
  units: Mapping[str, str] | None = None,
  seconds: float | None = None,
  claim: str = '',
  aim: str = '',
  is_missed: bool = False,
) -> dict[str, Any]:
  """Makes a line of the README's table.

  Args:
    what: data and setting, in a few words.
    measures: name -> value of each seed.
    unit: unit in which values are shown; '%' shows a share in percent.
    units: name -> unit of a measure, if it differs.
    seconds: time of all seeds together, including shared stages; None if the
      time is counted in another row.
    claim: key in `collect.CLAIMS` of the paper's claim it is compared with.
    aim: the goal, if the paper has no such number.
    is_missed: whether the goal was missed.
  """
  return {
    'what': what,
    'measures': {name: list(values) for name, values in measures.items()},
    'unit': unit,
    **({'units': dict(units)} if units else {}),
    'seconds': seconds,
    'claim': claim,
    'aim': aim,
    'is_missed': is_missed,
  }


def machine(out: pathlib.Path, num_parallel: int) -> dict[str, Any]:
  """Facts of the machine that first ran in `out`, kept in its machine.json.

  Args:
    out: folder of the experiment's runs.
    num_parallel: processes at a time, which slow one another down.
  """
  path = out / 'machine.json'
  if not path.exists():
    found = {**machines.facts(), 'runs_at_a_time': num_parallel}
    files.write_json(path, found)
  return files.read_json(path)
