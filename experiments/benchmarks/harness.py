"""Timing side by side, and results.json of a machine.

What is compared runs in one process, one call of each in turn, round after
round, so that whatever slows the machine slows all of them; a ratio is the
median of the ratios of the rounds. Each script writes its own section of
`experiments/benchmarks/MACHINE/results.json`, and the table of the README anew.
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
from dp_diffusion import xla_flags
from dp_diffusion.stages.run import statements
from experiments import machines
from experiments.benchmarks import table

HERE = pathlib.Path(__file__).resolve().parent


def interleaved(
  fns: Mapping[str, Callable[[], Any]], num_rounds: int, num_warmups: int = 1
) -> dict[str, list[float]]:
  """Seconds of each function in each round, each call run to its end.

  The order turns round from one round to the next, as the one that comes first
  may find another cache or another clock than the one that comes last.

  Args:
    fns: name -> what is timed; returns what to wait for.
    num_rounds: calls of each that count.
    num_warmups: calls of each that do not.
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
  """Median over the rounds of one time over the other.

  >>> ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0])
  2.0
  """
  pairs = zip(over, under, strict=True)
  return statistics.median(a / b for a, b in pairs)


def spread(seconds: Sequence[float]) -> float:
  """Largest over smallest time of a function: how quiet the machine was."""
  return max(seconds) / min(seconds)


def temporary_bytes(compiled: Any) -> int:
  """What a compiled function needs beside its arguments and results."""
  return int(compiled.memory_analysis().temp_size_in_bytes)


def parser(doc: str | None, module: str) -> argparse.ArgumentParser:
  """The flags that all scripts have."""
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
  """What `dp_diffusion.main` does first; call it before any compute."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  host_memory.keep_freed()
  xla_flags.keep_barriers()
  path = os.environ.get('JAX_COMPILATION_CACHE_DIR') or compile_cache.folder()
  if path:
    jax.config.update('jax_compilation_cache_dir', str(path))


def machine_name(machine: Mapping[str, Any]) -> str:
  """Folder of a machine.

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
  """Puts rows under their section, and writes the README's table.

  Args:
    section: name of the script.
    rows: see `table.row`.
    arguments: of `parser`; results of `--smoke` and `--dry` are only printed.
    facts: whatever else is to be known.
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
    'code_revision': statements.code_revision(),
    'machine': machine,
    **(facts or {}),
    'rows': list(rows),
  }
  path.parent.mkdir(exist_ok=True)
  files.write_json(path, {**found, section: content})
  table.write(HERE)
