"""Computes epsilon, and calibrates the noise for a promised epsilon.

Before private training, `calibrate` computes a mechanism from the config.
During training, and for the published statement, `epsilon` computes what was
spent. Two accountants, privacy loss distributions (PLD) and Renyi DP (RDP),
give upper bounds of the same epsilon for the same neighbours (one record added
or removed), so the smaller bound holds. Calibrations are kept in the user's
cache folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import logging
import math
import os
import pathlib
from typing import Any

import dp_accounting
from dp_accounting import pld
from dp_accounting import rdp

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.privacy import loss_distributions
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise_search
from dp_diffusion.privacy import privacy_config
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import strict_json

ACCOUNTANTS = ('pld', 'rdp')
SMALLER = 'smaller'  # The smaller bound of the two accountants.
# The accountant of releases before statement version 4: the PLD of
# dp-accounting at a fixed interval. Only `verify` uses it.
FIXED_PLD = 'fixed_pld'
FIXED_INTERVAL = 1e-4
SOLVABLE = privacy_config.SOLVABLE
PrivacyConfig = privacy_config.PrivacyConfig

# Beyond any of these limits a PLD at a fixed interval would need gigabytes, and
# the bound of RDP was used instead.
_PLD_MAX_EPSILON = 1000.0
_PLD_MAX_STEP_LOSS = 300.0
_PLD_MAX_STEPS = 2_000_000
_MIN_NOISE = noise_search.MIN_NOISE  # Below it epsilon is infinite.
# The first, fast accountant only narrows the search for the second, which
# decides.
SEARCH = ('rdp', SMALLER)
_RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_ALL_ORDERS = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
_RDP_ORDERS = {'quick_rdp': (2, 4, 8, 16, 32, 64), 'rdp': _ALL_ORDERS}
_CACHE_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """A mechanism that keeps the promised epsilon, and its bounds.

  Attributes:
    mechanism: the mechanism, with every number filled in.
    epsilon_pld: total epsilon by PLD, including what was spent before.
    epsilon_rdp: total epsilon by RDP, including what was spent before.
    noise_multiplier_rdp: noise multiplier that RDP alone would need for the
      promised epsilon (for `epsilon`, if that is computed); None if no noise
      suffices.
  """

  mechanism: mechanism_lib.TrainingMechanism
  epsilon_pld: float
  epsilon_rdp: float
  noise_multiplier_rdp: float | None

  @property
  def epsilon(self) -> float:
    """Total epsilon, the smaller of both bounds."""
    return min(self.epsilon_pld, self.epsilon_rdp)

  @property
  def bound(self) -> str:
    """The accountant whose bound `epsilon` is, one of ACCOUNTANTS."""
    return bound(self.epsilon_pld, self.epsilon_rdp)


def bound(epsilon_pld: float, epsilon_rdp: float) -> str:
  """Returns the accountant with the smaller bound, 'pld' if they are equal.

  >>> bound(0.198, 0.138)
  'rdp'
  """
  return 'rdp' if epsilon_rdp < epsilon_pld else 'pld'


def epsilon(
  events: Sequence[dp_accounting.DpEvent],
  delta: float,
  accountant: str = SMALLER,
) -> float:
  """Returns epsilon of all events together, never understated.

  Guarantees:
    * The smaller of both bounds is returned, at every delta:
      `accounting_test.py::test_smaller_bound_holds`.
    * Rounding errors are included; the result is never below independent
      computations:
      `loss_distributions_test.py::test_never_below_the_truth`.

  Args:
    events: in any order; composition does not depend on it.
    delta: in (0, 1).
    accountant: 'pld', 'rdp', SMALLER, or FIXED_PLD for releases of earlier
      versions (which may understate at deltas below about 1e-10).

  Returns:
    Epsilon >= 0; infinite where an event adds no noise.
  """
  names = (*ACCOUNTANTS, SMALLER, FIXED_PLD)
  checks.check_one_of('accountant', accountant, names)
  return _epsilon(
    _canonical(events), strict_json.probability('delta', delta), accountant
  )


def delta(
  events: Sequence[dp_accounting.DpEvent],
  epsilon: float,
  accountant: str = SMALLER,
) -> float:
  """Returns the smallest delta at which `epsilon` is at most the given one.

  The relative precision is 1e-6.

  Args:
    events: events in any order.
    epsilon: the given epsilon.
    accountant: as in `epsilon`.
  """
  checks.check_one_of('accountant', accountant, (*ACCOUNTANTS, SMALLER))
  canonical = _canonical(events)
  epsilon = strict_json.real('epsilon', epsilon)

  def excess(units: int) -> float:
    """Returns the epsilon that is missing at delta = exp(-units 1e-6)."""
    if not units:
      return -1.0  # Nothing is promised.
    spent = _epsilon(canonical, math.exp(-1e-6 * units), accountant)
    return min(spent - epsilon, 5.0)  # Infinite epsilon would end the search.

  most = math.floor(-math.log(1e-250) * 1e6)
  if excess(most) <= 0:
    return math.exp(-1e-6 * most)
  return math.exp(-1e-6 * noise_search.crossing(excess, 0, most)[0])


def calibrate(
  config: PrivacyConfig, *, spent: Sequence[dp_accounting.DpEvent] = ()
) -> Calibration:
  """Computes the number that `config.solve_for` names.

  The noise multiplier is the smallest one of 5 significant figures, and the
  number of steps the largest one, whose total epsilon is at most the promised
  epsilon. Results are stored in the user's cache folder. A stored result is
  used only if its epsilon, computed again, is the same.

  >>> found = calibrate(
  ...   PrivacyConfig(
  ...     solve_for='epsilon',
  ...     delta=1e-3,
  ...     noise_multiplier=1.0,
  ...     num_steps=2,
  ...     expected_batch_size=10,
  ...     num_examples=100,
  ...     l2_clip_norm=1.0,
  ...   )
  ... )
  >>> round(found.epsilon_pld, 2), round(found.epsilon_rdp, 2)
  (0.84, 1.35)

  Guarantees:
    * Never above the promised epsilon:
      `accounting_test.py::test_calibration_never_overshoots`.
    * The next smaller noise, or one more step, would be above it:
      `accounting_test.py::test_calibration_is_tight`.
    * Events spent before are included:
      `accounting_test.py::test_spent_events_count`.
    * More epsilon never needs more noise:
      `accounting_test.py::test_more_epsilon_never_needs_more_noise`.
    * A damaged cache changes nothing:
      `accounting_test.py::test_damaged_cache_is_ignored`.

  Args:
    config: the promised epsilon and delta, and the numbers of the mechanism.
    spent: events on the same records from before.

  Returns:
    The mechanism and its bounds.

  Raises:
    ValueError: no mechanism keeps the promised epsilon; one line says why.
  """
  problem = _Problem(config, _canonical(spent))
  if not config.is_private:
    mechanism = problem.config.mechanism(0.0, config.num_steps or 1)
    return Calibration(
      mechanism=mechanism,
      epsilon_pld=math.inf,
      epsilon_rdp=math.inf,
      noise_multiplier_rdp=0.0,
    )
  cached = _load(problem)
  if cached is not None:
    return cached
  result = _solve(problem)
  _store(problem, result)
  return result


# Distinct events, each with the number of times it happened.
_Canonical = tuple[tuple[dp_accounting.DpEvent, int], ...]


def _canonical(events: Sequence[dp_accounting.DpEvent]) -> _Canonical:
  """Counts equal events; a training in parts then costs the same as whole."""
  counts: Counter[dp_accounting.DpEvent] = Counter()
  for event in events:
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
      event, count = event.event, event.count
    else:
      count = 1
    if not isinstance(event, dp_accounting.NoOpDpEvent):
      _noise(event)  # Refuses an event that is not Gaussian.
      counts[event] += count
  return tuple(sorted(counts.items(), key=repr))


def _noise(event: dp_accounting.DpEvent) -> float:
  """Returns the noise multiplier of a Gaussian event, perhaps selected."""
  if isinstance(event, dp_accounting.PoissonSampledDpEvent):
    event = event.event
  if not isinstance(event, dp_accounting.GaussianDpEvent):
    raise ValueError(f'Expected a Gaussian event, not {type(event).__name__}.')
  return event.noise_multiplier


@functools.lru_cache(maxsize=256)
def _epsilon(canonical: _Canonical, delta: float, accountant: str) -> float:
  if any(_noise(event) < _MIN_NOISE for event, _ in canonical):
    return math.inf
  if accountant == SMALLER:
    return min(_epsilon(canonical, delta, name) for name in ACCOUNTANTS)
  if accountant == 'pld':
    return loss_distributions.epsilon(_steps(canonical), delta)
  if accountant == FIXED_PLD and not _is_for_fixed_pld(canonical, delta):
    accountant = 'rdp'
  if accountant == 'rdp':
    return _epsilon_of_best_order(canonical, delta)
  return float(_compose(canonical, accountant).get_epsilon(delta))


def _epsilon_of_best_order(canonical: _Canonical, delta: float) -> float:
  """Returns the smallest epsilon over all orders, computing only a few.

  As a function of the order, epsilon falls to its minimum and then rises. It is

    (c(order) + log(1/delta) - log(order)) / (order - 1) + log(1 - 1/order)

  (Canonne et al. 2020, arXiv 2004.00010, proposition 12), where c, (order - 1)
  times the Renyi divergence, is convex in the order (van Erven and Harremoes
  2014, arXiv 1206.2459, corollary 2): a convex function over a positive linear
  one has no second minimum. Therefore a search finds the best integer order.
  The orders between its neighbours are all computed, except where a line below
  c through two integers shows that they give more. A search among them could
  fail, since dp-accounting overstates some at large sampling probabilities.

  Guarantees:
    * The result has the same bits as the minimum over all orders:
      `accounting_test.py::test_best_order_is_that_of_all`.
  """

  @functools.cache
  def at(order: float) -> float:
    return float(_compose_order(canonical, order).get_epsilon(delta))

  def convex(order: int) -> float:
    if order == 1:
      return 0.0
    rest = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return (order - 1) * (at(order) - rest)

  orders = sorted(_RDP_ORDERS['rdp'])
  if not math.isfinite(at(2)) or delta**2 > 1e-3 * convex(2):
    # For a divergence below delta^2, dp-accounting uses another bound, 0.
    return min(map(at, orders))
  integers = [int(order) for order in orders if float(order).is_integer()]
  low, high = 0, len(integers) - 1
  while low < high:
    middle = (low + high) // 2
    if at(integers[middle]) <= at(integers[middle + 1]):
      high = middle
    else:
      low = middle + 1
  best = integers[low]
  smallest = at(best)
  for order in orders:
    if smallest and 0 < abs(order - best) < 1:
      slope = convex(best + 1) - convex(best)
      if order > best:
        slope = convex(best) - convex(best - 1)
      bound = convex(best) + slope * (order - best) - math.log(delta * order)
      bound = bound / (order - 1) + math.log1p(-1 / order)
      if not bound > smallest * (1 + 1e-9):
        smallest = min(smallest, at(order))
  return smallest


def _steps(canonical: _Canonical) -> list[loss_distributions.Steps]:
  return [
    loss_distributions.Steps(
      noise_multiplier=_noise(event),
      sampling_prob=getattr(event, 'sampling_probability', 1.0),
      count=count,
    )
    for event, count in canonical
  ]


def _is_for_fixed_pld(canonical: _Canonical, delta: float) -> bool:
  """Whether a PLD at FIXED_INTERVAL fits in memory and time."""
  for event, count in canonical:
    noise = _noise(event)
    # Privacy loss of one step at ten standard deviations.
    if (1 + 20 * noise) / (2 * noise**2) > _PLD_MAX_STEP_LOSS:
      return False
    is_selected = isinstance(event, dp_accounting.PoissonSampledDpEvent)
    if is_selected and count > _PLD_MAX_STEPS:
      return False
  return any(  # A few orders already give an upper bound.
    _epsilon(canonical, delta, name) <= _PLD_MAX_EPSILON for name in _RDP_ORDERS
  )


def _compose(
  canonical: _Canonical, accountant: str
) -> dp_accounting.PrivacyAccountant:
  if accountant in _RDP_ORDERS:
    return _compose_rdp(canonical, _RDP_ORDERS[accountant])
  result = pld.PLDAccountant(_RELATION, FIXED_INTERVAL)
  for event, count in canonical:
    result.compose(event, count)
  return result


@functools.lru_cache(maxsize=512)
def _compose_order(canonical: _Canonical, order: float) -> rdp.RdpAccountant:
  """Returns what one order knows, from which any delta has its epsilon."""
  return _compose_rdp(canonical, [order])


def _compose_rdp(
  canonical: _Canonical, orders: Sequence[float]
) -> rdp.RdpAccountant:
  result = rdp.RdpAccountant(orders, _RELATION)
  with _without_warnings_about_orders():
    for event, count in canonical:
      result.compose(event, count)
  return result


@contextlib.contextmanager
def _without_warnings_about_orders() -> Iterator[None]:
  """Silences log messages about orders whose series does not converge.

  The accountant counts such an order as infinite, which is sound, and logs a
  message for each. Large epsilons need the orders below 2, where this happens.
  """

  def keep(record: logging.LogRecord) -> bool:
    return '_compute_log_a_frac failed to converge' not in str(record.msg)

  logger = logging.getLogger('absl')
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)


@dataclasses.dataclass(frozen=True)
class _Problem:
  """A config, and the events spent before."""

  config: PrivacyConfig
  spent: _Canonical

  def total(self, noise: float, steps: int, accountant: str) -> float:
    """Returns epsilon of the events spent before and of the mechanism."""
    events = [
      dp_accounting.SelfComposedDpEvent(event, count)
      for event, count in self.spent
    ]
    events.append(self.config.mechanism(noise, steps).dp_event())
    return _epsilon(_canonical(events), self.config.delta, accountant)

  def excess(
    self, noise: float, steps: int, target: float, accountant: str
  ) -> float:
    """Returns log(epsilon / target), positive if the promise is broken.

    The value is limited to [-5, 5], since epsilon may be 0 or infinite during
    the search.
    """
    ratio = self.total(noise, steps, accountant) / target
    return math.log(min(max(ratio, math.exp(-5)), math.exp(5)))


def _solve(problem: _Problem) -> Calibration:
  config = problem.config
  noise, steps = config.noise_multiplier, config.num_steps
  target = config.epsilon
  if target is not None:
    _check_budget(problem, target)
  if noise is None:
    assert steps is not None and target is not None
    noise = noise_search.smallest_noise(problem, steps, target, SEARCH)
    if noise is None:
      raise errors.UsageError(
        f'Expected epsilon={target!r} at delta={config.delta!r} to be within'
        f' reach of a noise_multiplier <= {noise_search.MAX_NOISE:g}; raise'
        ' either or lower num_steps.'
      )
  elif steps is None:
    assert target is not None
    steps = noise_search.most_steps(problem, noise, target, SEARCH)
  if target is None:
    target = problem.total(noise, steps, SMALLER)
  return Calibration(
    mechanism=problem.config.mechanism(noise, steps),
    epsilon_pld=problem.total(noise, steps, 'pld'),
    epsilon_rdp=problem.total(noise, steps, 'rdp'),
    noise_multiplier_rdp=noise_search.smallest_noise(
      problem, steps, target, ('rdp',)
    )
    if 0 < target < math.inf
    else None,
  )


def _check_budget(problem: _Problem, target: float) -> None:
  spent = _epsilon(problem.spent, problem.config.delta, SMALLER)
  if spent >= target:
    raise errors.UsageError(
      f'Expected epsilon={target!r} to be above the {rounding.up(spent, 6)}'
      f' that was spent before (at delta={problem.config.delta!r}); raise'
      ' either.'
    )


def _inputs(problem: _Problem) -> dict[str, Any]:
  """Returns everything that a calibration depends on, as JSON values."""
  config = dataclasses.asdict(problem.config)
  for name in ('secret_dir', 'allow_large_delta'):
    del config[name]
  return {
    'version': _CACHE_VERSION,
    'dp_accounting': importlib.metadata.version('dp-accounting'),
    'config': {k: None if v is None else str(v) for k, v in config.items()},
    'spent': [repr(pair) for pair in problem.spent],
  }


def _cache_path(inputs: dict[str, Any]) -> pathlib.Path | None:
  """Returns the path of a stored calibration; None if there is no home."""
  root = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(root):
    try:
      root = str(pathlib.Path.home() / '.cache')
    except RuntimeError:
      return None
  key = hashlib.sha256(strict_json.dumps(inputs).encode()).hexdigest()[:32]
  return pathlib.Path(root) / 'dp_diffusion' / 'calibrations' / f'{key}.json'


def _load(problem: _Problem) -> Calibration | None:
  """Loads a stored calibration, if its epsilon, computed again, is the same."""
  inputs = _inputs(problem)
  path = _cache_path(inputs)
  try:
    if path is None:
      return None
    value = strict_json.loads(path.read_bytes())
    strict_json.fields('the cache', value, ('inputs', 'calibration'))
    if value['inputs'] != inputs:
      return None
    names = [field.name for field in dataclasses.fields(Calibration)]
    found = strict_json.fields('it', value['calibration'], names)
    noise_rdp = found['noise_multiplier_rdp']
    mechanism = problem.config.mechanism_type.from_dict(found['mechanism'])
    result = Calibration(
      mechanism=mechanism,
      epsilon_pld=strict_json.real('epsilon_pld', found['epsilon_pld']),
      epsilon_rdp=strict_json.real('epsilon_rdp', found['epsilon_rdp']),
      noise_multiplier_rdp=None
      if noise_rdp is None
      else strict_json.real('noise_multiplier_rdp', noise_rdp),
    )
  except (OSError, ValueError):
    return None  # The cache is absent or damaged, so the answer is computed.
  return result if _is_right(problem, result) else None


def _is_right(problem: _Problem, found: Calibration) -> bool:
  config, noise = problem.config, found.mechanism.noise_multiplier
  steps = found.mechanism.num_steps
  return (
    found.mechanism == problem.config.mechanism(noise, steps)
    and config.noise_multiplier in (None, noise)
    and config.num_steps in (None, steps)
    and (config.epsilon is None or found.epsilon <= config.epsilon)
    and found.epsilon_pld == problem.total(noise, steps, 'pld')
    and found.epsilon_rdp == problem.total(noise, steps, 'rdp')
  )


def _store(problem: _Problem, result: Calibration) -> None:
  from dp_diffusion import files  # Here, so that verifying needs no etils.

  inputs = _inputs(problem)
  path = _cache_path(inputs)
  value = {'inputs': inputs, 'calibration': dataclasses.asdict(result)}
  if path is None or not math.isfinite(result.epsilon_pld + result.epsilon_rdp):
    return
  with contextlib.suppress(OSError):  # The home may be read-only.
    files.write_json(path, value)
