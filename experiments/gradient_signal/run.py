"""How much of a clipped gradient is signal, by timestep and kind of draw.

python -m experiments.gradient_signal.run --release=runs/cells/release \
  --config=configs/own_images.py:cpu --set=data.path=FOLDER ...  # as the run

The mean of clipped gradients is what survives averaging over records; its norm,
in units of the clip norm, is to be compared with the noise over the batch. Its
square is estimated without bias, from the products of sums over different
records. Nothing is noised: it is for public images, or for a curator alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import math
import pathlib
import shlex
import sys
import time
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import console
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import registry
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.privacy import clipping
from dp_diffusion.stages.run import assembly
from experiments import common
from experiments import machines

NAME = 'gradient_signal'
HERE = pathlib.Path(__file__).resolve().parent
NUM_PARTS = 4  # Of the timesteps, of one size.
# Title -> (draws K, whether a draw has a noise and its negative).
KINDS = {
  'one noise': (1, False),
  'two noises': (2, False),
  'a noise and its negative': (1, True),
}
_BATCH_SIZE = 32


def share_of_signal(sums: Sequence[types.PyTree], num_records: int) -> float:
  """Estimates the norm of the mean of clipped gradients.

  The inner products of all pairs of different sets estimate its square.

  >>> sums = {'w': jnp.array([3.0, 0.0])}, {'w': jnp.array([3.0, 1.0])}
  >>> share_of_signal(sums, 3)
  1.0

  Args:
    sums: sums of clipped gradients, in units of the clip norm, of at least two
      sets of records.
    num_records: number of records in each set.

  Returns:
    The norm; 0 where the estimate of its square is negative.
  """
  vectors = np.stack(
    [
      np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
      for tree in sums
    ]
  ).astype(np.float64)
  of_pairs = np.sum(np.sum(vectors, axis=0) ** 2) - np.sum(vectors**2)
  count = len(sums) * (len(sums) - 1) * num_records**2
  return math.sqrt(max(float(of_pairs) / count, 0.0))


def settings(config: config_lib.Config) -> dict[str, dict[str, object]]:
  """Returns the keys of fine-tuning of each part of the timesteps, by name."""
  last = config.diffusion.num_timesteps
  edges = np.linspace(0, last, NUM_PARTS + 1).round().astype(int).tolist()
  parts: dict[str, dict[str, object]] = {
    'all timesteps': {'mixture_boundaries': (), 'mixture_weights': ()}
  }
  for start, end in zip(edges[:-1], edges[1:], strict=True):
    inner = sorted({0, start, end, last})
    parts[f'timesteps {start} to {end - 1}'] = {
      'mixture_boundaries': tuple(inner),
      'mixture_weights': tuple(float(edge == start) for edge in inner[:-1]),
    }
  return parts


def measure(
  config: config_lib.Config,
  params: types.Params,
  source: registry.ArraySource,
  num_records: int,
  seed: int,
) -> float:
  """Measures the share of signal of one kind of draw.

  Args:
    config: its `finetune` says the kind of draw and the timesteps.
    params: weights at which gradients are taken.
    source: the images.
    num_records: number of images.
    seed: chooses images and draws.
  """
  grad_config = assembly.grad_config(
    config.finetune, config.privacy.l2_clip_norm, batch_has_draw_axis=False
  )
  loss_fn = assembly.make_loss_fn(
    unet.UNet(config.unet_config(config.data)),
    config.finetune_diffusion(),
    config.data,
  )
  add = jax.jit(
    functools.partial(clipping.clipped_grad_sum, loss_fn, config=grad_config)
  )
  rng = np.random.default_rng(seed)
  size = min(_BATCH_SIZE, num_records // 2)
  used = num_records // size * size
  chosen = rng.choice(len(source.labels), used, replace=False)
  keys = jax.random.split(jax.random.key(seed), (used, config.finetune.augmult))
  sums = []
  for start in range(0, used, size):
    records = chosen[start : start + size]
    batch = {
      'image': jnp.asarray(source.images[records]),
      'label': jnp.asarray(source.labels[records], jnp.int32),
    }
    is_padding = jnp.zeros(size, bool)
    found = add(params, batch, keys[start : start + size], is_padding)
    sums.append(found.grad_sum)
  return share_of_signal(sums, size) / grad_config.l2_sensitivity


def rows(
  config: config_lib.Config,
  params: types.Params,
  source: registry.ArraySource,
  num_records: int,
  seeds: Sequence[int],
) -> list[dict[str, Any]]:
  """Measures every kind of draw in every part of the timesteps."""
  found = []
  for name, keys in settings(config).items():
    start, measures = time.monotonic(), {}
    for title, (num_draws, is_antithetic) in KINDS.items():
      finetune = dataclasses.replace(
        config.finetune,
        augmult=num_draws,
        draw_chunk_size=0,
        antithetic_noise=is_antithetic,
        **keys,
      )
      changed = dataclasses.replace(config, finetune=finetune)
      measures[title] = [
        measure(changed, params, source, num_records, seed) for seed in seeds
      ]
      console.say(f'{name}, {title}: {measures[title]}')
    found.append(
      common.row(
        f'Signal in a clipped gradient, share of the clip norm, {name}',
        measures,
        seconds=time.monotonic() - start,
      )
    )
  return found


def main(argv: Sequence[str] | None = None) -> int:
  """Measures, and writes `results.json`; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  parser = argparse.ArgumentParser(
    prog=f'python -m experiments.{NAME}.run',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument('--release', required=True, help='whose weights to take')
  parser.add_argument('--config', required=True, help='config of that run')
  parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
  parser.add_argument('--records', type=int, default=1024, help='images')
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--out', type=pathlib.Path, default=HERE)
  arguments = parser.parse_args(argv)
  for pair in arguments.set:
    if '=' not in pair:
      parser.error(f'expected --set={pair} to be KEY=VALUE.')
  overrides = dict(pair.split('=', 1) for pair in arguments.set)
  config = config_lib.load(arguments.config, overrides)
  params, _ = release.read_model(epath.Path(arguments.release))
  found = rows(
    config,
    weights.unflatten(params),
    registry.load(config.data),
    arguments.records,
    range(arguments.seeds),
  )
  files.write_json(
    arguments.out / 'results.json',
    {
      'experiment': NAME,
      'command': shlex.join(['python', '-m', f'experiments.{NAME}.run', *argv]),
      'machine': machines.facts(),
      'rows': found,
      'figures': [],
      'runs': [],
    },
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
