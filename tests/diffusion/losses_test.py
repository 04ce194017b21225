"""The draw loss against a NumPy oracle, and what each draw draws anew."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dp_diffusion.diffusion import losses
from dp_diffusion.diffusion import schedules

X0 = jnp.asarray(
  np.random.default_rng(0).uniform(-1, 1, (4, 3, 2)), jnp.float32
)


def _draw_losses(network, config, x0, label, seed, num_draws):
  """Returns the losses of draws of one example, float64[num_draws]."""

  @jax.jit
  @jax.vmap
  def one(key):
    return losses.draw_loss(network, config, x0, jnp.int32(label), key)

  keys = jax.random.split(jax.random.key(seed), num_draws)
  return np.asarray(one(keys), np.float64)


class _Recorder:
  """A network that says 0.3 everywhere and remembers what it was asked."""

  def __call__(self, x_t, timestep, label):
    self.x_t, self.timestep, self.label = x_t, timestep, label
    return jnp.full_like(x_t, 0.3)


@pytest.mark.parametrize('weighting', schedules.LOSS_WEIGHTINGS)
@pytest.mark.parametrize('prediction', schedules.PREDICTIONS)
def test_matches_numpy_oracle(prediction, weighting):
  config = schedules.DiffusionProcess(
    prediction=prediction,
    loss_weighting=weighting,
    mixture_boundaries=(0, 100, 900, 1000),
    mixture_weights=(0.0, 1.0, 0.0),
  )
  network = _Recorder()
  loss = losses.draw_loss(network, config, X0, jnp.int32(2), jax.random.key(11))
  assert loss.shape == () and loss.dtype == jnp.float32
  assert network.x_t.shape == (1, 4, 3, 2)
  assert network.timestep.shape == network.label.shape == (1,)
  assert network.timestep.dtype == network.label.dtype == jnp.int32
  assert int(network.label[0]) == 2

  a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[int(network.timestep[0])]
  x0 = np.asarray(X0, np.float64)
  noise = (np.asarray(network.x_t[0]) - np.sqrt(a) * x0) / np.sqrt(1 - a)
  target = {
    'eps': noise,
    'x0': x0,
    'v': np.sqrt(a) * noise - np.sqrt(1 - a) * x0,
  }[prediction]
  snr = a / (1 - a)
  weight = {
    'none': dict.fromkeys(schedules.PREDICTIONS, 1.0),
    'min_snr': {
      'eps': min(snr, 5) / snr,
      'x0': min(snr, 5),
      'v': min(snr, 5) / (snr + 1),
    },
  }[weighting][prediction]
  expected = weight * np.mean((0.3 - target) ** 2)
  assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_antithetic_draw_is_the_mean_of_a_noise_and_its_negative():
  config = schedules.DiffusionProcess(prediction='eps', antithetic_noise=True)
  network = _Recorder()
  loss = losses.draw_loss(network, config, X0, jnp.int32(2), jax.random.key(11))
  assert network.x_t.shape == (2, 4, 3, 2)
  assert network.timestep.shape == network.label.shape == (2,)
  assert network.timestep[0] == network.timestep[1]
  np.testing.assert_array_equal(network.label, [2, 2])

  a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[int(network.timestep[0])]
  x_t, x0 = np.asarray(network.x_t, np.float64), np.asarray(X0, np.float64)
  noises = (x_t - np.sqrt(a) * x0) / np.sqrt(1 - a)
  np.testing.assert_allclose(noises[0], -noises[1], rtol=1e-4, atol=1e-5)
  assert np.std(noises[0]) > 0.5
  assert loss.shape == ()
  assert float(loss) == pytest.approx(np.mean((0.3 - noises) ** 2), rel=1e-5)


def test_antithetic_noise_cancels_what_is_odd_in_it():
  # The gradient by b of the loss of "b everywhere" is 2 b - 2 mean(noise).
  def gradients(is_antithetic):
    config = schedules.DiffusionProcess(
      prediction='eps', antithetic_noise=is_antithetic
    )

    @jax.jit
    @jax.vmap
    @jax.grad
    def gradient(b, key):
      return losses.draw_loss(
        lambda x_t, t, y: jnp.full_like(x_t, b), config, X0, jnp.int32(0), key
      )

    return gradient(jnp.ones(50), jax.random.split(jax.random.key(3), 50))

  assert np.std(gradients(False)) > 0.1
  np.testing.assert_allclose(gradients(True), 2.0, rtol=1e-5)


def test_min_snr_weighs_the_same_error_the_same_whatever_the_prediction():
  # An error d of x0 is one of d sqrt(SNR) in eps and d sqrt(SNR + 1) in v.
  def weights(prediction):
    return losses.loss_weights(
      schedules.DiffusionProcess(
        prediction=prediction, loss_weighting='min_snr', schedule='cosine'
      )
    ).astype(np.float64)

  snr = schedules.snr(schedules.DiffusionProcess(schedule='cosine'))
  np.testing.assert_allclose(weights('eps') * snr, weights('x0'), rtol=1e-5)
  np.testing.assert_allclose(weights('v') * (snr + 1), weights('x0'), rtol=1e-5)


def test_perfect_network_has_no_loss():
  config = schedules.DiffusionProcess(prediction='x0')
  loss = losses.draw_loss(
    lambda x_t, t, y: X0[None], config, X0, jnp.int32(0), jax.random.key(3)
  )
  assert float(loss) == 0.0


def test_noise_is_standard_normal_and_new_for_each_draw():
  # The loss of the network "0" is the mean square of the noise of the draw.
  values = 4 * _draw_losses(
    lambda x_t, t, y: jnp.zeros_like(x_t),
    schedules.DiffusionProcess(prediction='eps'),
    jnp.zeros((2, 2, 1)),
    label=0,
    seed=4,
    num_draws=4000,
  )
  assert len(np.unique(values)) > 3900
  assert stats.kstest(values, stats.chi2(4).cdf).pvalue > 1e-3


def test_draws_of_one_example_have_their_own_timesteps():
  values = _draw_losses(
    lambda x_t, t, y: jnp.full_like(x_t, t[0].astype(jnp.float32)),
    schedules.DiffusionProcess(prediction='x0'),
    jnp.zeros((1, 1, 1)),
    label=0,
    seed=5,
    num_draws=64,
  )
  assert len(np.unique(np.sqrt(values).round())) > 50


@pytest.mark.parametrize('drop_prob', [0.0, 0.1])
def test_labels_are_dropped_at_the_stated_rate(drop_prob):
  values = _draw_losses(
    lambda x_t, t, y: jnp.full_like(x_t, y[0].astype(jnp.float32)),
    schedules.DiffusionProcess(prediction='x0', label_drop_prob=drop_prob),
    jnp.zeros((1, 1, 1)),
    label=3,
    seed=6,
    num_draws=4000,
  )
  assert set(values.tolist()) <= {9.0, 1.0}  # Label 3 or NULL_LABEL, squared.
  num_dropped = int((values == 1.0).sum())
  if drop_prob == 0:
    assert num_dropped == 0
  else:
    assert stats.binomtest(num_dropped, 4000, drop_prob).pvalue > 1e-3


def test_bfloat16_network_gives_float32_loss():
  loss = losses.draw_loss(
    lambda x_t, t, y: x_t.astype(jnp.bfloat16),
    schedules.DiffusionProcess(),
    X0,
    jnp.int32(0),
    jax.random.key(7),
  )
  assert loss.dtype == jnp.float32
