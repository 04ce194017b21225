"""A private problem small enough to train in every test, on any devices.

Run as a program, it is one of several processes of a job.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import private_step
from dp_diffusion.training import processes
from dp_diffusion.training import state as train_state

NUM_RECORDS = 60
NUM_STEPS = 3
SIZE = 20_000  # Elements of the leaf that only noise moves.
SECRET = key_streams.Secret.insecure(0)
GRAD = clipping.GradConfig(l2_clip_norm=0.5, num_draws=2)
APPLY = private_step.ApplyConfig(
  noise_multiplier=1.5, expected_batch_size=20, ema_decay=0.99
)
OPTIMIZER = optimizers.OptimizerConfig(name='sgd', learning_rate=0.25)
DATA = np.random.default_rng(0).normal(size=(NUM_RECORDS, 3))
DATA = DATA.astype(np.float32)


class CountingLoss:
  """Quadratic in `w`, nothing in `noise`; counts how often it is traced."""

  def __init__(self):
    self.num_traces = 0

  def __call__(self, params, example, draw_key):
    self.num_traces += 1
    target = jax.random.key_data(draw_key)[:1].astype(jnp.float32) / 2.0**32
    error = params['w'] * params['scale'] - example['x'] - target
    return jnp.sum(jnp.square(error)) + 0.0 * jnp.sum(params['noise'])


class Trainer:
  """Compiled functions and state of one job.

  Attributes:
    size: elements of the leaf that only noise moves.
  """

  def __init__(
    self, data_parallel, apply_config=APPLY, secret=SECRET, size=SIZE
  ):
    self.data_parallel = data_parallel
    self.size = size
    self.loss = CountingLoss()
    self.optimizer = optimizers.make(OPTIMIZER, 100)
    self.streams = key_streams.KeyStreams(secret=secret, run_id='problem')
    self.zeros = data_parallel.pmap_zeros(GRAD)
    self.accumulate = data_parallel.pmap_accumulate(self.loss, GRAD)
    self.apply = data_parallel.pmap_apply(self.optimizer, apply_config)
    self.stats = data_parallel.pmap_private_stats()

  def initial_state(self):
    params = {
      'w': np.zeros(3, np.float32),
      'noise': np.zeros(self.size, np.float32),
    }
    frozen = {'scale': np.float32([0.5, 1, 1.5])}
    state = train_state.create(params, self.optimizer, frozen)
    return self.data_parallel.replicate(state)

  def total(self, state, step_index, selected, microbatch_size=2):
    """Sum over the selected records, on devices."""
    place = self.data_parallel
    total = self.zeros(state.params)
    for slots in batch_selection.microbatches(
      selected,
      microbatch_size,
      place.num_devices,
      place.process_index,
      place.process_count,
    ):
      total = self.accumulate(
        state.params,
        state.frozen_params,
        total,
        place.shard(
          private_step.Microbatch(
            examples={'x': DATA[slots.indices]},
            indices=slots.indices,
            is_padding=slots.is_padding,
          )
        ),
        self.streams.draw_key(step_index),
      )
    return total

  def step(self, state, step_index, selected, microbatch_size=2):
    """One private step; returns the state and the private statistics."""
    total = self.total(state, step_index, selected, microbatch_size)
    stats = self.data_parallel.unreplicate(self.stats(total))
    keys = self.streams.noise_keys(step_index)
    return self.apply(state, total, keys), stats

  def train(self, num_steps=NUM_STEPS, microbatch_size=2):
    """State on devices, and statistics by step."""
    selector = self.streams.poisson_selector(NUM_RECORDS, 1 / 3)
    state, all_stats = self.initial_state(), []
    for i in range(num_steps):
      selected = selector.select(i)
      state, stats = self.step(state, i, selected, microbatch_size)
      all_stats.append(stats)
    return state, all_stats


def run_process(folder):
  """What one of several processes does; it leaves its result in a folder."""
  processes.initialize_from_environment()
  place = parallel.DataParallel()
  secret = processes.broadcast_secret(SECRET if place.is_main else None)
  processes.agree({'secret': key_streams.fingerprint(secret, 'same')})
  refusals = []
  for facts in (
    {'data': 'same', 'secret': f'of process {place.process_index}'},
    {f'name {place.process_index}': 'same'},
  ):
    try:
      processes.agree(facts)
    except errors.UsageError as error:
      refusals.append(str(error))
  trainer = Trainer(place, secret=secret)
  state, stats = trainer.train()
  doubled = place.pmap_map(lambda params, x: x * 2 + params['w'][:1])
  rows = np.arange(3 + place.process_index, dtype=np.float32)
  if place.is_main:
    doubled(state.params, rows)  # No other process need take part.
  result = {
    'devices': [place.num_devices, place.num_global_devices],
    'is_insecure': secret.is_insecure,
    'refusals': refusals,
    'replicas_are_equal': place.replicas_are_equal(state),
    'num_traces': trainer.loss.num_traces,
    'num_examples': [int(s.num_examples) for s in stats],
    'stops': [
      processes.any_process(False),
      processes.any_process(place.process_index == 1),
    ],
    'smallest': processes.smallest(7 + place.process_index),
    'share': list(processes.own_share().of(range(5))),
    'gathered': processes.gather(
      np.array([1 / 3, place.process_index])
    ).tolist(),
    'order': _in_order(place.process_index, pathlib.Path(folder)),
    'failure': _fail_on_one(place.process_index),
  }
  processes.barrier('end')
  name = f'process{place.process_index}'
  folder = pathlib.Path(folder)
  (folder / f'{name}.json').write_text(json.dumps(result))
  state = place.unreplicate(state)
  np.savez(folder / f'{name}.npz', ema=state.ema_params['w'], **state.params)


def _in_order(index, folder):
  """What each process sees of a file that it, and the others, append to."""

  def append():
    with (folder / 'order').open('a') as f:
      f.write(str(index))
    return (folder / 'order').read_text()

  return processes.main_first(append)


def _fail_on_one(index):
  def fail():
    if index == 1:
      raise ValueError('only here')

  try:
    processes.together(fail)
  except (ValueError, errors.Interrupted) as error:
    return f'{type(error).__name__}: {error}'


def without_clip(original, *args, config):
  """A clipped sum that forgot to clip, and says what a clipped one says.

  It is one that is clipped 2^10 times later, with its units made as large.
  """
  late = dataclasses.replace(config, l2_clip_norm=2**10 * config.l2_clip_norm)
  total = original(*args, config=late)
  high, low = total.exact.high, total.exact.low
  exact = total.exact.replace(
    high=jax.tree.map(lambda h, w: (h << 10) + (w >> 10), high, low),
    low=jax.tree.map(lambda w: (w & (2**10 - 1)) << 10, low),
  )
  assert total.l2_sensitivity == 1.0
  return total.replace(exact=exact)


if __name__ == '__main__':
  run_process(sys.argv[1])
