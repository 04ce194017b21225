"""Times the per-example kernel gradients of every 3x3 convolution.

  python -m experiments.benchmarks.convolutions [--networks=small,80m]

For each shape of a network, the form that `kernel_gradients.choose_form`
chooses is compared with jax's own gradient, both under `jax.vmap`, in turn.
results.json keeps all shapes; the README shows the one with the largest ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
import functools
import statistics
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion.models import convolution
from dp_diffusion.models import kernel_gradients
from dp_diffusion.models import unet
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import table

Shape = tuple[int, int, int, int, float]  # Height, width, Ci, Co, stride.


def shapes_of(network: networks.Network) -> list[Shape]:
  """The distinct shapes of a network's 3x3 convolutions, in order of use."""
  found: dict[Shape, None] = {}
  original = convolution.conv3x3

  def note(
    x: jax.Array, kernel: jax.Array, stride: float = 1, form: str = 'auto'
  ) -> jax.Array:
    found[(*x.shape[1:], kernel.shape[-1], stride)] = None
    return original(x, kernel, stride, form)

  config = network.config
  side, data = config.data.image_size, config.data
  model = unet.UNet(config.unet_config(data))
  one = jax.ShapeDtypeStruct((1,), 'int32')
  x = jax.ShapeDtypeStruct((1, side, side, data.channels), 'float32')
  with mock.patch.object(convolution, 'conv3x3', note):
    jax.eval_shape(model.apply, {'params': network.params}, x, one, one)
  return list(found)


def gradient_fn(form: str, stride: float) -> Any:
  """Jitted (kernel, x[B, K, ...], dy[B, K, ...]) -> gradients [B, ...].

  The axes have the order in which a private step holds them. The form 'stock'
  is jax's own convolution instead of `models.convolution`, and its gradients
  have the axes of the kernel.
  """

  def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution.conv3x3(x, kernel, stride, form)

  if form == 'stock':
    conv = functools.partial(networks.stock_conv3x3, stride=stride)

  def dot(kernel: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
    return jnp.vdot(conv(x, kernel), dy)

  def gradient(kernel: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
    found = jax.grad(dot)(kernel, x, dy)
    if form == 'stock':
      return found
    return found.transpose(kernel_gradients.gradient_axes(kernel.shape))

  return jax.jit(jax.vmap(gradient, in_axes=(None, 0, 0)))


def measure_shape(
  shape: Shape, num_images: int, num_draws: int, num_rounds: int
) -> dict[str, Any]:
  """Times both gradients of one shape; returns its entry in results.json."""
  height, width, channels, features, stride = shape
  rng = np.random.default_rng(0)

  def normal(*sizes: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(sizes, np.float32))

  x = normal(num_images, num_draws, height, width, channels)
  sides = tuple(int(-(-side // stride)) for side in (height, width))
  dy = normal(num_images, num_draws, *sides, features)
  kernel = normal(3, 3, channels, features)
  fns = {form: gradient_fn(form, stride) for form in ('auto', 'stock')}
  got, want = (np.asarray(fn(kernel, x, dy)) for fn in fns.values())
  axes = np.argsort(kernel_gradients.gradient_axes(kernel.shape))
  got = got.transpose(0, *(1 + axes))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
  seconds = harness.interleaved(
    {name: functools.partial(fn, kernel, x, dy) for name, fn in fns.items()},
    num_rounds,
  )
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  flop = 18 * channels * features * num_images * num_draws * sides[0] * sides[1]
  return {
    'shape': f'{height}x{width}x{channels} to {features}, stride {stride}',
    'form': kernel_gradients.choose_form(
      (num_images, num_draws, height, width, channels),
      features,
      stride,
      jax.default_backend(),
    ),
    'ratio': harness.ratio(seconds['auto'], seconds['stock']),
    'gflops': flop / medians['auto'] / 1e9,
    'stock_gflops': flop / medians['stock'] / 1e9,
  }


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'convolutions')
  parser.add_argument('--networks', default='small,80m')
  parser.add_argument('--images', type=int, default=4)
  parser.add_argument('--draws', type=int, default=4)
  arguments = parser.parse_args(argv)
  harness.start()
  names = ['smoke'] if arguments.smoke else arguments.networks.split(',')
  rows, facts = [], {}
  for name in names:
    network = networks.load(name)
    found = [
      measure_shape(
        shape,
        arguments.images,
        arguments.draws,
        arguments.rounds or (2 if arguments.smoke else 5),
      )
      for shape in shapes_of(network)
    ]
    facts[name] = found
    worst = max(found, key=lambda f: f['ratio'])
    rows.append(
      table.row(
        f'ours / stock under vmap, slowest of {len(found)} shapes of the'
        f' {network.title}: {worst["shape"]}',
        worst['ratio'],
        {
          'form': worst['form'],
          'GFLOP/s': worst['gflops'],
          'stock GFLOP/s': worst['stock_gflops'],
          'median ratio of all shapes': statistics.median(
            f['ratio'] for f in found
          ),
        },
        at_most=1.0,
      )
    )
  harness.save('convolutions', rows, arguments, facts={'shapes': facts})


if __name__ == '__main__':
  main()
