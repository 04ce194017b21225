"""Model FLOP utilisation of the ordinary and the private step.

  python -m experiments.benchmarks.gpu_mfu [--images=4] [--draws=8,32]
  python -m experiments.benchmarks.gpu_mfu --smoke     # tiny, on any machine

The arithmetic that counts is three forward passes of each draw, as the
compiler counts a forward pass; recomputation does not count. It is divided by
the time of the step and by the peak of one device in bfloat16 (`--peak`, in
TFLOP/s, where the device is not known). With `--trace=FOLDER` a profile of the
private step is kept, and its costliest operations are printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import gzip
import json
import pathlib
import statistics
from typing import Any

import jax

from dp_diffusion.stages import arithmetic
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import private_step
from experiments.benchmarks import table

# Dense bfloat16 TFLOP/s that the makers state, by a word of the device's name.
PEAK_TFLOPS = {'H100': 989.0, 'H200': 989.0, 'A100': 312.0, 'L4': 121.0}
GOALS = {'ordinary': 0.40, 'private': 0.35}


def peak_tflops(device_kind: str, given: float) -> float:
  """Peak of one device.

  Args:
    device_kind: as jax names it.
    given: what the user said, or 0.

  Raises:
    ValueError: neither is known.
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
  """Names and total milliseconds of the costliest events of a profile.

  Args:
    folder: given to `jax.profiler.trace`.
    count: how many.
  """
  total: Counter[str] = Counter()
  for path in folder.rglob('*.trace.json.gz'):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    for event in events:
      if 'hlo_op' in event.get('args', {}):
        total[event['args']['hlo_op'].rstrip('.0123456789')] += event['dur']
  return [(name, dur / 1000) for name, dur in total.most_common(count)]


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'gpu_mfu')
  parser.add_argument('--images', type=int, default=4)
  parser.add_argument('--draws', default='8,32', help='K, with commas')
  parser.add_argument('--peak', type=float, default=0.0, help='TFLOP/s')
  parser.add_argument('--trace', type=pathlib.Path, help='folder of a profile')
  arguments = parser.parse_args(argv)
  harness.start()
  is_smoke = arguments.smoke
  network = networks.load('smoke' if is_smoke else '80m_bf16')
  kind = jax.devices()[0].device_kind
  peak = peak_tflops(kind, arguments.peak or (1.0 if is_smoke else 0.0))
  flop = 3 * arithmetic.forward_flop(network.config)
  rows: list[dict[str, Any]] = []
  for num_draws in (2,) if is_smoke else map(int, arguments.draws.split(',')):
    num_images = 2 if is_smoke else arguments.images
    _, calls = private_step.compile_all(
      network, num_images, num_draws, ('private', 'ordinary')
    )
    seconds = harness.interleaved(calls, arguments.rounds or 5)
    for name, goal in GOALS.items():
      median = statistics.median(seconds[name])
      draws = num_images * num_draws
      rows.append(
        table.row(
          f'MFU, {name} step, {num_images} images x K={num_draws},'
          f' {network.title}, peak {peak:g} TFLOP/s',
          draws * flop / median / (peak * 1e12),
          {'draws/s': draws / median},
          at_least=None if is_smoke else goal,
        )
      )
    if arguments.trace:
      with jax.profiler.trace(str(arguments.trace)):
        jax.block_until_ready(calls['private']())
      for name, millis in top_costs(arguments.trace):
        print(f'{millis:10.1f} ms  {name}')
  harness.save('gpu_mfu', rows, arguments)


if __name__ == '__main__':
  main()
