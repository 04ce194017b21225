"""Computes epsilon of Poisson-selected Gaussian steps with 30 digits.

With M(z) = E exp(z loss), for any theta > 0,

  delta(epsilon) = 1 / (2 pi i) * integral over Re z = theta of
                   M(z)^steps exp(-z epsilon) / (z (z + 1)) dz,

the inverse Laplace transform of E (1 - exp(epsilon - loss))_+. Both integrals
are trapezoidal sums of analytic functions, so they converge exponentially.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import mpmath as mp

Number = Any  # A number of mpmath, which has no annotations.
ORACLES = (
  pathlib.Path(__file__).resolve().parents[2]
  / 'tests/data/privacy_oracles.json'
)
SOURCE = 'own inversion of the moment generating function, mpmath, 30 digits'
# Name, sigma, q, steps, delta, whether prv-accountant also bounds epsilon.
CASES = (
  ('delta 1e-12', 5.0, 0.5, 200, 1e-12, False),
  ('delta 1e-15', 2.5, 0.25, 200, 1e-15, False),
  ('delta 1e-18', 2.5, 0.25, 200, 1e-18, False),
  ('delta 2^-64, full batch', 10.0, 1.0, 100, 2.0**-64, False),
  ('q 1e-5, a million steps', 1.1, 1e-5, 1_000_000, 1e-8, True),
  ('q 1e-4, a million steps', 3.0, 1e-4, 1_000_000, 1e-6, True),
  ('q 1e-5, delta 1e-12', 1.1, 1e-5, 1_000_000, 1e-12, False),
  ('q near 1', 4.0, 0.999, 100, 1e-6, True),
  ('q nearer 1, delta 1e-12', 4.0, 0.999999, 100, 1e-12, False),
  ('sigma 0.3', 0.3, 0.5, 60, 1e-6, False),
  ('sigma 0.3, q near 1', 0.3, 0.99, 20, 1e-9, False),
  ('sigma 100', 100.0, 0.5, 1000, 1e-6, True),
  ('sigma 100, delta 1e-12', 100.0, 0.01, 1_000_000, 1e-12, False),
  ('epsilon 0.001', 2000.0, 1.0, 1, 1e-6, False),
)


def nodes_of(
  sigma: Number, q: Number, power: Number, step: Number
) -> list[tuple[Number, Number]]:
  """The nodes of the sum over x, with the log ratio and the weight of each.

  Args:
    sigma: std of the noise.
    q: probability of selection.
    power: real part of the exponent of the ratio; it moves the largest terms.
    step: distance between nodes, in units of sigma.

  Returns:
    Pairs of the log of the ratio of densities, and of the weight: the density
    times the ratio to the power of `power`.
  """
  reach = 18
  low = min(0, power / sigma) - reach
  high = max(0, power / sigma) + reach
  result = []
  for i in range(int(low / step), int(high / step) + 1):
    u = mp.mpf(i) * step
    loss = mp.log(1 - q + q * mp.exp(u / sigma - 1 / (2 * sigma**2)))
    weight = step * mp.exp(-(u**2) / 2) / mp.sqrt(2 * mp.pi)
    result.append((loss, weight, weight * mp.exp(power * loss)))
  smallest = max(size for _, _, size in result) * mp.mpf(10) ** -34
  return [(loss, weight) for loss, weight, size in result if size > smallest]


def step_of(sigma: Number, steps: int) -> Number:
  """The distance between nodes; it is smaller for more steps.

  Many steps narrow the function whose transform is computed.
  """
  return mp.mpf(min(0.25, sigma / 4)) / (6 if steps > 100_000 else 1)


def log_moment(nodes: list[tuple[Number, Number]], power: Number) -> Number:
  """Log of E exp(power * loss), on the data set without the record."""
  return mp.log(sum(w * mp.exp(power * loss) for loss, w in nodes))


def find_theta(
  sigma: Number, q: Number, steps: int, delta: Number, sign: int
) -> tuple[Number, Number]:
  """The theta and epsilon at an approximate minimum of Chernoff's bound."""
  best: tuple[Number, Number] | None = None
  for k in range(-16, 60):
    theta = mp.mpf(2) ** (mp.mpf(k) / 3)
    power = theta + 1 if sign > 0 else -theta
    nodes = nodes_of(sigma, q, power, step_of(sigma, 1))
    value = (steps * log_moment(nodes, power) - mp.log(delta)) / theta
    if best is not None and value > best[0]:
      break
    best = (value, theta)
  assert best is not None
  return best[1], best[0]


def epsilon(
  sigma: Number, q: Number, steps: int, delta: Number, sign: int, fineness: int
) -> Number:
  """Epsilon if a record is removed (sign 1) or added (sign -1)."""
  sigma, q, delta = mp.mpf(sigma), mp.mpf(q), mp.mpf(delta)
  theta, high = find_theta(sigma, q, steps, delta, sign)
  if high <= 0:
    return mp.mpf(0)
  if steps > 100_000:  # Gives rare, fast-varying losses less weight.
    theta /= 3
  power = theta + 1 if sign > 0 else -theta
  step = step_of(sigma, steps) / fineness
  nodes = nodes_of(sigma, q, power, step)
  width = theta / (16 * fineness)
  start = steps * log_moment(nodes, power)
  terms = []
  for j in range(100_000):
    z = mp.mpc(theta, j * width)
    value = steps * log_moment(nodes, z + 1 if sign > 0 else -z) - start
    term = mp.exp(value) / (z * (z + 1)) * (1 if j else mp.mpf(1) / 2)
    terms.append((z, term))
    if mp.re(value) < -50:
      break

  def excess(eps: Number) -> Number:
    total = sum(mp.re(t * mp.exp(-(z - theta) * eps)) for z, t in terms)
    found = total * width / mp.pi * mp.exp(start - theta * eps)
    return mp.log(found / delta) if found > 0 else mp.mpf(-1)

  low = high
  while excess(low) < 0:
    low -= 1 / theta
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if excess(middle) > 0 else (low, middle)
  return high


def exact(sigma: float, q: float, steps: int, delta: float) -> float:
  """The larger epsilon of both directions, checked with half the node step."""
  signs = (1,) if q == 1 else (1, -1)
  once, again = (
    max(epsilon(sigma, q, steps, delta, sign, n) for sign in signs)
    for n in (1, 2)
  )
  assert abs(once - again) < 1e-10 * again, (once, again)
  return float(again)


def prv(sigma: float, q: float, steps: int, delta: float) -> list[float]:
  """Lower and upper bound of epsilon by prv-accountant."""
  import prv_accountant

  mechanism = prv_accountant.PoissonSubsampledGaussianMechanism(
    sampling_probability=q, noise_multiplier=sigma
  )
  accountant = prv_accountant.PRVAccountant(
    prvs=[mechanism],
    max_self_compositions=[steps],
    eps_error=0.003,
    delta_error=delta / 1000,
  )
  low, _, high = accountant.compute_epsilon(
    delta, num_self_compositions=[steps]
  )
  return [float(low), float(high)]


def main() -> None:
  """Replaces the rows of the file that have the field `exact`."""
  mp.mp.dps = 30
  rows = json.loads(ORACLES.read_text())
  rows = [row for row in rows if 'exact' not in row]
  for name, sigma, q, steps, delta, is_for_prv in CASES:
    row: dict[str, Any] = {'name': name, 'source': SOURCE}
    row |= {'sigma': sigma, 'q': q, 'steps': steps, 'delta': delta}
    row['exact'] = exact(sigma, q, steps, delta)
    if is_for_prv:
      row['source'] += '; prv-accountant 0.2.0'
      row['prv'] = prv(sigma, q, steps, delta)
    rows.append(row)
    print(row, flush=True)
    ORACLES.write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
  main()
