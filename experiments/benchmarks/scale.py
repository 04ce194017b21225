"""Measures what each process of a job of up to 64 devices needs on its host.

  python -m experiments.benchmarks.scale

Jobs of 1, 2, 4 and 8 processes (`--processes`), with 8 simulated CPU devices
each, fine-tune a tiny network for a few steps, at N = 1,300,000 images of 8x8
and an expected batch of 65,536. They run the whole stage, with real processes
that talk over gloo. The images are rendered, which takes minutes at first, and
memory-mapped from the cache folder, as those of a large set are. Nothing else
may stop the processes: a job ends if one of them does not answer for minutes.

All processes share the cores of this machine. Times are therefore CPU time, of
the whole process up to its first step, and of the thread that feeds the devices
in a step. Only a checkpoint, in which the other processes wait for process 0,
is measured in seconds. Memory is what the system cannot reclaim ('anonymous'),
and the proportional share of everything ('Pss'), in which a page that n
processes map counts 1/n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from dp_diffusion import files
from dp_diffusion.data import rendered
from experiments.benchmarks import harness
from experiments.benchmarks import table

NUM_DEVICES = 8  # Of each process.
MOST_GROWTH = 1.1
_TIMEOUT_SECS = 1800
# Compiled without optimisation: else compiling outweighs all the rest.
_QUICK = (
  '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
)
_GB = 1e9


def flags(num_examples: int, batch_size: int) -> list[str]:
  """Returns the flags of the run, without the workdir."""
  values = {
    **_images('data', num_examples),
    **_images('pretrain.data', 100),
    'pretrain.data.source_seed': 1,
    'pretrain.num_steps': 0,
    'pretrain.optimizer.warmup_steps': 0,
    'model.channels': 4,
    'model.num_groups': 2,
    'model.head_channels': 4,
    'model.channel_multipliers': '(1,)',
    'privacy.num_examples': num_examples,
    'privacy.expected_batch_size': batch_size,
    'privacy.delta': 0.5 / num_examples,
    'privacy.num_steps': 3,
    'privacy.solve_for': 'epsilon',
    'privacy.epsilon': 'none',
    'privacy.noise_multiplier': 1.0,
    'finetune.augmult': 1,
    'finetune.microbatch_size': 256,
    'finetune.checkpoint_every_steps': 1,
  }
  config = '--config=configs/digits.py:smoke'
  return [config, *(f'--config.{key}={v}' for key, v in values.items())]


def _images(section: str, num_images: int) -> dict[str, Any]:
  return {
    f'{section}.name': 'rendered',
    f'{section}.num_images': num_images,
    f'{section}.class_names': ','.join(rendered.CLASS_NAMES),
  }


def run_job(
  count: int, arguments: Sequence[str], folder: pathlib.Path
) -> list[dict[str, Any]]:
  """Runs a job and returns what each of its processes measured.

  Args:
    count: number of processes.
    arguments: of the main program.
    folder: empty folder for the results of the processes.
  """
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  jobs = []
  for number in range(count):
    environment = {
      **os.environ,
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(count),
      'JAX_PROCESS_ID': str(number),
      # Every job compiles: programs of another number of devices are others.
      'JAX_ENABLE_COMPILATION_CACHE': 'false',
      'XLA_FLAGS': (
        f'--xla_force_host_platform_device_count={NUM_DEVICES} {_QUICK}'
      ),
    }
    module = 'experiments.benchmarks.scale_process'
    command = [sys.executable, '-m', module, str(folder), *arguments]
    jobs.append(
      subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    )
  try:
    codes = [job.wait(timeout=_TIMEOUT_SECS) for job in jobs]
  finally:
    for job in jobs:
      job.kill()
      job.wait()
  if any(codes):
    raise RuntimeError(f'The processes ended with {codes}.')
  return [files.read_json(folder / f'{i}.json') for i in range(count)]


def rows(
  found: Mapping[int, Sequence[Mapping[str, Any]]], size: str
) -> list[dict[str, Any]]:
  """Returns the lines of the table.

  Args:
    found: number of processes -> what each measured.
    size: N and the expected batch, in words.
  """

  def line(
    what: str, value: Callable[[Mapping[str, Any]], float], is_largest: bool
  ) -> dict[str, Any]:
    values = {
      count: max(map(value, jobs)) if is_largest else value(jobs[0])
      for count, jobs in found.items()
    }
    fewest, most = min(values), max(values)
    who = 'the process with most' if is_largest else 'process 0'
    return table.row(
      f'{what}, {who}: {NUM_DEVICES * most} devices in {most} processes'
      f' / {NUM_DEVICES * fewest} in {fewest}, {size}',
      values[most] / values[fewest],
      {f'in {count}': value for count, value in values.items()},
      at_most=MOST_GROWTH,
    )

  quantities = {
    'anonymous GB': lambda job: job['peak']['RssAnon'] / _GB,
    'Pss GB': lambda job: job['peak']['Pss'] / _GB,
    'CPU s to the first step': lambda job: job['before']['private_step'],
    's of a checkpoint': lambda job: statistics.median(job['secs']['save']),
    # The first step also compiles, so this is not the mean.
    'CPU ms of the host per step': lambda job: (
      1000 * statistics.median(job['cpu_secs']['private_step'])
    ),
    'CPU ms to select a batch': lambda job: _per_step(job, 'select'),
    'CPU ms to gather images': lambda job: _per_step(job, 'gather'),
  }
  return [
    line(what, value, is_largest)
    for what, value in quantities.items()
    for is_largest in (False, True)
  ]


def _per_step(job: Mapping[str, Any], name: str) -> float:
  """Returns CPU milliseconds of the host's thread per step."""
  num_steps = len(job['secs']['private_step'])
  return 1000 * sum(job['cpu_secs'][name]) / num_steps


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'scale')
  parser.add_argument(
    '--processes', default='1,2,4,8', help='numbers of processes of the jobs'
  )
  arguments = parser.parse_args(argv)
  size = (2000, 512) if arguments.smoke else (1_300_000, 65_536)
  counts = [int(count) for count in arguments.processes.split(',')]
  found = {}
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary)
    (folder / 'pretrained').mkdir()
    run_job(
      1,
      [*flags(*size), f'--workdir={folder / "run"}', '--stage=pretrain'],
      folder / 'pretrained',
    )
    for count in counts:
      results, workdir = folder / f'results{count}', folder / f'run{count}'
      results.mkdir()
      shutil.copytree(folder / 'run', workdir)
      stage = [f'--workdir={workdir}', '--stage=finetune']
      found[count] = run_job(count, [*flags(*size), *stage], results)
  harness.save(
    'scale', rows(found, f'N = {size[0]}, batch {size[1]}'), arguments
  )


if __name__ == '__main__':
  main()
