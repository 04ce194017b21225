"""Computes epsilon from privacy loss distributions (PLD), sound at any delta.

The losses of Gaussian steps (with or without Poisson selection) are rounded to
a grid by "connect the dots" (Doroshenko et al. 2022, arXiv 2207.04380): the
mass of each cell is divided between its two ends, so that its probability stays
the same under both datasets. The exact loss can be simulated from the rounded
one, so neither one step nor a composition is understated. Steps are composed by
one Fourier transform of TILTED masses, p(l) exp(theta l), most of which lie
near the losses that decide delta. The rounding error is therefore a small share
of delta, however small delta is. Every error is bounded from computed
quantities and added to delta:

* transform: the error of each output of a radix transform of n masses that sum
  to 1 is at most u c log2(n), u = 2^-53; that of a power is `count` times as
  large (`_rounding`);
* losses above the window: bounded by Chernoff's inequality (`_Window`);
* losses beyond the ends of the grid: counted as infinite (`_grid`);
* the normal distribution function: mass is moved one cell up (`_split`).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import math

import numpy as np
from scipy import fft
from scipy import special

_UNIT = 2.0**-53  # Largest relative rounding error of a float64.
_FFT_ERROR = 8 * _UNIT  # Error per stage: products, sums, twiddle factors.
_CDF_ERROR = 32 * _UNIT  # Relative error of the normal distribution function.
_POWER_ERROR = 16 * _UNIT  # Relative error of exp(count * log(z)) per step.
_SUM_ERROR = 1e-9  # Relative error of sums of up to 2^22 positive numbers.
_CELLS_PER_STD = 400  # Per std of a step's loss; overstates epsilon by 1e-6.
_UNIFORM_CELLS = 4000  # Farther from the mean, the width of cells grows.
_MAX_SIZE = 2**22  # Largest size of the transform.
_LEAST_INTERVAL = 2.0**-30  # Of the mean loss: the ends of a cell differ.
_MAX_LOSS = 600.0  # Largest loss of a step; its exp must be a float.
_MIN_DELTA = 1e-250
_SHARE = 1e-8  # Share of delta for losses outside of grid and window.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """Equal Gaussian steps, with or without Poisson selection.

  Attributes:
    noise_multiplier: std of the noise divided by the sensitivity.
    sampling_prob: probability that a record is selected, in (0, 1].
    count: number of steps.
  """

  noise_multiplier: float
  sampling_prob: float
  count: int


@dataclasses.dataclass(frozen=True)
class _Atoms:
  """Losses of one step, rounded to a grid.

  Attributes:
    indices: int64[N]; a loss is its index times the interval of the grid.
    log_masses: float64[N], natural logarithms of the probabilities.
    infinite: probability of an infinite loss.
    count: number of steps.
  """

  indices: np.ndarray
  log_masses: np.ndarray
  infinite: float
  count: int


@dataclasses.dataclass(frozen=True)
class _Window:
  """The range of losses of the composition that is computed, and the tilt.

  Attributes:
    theta: parameter of the tilt, > 0.
    log_moment: log E exp(theta loss) of the composition.
    middle: a loss near epsilon.
    low: smallest loss of the range.
    high: largest loss of the range.
    above: upper bound of the probability of losses above `high`.
  """

  theta: float
  log_moment: float
  middle: float
  low: float
  high: float
  above: float


def epsilon(steps: Sequence[Steps], delta: float) -> float:
  """Returns epsilon of all steps together, never understated.

  Neighbours differ by adding or removing one record; both directions are
  composed, and the larger epsilon counts.

  Guarantees:
    * The result is never below independent computations, and close to them,
      also at deltas below 1e-15 and at tiny sampling probabilities:
      `loss_distributions_test.py::test_never_below_the_truth`.
    * Rounding errors are included:
      `loss_distributions_test.py::test_rounding_error_is_paid_for`,
      `loss_distributions_test.py::test_errors_of_cells_are_paid_for`.
    * It falls as noise rises:
      `loss_distributions_test.py::test_falls_as_noise_rises`.

  Args:
    steps: steps in any order.
    delta: in (0, 1).

  Returns:
    Epsilon >= 0. It is infinity if the loss of a step (noise multipliers below
    about 0.03) or delta (below 1e-250) is beyond the computed range.
  """
  if delta < _MIN_DELTA:
    return math.inf
  merged = _merge(steps)
  if not merged:
    return 0.0
  return max(
    _one_direction(merged, delta, is_removed) for is_removed in (True, False)
  )


def _merge(steps: Sequence[Steps]) -> tuple[Steps, ...]:
  """Merges Gaussian steps without selection into one of less noise, exactly."""
  plain = sum(
    s.count / s.noise_multiplier**2 for s in steps if s.sampling_prob == 1
  )
  selected = tuple(s for s in steps if s.sampling_prob != 1)
  if not plain:
    return selected
  one = Steps(noise_multiplier=plain**-0.5, sampling_prob=1.0, count=1)
  return (*selected, one)


def _one_direction(
  steps: tuple[Steps, ...], delta: float, is_removed: bool
) -> float:
  """Returns epsilon for removing a record if `is_removed`, else for adding."""
  interval = _interval(steps, is_removed)
  for _ in range(8):
    atoms = _discretize(steps, delta, interval, is_removed)
    if atoms is None:
      return math.inf
    window = _choose_window(atoms, delta, interval)
    if window is None:
      return 0.0
    size = math.ceil((window.high - window.low) / interval) + 2
    if size <= _MAX_SIZE:
      break
    interval *= 1.05 * size / _MAX_SIZE
  else:
    return math.inf
  size = fft.next_fast_len(size, real=True)
  masses, error = _compose(atoms, window, interval, size)
  return _solve(masses + error, atoms, window, interval, delta)


def _loss(step: Steps, x: np.ndarray) -> np.ndarray:
  """Returns the loss for removing a record, log of the density ratio at x."""
  exponent = (2 * x - 1) / (2 * step.noise_multiplier**2)
  q = step.sampling_prob
  if q == 1:
    return exponent
  rest = np.log1p(-q)
  return np.where(
    exponent > 30,
    np.logaddexp(rest, np.log(q) + exponent),
    np.log1p(q * np.expm1(np.minimum(exponent, 30))),
  )


@functools.lru_cache(maxsize=256)
def _moments(step: Steps) -> tuple[float, float, float, float]:
  """Returns means and stds of the loss, with and without the record."""
  u = np.linspace(-12, 12, 2001)
  weights = np.exp(-(u**2) / 2)
  weights /= weights.sum()
  without = _loss(step, step.noise_multiplier * u)
  with_it = _loss(step, 1 + step.noise_multiplier * u)
  q = step.sampling_prob
  mean_without = float(weights @ without)
  mean = float((1 - q) * mean_without + q * (weights @ with_it))
  variance = float(
    (1 - q) * (weights @ (without - mean) ** 2)
    + q * (weights @ (with_it - mean) ** 2)
  )
  variance_without = float(weights @ (without - mean_without) ** 2)
  return mean, math.sqrt(variance), mean_without, math.sqrt(variance_without)


def _interval(steps: tuple[Steps, ...], is_removed: bool) -> float:
  """Returns the interval of the grid, a fraction of the std of a loss.

  With little noise and a small sampling probability nearly all losses without
  the record are log(1 - q). Their std is then rounding alone, and a cell of it
  would have no width in float64: the interval has a smallest share of a loss.
  """
  index = 1 if is_removed else 3
  variance = sum(s.count * _moments(s)[index] ** 2 for s in steps)
  interval = math.sqrt(variance / sum(s.count for s in steps)) / _CELLS_PER_STD
  largest = max(abs(_moments(s)[index - 1]) for s in steps)
  return max(interval, _LEAST_INTERVAL * largest)


def _discretize(
  steps: tuple[Steps, ...], delta: float, interval: float, is_removed: bool
) -> list[_Atoms] | None:
  """Returns the atoms of each kind of step; None if a loss is too large."""
  tail = _SHARE * delta / sum(s.count for s in steps)
  found = []
  for step in steps:
    edges = _grid(step, tail, interval)
    if edges is None:
      return None
    found.append(_split(step, edges, interval, is_removed))
  return found


def _grid(step: Steps, tail: float, interval: float) -> np.ndarray | None:
  """Returns indices of the ends of cells; at most `tail` lies beyond them."""
  reach = -special.ndtri(tail) * step.noise_multiplier
  low, high = _loss(step, np.array([-reach, 1 + reach]))
  if not max(-low, high) < _MAX_LOSS:
    return None
  mean, _, mean_without, _ = _moments(step)
  centers = (math.floor(mean_without / interval), math.ceil(mean / interval))
  first, last = math.floor(low / interval), math.ceil(high / interval)
  middle = (centers[0] + centers[1]) // 2
  parts = [
    centers[0] - _outwards(centers[0] - first)[::-1],
    centers[0] + _outwards(middle - centers[0]),
    centers[1] - _outwards(centers[1] - middle)[::-1],
    centers[1] + _outwards(last - centers[1]),
  ]
  edges = np.unique(np.concatenate(parts))
  return edges[(edges >= first) & (edges <= last)]


def _outwards(distance: int) -> np.ndarray:
  """Returns increasing distances from 0 to at least `distance`.

  Beyond `_UNIFORM_CELLS` their ratio is constant.
  """
  if distance <= _UNIFORM_CELLS:
    return np.arange(max(distance, 0) + 1)
  count = math.ceil(_UNIFORM_CELLS * math.log(distance / _UNIFORM_CELLS))
  far = np.geomspace(_UNIFORM_CELLS, distance, count + 2)
  return np.concatenate([np.arange(_UNIFORM_CELLS), np.unique(np.ceil(far))])


def _split(
  step: Steps, edges: np.ndarray, interval: float, is_removed: bool
) -> _Atoms:
  """Divides the mass of each cell between its two ends.

  Let A and B be the masses of a cell without and with the record, and r the
  ratio of their densities at its lower end. The upper end receives
  q (B - r A) / (1 - exp(-width)), which preserves both masses. The difference
  loses precision; its possible error is moved to the end with the larger loss.
  """
  q, noise = step.sampling_prob, step.noise_multiplier
  losses = edges * interval
  if q == 1:
    ratios = np.exp(losses)
    x = noise**2 * losses + 0.5
  else:
    ratios = 1 + np.expm1(losses) / q  # Negative for impossible losses.
    with np.errstate(divide='ignore'):
      x = noise**2 * np.log(np.maximum(ratios, 0.0)) + 0.5
  without, without_error = _cell_masses(x / noise)
  with_it, with_error = _cell_masses((x - 1) / noise)
  inner, low = slice(1, -1), ratios[:-1]
  shrink = -np.expm1(-np.diff(losses))
  to_upper = q * (with_it[inner] - low * without[inner]) / shrink
  ulps = np.abs(np.log(np.maximum(low, 1e-300))) + 4
  low = np.abs(low)
  error = with_error[inner] + low * without_error[inner]
  error += _UNIT * ulps * (with_it[inner] + low * without[inner])
  error *= q / shrink
  if is_removed:
    mass = (1 - q) * without + q * with_it
    upper = np.clip(to_upper + error, 0, mass[inner])
    masses = np.concatenate([mass[:1] + mass[inner][:1] - upper[:1], upper])
    masses[1:-1] += (mass[inner] - upper)[1:]
    return _atoms(edges, masses, float(mass[-1]), step.count)
  mass = without
  lower = np.exp(-losses[1:]) * (to_upper - error)
  lower = np.clip(lower, 0, mass[inner])
  masses = np.concatenate([mass[inner] - lower, mass[-1:]])
  masses[1:] += lower
  return _atoms(-edges, masses, float(mass[0]), step.count)


def _atoms(
  indices: np.ndarray, masses: np.ndarray, infinite: float, count: int
) -> _Atoms:
  keep = masses > 0
  return _Atoms(
    indices[keep].astype(np.int64), np.log(masses[keep]), infinite, count
  )


def _cell_masses(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns normal mass below, between and above points, with its error."""
  below, above = special.ndtr(u), special.ndtr(-u)
  is_left = u[1:] <= 0
  between = np.where(is_left, np.diff(below), -np.diff(above))
  error = np.where(is_left, below[1:] + below[:-1], above[1:] + above[:-1])
  masses = np.concatenate([below[:1], np.maximum(between, 0), above[-1:]])
  zero = np.zeros(1)
  return masses, np.concatenate([zero, _CDF_ERROR * error, zero])


def _log_moments(atoms: Sequence[_Atoms], orders: np.ndarray) -> np.ndarray:
  """Returns log E exp(order * index) of the composition, for each order."""
  total = np.zeros(len(orders))
  for one in atoms:
    for i, order in enumerate(orders):
      exponents = order * one.indices + one.log_masses
      largest = exponents.max()
      total[i] += one.count * (
        largest + math.log(np.exp(exponents - largest).sum())
      )
  return total


def _choose_window(
  atoms: Sequence[_Atoms], delta: float, interval: float
) -> _Window | None:
  """Chooses the window by Chernoff bounds of epsilon; None if epsilon is 0."""
  variance = sum(one.count * _variance(one) for one in atoms)
  positive = np.geomspace(1e-4, 1e4, 97) / math.sqrt(variance)
  negative = -np.geomspace(1e-2, 1e2, 25) / math.sqrt(variance)
  orders = np.concatenate([negative, [0.0], positive])
  moments = _log_moments(atoms, orders)
  orders = orders / interval  # Orders of losses instead of indices.
  thetas, at_thetas = orders[-97:], moments[-97:]
  shape = thetas * np.log(thetas) - (1 + thetas) * np.log1p(thetas)
  bounds = (at_thetas - math.log(delta) + shape) / thetas
  best = int(np.argmin(bounds))
  if bounds[best] <= 0:
    return None
  theta, moment = float(thetas[best]), float(at_thetas[best])
  log_above = math.log(_SHARE * delta)
  high = float(np.min((at_thetas - log_above) / thetas))
  # Tilted losses from above the window would come out at its low end.
  is_above, is_below = orders > theta, orders < theta
  highs = (moments[is_above] - moment - math.log(_SHARE)) / (
    orders[is_above] - theta
  )
  high = max(high, float(np.min(highs)))
  lows = (math.log(_SHARE) + moment - moments[is_below]) / (
    theta - orders[is_below]
  )
  return _Window(
    theta=theta,
    log_moment=moment,
    middle=float(bounds[best]),
    low=min(float(np.max(lows)), float(bounds[best]) - 8 * interval),
    high=max(high, float(bounds[best]) + 8 * interval),
    above=math.exp(log_above),
  )


def _variance(atoms: _Atoms) -> float:
  """Returns the variance of the index of one step."""
  masses = np.exp(atoms.log_masses)
  mean = (masses @ atoms.indices) / masses.sum()
  return float(masses @ (atoms.indices - mean) ** 2)


def _compose(
  atoms: Sequence[_Atoms], window: _Window, interval: float, size: int
) -> tuple[np.ndarray, float]:
  """Returns the tilted masses of the composition from `low` on, and an error.

  Losses below the window wrap around to its upper end, where they count as too
  large, which is safe.

  Returns:
    (masses float64[size], largest absolute error of a mass).
  """
  theta = window.theta * interval
  log_sizes = np.zeros(size // 2 + 1)
  angles = np.zeros(size // 2 + 1)
  bounds, share = np.zeros_like(log_sizes), np.zeros_like(log_sizes)
  for one in atoms:
    tilted = theta * one.indices + one.log_masses
    tilted = np.exp(tilted - tilted.max())
    tilted /= tilted.sum()
    folded = np.bincount(one.indices % size, tilted, minlength=size)
    spectrum = fft.rfft(folded)
    absolute = np.abs(spectrum)
    error = _FFT_ERROR * math.log2(size)
    log_sizes += one.count * np.log(np.maximum(absolute, 1e-300))
    angles += one.count * np.angle(spectrum)
    bounds += one.count * np.log(absolute + error)
    share += one.count * (error / (absolute + error) + _POWER_ERROR)
  composed = np.exp(log_sizes) * np.exp(1j * angles)
  masses = fft.irfft(composed, size)
  error = _rounding(np.exp(np.minimum(bounds, 0)), share, size)
  first = math.floor(window.low / interval)
  return np.maximum(np.roll(masses, -(first % size)), 0), error


def _rounding(bounds: np.ndarray, share: np.ndarray, size: int) -> float:
  """Returns the largest absolute error of a mass.

  For each frequency |x^T - y^T| <= T max(|x|, |y|)^(T - 1) |x - y|. The inverse
  transform takes the mean over frequencies and adds its own rounding error.
  """
  each = bounds * (share + _FFT_ERROR * math.log2(size))
  return float(2 * each.sum() / size)


def _solve(
  masses: np.ndarray,
  atoms: Sequence[_Atoms],
  window: _Window,
  interval: float,
  delta: float,
) -> float:
  """Returns the smallest epsilon whose bound of delta is at most `delta`.

  It reverses the tilt. At a loss l of the grid, delta is the sum over larger
  losses of p - exp(l) p', where p' = p exp(-loss) is the mass without the
  record. This is a double sum of positive terms; between points of the grid it
  is linear in exp(l).
  """
  losses = interval * (
    math.floor(window.low / interval) + np.arange(len(masses))
  )
  offsets = losses - window.middle
  if offsets[-1] > 690:  # exp of it would exceed a float.
    return math.inf
  others = masses * np.exp(np.minimum(-(window.theta + 1) * offsets, 690))
  others = np.cumsum(others[::-1])[::-1]
  terms = np.exp(offsets[:-1]) * math.expm1(interval) * others[1:]
  with np.errstate(over='ignore'):  # At the low end, far below epsilon.
    sums = np.append(np.cumsum(terms[::-1])[::-1], 0.0)
  scale = math.exp(window.log_moment - window.theta * window.middle)
  num_steps = sum(one.count for one in atoms)
  slack = math.exp(_SUM_ERROR + num_steps * _POWER_ERROR)
  infinite = sum(one.count * one.infinite for one in atoms)
  deltas = sums * scale * slack + infinite + window.above
  if deltas[-1] > delta:
    return math.inf
  index = int(np.argmax(deltas <= delta))
  if index == 0:
    return max(0.0, float(losses[0]))
  gap = deltas[index - 1] - deltas[index]
  part = (delta - deltas[index]) / gap if math.isfinite(gap) else 0.0
  found = losses[index] + math.log1p(part * math.expm1(-interval))
  return max(0.0, float(found) * (1 + 1e-10))
