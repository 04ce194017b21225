"""Times the host's work for one private step, at the size of Camelyon17.

  python -m experiments.benchmarks.host_overhead

Selection, batches, keys and ledger of one step are timed one after the other,
at N = 302,436 and an expected batch of 16,384. The loop does most of this while
the device computes, so the time is an upper bound of the cost. The time of a
step is assumed, not measured: the arithmetic of the 80M network at `--tflops`
of useful work in total, by default 8 accelerators of 989 TFLOP/s at 35 %. The
microbatch is assumed too: 512 draws or 128 gradients of that network, which fit
in 80 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import functools
import statistics
import types
from typing import Any

import jax
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion.data import batching
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.planning import flop_counts
from experiments.benchmarks import harness
from experiments.benchmarks import table

NUM_DEVICES = 8
DRAWS = (128, 8, 1)


def microbatch_size(num_draws: int) -> int:
  """Images per microbatch and device, with `num_draws` draws of each."""
  return min(128, 512 // num_draws)


def parts(
  num_examples: int, batch_size: int, num_steps: int
) -> dict[str, Callable[[], Any]]:
  """Name -> function that does one part of the host's work for a step."""
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(0), run_id='benchmark'
  )
  selector = streams.poisson_selector(num_examples, batch_size / num_examples)
  rng = np.random.default_rng(0)
  source: Any = types.SimpleNamespace(
    images=rng.integers(0, 256, (num_examples, 32, 32, 3), np.uint8),
    labels=np.zeros(num_examples, np.int32),
  )
  selected = selector.select(0)
  privacy = _privacy(num_examples, batch_size, num_steps)
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=num_examples,
    expected_batch_size=batch_size,
    num_steps=num_steps,
    noise_multiplier=1.0,
    l2_clip_norm=privacy.l2_clip_norm,
    delta=privacy.delta,
  )
  ledger = ledger_lib.start(
    mechanism, dataclasses.replace(privacy, epsilon=100.0)
  )

  def batches(size: int) -> None:
    for slots in batch_selection.microbatches(selected, size, NUM_DEVICES):
      batch = batching.gather(source, slots.indices.reshape(-1))
      jax.block_until_ready(
        jax.device_put((batch, slots.indices, slots.is_padding))
      )

  return {
    'selection': functools.partial(selector.select, 1),
    **{
      f'batches, K={k}': functools.partial(batches, microbatch_size(k))
      for k in DRAWS
    },
    'keys': lambda: (streams.draw_key(1), streams.noise_keys(1)),
    'ledger': lambda: ledger.with_steps(1).to_json(),
  }


def _privacy(num_examples: int, batch_size: int, num_steps: int) -> Any:
  config = config_lib.load(
    'configs/camelyon.py',
    {
      'privacy.num_examples': str(num_examples),
      'privacy.expected_batch_size': str(batch_size),
      'privacy.num_steps': str(num_steps),
      'privacy.delta': str(0.5 / num_examples),
    },
  )
  return config.privacy


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'host_overhead')
  parser.add_argument('--tflops', type=float, default=8 * 989 * 0.35)
  arguments = parser.parse_args(argv)
  harness.start()
  size = (2000, 100) if arguments.smoke else (302_436, 16_384)
  seconds = harness.interleaved(parts(*size, 200), arguments.rounds or 5)
  medians = {name: statistics.median(s) for name, s in seconds.items()}
  batches = {k: medians.pop(f'batches, K={k}') for k in DRAWS}
  flop = 3 * flop_counts.forward_flop(config_lib.load('configs/camelyon.py'))
  rows = []
  for num_draws in DRAWS:
    costs = {'batches': batches[num_draws], **medians}
    step = flop * size[1] * num_draws / (arguments.tflops * 1e12)
    rows.append(
      table.row(
        f'host / device, N = {size[0]}, batch {size[1]}, K = {num_draws}, at'
        f' an assumed {arguments.tflops:.0f} TFLOP/s',
        sum(costs.values()) / step,
        {
          **{f'{k} ms': 1000 * v for k, v in costs.items()},
          'images at a time': NUM_DEVICES * microbatch_size(num_draws),
          'assumed step s': step,
        },
        at_most=0.02,
      )
    )
  harness.save('host_overhead', rows, arguments)


if __name__ == '__main__':
  main()
