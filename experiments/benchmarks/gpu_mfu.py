"""Measures the model FLOP utilisation of the ordinary and the private step.

  python -m experiments.benchmarks.gpu_mfu [--cases=16x8,8x32]
  python -m experiments.benchmarks.gpu_mfu --smoke     # tiny, on any machine

The operations counted are those of three forward passes of each draw, as the
compiler counts a forward pass; recomputation is not counted. They are divided
by the time of the step and by the peak of one device in bfloat16 (`--peak`, in
TFLOP/s, for a device that is not in the list). With `--trace=FOLDER` a profile
of the private step of the first case is kept, and its most expensive operations
are printed; XLA_FLAGS=--xla_gpu_enable_command_buffer= makes the profile show
operations inside of CUDA graphs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
import gzip
import json
import pathlib
import re
import statistics
from typing import Any

import jax

from dp_diffusion.stages.planning import flop_counts
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import private_step
from experiments.benchmarks import table

# Dense bfloat16 TFLOP/s as specified, by a word of the device's name.
PEAK_TFLOPS = {'H100': 989.0, 'H200': 989.0, 'A100': 312.0, 'L4': 121.0}
GOALS = {'ordinary': 0.40, 'private': 0.35}
RATIO = 1.10  # Goal: time of a private step over that of an ordinary one.


def peak_tflops(device_kind: str, given: float) -> float:
  """The peak of one device in bfloat16, TFLOP/s.

  Args:
    device_kind: as jax names it.
    given: the user's value; 0 for the value of the list.

  Raises:
    ValueError: none is given, and the device is not in the list.
  """
  for word, peak in PEAK_TFLOPS.items():
    if not given and word in device_kind:
      return peak
  if not given:
    raise ValueError(
      f'Expected --peak=TFLOPS, as the peak of {device_kind!r} is not known.'
    )
  return given


def top_costs(folder: pathlib.Path, count: int = 10) -> list[tuple[str, float]]:
  """Names and total milliseconds of the most expensive events of a profile.

  Args:
    folder: the folder that was given to `jax.profiler.trace`.
    count: number of events.
  """
  total: Counter[str] = Counter()
  for path in folder.rglob('*.trace.json.gz'):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    for event in events:
      if 'hlo_op' in event.get('args', {}):
        total[event['args']['hlo_op'].rstrip('.0123456789')] += event['dur']
  return [(name, dur / 1000) for name, dur in total.most_common(count)]


def parse_cases(text: str) -> list[tuple[int, int]]:
  """Parses the numbers of images and of draws of each case.

  >>> parse_cases('16x8,8x32')
  [(16, 8), (8, 32)]

  Args:
    text: value of the flag.

  Raises:
    ArgumentTypeError: the text does not have this form.
  """
  if not re.fullmatch(r'[1-9]\d*x[1-9]\d*(,[1-9]\d*x[1-9]\d*)*', text):
    raise argparse.ArgumentTypeError(
      f'Expected {text!r} to be images x K with commas, as 16x8,8x32.'
    )
  pairs = (case.split('x') for case in text.split(','))
  return [(int(images), int(draws)) for images, draws in pairs]


def measure(
  network: networks.Network,
  num_images: int,
  num_draws: int,
  peak: float,
  num_rounds: int,
  *,
  is_smoke: bool,
) -> tuple[list[dict[str, Any]], Callable[[], Any]]:
  """Measures one case; returns its rows and a call of its private step.

  Args:
    network: the network to be timed.
    num_images: examples per step.
    num_draws: K.
    peak: TFLOP/s of the device.
    num_rounds: calls of each step.
    is_smoke: whether to leave out the goals.
  """
  flop = 3 * flop_counts.forward_flop(network.config)
  compiled, calls = private_step.compile_all(
    network, num_images, num_draws, tuple(GOALS)
  )
  seconds = harness.interleaved(calls, num_rounds)
  draws = num_images * num_draws
  what = f'{num_images} images x K={num_draws}, {network.title}'
  rows = []
  for name, goal in GOALS.items():
    rate = draws / statistics.median(seconds[name])
    rows.append(
      table.row(
        f'MFU, {name} step, {what}, peak {peak:g} TFLOP/s',
        rate * flop / (peak * 1e12),
        {
          'draws/s': rate,
          'TFLOP/s': rate * flop / 1e12,
          'temporary GB': harness.temporary_bytes(compiled[name]) / 1e9,
          'largest spread of a time': harness.spread(seconds[name]),
        },
        at_least=None if is_smoke else goal,
      )
    )
  rows.append(
    table.row(
      f'private / ordinary: {what}',
      harness.ratio(seconds['private'], seconds['ordinary']),
      {},
      at_most=None if is_smoke else RATIO,
    )
  )
  return rows, calls['private']


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'gpu_mfu')
  parser.add_argument(
    '--network', default='80m_bf16', choices=networks.NETWORKS
  )
  parser.add_argument(
    '--cases', type=parse_cases, default='16x8,8x32', help='images x K'
  )
  parser.add_argument('--peak', type=float, default=0.0, help='TFLOP/s')
  parser.add_argument('--trace', type=pathlib.Path, help='folder of a profile')
  arguments = parser.parse_args(argv)
  harness.start()
  is_smoke = arguments.smoke
  network = networks.load('smoke' if is_smoke else arguments.network)
  kind = jax.devices()[0].device_kind
  peak = peak_tflops(kind, arguments.peak or (1.0 if is_smoke else 0.0))
  cases = [(2, 2)] if is_smoke else arguments.cases
  rows: list[dict[str, Any]] = []
  trace = arguments.trace
  for num_images, num_draws in cases:
    more, private = measure(
      network,
      num_images,
      num_draws,
      peak,
      arguments.rounds or 5,
      is_smoke=is_smoke,
    )
    rows += more
    if trace:
      with jax.profiler.trace(str(trace)):
        jax.block_until_ready(private())
      for name, millis in top_costs(trace):
        print(f'{millis:10.1f} ms  {name}')
      trace = None
  harness.save('gpu_mfu', rows, arguments)


if __name__ == '__main__':
  main()
