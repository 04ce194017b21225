"""Gradient canaries, and the audit that catches a broken mechanism.

The faults are put into the real step from outside; no setting weakens it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import audit
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.training import gradient_canaries
from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from dp_diffusion.training import private_step
from dp_diffusion.training import state as train_state
from tests.training import private_problem

PARAMS = {
  'a': {'w': np.linspace(0.1, 0.6, 6, dtype=np.float32).reshape(2, 3)},
  'b': np.float32([0.7, 0.8]),
  'frozen': np.float32([5.0]),
}
TRAINED, FROZEN = train_state.partition(PARAMS, lambda path: path != 'frozen')


def quadratic(params, example, draw_key):
  del draw_key
  error = params['a']['w'][0] - example['x']
  return jnp.sum(jnp.square(error)) * params['frozen'][0]


LOSS = gradient_canaries.with_canaries(
  quadratic, lambda path: path != 'frozen', 3.0
)


def grad(coordinate, loss_fn=LOSS):
  example = {'x': jnp.ones(3), 'coordinate': jnp.int32(coordinate)}

  def loss(trained):
    full = train_state.merge(trained, FROZEN)
    return loss_fn(full, example, jax.random.key(0))

  return jax.grad(loss)(jax.tree.map(jnp.asarray, TRAINED))


def test_gradient_is_one_coordinate():
  for coordinate in range(8):
    found = np.concatenate(
      [np.ravel(g) for g in jax.tree.leaves(grad(coordinate))]
    )
    np.testing.assert_array_equal(found, 3.0 * np.eye(8)[coordinate])
  plain = grad(gradient_canaries.NO_CANARY, quadratic)
  jax.tree.map(
    np.testing.assert_array_equal, grad(gradient_canaries.NO_CANARY), plain
  )


def test_coordinates_differ_and_are_public():
  found = gradient_canaries.choose_coordinates(TRAINED, 8, seed=0)
  assert sorted(found) == list(range(8)) and found.dtype == np.int32
  again = gradient_canaries.choose_coordinates(TRAINED, 8, seed=0)
  np.testing.assert_array_equal(found, again)
  with pytest.raises(errors.UsageError, match='<= 8'):
    gradient_canaries.choose_coordinates(TRAINED, 9, seed=0)


def test_observer_changes_nothing():
  coordinates = np.int32([7, 0, 5])
  plain = optax.adam(0.1)
  observed = optax.chain(gradient_canaries.observe(coordinates, 2), plain)
  states = plain.init(TRAINED), observed.init(TRAINED)
  for i in range(2):
    grads = jax.tree.map(lambda x: jnp.asarray(x) * (i + 1), TRAINED)  # noqa: B023
    expected, first = plain.update(grads, states[0])
    found, second = observed.update(grads, states[1])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    states = first, second
  seen = states[1][0]
  assert int(seen.step) == 2
  np.testing.assert_allclose(seen.rows[0], [0.8, 0.1, 0.6], rtol=1e-6)
  np.testing.assert_allclose(seen.rows[1], [1.6, 0.2, 1.2], rtol=1e-6)


# ---- The whole way: 400 canaries beside 100 records of a linear model. ----

NUM_FILLER, NUM_CANARIES, SIZE = 100, 400, 800
NUM_STEPS, BATCH, CLIP = 50, 10, 0.3  # q = 0.02
NOISE = 1.0504  # (1, 1e-5)-DP


def linear(params, example, draw_key):
  """A squared error whose gradient reaches every coordinate."""
  del draw_key
  return jnp.square(jnp.sum(params['w'] * example['x']) - 1.0)


def white_box(seed) -> audit.OneRun:
  """Audits `private_loop.private_step` as it is at this moment."""
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(seed), run_id='audit'
  )
  coins = audit.coins(streams.seed_bytes('audit coins', 0), NUM_CANARIES)
  x = np.random.default_rng(0).normal(size=(NUM_FILLER, SIZE)) / SIZE**0.5
  params = {'w': np.zeros(SIZE, np.float32)}
  places = gradient_canaries.choose_coordinates(params, NUM_CANARIES, 0)
  none = np.full(NUM_FILLER, gradient_canaries.NO_CANARY, np.int32)
  coordinate = np.concatenate([none, places[coins]])
  x = np.concatenate([x, np.zeros((coins.sum(), SIZE))]).astype(np.float32)
  optimizer = optax.chain(
    gradient_canaries.observe(places, NUM_STEPS), optax.adam(1e-3)
  )
  devices = parallel.DataParallel(jax.local_devices()[:2])
  config = clipping.GradConfig(l2_clip_norm=CLIP, num_draws=2)
  loss_fn = gradient_canaries.with_canaries(
    linear, lambda path: True, 10 * CLIP
  )
  steps = private_loop.PrivateSteps(
    selector=streams.poisson_selector(
      len(x), BATCH / (NUM_FILLER + NUM_CANARIES)
    ),
    streams=streams,
    gather=lambda indices, step: {
      'x': x[indices],
      'coordinate': coordinate[indices],
    },
    microbatch_size=8,
    zeros=devices.pmap_zeros(config),
    accumulate=devices.pmap_accumulate(loss_fn, config),
    apply=devices.pmap_apply(
      optimizer,
      private_step.ApplyConfig(
        noise_multiplier=NOISE, expected_batch_size=BATCH, ema_decay=0.9
      ),
    ),
    private_stats=devices.pmap_private_stats(),
  )
  state = devices.replicate(train_state.create(params, optimizer))
  for i in range(NUM_STEPS):
    state, _ = private_loop.private_step(steps, devices, state, i)
  rows = devices.unreplicate(state.opt_state[0].rows)
  return audit.one_run(
    audit.participation_scores(
      BATCH * rows, BATCH / (NUM_FILLER + NUM_CANARIES)
    ),
    coins,
    num_guesses_in=50,
    num_guesses_out=0,
    delta=1e-5,
    confidence=0.95,
  )


@pytest.fixture
def break_mechanism(monkeypatch):
  """Puts a fault into the real step, by its name."""
  std = private_step.noise_std

  def apply_fault(name):
    if name == 'noise off':
      monkeypatch.setattr(private_step, 'noise_std', lambda *_: 0.0)
    elif name == 'noise at a third':
      monkeypatch.setattr(private_step, 'noise_std', lambda m, s: std(m, s) / 3)
    elif name == 'clip off':
      broken = functools.partial(
        private_problem.without_clip, clipping.clipped_grad_sum
      )
      monkeypatch.setattr(clipping, 'clipped_grad_sum', broken)

  return apply_fault


@pytest.mark.parametrize('seed', [0, 1])
def test_right_mechanism_stays_below_its_claim(seed):
  result = white_box(seed)
  assert result.epsilon_lower_bound < 1 < result.ceiling
  assert result.num_canaries == NUM_CANARIES


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('fault', ['noise off', 'noise at a third', 'clip off'])
def test_broken_mechanism_exceeds_its_claim(fault, seed, break_mechanism):
  break_mechanism(fault)
  assert white_box(seed).epsilon_lower_bound > 1
