"""Calibration of one Gaussian release, against the closed form."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from scipy import optimize
from scipy import stats

from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import gaussian_calibration


def calibrate(epsilon, delta=1e-5, sensitivity=1.0, spent=(), count=1):
  return gaussian_calibration.calibrate(
    epsilon,
    delta,
    l2_sensitivity=sensitivity,
    purpose='x',
    count=count,
    spent=spent,
  )


def exact_noise(epsilon, delta):
  """Theorem 8 of arXiv 1805.06530 for sensitivity 1, solved for the noise."""

  def excess(noise):
    half, shift = 1 / (2 * noise), epsilon * noise
    upper = stats.norm.cdf(half - shift)
    return upper - math.exp(epsilon) * stats.norm.cdf(-half - shift) - delta

  return optimize.brentq(excess, 1e-2, 1e3)


@pytest.mark.parametrize(
  ('epsilon', 'delta'), [(0.1, 1e-6), (1.0, 1e-4), (4.0, 1e-5)]
)
def test_is_tight(epsilon, delta):
  mechanism = calibrate(epsilon, delta)
  noise = mechanism.noise_multiplier
  assert noise == pytest.approx(exact_noise(epsilon, delta), rel=2e-4)
  assert accounting.epsilon([mechanism.dp_event()], delta) <= epsilon
  smaller = dp_accounting.GaussianDpEvent(noise * (1 - 1.1e-4))
  assert accounting.epsilon([smaller], delta) > epsilon


def test_all_releases_count():
  """Four releases need twice the noise of one."""
  mechanism = calibrate(2.0, count=4)
  assert mechanism.count == 4
  assert 1.99 < accounting.epsilon([mechanism.dp_event()], 1e-5) <= 2.0
  once = calibrate(2.0).noise_multiplier
  assert mechanism.noise_multiplier == pytest.approx(2 * once, rel=2e-4)


def test_spent_events_count():
  spent = [calibrate(1.0).dp_event()]
  mechanism = calibrate(2.0, spent=spent)
  total = accounting.epsilon([*spent, mechanism.dp_event()], 1e-5)
  assert 1.99 < total <= 2.0
  assert mechanism.noise_multiplier > calibrate(2.0).noise_multiplier
  with pytest.raises(ValueError, match='within reach'):
    calibrate(0.9, spent=spent)


def test_noise_is_relative_to_the_sensitivity():
  one, three = calibrate(2.0), calibrate(2.0, sensitivity=3.0)
  assert three.noise_std == pytest.approx(3 * one.noise_std)
  assert one.dp_event() == three.dp_event()


def test_infinite_epsilon_adds_none():
  mechanism = calibrate(math.inf)
  assert mechanism.noise_multiplier == 0 and not mechanism.is_private


@pytest.mark.parametrize('epsilon', [0.0, -1.0, math.nan])
def test_nonsense_is_refused(epsilon):
  with pytest.raises(ValueError, match='epsilon'):
    calibrate(epsilon)
