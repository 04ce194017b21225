"""Epsilon of what is spent, and the noise that keeps it as promised.

Before the private training `calibrate` turns the config into a mechanism;
during it, and in the published statement, `epsilon` says what was spent. Both
accountants, privacy loss distributions (PLD) and Renyi DP (RDP), bound the
same epsilon of the same neighbours (one record added or removed) from above,
so the smaller of the two holds, whichever it is.
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
from dp_diffusion.privacy import strict_json

ACCOUNTANTS = ('pld', 'rdp')
SMALLER = 'smaller'  # Of what the accountants say.
# What releases before statement version 4 were accounted with: the PLD of
# dp-accounting at a fixed interval. Only `verify` asks for it.
FIXED_PLD = 'fixed_pld'
FIXED_INTERVAL = 1e-4
SOLVABLE = privacy_config.SOLVABLE
PrivacyConfig = privacy_config.PrivacyConfig

# Past any of these limits a PLD of fixed interval would need gigabytes; the
# bound of RDP stood in for it.
_PLD_MAX_EPSILON = 1000.0
_PLD_MAX_STEP_LOSS = 300.0
_PLD_MAX_STEPS = 2_000_000
_MIN_NOISE = noise_search.MIN_NOISE  # Below it epsilon is infinite.
# A quick one first: it only says where the one that decides has to look.
SEARCH = ('rdp', SMALLER)
_RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_ALL_ORDERS = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
_RDP_ORDERS = {'quick_rdp': (2, 4, 8, 16, 32, 64), 'rdp': _ALL_ORDERS}
_CACHE_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """A mechanism that keeps the promise, and what it costs.

  Attributes:
    mechanism: with every number filled in.
    epsilon_pld: total of what was spent before and of the mechanism, by PLD.
    epsilon_rdp: the same by RDP.
    noise_multiplier_rdp: what RDP alone would need for the promised epsilon
      (for `epsilon` where it is computed); None if no noise suffices.
  """

  mechanism: mechanism_lib.TrainingMechanism
  epsilon_pld: float
  epsilon_rdp: float
  noise_multiplier_rdp: float | None

  @property
  def epsilon(self) -> float:
    """The total: the smaller of both bounds."""
    return min(self.epsilon_pld, self.epsilon_rdp)

  @property
  def bound(self) -> str:
    """Which accountant's bound `epsilon` is: one of ACCOUNTANTS."""
    return bound(self.epsilon_pld, self.epsilon_rdp)


def bound(epsilon_pld: float, epsilon_rdp: float) -> str:
  """Which accountant says less; 'pld' where they agree.

  >>> bound(0.198, 0.138)
  'rdp'
  """
  return 'rdp' if epsilon_rdp < epsilon_pld else 'pld'


def epsilon(
  events: Sequence[dp_accounting.DpEvent],
  delta: float,
  accountant: str = SMALLER,
) -> float:
  """Epsilon of all events together, never understated.

  Guarantees:
    * The smaller of both bounds is returned, at every delta:
      `accounting_test.py::test_smaller_bound_holds`.
    * Rounding errors are paid for; never below independent computations:
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
  """Smallest delta, to 1e-6 of it, at which `epsilon` is at most the given."""
  checks.check_one_of('accountant', accountant, (*ACCOUNTANTS, SMALLER))
  canonical = _canonical(events)
  epsilon = strict_json.real('epsilon', epsilon)
  low, high = math.log(1e-250), 0.0
  while high - low > 1e-6:
    middle = (low + high) / 2
    if _epsilon(canonical, math.exp(middle), accountant) <= epsilon:
      high = middle
    else:
      low = middle
  return math.exp(high)


def calibrate(
  config: PrivacyConfig, *, spent: Sequence[dp_accounting.DpEvent] = ()
) -> Calibration:
  """Computes what `config.solve_for` names.

  The noise multiplier is the smallest of 5 significant figures, the number of
  steps the largest, whose total `epsilon` is at most the promised one.
  Results are kept in the user's cache folder. One that is read back counts
  only if its epsilon, computed again, is the same.

  Guarantees:
    * Never above the promised epsilon:
      `accounting_test.py::test_calibration_never_overshoots`.
    * The next smaller noise, or one more step, would be above it:
      `accounting_test.py::test_calibration_is_tight`.
    * What was spent before counts:
      `accounting_test.py::test_spent_events_count`.
    * More epsilon never needs more noise:
      `accounting_test.py::test_more_epsilon_never_needs_more_noise`.
    * A damaged cache changes nothing:
      `accounting_test.py::test_damaged_cache_is_ignored`.

  Args:
    config: what is promised.
    spent: events that the same records have paid for before.

  Returns:
    The mechanism and its cost.

  Raises:
    ValueError: nothing keeps the promise; one line says why.
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


# An event with how often it happened; equal ones are added up.
_Canonical = tuple[tuple[dp_accounting.DpEvent, int], ...]


def _canonical(events: Sequence[dp_accounting.DpEvent]) -> _Canonical:
  """Sums equal events, so that a split training costs what a whole one does."""
  counts: Counter[dp_accounting.DpEvent] = Counter()
  for event in events:
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
      event, count = event.event, event.count
    else:
      count = 1
    if not isinstance(event, dp_accounting.NoOpDpEvent):
      _noise(event)  # Refuses what is not a Gaussian.
      counts[event] += count
  return tuple(sorted(counts.items(), key=repr))


def _noise(event: dp_accounting.DpEvent) -> float:
  """The noise multiplier of one (selected) Gaussian event."""
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
  """The smallest epsilon of all orders, of which few are computed.

  Over the orders epsilon falls to its minimum and then rises: it is

    (c(order) + log(1/delta) - log(order)) / (order - 1) + log(1 - 1/order)

  (Canonne et al. 2020, arXiv 2004.00010, proposition 12), where c, (order - 1)
  times the Renyi divergence, is convex in the order (van Erven and Harremoes
  2014, arXiv 1206.2459, corollary 2): a convex function over a positive linear
  one has no second minimum. So the best integer is searched for. Of the orders
  between its neighbours, those are left out at which a line below c, through
  two integers, already gives more. These cannot be searched: dp-accounting
  overstates some, at large sampling probabilities.

  Guarantees:
    * The same bits as of all orders:
      `accounting_test.py::test_best_order_is_that_of_all`.
  """

  @functools.cache
  def at(order: float) -> float:
    return float(_compose_rdp(canonical, [order]).get_epsilon(delta))

  def convex(order: int) -> float:
    if order == 1:
      return 0.0
    rest = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    return (order - 1) * (at(order) - rest)

  orders = sorted(_RDP_ORDERS['rdp'])
  if not math.isfinite(at(2)) or delta**2 > 1e-3 * convex(2):
    # dp-accounting bounds a divergence below delta^2 in another way, by 0.
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
  return any(  # Few orders bound at once what all give, from above.
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
  """An order whose series does not converge counts as infinite: sound.

  The accountant says so in the log for each of them; large epsilons need the
  orders below 2 all the same.
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
  """A config, and what was spent before."""

  config: PrivacyConfig
  spent: _Canonical

  def total(self, noise: float, steps: int, accountant: str) -> float:
    """Epsilon of what was spent and of the mechanism."""
    events = [
      dp_accounting.SelfComposedDpEvent(event, count)
      for event, count in self.spent
    ]
    events.append(self.config.mechanism(noise, steps).dp_event())
    return _epsilon(_canonical(events), self.config.delta, accountant)

  def excess(
    self, noise: float, steps: int, target: float, accountant: str
  ) -> float:
    """log(epsilon / target): positive where the promise is broken.

    Kept within 5 of 0, as epsilon may be 0 or infinite on the way.
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
      f'Expected epsilon={target!r} to be above the {spent:.6g} that was spent'
      f' before (at delta={problem.config.delta!r}); raise either.'
    )


def _inputs(problem: _Problem) -> dict[str, Any]:
  """All that a calibration depends on."""
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
  """Where a calibration is kept; None for a user without a home."""
  root = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(root):
    try:
      root = str(pathlib.Path.home() / '.cache')
    except RuntimeError:
      return None
  key = hashlib.sha256(strict_json.dumps(inputs).encode()).hexdigest()[:32]
  return pathlib.Path(root) / 'dp_diffusion' / 'calibrations' / f'{key}.json'


def _load(problem: _Problem) -> Calibration | None:
  """A kept calibration whose epsilon, computed again, is what it says."""
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
    return None  # A cache may be absent or damaged; the answer is computed.
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
  from dp_diffusion import files  # Only here: verifying needs no etils.

  inputs = _inputs(problem)
  path = _cache_path(inputs)
  value = {'inputs': inputs, 'calibration': dataclasses.asdict(result)}
  if path is None or not math.isfinite(result.epsilon_pld + result.epsilon_rdp):
    return
  with contextlib.suppress(OSError):  # A home that cannot be written.
    files.write_json(path, value)
