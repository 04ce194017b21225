"""Known answers for the noise schedules, and what a config refuses."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion.diffusion import schedules

PAPER_MIXTURE = {
  'mixture_boundaries': (0, 30, 600, 1000),
  'mixture_weights': (0.015, 0.785, 0.2),
}


def test_linear_matches_the_formula_in_plain_python():
  table = schedules.alpha_bar(schedules.DiffusionProcess(schedule='linear'))
  product = 1.0
  for t in range(1000):
    product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
    assert table[t] == pytest.approx(product, rel=1e-6)
  # The end that Ho et al. quote as nearly pure noise.
  assert table[-1] == pytest.approx(4.0358e-5, rel=1e-3)


def test_linear_keeps_the_total_noise_when_t_changes():
  ends = [
    schedules.alpha_bar_float64(schedules.DiffusionProcess(num_timesteps=num))[
      -1
    ]
    for num in (250, 1000, 4000)
  ]
  np.testing.assert_allclose(np.log(ends), np.log(ends[1]), rtol=0.03)


def test_cosine_matches_the_formula_in_plain_python():
  num = 400
  config = schedules.DiffusionProcess(schedule='cosine', num_timesteps=num)

  def f(t: float) -> float:
    return math.cos((t / num + 0.008) / 1.008 * math.pi / 2) ** 2

  table = schedules.alpha_bar_float64(config)
  for t in range(num - 1):
    assert table[t] == pytest.approx(f(t + 1) / f(0), rel=1e-9)
  # The formula ends at zero; the clip of beta at 0.999 does not.
  assert table[-1] == pytest.approx(table[-2] * 1e-3, rel=1e-9)


@pytest.mark.parametrize('schedule', schedules.SCHEDULES)
def test_scales_are_exact_where_float32_would_cancel(schedule):
  config = schedules.DiffusionProcess(schedule=schedule)
  beta = schedules.betas(config)
  noise = schedules.noise_scale(config)
  assert noise.dtype == np.float32
  assert noise[0] == pytest.approx(math.sqrt(beta[0]), rel=1e-6)
  total = noise.astype(np.float64) ** 2 + np.square(
    schedules.signal_scale(config), dtype=np.float64
  )
  np.testing.assert_allclose(total, 1.0, atol=3e-7)


@settings(max_examples=60, deadline=None)
@given(
  schedule=st.sampled_from(schedules.SCHEDULES),
  num_timesteps=st.integers(2, 5000),
)
def test_noise_only_grows(schedule, num_timesteps):
  config = schedules.DiffusionProcess(
    schedule=schedule, num_timesteps=num_timesteps
  )
  table = schedules.alpha_bar_float64(config)
  assert table.shape == (num_timesteps,)
  assert np.all(np.diff(table) < 0)
  assert 0 < table[-1] and table[0] < 1
  assert np.all(np.diff(schedules.snr(config)) < 0)
  assert np.all(np.isfinite(np.log(schedules.signal_scale(config))))


def test_cached_table_cannot_be_written():
  table = schedules.alpha_bar_float64(schedules.DiffusionProcess())
  with pytest.raises(ValueError, match='read-only'):
    table[0] = 0.0


def test_lists_become_tuples_so_that_the_config_hashes():
  lists = {name: list(value) for name, value in PAPER_MIXTURE.items()}
  config = schedules.DiffusionProcess(**lists)
  assert hash(config) == hash(schedules.DiffusionProcess(**PAPER_MIXTURE))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'schedule': 'cosin'}, "did you mean 'cosine'"),
    ({'prediction': 'epsilon'}, "'eps', 'v', 'x0'"),
    ({'loss_weighting': 'snr'}, 'min_snr'),
    ({'num_timesteps': 1}, 'num_timesteps=1 '),
    ({'num_timesteps': 10.0}, 'to be an integer'),
    ({'num_timesteps': True}, 'to be an integer'),
    ({'label_drop_prob': 1.0}, 'label_drop_prob=1.0'),
    ({'label_drop_prob': -0.1}, 'label_drop_prob=-0.1'),
    ({'label_drop_prob': math.nan}, 'label_drop_prob=nan'),
    ({'mixture_boundaries': (0, 30, 600, 999)}, 'num_timesteps=1000'),
    ({'mixture_boundaries': (1, 30, 600, 1000)}, 'from 0'),
    ({'mixture_boundaries': (0, 600, 600, 1000)}, 'increase'),
    ({'mixture_boundaries': (0, 30.0, 600, 1000)}, 'integer'),
    ({'mixture_boundaries': (0,)}, 'increase'),
    ({'mixture_boundaries': ()}, 'increase'),
    ({'mixture_boundaries': (0, 1000)}, '1 values'),
    ({'mixture_weights': (0.5, 0.5)}, '3 values'),
    ({'mixture_weights': ()}, '3 values'),
    ({'mixture_weights': (0.1, 0.785, 0.2)}, 'add up to 1'),
    ({'mixture_weights': (-0.1, 0.9, 0.2)}, '>= 0'),
    ({'mixture_weights': (math.nan, 0.8, 0.2)}, '>= 0'),
  ],
)
def test_bad_values_are_refused_in_one_line(changes, message):
  with pytest.raises(ValueError, match=message) as error:
    schedules.DiffusionProcess(**{**PAPER_MIXTURE, **changes})
  assert '\n' not in str(error.value)


def test_every_known_combination_is_accepted():
  for schedule, prediction, weighting in itertools.product(
    schedules.SCHEDULES, schedules.PREDICTIONS, schedules.LOSS_WEIGHTINGS
  ):
    schedules.DiffusionProcess(
      schedule=schedule,
      prediction=prediction,
      loss_weighting=weighting,
      **PAPER_MIXTURE,
    )
