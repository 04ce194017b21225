"""Compares the cost of a private and an ordinary step on the same images.

  python -m experiments.benchmarks.private_step [--network=small] [--rounds=7]

These are timed side by side, for 64 images with one draw and 16 with four:

  private          `private_step.accumulate`: vmap(grad), clip, sum
  ordinary         gradient of the mean loss, with our convolution
  ordinary, stock  the same with jax's own; the faster of both is 'ordinary'
  vmap(grad)       jax's own convolution, clipped and summed alike
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent import futures
import contextlib
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.models import kernel_gradients
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.training import private_step as step_lib
from experiments.benchmarks import harness
from experiments.benchmarks import networks
from experiments.benchmarks import table

CASES = ((64, 1), (16, 4))  # Images and draws of each.
CLIP_NORM = 1e-3


def private_fn(network: networks.Network, num_draws: int) -> Any:
  """Jits (params, total, batch, key, indices, padding) -> total."""
  config = clipping.GradConfig(
    l2_clip_norm=CLIP_NORM,
    num_draws=num_draws,
    gradient_axes=kernel_gradients.gradient_axes,
  )

  def accumulate(
    params: types.Params,
    total: Any,
    batch: Any,
    key: Any,
    indices: Any,
    is_padding: Any,
  ) -> Any:
    records = step_lib.Microbatch(
      examples=batch, indices=indices, is_padding=is_padding
    )
    return step_lib.accumulate(
      network.loss_fn, params, {}, total, records, key, config=config
    )

  return jax.jit(accumulate, donate_argnums=1)


def ordinary_fn(network: networks.Network, num_draws: int) -> Any:
  """Jits (params, batch, key, indices) -> gradient of the mean loss."""
  draw_losses = jax.vmap(network.loss_fn, in_axes=(None, None, 0))

  def mean_loss(
    params: types.Params, batch: Any, key: Any, indices: Any
  ) -> jax.Array:
    keys = key_streams.draw_keys(key, indices, num_draws)
    return jnp.mean(
      jax.vmap(draw_losses, in_axes=(None, 0, 0))(params, batch, keys)
    )

  return jax.jit(jax.value_and_grad(mean_loss))


NAMES = ('private', 'ordinary', 'vmap(grad)', 'ordinary, stock')


def compile_all(
  network: networks.Network,
  num_images: int,
  num_draws: int,
  names: Sequence[str] = NAMES,
) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
  """Compiles the functions that are compared.

  Args:
    network: the network to be timed.
    num_images: number of examples.
    num_draws: K.
    names: the functions, of NAMES.

  Returns:
    Name -> compiled function, and name -> call of it with its arguments.
  """
  params = network.params
  batch = network.batch(num_images)
  key = jax.random.key(0)
  indices = jnp.arange(num_images, dtype=jnp.int32)
  is_padding = jnp.zeros(num_images, bool)
  zeros = functools.partial(
    clipping.zeros, config=clipping.GradConfig(l2_clip_norm=CLIP_NORM)
  )
  totals = {'private': zeros(params), 'vmap(grad)': zeros(params)}
  private_args = (params, totals['private'], batch, key, indices, is_padding)
  ordinary_args = (params, batch, key, indices)
  fns = {
    'private': (private_fn, private_args, False),
    'ordinary': (ordinary_fn, ordinary_args, False),
    'vmap(grad)': (private_fn, private_args, True),
    'ordinary, stock': (ordinary_fn, ordinary_args, True),
  }
  lowered: list[Any] = []
  for name in names:
    make, args, is_stock = fns[name]
    context = (
      networks.stock_convolutions() if is_stock else contextlib.nullcontext()
    )
    with context:
      lowered.append(make(network, num_draws).lower(*args))
  with futures.ThreadPoolExecutor() as pool:  # All compile at the same time.
    found = pool.map(lambda one: one.compile(), lowered)
    compiled: dict[str, Any] = dict(zip(names, found, strict=True))

  def call(name: str) -> Any:
    if name not in totals:
      return compiled[name](*ordinary_args)
    totals[name] = compiled[name](params, totals[name], *private_args[2:])
    return totals[name]

  calls: dict[str, Callable[[], Any]] = {
    name: functools.partial(call, name) for name in compiled
  }
  if set(names) == set(NAMES):
    check_same(calls)
  return compiled, calls


def check_same(calls: dict[str, Callable[[], Any]]) -> None:
  """Asserts that both private sums, and both ordinary gradients, agree.

  A bias before a normalisation of single channels has a gradient of zero up to
  rounding, so the allowed difference is the rounding error of the largest
  element. In private sums each term is cut to the grid, and may differ
  by one unit.
  """
  for names in (('private', 'vmap(grad)'), ('ordinary', 'ordinary, stock')):
    found = [calls[name]() for name in names]
    units = 0.0
    if isinstance(found[0], clipping.ClippedSum):
      units = found[0].exact.unit * float(found[0].stats.num_examples)
      found = [total.grad_sum for total in found]
    results = [jax.tree.leaves(tree) for tree in found]
    largest = max(float(np.abs(b).max()) for b in results[1])
    rounding = max(np.finfo(np.float32).eps * largest, units)
    for a, b in zip(*results, strict=True):
      a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
      atol = max(1e-3 * np.abs(b).max(), rounding)
      np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def measure(
  network: networks.Network, num_images: int, num_draws: int, num_rounds: int
) -> list[dict[str, Any]]:
  """Measures one case; returns its rows."""
  compiled, calls = compile_all(network, num_images, num_draws)
  seconds = harness.interleaved(calls, num_rounds)
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  memory = {
    name: harness.temporary_bytes(fn) / 1e6 for name, fn in compiled.items()
  }
  fastest = min(('ordinary', 'ordinary, stock'), key=medians.__getitem__)
  draws = num_images * num_draws
  what = f'{num_images} images x K={num_draws}, {network.title}'
  rates = {
    f'{name} draws/s': draws / medians[name] for name in ('private', fastest)
  }
  slower = draws / medians['vmap(grad)']
  spread = max(map(harness.spread, seconds.values()))
  return [
    table.row(
      f'private / {fastest}: {what}',
      harness.ratio(seconds['private'], seconds[fastest]),
      {**rates, 'largest spread of a time': spread},
      at_most=1.08,
    ),
    table.row(
      f'private / ordinary, stock: {what}',
      harness.ratio(seconds['private'], seconds['ordinary, stock']),
      {'ordinary, stock draws/s': draws / medians['ordinary, stock']},
    ),
    table.row(
      f'private / plain vmap(grad): {what}',
      harness.ratio(seconds['private'], seconds['vmap(grad)']),
      {'vmap(grad) draws/s': slower},
      at_most=1.0,
    ),
    table.row(
      f'temporary memory, private / plain vmap(grad): {what}',
      memory['private'] / memory['vmap(grad)'],
      {f'{name} MB': value for name, value in memory.items()},
      at_most=1.5,
    ),
  ]


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'private_step')
  parser.add_argument('--network', default='small', choices=networks.NETWORKS)
  arguments = parser.parse_args(argv)
  harness.start()
  network = networks.load('smoke' if arguments.smoke else arguments.network)
  cases = ((4, 1), (2, 2)) if arguments.smoke else CASES
  rows = []
  for num_images, num_draws in cases:
    rows += measure(
      network,
      num_images,
      num_draws,
      arguments.rounds or (2 if arguments.smoke else 7),
    )
  harness.save('private_step', rows, arguments)


if __name__ == '__main__':
  main()
