"""PLD by tilted transforms, against independent computations."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import types

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import mpmath
import numpy as np
import pytest
from scipy import optimize
from scipy import special

from dp_diffusion.privacy import loss_distributions

ORACLES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / 'data' / 'privacy_oracles.json'
  ).read_text()
)
EXACT = [row for row in ORACLES if 'exact' in row]


def steps(sigma, q=1.0, count=1):
  return loss_distributions.Steps(
    noise_multiplier=sigma, sampling_prob=q, count=count
  )


def gaussian_epsilon(sigma, delta):
  """Theorem 8 of arXiv 1805.06530, in logarithms, solved for epsilon."""

  def excess(epsilon):
    half, shift = 1 / (2 * sigma), epsilon * sigma
    first = special.log_ndtr(half - shift)
    second = epsilon + special.log_ndtr(-half - shift)
    return first + math.log1p(-math.exp(second - first)) - math.log(delta)

  return optimize.brentq(excess, 1e-9, 500, xtol=1e-14, rtol=1e-13)


@pytest.mark.parametrize('row', EXACT, ids=lambda row: row['name'])
def test_never_below_the_truth(row):
  one = steps(row['sigma'], row['q'], row['steps'])
  got = loss_distributions.epsilon([one], row['delta'])
  assert row['exact'] <= got <= row['exact'] * 1.002
  if 'prv' in row:
    low, high = row['prv']
    assert low <= got and row['exact'] <= high


@pytest.mark.parametrize('sigma', [0.3, 1.0, 30.0, 3000.0])
@pytest.mark.parametrize('delta', [0.01, 1e-5, 1e-12, 1e-20, 1e-100])
def test_gaussian_matches_closed_form(sigma, delta):
  got = loss_distributions.epsilon([steps(sigma)], delta)
  if got > 0:
    expected = gaussian_epsilon(sigma, delta)
    assert expected <= got <= expected * (1 + 1e-5)


def test_gaussian_steps_of_any_kind_add_up():
  """Four at twice the noise are one; as selected with probability near 1."""
  one = loss_distributions.epsilon([steps(2.0)], 1e-12)
  four = loss_distributions.epsilon([steps(4.0, 1.0, 4)], 1e-12)
  mixed = [steps(4.0, 1.0, 3), steps(4.0, 1 - 2**-53, 1)]
  assert four == pytest.approx(one, rel=1e-12)
  assert loss_distributions.epsilon(mixed, 1e-12) == pytest.approx(
    one, rel=1e-4
  )


def test_split_of_steps_does_not_matter():
  whole = loss_distributions.epsilon([steps(2.0, 0.1, 60)], 1e-9)
  parts = [steps(2.0, 0.1, 25), steps(2.0, 0.1, 35)]
  assert loss_distributions.epsilon(parts, 1e-9) == pytest.approx(
    whole, rel=1e-6
  )


@pytest.mark.parametrize(
  ('sigma', 'q'), [(1.0, 0.1), (0.5, 1e-4), (5.0, 0.999), (2.0, 1.0)]
)
@pytest.mark.parametrize('is_removed', [True, False])
def test_cells_keep_both_masses(sigma, q, is_removed):
  """The sums with and without the record are 1, but for what is infinite."""
  one = (steps(sigma, q),)
  interval = loss_distributions._interval(one, is_removed)
  (atoms,) = loss_distributions._discretize(one, 1e-6, interval, is_removed)
  masses, losses = np.exp(atoms.log_masses), atoms.indices * interval
  assert masses.sum() + atoms.infinite == pytest.approx(1, abs=1e-12)
  assert masses @ np.exp(-losses) == pytest.approx(1, abs=1e-8)
  assert masses @ np.exp(-losses) <= 1 + 1e-12


def test_transform_composes():
  """Masses of three steps, against convolutions one by one."""
  one = (steps(1.0, 0.2, 3),)
  interval = 0.05
  atoms = loss_distributions._discretize(one, 1e-3, interval, True)
  window = loss_distributions._choose_window(atoms, 1e-3, interval)
  size = math.ceil((window.high - window.low) / interval) + 2
  got, error = loss_distributions._compose(atoms, window, interval, size)
  (single,) = atoms
  lowest = single.indices.min()
  dense = np.zeros(single.indices.max() - lowest + 1)
  dense[single.indices - lowest] = np.exp(single.log_masses)
  composed = np.convolve(np.convolve(dense, dense), dense)
  losses = interval * (3 * lowest + np.arange(len(composed)))
  composed *= np.exp(window.theta * losses - window.log_moment)
  first = math.floor(window.low / interval) - 3 * lowest
  expected = composed[max(0, first) :][: size - max(0, -first)]
  assert 0 < error < 1e-11
  np.testing.assert_allclose(
    got[max(0, -first) :][: len(expected)], expected, atol=1e-7
  )


def test_losses_that_are_not_computed_are_paid_for(monkeypatch):
  """Those above the window, and at each step those beyond the grid."""
  delta, interval = 1e-3, 0.05
  atoms = loss_distributions._discretize(
    (steps(1.0, 0.2, 3),), delta, interval, True
  )
  window = loss_distributions._choose_window(atoms, delta, interval)
  assert window.above >= 1e-9 * delta and atoms[0].infinite > 0
  size = math.ceil((window.high - window.low) / interval) + 2
  masses, _ = loss_distributions._compose(atoms, window, interval, size)

  def epsilon(above=0.0, infinite=0.0):
    return loss_distributions._solve(
      masses,
      [dataclasses.replace(atoms[0], infinite=infinite)],
      dataclasses.replace(window, above=above),
      interval,
      delta,
    )

  assert epsilon() < epsilon(above=delta / 2) < epsilon(above=0.9 * delta)
  assert epsilon(infinite=delta / 6) == epsilon(above=delta / 2)
  assert epsilon(above=1.1 * delta) == epsilon(infinite=delta / 2) == math.inf
  exact = epsilon()
  for error in ('_SUM_ERROR', '_POWER_ERROR'):  # Of sums, and of each step.
    with monkeypatch.context() as patch:
      patch.setattr(loss_distributions, error, 0.1)
      assert epsilon() > exact


def test_error_of_a_transform_is_that_of_all_its_stages(monkeypatch):
  interval, seen = 0.05, []
  atoms = loss_distributions._discretize(
    (steps(1.0, 0.2, 1),), 1e-3, interval, True
  )
  window = loss_distributions._choose_window(atoms, 1e-3, interval)
  size = math.ceil((window.high - window.low) / interval) + 2

  def record(bounds, share, size):
    seen.append(bounds)
    return 0.0

  monkeypatch.setattr(loss_distributions, '_rounding', record)
  for error in (0.0, 1e-3):
    monkeypatch.setattr(loss_distributions, '_FFT_ERROR', error)
    loss_distributions._compose(atoms, window, interval, size)
  exact, larger = seen
  is_whole = larger < 1  # No frequency of masses that sum to 1 is larger.
  assert is_whole.sum() > len(exact) / 2
  np.testing.assert_allclose(
    (larger - exact)[is_whole], 1e-3 * math.log2(size), rtol=1e-6
  )


@pytest.mark.parametrize('delta', [1e-5, 1e-15, 1e-30])
def test_rounding_error_is_paid_for(delta, monkeypatch):
  """Masses that are too small by what is bounded give no smaller epsilon."""
  one = [steps(5.0, 0.5, 200)]
  paid = loss_distributions.epsilon(one, delta)
  compose = loss_distributions._compose

  def with_errors(factor, is_paid):
    def changed(*args):
      masses, error = compose(*args)
      assert error > 2.0**-53 / len(masses)  # What one rounding would be.
      error *= factor
      masses = np.maximum(masses - error, 0) if is_paid else masses
      return masses, error if is_paid else 0.0

    monkeypatch.setattr(loss_distributions, '_compose', changed)
    return loss_distributions.epsilon(one, delta)

  unpaid = with_errors(1, False)
  assert paid == pytest.approx(unpaid, rel=1e-8)  # The price is small.
  assert paid >= unpaid
  for factor in (1, 1e4):
    assert with_errors(factor, True) >= unpaid * (1 - 1e-14)


def test_error_of_a_mass_is_that_of_all_frequencies():
  """Where the errors of all are in phase, also of the half not computed."""
  size = 1024
  bounds, share = np.linspace(1.0, 0.1, 513), np.full(513, 1e-3)
  moved = np.fft.irfft(bounds * share, size)
  found = loss_distributions._rounding(bounds, share, size)
  assert moved.max() <= found < 1.01 * moved.max()


def test_every_step_adds_its_rounding():
  """A loss that is certain: all frequencies have the size 1 in every power."""
  window = loss_distributions._Window(
    theta=1.0, log_moment=0.0, middle=0.0, low=0.0, high=1.0, above=0.0
  )

  def error(*counts):
    atoms = [
      loss_distributions._Atoms(np.array([3]), np.zeros(1), 0.0, count)
      for count in counts
    ]
    return loss_distributions._compose(atoms, window, 0.1, 1024)[1]

  of_one = error(2) - error(1)  # Without that of the last transform.
  assert of_one > 2.0**-53
  assert error(1001) - error(1) == pytest.approx(1000 * of_one, rel=0.01)
  assert error(400, 601) == pytest.approx(error(1001), rel=0.01)


def _true_delta(sigma, q, loss, is_removed):
  """Delta of one step at an epsilon, in 50 digits."""
  with mpmath.workdps(50):
    side = 1 if is_removed else -1
    ratio = 1 + mpmath.expm1(side * mpmath.mpf(float(loss))) / mpmath.mpf(q)
    x = mpmath.mpf(sigma) ** 2 * mpmath.log(ratio) + 0.5
    without = mpmath.ncdf(-side * x / sigma)
    mixed = (1 - mpmath.mpf(q)) * without
    mixed += mpmath.mpf(q) * mpmath.ncdf(-side * (x - 1) / sigma)
    above, others = (mixed, without) if is_removed else (without, mixed)
    return above - mpmath.exp(float(loss)) * others


@pytest.mark.parametrize('is_removed', [True, False])
@pytest.mark.parametrize(('sigma', 'q'), [(1.0, 1.0), (1.0, 0.5), (3.0, 0.1)])
def test_errors_of_cells_are_paid_for(sigma, q, is_removed, monkeypatch):
  """Whichever way the normal distribution function is rounded."""
  rng = np.random.default_rng(0)

  def ndtr(u):
    signs = rng.choice([-1.0, 1.0], np.shape(u))
    return special.ndtr(u) * (1 + 16 * 2.0**-53 * signs)

  monkeypatch.setattr(
    loss_distributions,
    'special',
    types.SimpleNamespace(ndtr=ndtr, ndtri=special.ndtri),
  )
  step = steps(sigma, q)
  interval = loss_distributions._interval((step,), is_removed)
  edges = loss_distributions._grid(step, 1e-60, interval)
  atoms = loss_distributions._split(step, edges, interval, is_removed)
  order = np.argsort(atoms.indices)
  losses = atoms.indices[order] * interval
  masses = np.exp(atoms.log_masses[order])
  for k in range(1, len(losses) - 1, len(losses) // 50):
    above = masses[k + 1 :] * -np.expm1(losses[k] - losses[k + 1 :])
    found = math.fsum([atoms.infinite, *above])
    true = _true_delta(sigma, q, losses[k], is_removed)
    assert found >= true * (1 - 1e-14)


@settings(max_examples=15, deadline=None)
@given(
  sigma=st.floats(0.3, 50.0),
  q=st.floats(1e-5, 1.0),
  count=st.integers(1, 2000),
  delta=st.sampled_from([1e-3, 1e-6, 1e-12, 1e-20]),
  factor=st.floats(1.00001, 1.5),
)
def test_falls_as_noise_rises(sigma, q, count, delta, factor):
  here, there = (
    loss_distributions.epsilon([steps(s, q, count)], delta)
    for s in (sigma, sigma * factor)
  )
  assert there <= here * (1 + 1e-9)


def test_what_is_past_its_reach_is_infinite():
  assert loss_distributions.epsilon([steps(1.0)], 1e-300) == math.inf
  assert loss_distributions.epsilon([steps(0.01)], 1e-5) == math.inf
  assert loss_distributions.epsilon([], 1e-5) == 0
  assert loss_distributions.epsilon([steps(1e4, 0.01)], 0.1) == 0


@pytest.mark.parametrize('larger', [True, False])
def test_the_larger_direction_counts(monkeypatch, larger):
  """No steps are known where adding costs more; nothing says there are none."""

  def one_direction(steps, delta, is_removed):
    del steps, delta
    return 2.0 if is_removed == larger else 1.0

  monkeypatch.setattr(loss_distributions, '_one_direction', one_direction)
  steps = loss_distributions.Steps(
    noise_multiplier=1.0, sampling_prob=0.1, count=3
  )
  assert loss_distributions.epsilon([steps], 1e-5) == 2.0


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize(
  ('noise', 'q'), [(0.0458, 0.011), (0.04, 0.5), (0.06, 1e-4)]
)
def test_little_noise_has_cells_with_a_width(noise, q):
  steps = loss_distributions.Steps(
    noise_multiplier=noise, sampling_prob=q, count=10
  )
  assert loss_distributions.epsilon([steps], 1e-5) > 100
