"""Conversions between x0, eps and v against the equations in NumPy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import schedules

SHAPE = (4, 3, 3, 2)


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  x0 = rng.uniform(-1, 1, SHAPE).astype(np.float32)
  noise = rng.standard_normal(SHAPE).astype(np.float32)
  return jnp.asarray(x0), jnp.asarray(noise)


def test_q_sample_is_equation_4_row_by_row():
  config = schedules.DiffusionProcess()
  x0, noise = _batch()
  timestep = jnp.array([0, 10, 500, 999], jnp.int32)
  x_t = parameterization.q_sample(config, x0, timestep, noise)
  a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  for row, t in enumerate([0, 10, 500, 999]):
    expected = np.sqrt(a[t]) * x0[row] + np.sqrt(1 - a[t]) * noise[row]
    np.testing.assert_allclose(x_t[row], expected, atol=1e-6)
    alone = parameterization.q_sample(
      config, x0[row], timestep[row], noise[row]
    )
    np.testing.assert_allclose(x_t[row], alone, atol=1e-7)


def test_targets_are_the_equations():
  x0, noise = _batch(1)
  timestep = jnp.full(4, 300, jnp.int32)
  a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[300]
  expected = {
    'eps': noise,
    'x0': x0,
    'v': np.sqrt(a) * noise - np.sqrt(1 - a) * x0,
  }
  for prediction, value in expected.items():
    config = schedules.DiffusionProcess(prediction=prediction)
    got = parameterization.target(config, x0, timestep, noise)
    np.testing.assert_allclose(got, value, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
  prediction=st.sampled_from(schedules.PREDICTIONS),
  schedule=st.sampled_from(schedules.SCHEDULES),
  t=st.integers(0, 999),
  seed=st.integers(0, 2**31),
)
def test_output_equal_to_the_target_gives_x0_and_noise_back(
  prediction, schedule, t, seed
):
  config = schedules.DiffusionProcess(prediction=prediction, schedule=schedule)
  x0, noise = _batch(seed)
  timestep = jnp.int32(t)
  x_t = parameterization.q_sample(config, x0, timestep, noise)
  output = parameterization.target(config, x0, timestep, noise)
  split = parameterization.to_x0_eps(config, x_t, timestep, output)
  # Rounding of x_t grows by the division that the prediction calls for.
  x0_scale = {'eps': schedules.signal_scale(config)[t]}.get(prediction, 1)
  eps_scale = {'x0': schedules.noise_scale(config)[t]}.get(prediction, 1)
  np.testing.assert_allclose(split.x0, x0, atol=2e-6 / x0_scale)
  np.testing.assert_allclose(split.eps, noise, atol=2e-6 / eps_scale)


@pytest.mark.parametrize('prediction', schedules.PREDICTIONS)
def test_parts_add_up_to_x_t_whatever_the_output(prediction):
  config = schedules.DiffusionProcess(prediction=prediction)
  x_t, output = _batch(3)
  timestep = jnp.array([3, 100, 400, 800], jnp.int32)
  split = parameterization.to_x0_eps(config, x_t, timestep, output)
  again = parameterization.q_sample(config, split.x0, timestep, split.eps)
  np.testing.assert_allclose(again, x_t, atol=1e-5)


def test_traced_timestep_gives_the_same():
  config = schedules.DiffusionProcess(prediction='v')
  x0, noise = _batch(4)

  def split(t):
    return parameterization.to_x0_eps(config, x0, t, noise)

  eager, traced = split(jnp.int32(77)), jax.jit(split)(jnp.int32(77))
  np.testing.assert_allclose(eager.x0, traced.x0, atol=1e-6)
  np.testing.assert_allclose(eager.eps, traced.eps, atol=1e-6)
