from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from dp_diffusion.privacy import noise
from dp_diffusion.training import parallel
from dp_diffusion.training import past_noise
from dp_diffusion.training import private_loop
from tests.training import private_problem as problem

STRATEGY = (0.8, 0.5, 0.33)
CONFIG = dataclasses.replace(problem.APPLY, noise_strategy=STRATEGY)


@pytest.fixture(scope='module')
def trainer():
  return problem.Trainer(parallel.DataParallel(jax.devices()[:2]), CONFIG)


def make_steps(trainer):
  """Steps with an empty past, as after a restart."""
  return private_loop.PrivateSteps(
    selector=trainer.streams.poisson_selector(problem.NUM_RECORDS, 1.0, 3),
    streams=trainer.streams,
    gather=lambda indices, step: {'x': problem.DATA[indices]},
    microbatch_size=8,
    zeros=trainer.zeros,
    accumulate=trainer.accumulate,
    apply=trainer.apply,
    private_stats=trainer.stats,
    past_noise=past_noise.PastNoise(
      STRATEGY, trainer.streams, trainer.data_parallel
    ),
  )


def run(trainer, steps, state, numbers):
  for step in numbers:
    state, _ = private_loop.private_step(
      steps, trainer.data_parallel, state, step
    )
  return state


def on_host(trainer, state):
  return trainer.data_parallel.unreplicate(state)


def test_computed_again_is_what_was_kept(trainer):
  params = trainer.initial_state().params
  kept = make_steps(trainer).past_noise
  for step in range(5):
    (found,) = kept(params, step)
    (again,) = make_steps(trainer).past_noise(params, step)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(again))
    assert found.shape == (2, 2, 3 + problem.SIZE)
  (back,) = kept(params, 2)  # A step that is run again.
  (again,) = make_steps(trainer).past_noise(params, 2)
  np.testing.assert_array_equal(np.asarray(back), np.asarray(again))


def test_resumed_equals_uninterrupted(trainer):
  whole = run(trainer, make_steps(trainer), trainer.initial_state(), range(4))
  half = run(trainer, make_steps(trainer), trainer.initial_state(), range(2))
  stored = trainer.data_parallel.replicate(on_host(trainer, half))
  resumed = run(trainer, make_steps(trainer), stored, range(2, 4))
  for a, b in zip(
    jax.tree.leaves(on_host(trainer, whole)),
    jax.tree.leaves(on_host(trainer, resumed)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  assert trainer.data_parallel.replicas_are_equal(resumed)


def test_an_update_holds_the_correlated_noise(trainer):
  """C times the updates of pure noise is independent noise of the std."""
  steps = make_steps(trainer)
  state, before, updates = trainer.initial_state(), 0.0, []
  for step in range(4):
    state = run(trainer, steps, state, [step])
    after = np.asarray(on_host(trainer, state).params['noise'], np.float64)
    updates.append((before - after) / 0.25 * 20)  # Learning rate, batch.
    before = after
  std = CONFIG.noise_multiplier * 1.0  # The sum is rescaled to unit norm.
  matrix = sum(c * np.eye(4, k=-k) for k, c in enumerate(STRATEGY))
  whitened = matrix @ np.stack(updates)
  for step in range(4):
    keys = trainer.streams.noise_keys(step)
    fresh = np.asarray(noise.unit_noise(keys, 3 + problem.SIZE))
    # Leaves are in the order of their names: 'noise' stands before 'w'.
    np.testing.assert_allclose(
      whitened[step], std * fresh[: problem.SIZE], atol=2e-3
    )
  assert np.corrcoef(updates[0], updates[1])[0, 1] < -0.2


def test_past_noise_belongs_to_correlated_noise(trainer):
  state = trainer.initial_state()
  total = trainer.zeros(state.params)
  keys = trainer.streams.noise_keys(0)
  plain = problem.Trainer(trainer.data_parallel)
  with pytest.raises(ValueError):
    trainer.apply(state, total, keys)
  (past,) = make_steps(trainer).past_noise(state.params, 0)
  with pytest.raises(ValueError):
    plain.apply(state, total, keys, past)
