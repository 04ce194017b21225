"""Measures the images per second of each sampler.

  python -m experiments.benchmarks.sampling [--networks=small] [--diffusers]

On an accelerator the whole loop is one program. On a CPU XLA runs a convolution
inside of a loop many times slower, so one compiled step is called repeatedly,
as in the sample stage; no array is copied to the host in between. Every step
costs the same, so images per second at another number of steps can be computed
from the network evaluations per second.

`--diffusers` also times the pipelines of Hugging Face's diffusers, in turn with
ours, in the environment that `peers` makes; see `peers_diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import pathlib
import statistics
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from dp_diffusion.diffusion import sampler_steps
from dp_diffusion.diffusion import samplers
from dp_diffusion.models import unet
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import peers
from experiments.benchmarks import table

_THEIRS = 'diffusers '


def sampler(
  network: networks.Network, name: str, num_steps: int, batch_size: int
) -> Callable[[], Any]:
  """Returns a function that samples one batch."""
  config = dataclasses.replace(
    network.config.sample.sampler, name=name, num_steps=num_steps
  )
  diffusion, data = network.config.finetune_diffusion(), network.config.data
  model = unet.UNet(network.config.unet_config(data))
  image_shape = data.image_shape
  labels = jnp.zeros(batch_size, jnp.int32)
  key = jax.random.key(0)

  def step(params: Any, state: Any, i: Any) -> Any:
    denoise = unet.make_denoise_fn(model, params)
    return samplers.step_fn(denoise, config, diffusion)(state, labels, i)

  def whole(params: Any) -> Any:
    denoise = unet.make_denoise_fn(model, params)
    return samplers.sample(denoise, config, diffusion, key, labels, image_shape)

  if jax.default_backend() != 'cpu':
    compiled = jax.jit(whole)
    return lambda: compiled(network.params)
  init = jax.jit(lambda: samplers.init_state(key, (batch_size, *image_shape)))
  step_fn = jax.jit(step, donate_argnums=1)

  def run() -> Any:
    state = init()
    for i in range(num_steps):
      state = step_fn(network.params, state, jnp.int32(i))
    return state.x

  return run


@contextlib.contextmanager
def _diffusers(
  problem: str,
) -> Iterator[tuple[dict[str, Callable[[], Any]], int]]:
  """Starts a worker; gives its calls and its network's number of parameters."""
  python = peers.environment(peers.default_folder())
  with tempfile.TemporaryDirectory() as folder:
    (pathlib.Path(folder) / 'problem').write_text(problem)
    worker = peers.Worker(python, 'diffusers', folder)
    calls = {
      f'{_THEIRS}{method}': functools.partial(worker.run, method)
      for method in sampler_steps.SAMPLERS
    }
    try:
      worker.run('ddim')  # When it returns, the parameters have been counted.
      num = int((pathlib.Path(folder) / 'num_parameters').read_text())
      yield calls, num
    finally:
      worker.close()


def _rows(
  seconds: dict[str, list[float]],
  title: str,
  num_evaluations: int,
  num_steps: int,
) -> list[dict[str, Any]]:
  """One line per sampler, and one of ours over theirs if theirs was timed."""
  lines = []
  for method in sampler_steps.SAMPLERS:
    rate = num_evaluations / statistics.median(seconds[method])
    measured = {
      'images/s': rate / num_steps,
      'network evaluations/s': rate,
    }
    theirs = seconds.get(f'{_THEIRS}{method}')
    ratio, what = None, method
    if theirs:
      what = f'ours / diffusers, {method}'
      ratio = harness.ratio(theirs, seconds[method])
      measured['theirs images/s'] = (
        num_evaluations / num_steps / statistics.median(theirs)
      )
    lines.append(table.row(f'{what}, {title}', ratio, measured))
  return lines


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'sampling')
  parser.add_argument('--networks', default='small,80m')
  parser.add_argument('--small-size', default='10,32', help='steps, images')
  parser.add_argument('--large-size', default='3,2', help='steps, images')
  parser.add_argument('--diffusers', action='store_true')
  arguments = parser.parse_args(argv)
  harness.start()
  rows = []
  names = ['smoke'] if arguments.smoke else arguments.networks.split(',')
  for name in names:
    network = networks.load(name)
    is_large = name.startswith('80m')
    text = arguments.large_size if is_large else arguments.small_size
    num_steps, batch_size = map(int, text.split(','))
    calls = {
      method: sampler(network, method, num_steps, batch_size)
      for method in sampler_steps.SAMPLERS
    }
    title = f'{num_steps} steps of {batch_size} images, {network.title}'
    with contextlib.ExitStack() as stack:
      if arguments.diffusers:
        problem = f'{name} {num_steps} {batch_size}'
        theirs, num_parameters = stack.enter_context(_diffusers(problem))
        calls |= theirs
        title += f' (theirs {num_parameters / 1e6:.3g}M)'
      seconds = harness.interleaved(calls, arguments.rounds or 3)
    rows += _rows(seconds, title, num_steps * batch_size, num_steps)
  harness.save('sampling', rows, arguments)


if __name__ == '__main__':
  main()
