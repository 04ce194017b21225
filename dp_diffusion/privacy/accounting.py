"""Epsilon of what is spent, and the noise that keeps it as promised.

Before the private road begins `calibrate` turns the config into a mechanism;
along it, and on the published statement, `epsilon` says what was spent. The
privacy loss distribution (PLD) decides; Renyi DP stands beside it.
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

from dp_diffusion import array_types
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise_search
from dp_diffusion.privacy import privacy_config
from dp_diffusion.privacy import strict_json

ACCOUNTANTS = ('pld', 'rdp')
# Interval of the discretised privacy losses, estimated pessimistically.
PLD_INTERVAL = 1e-4
SOLVABLE = privacy_config.SOLVABLE
PrivacyConfig = privacy_config.PrivacyConfig

# Past any of these limits a PLD would need gigabytes, for guarantees that are
# none; the bound of RDP, which is larger, stands in for it.
_PLD_MAX_EPSILON = 1000.0
_PLD_MAX_STEP_LOSS = 300.0
_PLD_MAX_STEPS = 2_000_000
_MIN_NOISE = noise_search.MIN_NOISE  # Below it epsilon is infinite.
# Quick ones first: they only say where the one that decides has to look.
_COARSE_PLD = 'coarse_pld'
_COARSE_PLD_INTERVAL = 1e-3
_SEARCH = ('rdp', _COARSE_PLD, 'pld')
_ALL_ORDERS = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
_RDP_ORDERS = {'quick_rdp': (2, 4, 8, 16, 32, 64), 'rdp': _ALL_ORDERS}
_CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """A mechanism that keeps the promise, and what it costs.

  Attributes:
    mechanism: with every number filled in.
    epsilon_pld: total of what was spent before and of the mechanism; decides.
    epsilon_rdp: the same under Renyi DP.
    noise_multiplier_rdp: what RDP would need for the promised epsilon (for
      `epsilon_pld` where epsilon is computed); None if no noise suffices.
  """

  mechanism: mechanism_lib.DpSgdMechanism
  epsilon_pld: float
  epsilon_rdp: float
  noise_multiplier_rdp: float | None


def epsilon(
  events: Sequence[dp_accounting.DpEvent],
  delta: float,
  accountant: str = 'pld',
) -> float:
  """Epsilon of all events together, never understated.

  Far out (epsilon above 1000, a noise multiplier below about 0.06, more than
  2 million steps) 'pld' returns the bound of RDP, which is larger.

  Args:
    events: in any order; composition does not depend on it.
    delta: in (0, 1).
    accountant: 'pld' or 'rdp'.

  Returns:
    Epsilon >= 0; infinite where an event adds no noise.
  """
  array_types.check_one_of('accountant', accountant, ACCOUNTANTS)
  return _epsilon(
    _canonical(events), strict_json.probability('delta', delta), accountant
  )


def delta(
  events: Sequence[dp_accounting.DpEvent],
  epsilon: float,
  accountant: str = 'pld',
) -> float:
  """Delta of all events together at a given epsilon >= 0 (see `epsilon`)."""
  array_types.check_one_of('accountant', accountant, ACCOUNTANTS)
  canonical = _canonical(events)
  epsilon = strict_json.real('epsilon', epsilon)
  if any(_noise(event) < _MIN_NOISE for event, _ in canonical):
    return 1.0
  if accountant == 'pld' and not _is_for_pld(canonical, 1e-9):
    accountant = 'rdp'
  return float(_compose(canonical, accountant).get_delta(epsilon))


def calibrate(
  config: PrivacyConfig, *, spent: Sequence[dp_accounting.DpEvent] = ()
) -> Calibration:
  """Computes what `config.solve_for` names.

  The noise multiplier is the smallest of 5 significant figures, the number of
  steps the largest, whose total epsilon under PLD is at most the promised one.
  Results are kept in the user's cache folder. One that is read back counts
  only if its epsilon, computed again, is the same.

  Guarantees:
    * Never above the promised epsilon:
      `accounting_test.py::test_calibration_never_overshoots`.
    * The next smaller noise, or one more step, would be above it:
      `accounting_test.py::test_calibration_is_tight`.
    * What was spent before counts:
      `accounting_test.py::test_spent_events_count`.
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
    mechanism = problem.mechanism(0.0, config.num_steps or 1)
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
  if accountant not in _RDP_ORDERS and not _is_for_pld(canonical, delta):
    accountant = 'rdp'
  return float(_compose(canonical, accountant).get_epsilon(delta))


def _is_for_pld(canonical: _Canonical, delta: float) -> bool:
  """Whether a PLD at PLD_INTERVAL fits in memory and time."""
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
  relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
  if accountant in _RDP_ORDERS:
    result = rdp.RdpAccountant(_RDP_ORDERS[accountant], relation)
  else:
    is_coarse = accountant == _COARSE_PLD
    interval = _COARSE_PLD_INTERVAL if is_coarse else PLD_INTERVAL
    result = pld.PLDAccountant(relation, interval)
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

  def mechanism(self, noise: float, steps: int) -> mechanism_lib.DpSgdMechanism:
    return mechanism_lib.DpSgdMechanism(
      num_examples=self.config.num_examples,
      expected_batch_size=self.config.expected_batch_size,
      num_steps=steps,
      noise_multiplier=noise,
      l2_clip_norm=self.config.l2_clip_norm,
      delta=self.config.delta,
      relation=self.config.relation,
    )

  def total(self, noise: float, steps: int, accountant: str) -> float:
    """Epsilon of what was spent and of the mechanism."""
    events = [
      dp_accounting.SelfComposedDpEvent(event, count)
      for event, count in self.spent
    ]
    events.append(self.mechanism(noise, steps).dp_event())
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
    noise = noise_search.smallest_noise(problem, steps, target, _SEARCH)
    if noise is None:
      raise array_types.UsageError(
        f'Expected epsilon={target!r} to be within reach of a noise_multiplier'
        f' <= {noise_search.MAX_NOISE:g}; raise it or lower num_steps.'
      )
  elif steps is None:
    assert target is not None
    steps = noise_search.most_steps(problem, noise, target, _SEARCH)
  epsilon_pld = problem.total(noise, steps, 'pld')
  if target is None:
    target = epsilon_pld
  return Calibration(
    mechanism=problem.mechanism(noise, steps),
    epsilon_pld=epsilon_pld,
    epsilon_rdp=problem.total(noise, steps, 'rdp'),
    noise_multiplier_rdp=noise_search.smallest_noise(
      problem, steps, target, ('rdp',)
    )
    if 0 < target < math.inf
    else None,
  )


def _check_budget(problem: _Problem, target: float) -> None:
  spent = _epsilon(problem.spent, problem.config.delta, 'pld')
  if spent >= target:
    raise array_types.UsageError(
      f'Expected epsilon={target!r} to be above the {spent:.6g} that was spent'
      ' before; raise it.'
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
    'interval': PLD_INTERVAL,
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
    mechanism = mechanism_lib.DpSgdMechanism.from_dict(found['mechanism'])
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
    found.mechanism == problem.mechanism(noise, steps)
    and config.noise_multiplier in (None, noise)
    and config.num_steps in (None, steps)
    and (config.epsilon is None or found.epsilon_pld <= config.epsilon)
    and found.epsilon_pld == problem.total(noise, steps, 'pld')
    and found.epsilon_rdp == problem.total(noise, steps, 'rdp')
  )


def _store(problem: _Problem, result: Calibration) -> None:
  from dp_diffusion import files  # Only here: verifying needs no etils.

  inputs = _inputs(problem)
  path = _cache_path(inputs)
  value = {'inputs': inputs, 'calibration': dataclasses.asdict(result)}
  if path is None or not math.isfinite(result.epsilon_pld):
    return
  with contextlib.suppress(OSError):  # A home that cannot be written.
    files.write_json(path, value)
