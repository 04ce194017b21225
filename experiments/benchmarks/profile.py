"""Splits the time of a private step by kind of compiled operation.

  python -m experiments.benchmarks.profile [--network=small]

The profile is of one step of 16 images with four draws each. The seconds of
each kind are summed over the threads of the device; shares are of the sum of
all.
"""

from __future__ import annotations

from collections.abc import Sequence
import pathlib
import tempfile

import jax

from experiments.benchmarks import gpu_mfu
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import private_step
from experiments.benchmarks import table


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'profile')
  parser.add_argument('--network', default='small', choices=networks.NETWORKS)
  parser.add_argument('--images', type=int, default=16)
  parser.add_argument('--draws', type=int, default=4)
  arguments = parser.parse_args(argv)
  harness.start()
  network = networks.load('smoke' if arguments.smoke else arguments.network)
  size = (arguments.images, arguments.draws)
  if arguments.smoke:
    size = (2, 2)
  _, calls = private_step.compile_all(network, *size, ('private',))
  jax.block_until_ready(calls['private']())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(calls['private']())
    costs = gpu_mfu.top_costs(pathlib.Path(folder), count=1000)
  total = sum(millis for _, millis in costs)
  rows = [
    table.row(
      f'{name}, {size[0]} images x K={size[1]}, {network.title}',
      millis / total,
      {'ms': millis},
    )
    for name, millis in costs[:12]
  ]
  harness.save('profile', rows, arguments)


if __name__ == '__main__':
  main()
