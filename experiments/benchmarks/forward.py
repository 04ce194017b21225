"""Times the networks without gradients, with and without `winograd`.

  python -m experiments.benchmarks.forward [--networks=small,80m]

The speed of a network that samples on a CPU, over that with direct
convolutions alone. Images are of random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import statistics
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from dp_diffusion.models import unet
from dp_diffusion.models import winograd
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import table


def forward(network: networks.Network, num_images: int) -> Callable[[], Any]:
  """Compiles the network; the function evaluates it once."""
  data = network.config.data
  model = unet.UNet(network.config.unet_config(data))
  x = jax.random.normal(jax.random.key(0), (num_images, *data.image_shape))
  inputs = (x, *jnp.full((2, num_images), 1, jnp.int32))
  run = jax.jit(
    lambda params, *inputs: model.apply({'params': params}, *inputs)
  )
  compiled = run.lower(network.params, *inputs).compile()
  return lambda: compiled(network.params, *inputs)


def measure(name: str, num_images: int, num_rounds: int) -> dict[str, Any]:
  """The row of one network."""
  network = networks.load(name)
  calls = {'ours': forward(network, num_images)}
  with mock.patch.object(winograd, 'is_faster', lambda *_: False):
    jax.clear_caches()
    calls['direct'] = forward(network, num_images)
  seconds = harness.interleaved(calls, num_rounds)
  return table.row(
    f'ours / direct, {num_images} images, {network.title}',
    harness.ratio(seconds['direct'], seconds['ours']),
    {
      f'{which} images/s': num_images / statistics.median(values)
      for which, values in seconds.items()
    },
    at_least=1.0,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'forward')
  parser.add_argument('--networks', default='small,80m')
  parser.add_argument('--images', default='32,4', help='of each network')
  arguments = parser.parse_args(argv)
  harness.start()
  names = ['smoke'] if arguments.smoke else arguments.networks.split(',')
  sizes = map(int, arguments.images.split(','))
  num_rounds = arguments.rounds or (2 if arguments.smoke else 9)
  rows = [
    measure(name, size, num_rounds)
    for name, size in zip(names, sizes, strict=False)
  ]
  harness.save('forward', rows, arguments)


if __name__ == '__main__':
  main()
