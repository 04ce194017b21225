"""Compares our clipped sum of gradients with jax_privacy and Opacus.

  python -m experiments.benchmarks.peers [--venv=FOLDER]

The script makes a virtual environment (by default in the user's cache folder)
that sees this one's packages and adds jax_privacy, PyTorch, Opacus and
diffusers. Two worker processes, one of JAX and one of PyTorch, hold the same
network, weights and 64 images. They take turns of two calls each, of which the
second is timed; the sums must agree to 1e-4. The loss has one fixed timestep
and noise per image, and the clip norm is so small that every gradient is
clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
import pathlib
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any

import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import table

PACKAGES = (  # Installed without dependencies, which are present or listed.
  'torch==2.13.0',
  'opacus==1.6.0',
  'jax-privacy==2.0.0',
  'chex==0.1.92',
  'dm-tree==0.1.10',
  'toolz',
  'pydantic',
  'pydantic_core',
  'annotated-types',
  'typing-inspection',
  'opt-einsum',
  'diffusers==0.42.1',
  'huggingface_hub==2.4.0',
  'safetensors==0.8.0',
  'httpx2',
  'httpcore2',
  'truststore',
  'h11',
)
CLIP_NORM = 1e-3
TOLERANCE = 1e-4
METHODS = {
  'jax': ('ours', 'jax_privacy'),
  'torch': ('opacus hooks', 'opacus ghost', 'torch ordinary'),
}


def default_folder() -> pathlib.Path:
  """Folder of the virtual environment, in the user's cache folder."""
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache).expanduser() / 'dp_diffusion' / 'peers'


def environment(folder: pathlib.Path) -> pathlib.Path:
  """Makes the virtual environment if it is missing; returns its Python."""
  python, complete = folder / 'bin' / 'python', folder / 'complete'
  wanted = '\n'.join(PACKAGES)
  if complete.exists() and complete.read_text() == wanted:
    return python
  subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True)
  paths = sysconfig.get_paths(vars={'base': str(folder), 'platbase': ''})
  outer = sysconfig.get_paths()['purelib']
  (pathlib.Path(paths['purelib']) / 'outer.pth').write_text(f'{outer}\n')
  pip = [str(python), '-m', 'pip', 'install', '--quiet']
  # PyTorch needs its dependencies; the other packages must not change ours.
  subprocess.run([*pip, PACKAGES[0]], check=True)
  subprocess.run([*pip, '--no-deps', *PACKAGES[1:]], check=True)
  complete.write_text(wanted)
  return python


class Worker:
  """A process that runs a method each time its name is sent."""

  def __init__(self, python: pathlib.Path, kind: str, folder: str) -> None:
    root = pathlib.Path(__file__).resolve().parents[2]
    self._process = subprocess.Popen(
      [str(python), '-m', f'experiments.benchmarks.peers_{kind}', folder],
      env={**os.environ, 'PYTHONPATH': str(root)},
      cwd=root,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def run(self, method: str) -> float:
    """Runs a method once; returns its seconds. The sum is in METHOD.npz."""
    assert self._process.stdin and self._process.stdout
    print(method, file=self._process.stdin, flush=True)
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f'The worker of {method} has ended.')
    return float(line)

  def close(self) -> None:
    """Ends the process."""
    assert self._process.stdin
    self._process.stdin.close()
    self._process.wait()


def write_problem(
  folder: pathlib.Path, network: networks.Network, num_images: int
) -> None:
  """Writes weights and inputs for both workers."""
  from dp_diffusion.models import weights  # noqa: PLC0415

  config, data = network.config, network.config.data
  rng = np.random.default_rng(0)
  shape = (num_images, *data.image_shape)
  num_timesteps = config.diffusion.num_timesteps
  inputs = {
    'x': rng.standard_normal(shape, np.float32),
    'target': rng.standard_normal(shape, np.float32),
    'timestep': rng.integers(0, num_timesteps, num_images, np.int32),
    'label': rng.integers(0, 10, num_images, np.int32),
  }
  np.savez(folder / 'inputs.npz', **inputs)
  np.savez(folder / 'weights.npz', **weights.flatten(network.params))


def worst_difference(folder: pathlib.Path) -> dict[str, float]:
  """For each other method, norm of its difference from ours over our norm."""
  ours = np.load(folder / 'ours.npz')
  norm = np.sqrt(sum(np.sum(np.square(ours[k], dtype=float)) for k in ours))
  result = {}
  for method in ('jax_privacy', 'opacus hooks', 'opacus ghost'):
    other = np.load(folder / f'{method}.npz')
    squares = sum(
      np.sum(np.square(np.asarray(ours[k], float) - other[k])) for k in ours
    )
    result[method] = float(np.sqrt(squares) / norm)
  return result


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'peers')
  parser.add_argument('--venv', type=pathlib.Path)
  parser.add_argument('--images', type=int, default=64)
  arguments = parser.parse_args(argv)
  harness.start()
  python = environment(arguments.venv or default_folder())
  name = 'smoke' if arguments.smoke else 'small'
  network = networks.load(name)
  num_images = 4 if arguments.smoke else arguments.images
  with tempfile.TemporaryDirectory() as temporary:
    work = pathlib.Path(temporary)
    write_problem(work, network, num_images)
    (work / 'network').write_text(name)
    workers = {kind: Worker(python, kind, temporary) for kind in METHODS}
    calls = {m: workers[k].run for k, ms in METHODS.items() for m in ms}
    seconds: dict[str, list[float]] = {m: [] for m in calls}
    for _ in range(arguments.rounds or 4):
      for method, call in calls.items():
        call(method)  # Not timed: caches are cold after the other's turn.
        seconds[method].append(call(method))
    differences = worst_difference(work)
    for worker in workers.values():
      worker.close()
  if max(differences.values()) > TOLERANCE:
    raise RuntimeError(f'The sums differ: {differences}')
  harness.save(
    'peers',
    _rows(seconds, num_images, network.title),
    arguments,
    facts={'relative_difference_of_sums': differences},
  )


def _rows(
  seconds: dict[str, list[float]], num_images: int, title: str
) -> list[dict[str, Any]]:
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  rates = {name: num_images / m for name, m in medians.items()}
  opacus = min(('opacus hooks', 'opacus ghost'), key=medians.__getitem__)
  size = f'{num_images} images, {title}'

  def line(
    other: str, aim: float | None, extra: tuple[str, ...] = ()
  ) -> dict[str, Any]:
    shown = ('ours', other, *extra)
    return table.row(
      f'ours / {other}, {size}',
      harness.ratio(seconds[other], seconds['ours']),
      {f'{name} images/s': rates[name] for name in shown},
      at_least=aim,
    )

  slower = next(m for m in ('opacus ghost', 'opacus hooks') if m != opacus)
  return [
    line('jax_privacy', 2.2),
    line(opacus, 1.2, (slower,)),
    line('torch ordinary', None),
  ]


if __name__ == '__main__':
  main()
