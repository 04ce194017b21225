"""Times functions side by side, and writes results.json of a machine.

The functions run in one process, one call of each in turn, round after round,
so that all of them are slowed when something slows the machine. A ratio is the
median of the ratios of the rounds. Each script writes its own section of
`experiments/benchmarks/MACHINE/results.json`, and rewrites the README's table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
import os
import pathlib
import re
import shlex
import statistics
import sys
import time
from typing import Any

import jax

from dp_diffusion import compile_cache
from dp_diffusion import files
from dp_diffusion import host_memory
from dp_diffusion import version
from dp_diffusion import xla_flags
from experiments import machines
from experiments.benchmarks import table

HERE = pathlib.Path(__file__).resolve().parent


def interleaved(
  fns: Mapping[str, Callable[[], Any]], num_rounds: int, num_warmups: int = 1
) -> dict[str, list[float]]:
  """Returns the seconds of each function in each round.

  Each call is waited for. The order is reversed from one round to the next,
  because caches and clock rate may differ between the first and the last call.

  Args:
    fns: name -> function to be timed; it returns the arrays to wait for.
    num_rounds: timed calls of each function.
    num_warmups: calls of each function that are not timed.
  """
  seconds: dict[str, list[float]] = {name: [] for name in fns}
  for i in range(-num_warmups, num_rounds):
    for name in list(fns)[:: 1 if i % 2 else -1]:
      start = time.perf_counter()
      jax.block_until_ready(fns[name]())
      if i >= 0:
        seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
  """Median over the rounds of the ratio of two times.

  >>> ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0])
  2.0
  """
  pairs = zip(over, under, strict=True)
  return statistics.median(a / b for a, b in pairs)


def spread(seconds: Sequence[float]) -> float:
  """Ratio of a function's largest and smallest time; 1 on a quiet machine."""
  return max(seconds) / min(seconds)


def temporary_bytes(compiled: Any) -> int:
  """Memory in bytes that a compiled function needs for intermediate values."""
  return int(compiled.memory_analysis().temp_size_in_bytes)


def parser(doc: str | None, module: str) -> argparse.ArgumentParser:
  """A parser with the flags that all scripts have."""
  result = argparse.ArgumentParser(
    prog=f'python -m experiments.benchmarks.{module}',
    description=doc,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  result.add_argument(
    '--smoke', action='store_true', help='tiny; results are not kept'
  )
  result.add_argument(
    '--dry', action='store_true', help='full size; results are not kept'
  )
  result.add_argument(
    '--rounds', type=int, default=0, help='of calls; 0 is the default'
  )
  return result


def start() -> None:
  """Sets up XLA and memory as `dp_diffusion.main` does; call it first."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  host_memory.keep_freed()
  xla_flags.keep_barriers()
  path = os.environ.get('JAX_COMPILATION_CACHE_DIR') or compile_cache.folder()
  if path:
    jax.config.update('jax_compilation_cache_dir', str(path))


def machine_name(machine: Mapping[str, Any]) -> str:
  """The name of a machine's folder.

  >>> machine_name({'devices': '1 x cpu', 'cores': 2, 'cpu': 'AMD EPYC 9'})
  '2_x_amd_epyc_9'
  >>> machine_name({'devices': '8 x NVIDIA H100', 'cores': 2, 'cpu': ''})
  '8_x_nvidia_h100'
  """
  text = machine['devices']
  if text.endswith(' cpu'):
    text = f'{machine["cores"]} x {machine["cpu"]}'
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_')


def save(
  section: str,
  rows: Sequence[Mapping[str, Any]],
  arguments: argparse.Namespace,
  *,
  facts: Mapping[str, Any] | None = None,
) -> None:
  """Writes rows to their section of results.json, and the README's table.

  Args:
    section: name of the script.
    rows: lines of `table.row`.
    arguments: parsed flags; with `--smoke` and `--dry`, rows are only printed.
    facts: further entries of the section.
  """
  print(table.of_rows(rows))
  if arguments.smoke or arguments.dry:
    return
  machine = machines.facts()
  path = HERE / machine_name(machine) / 'results.json'
  found = files.read_json(path) if path.exists() else {}
  command = shlex.join(
    ['python', '-m', f'experiments.benchmarks.{section}', *sys.argv[1:]]
  )
  content = {
    'command': command,
    'code_revision': version.revision(),
    'machine': machine,
    **(facts or {}),
    'rows': list(rows),
  }
  path.parent.mkdir(exist_ok=True)
  files.write_json(path, {**found, section: content})
  table.write(HERE)
