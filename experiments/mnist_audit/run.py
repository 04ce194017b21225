"""Audits the private step of `configs/mnist.py:cpu`.

python -m experiments.mnist_audit.run [--out=FOLDER] [--set=KEY=VALUE]
python -m experiments.mnist_audit.run --print   # for a scheduler
python -m experiments.mnist_audit.run --smoke   # a tiny audit

A folder that holds the result of an audit is not audited again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import shlex
import sys
from typing import Any

from dp_diffusion import console
from dp_diffusion import files
from experiments import common
from experiments import sweeps

NAME = 'mnist_audit'
HERE = pathlib.Path(__file__).resolve().parent
TESTS = {'steps': 'step by step', 'white_box': 'by guesses'}


def plan(out: pathlib.Path, is_smoke: bool) -> sweeps.Plan:
  """Writes the first weights, without pre-training, then audits them."""
  weights, audit = (
    common.make_run(
      'audit',
      config='configs/mnist.py:cpu' + (',smoke' if is_smoke else ''),
      out=out,
      overrides={'pretrain.num_steps': 0},
      stage=stage,
    )
    for stage in ('pretrain', 'audit')
  )
  return sweeps.Plan(first=(weights,), runs=(audit,))


def row(found: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the README's line: a bound per test.

  Args:
    found: content of `evaluation/audit.json`.
  """
  claim = found['claim']
  return common.row(
    f'MNIST 14x14, a step that claims epsilon {claim["epsilon"]:g},'
    f' {claim["num_steps"]} steps, at {found["confidence"]:.0%} confidence',
    {
      f'epsilon at least, {title}': [found[name]['epsilon_lower_bound']]
      for name, title in TESTS.items()
    },
    unit='',
    seconds=found['seconds'],
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the audit and collects its result; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  arguments = sweeps.parse(NAME, __doc__, argv)
  command = shlex.join(['python', '-m', f'experiments.{NAME}.run', *argv])
  return sweeps.until_stopped(lambda: _run(arguments, command))


def _run(arguments: argparse.Namespace, command: str) -> int:
  out = arguments.out
  runs = sweeps.with_overrides(plan(out, arguments.smoke), arguments.set)
  if arguments.print:
    sweeps.print_commands(runs, command)
    return 0
  (audit,) = runs.runs
  machine = common.machine(out, 1)
  path = audit.workdir / 'evaluation' / 'audit.json'
  if not path.exists():
    for run in (*runs.first, audit):
      # An audit that refutes the claim has a result too.
      common.execute_all([run], out / 'logs')
    if not path.exists():
      return 1
  found = files.read_json(path)
  folder = out if arguments.smoke else HERE
  content = {
    'experiment': NAME,
    'command': command,
    'machine': dict(machine),
    'rows': [row(found)],
    'figures': [],
    'runs': [
      {
        'name': audit.name,
        'commands': [run.command for run in (*runs.first, audit)],
        **{key: value for key, value in found.items() if key != 'earlier_runs'},
      }
    ],
  }
  files.write_json(folder / 'results.json', content)
  console.say(f'results: {folder / "results.json"}')
  return 0 if found['is_passed'] else 1


if __name__ == '__main__':
  sys.exit(main())
