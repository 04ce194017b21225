"""Measures how long the calibration of the noise takes for each paper config.

  python -m experiments.benchmarks.calibration

Each config is calibrated twice, in separate processes with warnings as errors:
first with an empty cache, then with the cache that the first process left.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from experiments.benchmarks import harness
from experiments.benchmarks import table

CONFIGS = ('mnist', 'fashion_mnist', 'cifar10', 'camelyon')
MAX_SECS = 20.0
_CODE = """
import sys, time
from dp_diffusion import config as config_lib
from dp_diffusion.stages.run import budget
config = config_lib.load(sys.argv[1])
start = time.perf_counter()
found = budget.calibrate(config)
print(time.perf_counter() - start, found.mechanism.noise_multiplier)
"""


def calibrate(config: str, cache: str) -> tuple[float, float]:
  """Calibrates in a new process; returns seconds and the noise multiplier.

  Raises:
    RuntimeError: the process wrote to stderr, such as a warning.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', _CODE, config],
    env={**os.environ, 'XDG_CACHE_HOME': cache, 'PYTHONPATH': str(root)},
    cwd=root,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode or done.stderr:
    raise RuntimeError(f'{config}: {done.stderr}')
  seconds, noise = map(float, done.stdout.split())
  return seconds, noise


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  arguments = harness.parser(__doc__, 'calibration').parse_args(argv)
  harness.start()
  rows: list[dict[str, Any]] = []
  for name in CONFIGS[:1] if arguments.smoke else CONFIGS:
    variant = ':smoke' if arguments.smoke else ''
    with tempfile.TemporaryDirectory() as cache:
      first, noise = calibrate(f'configs/{name}.py{variant}', cache)
      again, same = calibrate(f'configs/{name}.py{variant}', cache)
    if noise != same:
      raise RuntimeError(f'{name}: the cache changes {noise} to {same}.')
    rows.append(
      table.row(
        f'seconds to calibrate configs/{name}.py',
        first,
        {'seconds again, cached': again, 'noise multiplier': noise},
        at_most=MAX_SECS,
      )
    )
  harness.save('calibration', rows, arguments)


if __name__ == '__main__':
  main()
