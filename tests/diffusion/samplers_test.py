"""Samplers on Gaussian data, where the best possible network is a formula.

For x0 ~ N(MEAN, STD^2) in every pixel, x_t is Gaussian, E[x0 | x_t] is linear,
and the probability flow keeps (x_t - mean_t) / std_t constant.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.diffusion import parameterization
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules

MEAN, STD = 0.2, 0.5
LINEAR = schedules.DiffusionProcess()
COSINE = schedules.DiffusionProcess(schedule='cosine')


def _config(name, num_steps, **changes):
  return samplers.SamplerConfig(
    **{'name': name, 'num_steps': num_steps, 'clip_x0': False, **changes}
  )


def _gaussian_network(diffusion, mean=MEAN, std=STD):
  """The exact network for N(mean, std^2), whatever it predicts."""
  signal, noise = (
    schedules.signal_scale(diffusion),
    schedules.noise_scale(diffusion),
  )

  def denoise(x, timestep, label):
    del label
    a, b = (
      parameterization.at_timestep(table, timestep, x.ndim)
      for table in (signal, noise)
    )
    variance = a**2 * std**2 + b**2
    centred = x - a * mean
    x0 = mean + a * std**2 / variance * centred
    eps = b / variance * centred
    return {'x0': x0, 'eps': eps, 'v': a * eps - b * x0}[diffusion.prediction]

  return denoise


@functools.lru_cache
def _first_state(shape, seed=0):
  return samplers.init_state(jax.random.key(seed), shape)


def _run(network, config, diffusion, shape):
  """Runs every step without the final clip, as a host loop would.

  Returns:
    The first noise and the last image, float64[B, H, W, C].
  """
  step = samplers.step_fn(network, config, diffusion)
  labels = jnp.zeros(shape[0], jnp.int32)

  @jax.jit
  def run(state):
    return jax.lax.fori_loop(
      0, config.num_steps, lambda i, carry: step(carry, labels, i), state
    )

  first = _first_state(shape)
  last = run(first)
  return np.asarray(first.x, np.float64), np.asarray(last.x, np.float64)


def _exact_flow(diffusion, noise):
  """Where the probability flow takes `noise`: to t = 0, then E[x0 | x_0]."""
  alpha_bar = schedules.alpha_bar_float64(diffusion)
  first, last = alpha_bar[0], alpha_bar[-1]

  def std(a):
    return np.sqrt(a * STD**2 + 1 - a)

  standard = (noise - np.sqrt(last) * MEAN) / std(last)
  return MEAN + np.sqrt(first) * STD**2 / std(first) * standard


def _flow_errors(name, diffusion, all_num_steps, **changes):
  """Root-mean-square distance to the exact flow for each number of steps."""
  errors = []
  for num_steps in all_num_steps:
    noise, got = _run(
      _gaussian_network(diffusion),
      _config(name, num_steps, **changes),
      diffusion,
      (8, 2, 2, 1),
    )
    error = got - _exact_flow(diffusion, noise)
    errors.append(np.sqrt(np.mean(error**2)))
  return np.array(errors)


def _exact_variance(config, diffusion):
  """Variance of what a noisy sampler gives, by conditioning two Gaussians.

  Written from the joint law of (x_after, x_now) given x0, not from the
  formulas of the samplers.
  """
  timestep = samplers.timestep_sequence(config, diffusion)
  alpha_bar = schedules.alpha_bar_float64(diffusion)[timestep]
  variance = 1.0
  for now, after in zip(alpha_bar[:-1], alpha_bar[1:], strict=True):
    gain = np.sqrt(now) * STD**2 / (now * STD**2 + 1 - now)
    stride = now / after
    precision = 1 / (1 - after) + stride / (1 - stride)
    of_x = np.sqrt(stride) / (1 - stride) / precision
    of_x0 = np.sqrt(after) / (1 - after) / precision
    variance = (of_x + of_x0 * gain) ** 2 * variance + 1 / precision
  now = alpha_bar[-1]
  return (np.sqrt(now) * STD**2 / (now * STD**2 + 1 - now)) ** 2 * variance


def test_ddim_is_of_first_order():
  num_steps = np.array([20, 40, 80, 160])
  errors = _flow_errors('ddim', LINEAR, num_steps)
  slopes = -np.diff(np.log(errors)) / math.log(2)
  assert np.all((slopes > 0.85) & (slopes < 1.2)), (errors, slopes)


def test_dpm_solver_pp_2m_is_of_second_order():
  num_steps = np.array([20, 40, 80, 160])
  errors = _flow_errors('dpm_solver_pp_2m', LINEAR, num_steps)
  slopes = -np.diff(np.log(errors)) / math.log(2)
  assert np.all((slopes > 1.8) & (slopes < 2.8)), (errors, slopes)
  assert errors[-1] < 2e-4


@pytest.mark.parametrize('spacing', samplers.SPACINGS)
def test_second_order_beats_first_at_every_usual_step_count(spacing):
  num_steps = [5, 10, 25]
  second = _flow_errors('dpm_solver_pp_2m', LINEAR, num_steps, spacing=spacing)
  first = _flow_errors('ddim', LINEAR, num_steps, spacing=spacing)
  assert np.all(second < first)


@pytest.mark.parametrize('name', ['ddim', 'dpm_solver_pp_2m'])
@pytest.mark.parametrize('prediction', schedules.PREDICTIONS)
def test_cosine_schedule_from_its_nearly_signal_free_end(name, prediction):
  diffusion = dataclasses.replace(COSINE, prediction=prediction)
  (error,) = _flow_errors(name, diffusion, [100])
  assert error < {'ddim': 1e-2, 'dpm_solver_pp_2m': 2e-3}[name]


@pytest.mark.parametrize(
  ('config', 'tolerance'),
  [
    (_config('ancestral', 1000), 0.05),
    (_config('ancestral', 50), 0.2),
    (_config('ancestral', 50, spacing='uniform'), 0.3),
    (_config('ddim', 50, eta=1.0), 0.2),
  ],
  ids=['T', '50', '50 uniform', 'eta 1'],
)
def test_noisy_samplers_give_the_mean_and_the_variance(config, tolerance):
  _, got = _run(_gaussian_network(LINEAR), config, LINEAR, (2048, 2, 2, 1))
  standard_error = STD / np.sqrt(got.size)
  assert abs(got.mean() - MEAN) < 4 * standard_error
  # The variance that so many steps should give, and the one of the data.
  expected = _exact_variance(config, LINEAR)
  relative_error = np.sqrt(2 / got.size)
  assert got.var() / expected == pytest.approx(1, abs=4 * relative_error)
  assert got.var() / STD**2 == pytest.approx(1, abs=tolerance)
  # Pixels are independent: the mean over an image varies as it should.
  ratio = got.mean((1, 2, 3)).var() * 4 / got.var()
  assert ratio == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize('name', ['ddim', 'dpm_solver_pp_2m'])
def test_deterministic_samplers_give_the_mean_and_the_variance(name):
  config = _config(name, 100)
  _, got = _run(_gaussian_network(LINEAR), config, LINEAR, (2048, 2, 2, 1))
  assert abs(got.mean() - MEAN) < 4 * STD / np.sqrt(got.size)
  assert got.var() / STD**2 == pytest.approx(1, abs=0.06)


def test_error_of_the_variance_falls_with_steps_and_quadratic_is_better():
  def error(num_steps, spacing):
    config = _config('ancestral', num_steps, spacing=spacing)
    return abs(_exact_variance(config, LINEAR) / STD**2 - 1)

  for spacing in samplers.SPACINGS:
    errors = [error(n, spacing) for n in (10, 50, 250, 1000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02
  assert error(100, 'quadratic') < 0.6 * error(100, 'uniform')


def _flow_gain(config, diffusion, std):
  """Std of what a deterministic sampler makes of N(0, std^2), over std."""
  table = samplers.coefficients(config, diffusion)
  alpha_bar = schedules.alpha_bar_float64(diffusion)[table.timestep]
  x, previous = 1.0, 0.0
  for i, now in enumerate(alpha_bar):
    x0 = x * np.sqrt(now) * std**2 / (now * std**2 + 1 - now)
    x = table.x[i] * x + table.x0[i] * x0 + table.previous_x0[i] * previous
    previous = x0
  return x / std


@pytest.mark.parametrize(
  'diffusion', [LINEAR, COSINE], ids=['linear', 'cosine']
)
def test_a_few_steps_even_in_log_snr_keep_brightness_and_detail(diffusion):
  """From the mean of a 32x32 image, std 14, to its finest detail."""
  stds = (14.0, 4.0, 1.0, 0.25, 0.05)
  even = _config('dpm_solver_pp_2m', 20, spacing='log_snr')
  gains = [_flow_gain(even, diffusion, std) for std in stds]
  np.testing.assert_allclose(gains, 1.0, atol=0.06)


def test_quadratic_steps_along_the_cosine_lose_brightness():
  """Why there is another spacing: most of what is bright is lost."""
  quadratic = _config('dpm_solver_pp_2m', 20)
  assert _flow_gain(quadratic, COSINE, 14.0) < 0.5
  assert _flow_gain(quadratic, LINEAR, 14.0) > 0.95


def test_ancestral_is_of_first_order_in_the_variance():
  """Below T / 3 steps, where the error of T steps themselves is far."""
  errors = np.array(
    [
      abs(_exact_variance(_config('ancestral', n), LINEAR) / STD**2 - 1)
      for n in (40, 80, 160, 320)
    ]
  )
  slopes = -np.diff(np.log(errors)) / math.log(2)
  assert np.all((slopes > 0.85) & (slopes < 1.2)), (errors, slopes)


@pytest.mark.parametrize('num_steps', [1, 2, 7, 1000])
def test_ddim_with_eta_1_is_ancestral(num_steps):
  ancestral = samplers.coefficients(_config('ancestral', num_steps), LINEAR)
  ddim = samplers.coefficients(_config('ddim', num_steps, eta=1.0), LINEAR)
  for field in dataclasses.fields(ancestral):
    np.testing.assert_allclose(
      getattr(ancestral, field.name),
      getattr(ddim, field.name),
      rtol=1e-4,
      atol=1e-7,
    )


@pytest.mark.parametrize('schedule', schedules.SCHEDULES)
@pytest.mark.parametrize('name', samplers.SAMPLERS)
@pytest.mark.parametrize('num_steps', [1, 2, 3, 4, 50, 1000])
def test_coefficients_keep_noise_free_data_on_its_path(
  name, num_steps, schedule
):
  diffusion = schedules.DiffusionProcess(schedule=schedule)
  table = samplers.coefficients(_config(name, num_steps), diffusion)
  now = schedules.signal_scale(diffusion)[table.timestep].astype(np.float64)
  after = np.append(now[1:], 1.0)
  # An x0 estimated right at both steps moves from one signal scale to the next.
  np.testing.assert_allclose(
    table.x * now + table.x0 + table.previous_x0, after, atol=2e-5
  )
  last = (table.x, table.x0, table.previous_x0, table.noise)
  assert [float(c[-1]) for c in last] == [0.0, 1.0, 0.0, 0.0]
  assert table.previous_x0[0] == 0
  assert all(np.all(np.isfinite(c)) for c in last)


@pytest.mark.parametrize('spacing', samplers.SPACINGS)
@pytest.mark.parametrize('schedule', schedules.SCHEDULES)
@pytest.mark.parametrize('num_timesteps', [2, 10, 999, 1000])
def test_timestep_sequences_run_from_the_last_to_zero(
  spacing, schedule, num_timesteps
):
  diffusion = schedules.DiffusionProcess(
    schedule=schedule, num_timesteps=num_timesteps
  )
  for num_steps in {1, 2, 3, 7, num_timesteps // 2, num_timesteps}:
    if not 0 < num_steps <= num_timesteps:
      continue
    config = samplers.SamplerConfig(num_steps=num_steps, spacing=spacing)
    got = samplers.timestep_sequence(config, diffusion)
    assert got.dtype == np.int32 and len(got) == num_steps
    assert got[0] == num_timesteps - 1
    assert np.all(np.diff(got) < 0)
    assert num_steps == 1 or got[-1] == 0
    if num_steps == num_timesteps:
      assert got.tolist() == list(range(num_timesteps))[::-1]


def test_uniform_strides_are_even():
  config = samplers.SamplerConfig(num_steps=4, spacing='uniform')
  assert samplers.timestep_sequence(config, LINEAR).tolist() == [
    999,
    666,
    333,
    0,
  ]
  config = samplers.SamplerConfig(num_steps=30, spacing='uniform')
  strides = -np.diff(samplers.timestep_sequence(config, LINEAR))
  assert set(strides.tolist()) <= {34, 35}


def _label_network(x, timestep, label):
  """Says 0.1 (label + 2) x0 everywhere: the null label says 0.1."""
  del timestep
  value = 0.1 * (label.astype(jnp.float32) + 2)
  return jnp.broadcast_to(value[:, None, None, None], x.shape)


def test_guidance_is_the_formula_and_weight_zero_is_conditional():
  diffusion = schedules.DiffusionProcess(prediction='x0')
  labels = jnp.array([0, 1, 2, -1], jnp.int32)
  conditional = np.array([0.2, 0.3, 0.4, 0.1])
  for weight in (0.0, 1.5):
    batch_sizes = []

    def network(x, timestep, label, sizes=batch_sizes):
      sizes.append(x.shape[0])
      return _label_network(x, timestep, label)

    config = _config('ddim', 2, guidance_weight=weight)
    got = samplers.sample(
      network, config, diffusion, jax.random.key(0), labels, (2, 2, 1)
    )
    expected = (1 + weight) * conditional - weight * 0.1
    np.testing.assert_allclose(got[:, 0, 0, 0], expected, rtol=1e-5)
    # No guidance, no second evaluation.
    assert set(batch_sizes) == {4 if weight == 0 else 8}
    assert samplers.num_evaluations(config) == 2 * set(batch_sizes).pop() // 4


def test_guidance_does_not_depend_on_the_prediction():
  def run(prediction):
    diffusion = schedules.DiffusionProcess(prediction=prediction)
    conditional = _gaussian_network(diffusion, mean=0.5, std=0.2)
    unconditional = _gaussian_network(diffusion, mean=0.0, std=0.4)

    def network(x, timestep, label):
      return jnp.where(
        label[:, None, None, None] >= 0,
        conditional(x, timestep, label),
        unconditional(x, timestep, label),
      )

    config = _config('ddim', 10, guidance_weight=1.0)
    return _run(network, config, diffusion, (4, 2, 2, 1))[1]

  eps, x0, v = (run(p) for p in schedules.PREDICTIONS)
  np.testing.assert_allclose(eps, x0, atol=1e-4)
  np.testing.assert_allclose(eps, v, atol=1e-4)


@pytest.mark.parametrize('name', ['ancestral', 'dpm_solver_pp_2m'])
def test_image_does_not_depend_on_its_batch(name):
  network = _gaussian_network(LINEAR)
  key = jax.random.key(5)
  labels = jnp.zeros(6, jnp.int32)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def run(start, stop):
    return samplers.sample(
      network,
      _config(name, 4),
      LINEAR,
      key,
      labels[start:stop],
      (2, 2, 1),
      first_index=start,
    )

  whole = np.asarray(run(0, 6))
  np.testing.assert_allclose(whole[2:5], run(2, 5), atol=1e-6)
  assert len(np.unique(whole[:, 0, 0, 0])) == 6


def test_noise_of_each_step_is_new_and_standard_normal():
  # A network that sees no image leaves x <- coefficient * x + std * noise.
  diffusion = schedules.DiffusionProcess(prediction='x0')
  config = _config('ancestral', 5)
  table = samplers.coefficients(config, diffusion)
  step = jax.jit(
    samplers.step_fn(lambda x, t, y: jnp.zeros_like(x), config, diffusion)
  )
  state = _first_state((500, 2, 2, 1))
  noises = [np.asarray(state.x).ravel()]
  for i in range(3):
    before, state = state, step(state, jnp.zeros(500, jnp.int32), i)
    noise = (state.x - table.x[i] * before.x) / table.noise[i]
    noises.append(np.asarray(noise).ravel())
  covariance = np.cov(np.stack(noises))
  np.testing.assert_allclose(covariance, np.eye(4), atol=0.12)


def test_first_index_may_be_traced():
  key = jax.random.key(1)

  @jax.jit
  @jax.vmap
  def shards(first_index):
    return samplers.init_state(key, (2, 2, 2, 1), first_index=first_index).x

  parts = shards(jnp.array([0, 2, 4]))
  whole = samplers.init_state(key, (6, 2, 2, 1)).x
  np.testing.assert_array_equal(parts.reshape(whole.shape), whole)


@pytest.mark.parametrize('name', samplers.SAMPLERS)
def test_host_loop_compiles_once_and_equals_the_device_loop(name):
  num_traces = 0
  network = _gaussian_network(LINEAR)

  def counted(x, timestep, label):
    nonlocal num_traces
    num_traces += 1
    return network(x, timestep, label)

  config = _config(name, 6, clip_x0=True)
  step = jax.jit(samplers.step_fn(counted, config, LINEAR))
  key = jax.random.key(2)
  labels = jnp.zeros(3, jnp.int32)
  state = samplers.init_state(key, (3, 2, 2, 1))
  for i in range(config.num_steps):
    state = step(state, labels, i)
  assert num_traces == 1
  whole = samplers.sample(network, config, LINEAR, key, labels, (2, 2, 1))
  np.testing.assert_allclose(samplers.finalize(state.x), whole, atol=1e-6)


@pytest.mark.parametrize('prediction', ['x0', 'eps'])
def test_clip_x0_bounds_every_estimate(prediction):
  diffusion = schedules.DiffusionProcess(prediction=prediction)
  for clip, bound in ((True, 1.0), (False, math.inf)):
    config = _config('dpm_solver_pp_2m', 3, clip_x0=clip)
    step = samplers.step_fn(
      lambda x, t, y: jnp.full_like(x, -7.0), config, diffusion
    )
    state = samplers.init_state(jax.random.key(0), (2, 2, 2, 1))
    state = step(state, jnp.zeros(2, jnp.int32), 0)
    largest = float(jnp.abs(state.previous_x0).max())
    assert largest <= bound
    assert clip or largest > 6


def test_bfloat16_network_keeps_a_float32_state():
  config = _config('ancestral', 3)
  got = samplers.sample(
    lambda x, t, y: x.astype(jnp.bfloat16),
    config,
    LINEAR,
    jax.random.key(0),
    jnp.zeros(2, jnp.int32),
    (2, 2, 1),
  )
  assert got.dtype == jnp.float32
  assert float(jnp.abs(got).max()) <= 1.0


def test_to_uint8_inverts_the_scaling_of_images():
  pixels = np.arange(256, dtype=np.uint8)
  scaled = jnp.asarray(pixels / 127.5 - 1, jnp.float32)
  got = samplers.to_uint8(scaled)
  assert got.dtype == jnp.uint8
  np.testing.assert_array_equal(got, pixels)
  assert samplers.to_uint8(jnp.array([-9.0, 9.0])).tolist() == [0, 255]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'name': 'dimm'}, "did you mean 'ddim'"),
    ({'spacing': 'quad'}, "'log_snr', 'quadratic', 'uniform'"),
    ({'num_steps': 0}, 'num_steps=0 '),
    ({'num_steps': 5.0}, 'to be an integer'),
    ({'first_timestep': 5.0}, 'to be an integer'),
    ({'first_timestep': -1}, 'first_timestep=-1'),
    ({'guidance_weight': -1.0}, 'guidance_weight=-1.0'),
    ({'guidance_weight': math.nan}, 'guidance_weight=nan'),
    ({'guidance_weight': math.inf}, 'guidance_weight=inf'),
    ({'name': 'ddim', 'eta': 1.5}, 'eta=1.5'),
    ({'name': 'ancestral', 'eta': 0.5}, "not 'ddim'"),
  ],
)
def test_bad_values_are_refused_in_one_line(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    samplers.SamplerConfig(**changes)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('spacing', samplers.SPACINGS)
@pytest.mark.parametrize('num_steps', [1, 2, 7, 301])
def test_a_sequence_may_start_below_the_last_timestep(spacing, num_steps):
  config = samplers.SamplerConfig(
    num_steps=num_steps, spacing=spacing, first_timestep=300
  )
  found = samplers.timestep_sequence(config, COSINE)
  assert found[0] == 300 and len(found) == num_steps
  assert num_steps == 1 or found[-1] == 0
  assert np.all(np.diff(found) < 0)


def test_a_start_from_images_has_the_noise_of_its_timestep():
  """And noise of its own: images and start are independent."""
  config = _config('ddim', 4, first_timestep=500)
  state = _first_state((2000, 2, 2, 1))
  labels = jnp.arange(2000) % 2

  def draw(keys, labels):
    normal = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(keys)
    return 0.1 * normal + labels[:, None, None, None] - 0.5

  start = samplers.start_from_images(state, labels, draw, config, COSINE)
  signal, noise = (
    schedules.signal_scale(COSINE)[500],
    schedules.noise_scale(COSINE)[500],
  )
  rest = np.asarray(start.x - noise * state.x) / signal
  for label in (0, 1):
    mine = rest[label::2]
    assert np.mean(mine) == pytest.approx(label - 0.5, abs=0.01)
    assert np.std(mine) == pytest.approx(0.1, rel=0.05)
  for position in range(3):  # Of the start, and of the first steps.
    drawn = np.asarray(samplers._noise(state.keys, position, (2, 2, 1)))
    pair = np.stack([rest[::2].ravel(), drawn[::2].ravel()])
    assert abs(np.corrcoef(pair)[0, 1]) < 0.05


def test_pure_noise_is_no_start_below_the_last_timestep():
  config = _config('ddim', 2, first_timestep=500)
  with pytest.raises(ValueError, match='first_timestep=500 to be 0'):
    samplers.sample(
      _gaussian_network(COSINE),
      config,
      COSINE,
      jax.random.key(0),
      jnp.zeros(2, jnp.int32),
      (2, 2, 1),
    )


def test_a_start_from_the_right_gaussian_gives_the_right_images():
  """As pure noise does, in steps from the timestep of the start alone."""
  config = _config(
    'dpm_solver_pp_2m', 12, first_timestep=500, spacing='uniform'
  )
  network = _gaussian_network(COSINE)

  def draw(keys, labels):
    del labels
    normal = jax.vmap(lambda key: jax.random.normal(key, (2, 2, 1)))(keys)
    return MEAN + STD * normal

  labels = jnp.zeros(3000, jnp.int32)
  state = _first_state((3000, 2, 2, 1))
  state = samplers.start_from_images(state, labels, draw, config, COSINE)
  found = samplers.sample_from(state, network, config, COSINE, labels)
  normal = np.random.default_rng(0).normal(MEAN, STD, 100_000)
  wanted = np.clip(normal, -1, 1)  # As samples are in the end.
  assert np.mean(found) == pytest.approx(np.mean(wanted), abs=0.02)
  assert np.std(found) == pytest.approx(np.std(wanted), rel=0.03)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'first_timestep': 1000}, 'first_timestep=1000 to be below'),
    ({'first_timestep': 5, 'num_steps': 7}, r'first_timestep \+ 1 = 6'),
  ],
)
def test_a_start_that_cannot_be_is_refused(changes, message):
  config = samplers.SamplerConfig(**{'num_steps': 2, **changes})
  with pytest.raises(ValueError, match=message):
    samplers.timestep_sequence(config, LINEAR)


def test_more_steps_than_timesteps_are_refused():
  config = samplers.SamplerConfig(num_steps=11)
  diffusion = schedules.DiffusionProcess(num_timesteps=10)
  with pytest.raises(ValueError, match='num_steps=11 .* num_timesteps=10'):
    samplers.step_fn(_label_network, config, diffusion)
