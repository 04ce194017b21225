"""Epsilon of what is spent, and the noise that keeps it as promised.

Before the private road begins `calibrate` turns the config into a mechanism;
along it, and on the published statement, `epsilon` says what was spent. The
privacy loss distribution (PLD) decides; Renyi DP stands beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from dp_diffusion.privacy import strict_json

ACCOUNTANTS = ('pld', 'rdp')
# Interval of the discretised privacy losses, estimated pessimistically.
PLD_INTERVAL = 1e-4
SOLVABLE = ('noise_multiplier', 'num_steps', 'epsilon')

# Past any of these limits a PLD would need gigabytes, for guarantees that are
# none; the bound of RDP, which is larger, stands in for it.
_PLD_MAX_EPSILON = 1000.0
_PLD_MAX_STEP_LOSS = 300.0
_PLD_MAX_STEPS = 2_000_000
_MIN_NOISE = 1e-3  # Below it nothing is claimed: epsilon is infinite.
_MAX_NOISE = 1e5
_MAX_STEPS = 1_000_000_000
# Quick ones first: they only say where the one that decides has to look.
_COARSE_PLD = 'coarse_pld'
_COARSE_PLD_INTERVAL = 1e-3
_SEARCH = ('rdp', _COARSE_PLD, 'pld')
_DIGITS = 5  # Of a calibrated noise multiplier.
_CACHE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
  """What is promised, and which number is computed from the others.

  Guarantees:
    * Every bad value is refused in one line, before any compute:
      `accounting_test.py::test_bad_config_is_refused`.

  Attributes:
    epsilon: the total, an inherited ledger included; `math.inf` trains
      without privacy. None if it is computed.
    delta: of the guarantee, at most 1 / num_examples.
    noise_multiplier: std of the noise over the sensitivity of the sum, or
      None if it is computed.
    num_steps: private steps, or None if they are computed.
    expected_batch_size: records, on average, in a step.
    num_examples: records of the sensitive dataset; declared and public.
    l2_clip_norm: largest l2 norm of the gradient of one record.
    solve_for: which of SOLVABLE is computed.
    relation: of neighbouring datasets.
    allow_large_delta: accept a delta above 1 / num_examples.
    secret_dir: local folder of the secret, '' for the workdir's `private/`.
  """

  epsilon: float | None = None
  delta: float
  noise_multiplier: float | None = None
  num_steps: int | None = None
  expected_batch_size: int
  num_examples: int
  l2_clip_norm: float
  solve_for: str = 'noise_multiplier'
  relation: str = mechanism_lib.ADD_OR_REMOVE_ONE
  allow_large_delta: bool = False
  secret_dir: str = ''

  def __post_init__(self) -> None:
    """Checks every value; `solve_for` first, as the rest depends on it."""
    array_types.check_one_of('solve_for', self.solve_for, SOLVABLE)
    for name in sorted(SOLVABLE, key=lambda name: name != self.solve_for):
      self._check_given(name)
    mechanism_lib.check_relation(self.relation)
    for name in ('num_examples', 'expected_batch_size'):
      strict_json.integer(name, getattr(self, name), minimum=1)
    mechanism_lib.check_batch_size(self.expected_batch_size, self.num_examples)
    strict_json.real('l2_clip_norm', self.l2_clip_norm, positive=True)
    strict_json.boolean('allow_large_delta', self.allow_large_delta)
    self._check_delta()
    if self.epsilon is not None:
      strict_json.real('epsilon', self.epsilon, positive=True, finite=False)
    if self.noise_multiplier is not None:
      strict_json.real('noise_multiplier', self.noise_multiplier)
    if self.num_steps is not None:
      strict_json.integer('num_steps', self.num_steps, minimum=1)
    if self.solve_for == 'num_steps' and not self.is_private:
      raise ValueError(
        f'Expected epsilon={self.epsilon} to be finite and noise_multiplier='
        f"{self.noise_multiplier} to be > 0 where solve_for='num_steps'."
      )

  @property
  def is_private(self) -> bool:
    """Whether noise is added."""
    return self.epsilon != math.inf and self.noise_multiplier != 0

  def _check_given(self, name: str) -> None:
    value = getattr(self, name)
    if name == self.solve_for and value is not None:
      raise ValueError(
        f'Expected {name}={value!r} to be None, as solve_for={name!r} computes'
        ' it; remove it or change solve_for.'
      )
    if name != self.solve_for and value is None:
      raise ValueError(
        f'Expected {name}=None to be a number where solve_for='
        f'{self.solve_for!r}; set it.'
      )

  def _check_delta(self) -> None:
    strict_json.probability('delta', self.delta)
    if self.delta * self.num_examples > 1 and not self.allow_large_delta:
      raise ValueError(
        f'Expected delta={self.delta!r} to be <= 1/num_examples='
        f'{1 / self.num_examples:.3g}, above which publishing one record in'
        ' full would pass; lower it or set allow_large_delta=True.'
      )


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

  The noise multiplier is the smallest of 5 significant digits, the number of
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
  if accountant != 'rdp' and not _is_for_pld(canonical, delta):
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
  return _epsilon(canonical, delta, 'rdp') <= _PLD_MAX_EPSILON


def _compose(
  canonical: _Canonical, accountant: str
) -> dp_accounting.PrivacyAccountant:
  relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
  if accountant == 'rdp':
    orders = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
    result = rdp.RdpAccountant(orders, relation)
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
    noise = _smallest_noise(problem, steps, target, _SEARCH)
    if noise is None:
      raise ValueError(
        f'Expected epsilon={target!r} to be within reach of a noise_multiplier'
        f' <= {_MAX_NOISE:g}; raise it or lower num_steps.'
      )
  elif steps is None:
    assert target is not None
    steps = _most_steps(problem, noise, target)
  epsilon_pld = problem.total(noise, steps, 'pld')
  if target is None:
    target = epsilon_pld
  return Calibration(
    mechanism=problem.mechanism(noise, steps),
    epsilon_pld=epsilon_pld,
    epsilon_rdp=problem.total(noise, steps, 'rdp'),
    noise_multiplier_rdp=_smallest_noise(problem, steps, target, ('rdp',))
    if 0 < target < math.inf
    else None,
  )


def _check_budget(problem: _Problem, target: float) -> None:
  spent = _epsilon(problem.spent, problem.config.delta, 'pld')
  if spent >= target:
    raise ValueError(
      f'Expected epsilon={target!r} to be above the {spent:.6g} that was spent'
      ' before; raise it.'
    )


def _smallest_noise(
  problem: _Problem, steps: int, target: float, accountants: Sequence[str]
) -> float | None:
  """Smallest noise multiplier of _DIGITS digits that keeps the promise.

  Args:
    problem: what is spent.
    steps: number of steps.
    target: promised epsilon.
    accountants: the last one decides; each says where the next one looks.

  Returns:
    The noise multiplier, or None if none up to _MAX_NOISE suffices.
  """
  near, found = 1.0, None
  for accountant in accountants:

    def excess(noise: float, accountant: str = accountant) -> float:
      return problem.excess(noise, steps, target, accountant)

    if found is None:  # No earlier accountant has said where.
      near = _decade(excess)
    found = _first_noise(excess, near)
    near = found or near
  return found


def _decade(excess: Callable[[float], float]) -> float:
  """A power of 2 near the noise multiplier where `excess` turns negative."""
  noise = 1.0
  while noise < _MAX_NOISE and excess(noise) > 0:
    noise *= 2
  while noise > _MIN_NOISE and excess(noise) <= 0:
    noise /= 2
  return noise


def _first_noise(excess: Callable[[float], float], near: float) -> float | None:
  """Smallest noise multiplier of _DIGITS digits without excess, or None."""
  exponent = math.floor(math.log10(near)) - _DIGITS + 1

  def from_units(units: int) -> float:  # A unit is one of the last digit.
    return float(f'{units}e{exponent}')

  def in_units(units: int) -> float:
    return excess(from_units(units))

  low = high = math.ceil(near / 10.0**exponent)
  at_near = in_units(high)
  stride = max(2, round(high * min(abs(at_near), 0.5)))
  while in_units(high) > 0:
    low, high, stride = high, high + stride, 2 * stride
    if from_units(high) > 2 * _MAX_NOISE:
      return None
  while low == high or in_units(low) <= 0:
    if low <= 1:
      return from_units(high)
    low, high, stride = max(1, low - stride), low, 2 * stride
  return from_units(_crossing(in_units, low, high)[1])


def _most_steps(problem: _Problem, noise: float, target: float) -> int:
  """Largest number of steps that keeps the promise; ValueError if none."""
  found = 0
  for accountant in _SEARCH:

    def excess(steps: int, accountant: str = accountant) -> float:
      if steps < 1:
        return -1.0  # Costs nothing beyond what was spent.
      return problem.excess(noise, steps, target, accountant)

    low = high = max(1, found)
    stride = max(1, found // 8)
    while excess(low) > 0:
      low, high, stride = max(0, low - stride), low, 2 * stride
    while low == high or excess(high) <= 0:
      low, high, stride = high, high + stride, 2 * stride
      if high > 2 * _MAX_STEPS:
        raise ValueError(
          f'Expected noise_multiplier={noise!r} to be lower: more than'
          f' {_MAX_STEPS} steps keep within epsilon={target!r}.'
        )
    found, _ = _crossing(excess, low, high)
  if found == 0:
    raise ValueError(
      f'Expected epsilon={target!r} to pay for one step at noise_multiplier='
      f'{noise!r}; raise either.'
    )
  return found


def _crossing(
  fn: Callable[[int], float], low: int, high: int
) -> tuple[int, int]:
  """Neighbours a, a + 1 between which a monotone function changes sign.

  Illinois' variant of false position, on integers; bisection if that is slow.

  >>> _crossing(lambda n: n**2 - 50, 0, 100)
  (7, 8)

  Args:
    fn: its values at low and high differ in `> 0`.
    low: integer.
    high: integer above low.
  """
  at_low, at_high = fn(low), fn(high)
  is_low_positive = at_low > 0
  assert low < high and is_low_positive != (at_high > 0)
  weight_low, weight_high = at_low, at_high
  for trial in range(200):
    if high - low == 1:
      break
    middle = (low + high) // 2
    if trial < 12 and weight_low != weight_high:
      share = weight_low / (weight_low - weight_high)
      middle = low + round((high - low) * share)
      middle = min(max(middle, low + 1), high - 1)
    value = fn(middle)
    if (value > 0) == is_low_positive:
      low, weight_low, weight_high = middle, value, weight_high / 2
    else:
      high, weight_high, weight_low = middle, value, weight_low / 2
  return low, high


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
