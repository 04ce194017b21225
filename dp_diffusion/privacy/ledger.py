"""What has been spent on the sensitive images, event by event.

A ledger is kept beside the weights: it is saved in the same atomic step, grows
with every private step, refuses to go past its budget, and ends in the
published statement. It never changes; each method returns a new one.

Deviation: the run id is not part of it. It is derived from the secret and from
the dataset, and what a ledger holds is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, ClassVar

import dp_accounting

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import strict_json

VERSION = 1
UNITS = ('image', 'person')
GAUSSIAN_KINDS = ('gaussian', 'noised_histogram')
# An epsilon that was computed on another machine may differ in its last bits.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpSgdEntry:
  """One DP-SGD training.

  Attributes:
    mechanism: with the steps that are planned.
    num_steps: steps that the weights have seen.
    num_replayed_steps: steps that were begun, lost, and run again with other
      randomness. They are charged too.
    is_sealed: weights of it have been released; it goes no further.
  """

  kind: ClassVar[str] = 'dp_sgd'
  mechanism: mechanism_lib.DpSgdMechanism
  num_steps: int = 0
  num_replayed_steps: int = 0
  is_sealed: bool = False

  def __post_init__(self) -> None:
    """Checks every value."""
    _check_type('mechanism', self.mechanism, mechanism_lib.DpSgdMechanism)
    for name in ('num_steps', 'num_replayed_steps'):
      value = strict_json.integer(name, getattr(self, name), minimum=0)
      object.__setattr__(self, name, value)
    if self.num_steps > self.mechanism.num_steps:
      raise ValueError(
        f'Expected num_steps={self.num_steps} to be <= the'
        f' {self.mechanism.num_steps} steps of the mechanism.'
      )
    strict_json.boolean('is_sealed', self.is_sealed)

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Events of the steps done, of the replayed ones, and of some more."""
    total = self.num_steps + self.num_replayed_steps + num_more_steps
    return (self.mechanism.dp_event(total),) if total else ()

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    return {'kind': self.kind, **dataclasses.asdict(self)}

  @classmethod
  def from_json(cls, value: Any) -> DpSgdEntry:
    """Reads `to_json` back."""
    names = ('kind', *(field.name for field in dataclasses.fields(cls)))
    found = dict(strict_json.fields('a dp_sgd event', value, names))
    del found['kind']
    mechanism = mechanism_lib.DpSgdMechanism.from_dict(found.pop('mechanism'))
    return cls(mechanism=mechanism, **found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianEntry:
  """A noised statistic of the sensitive records; spent when it is entered.

  Attributes:
    mechanism: how much noise, on what.
    kind: 'noised_histogram' (of labels), or 'gaussian' for any other.
  """

  mechanism: mechanism_lib.GaussianMechanism
  kind: str = 'gaussian'

  def __post_init__(self) -> None:
    """Checks every value."""
    _check_type('mechanism', self.mechanism, mechanism_lib.GaussianMechanism)
    checks.check_one_of('kind', self.kind, GAUSSIAN_KINDS)

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Its event; it has no steps."""
    del num_more_steps
    return (self.mechanism.dp_event(),)

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    return {'kind': self.kind, 'mechanism': self.mechanism.to_dict()}

  @classmethod
  def from_json(cls, value: Any) -> GaussianEntry:
    """Reads `to_json` back."""
    found = strict_json.fields('an event', value, ('kind', 'mechanism'))
    mechanism = mechanism_lib.GaussianMechanism.from_dict(found['mechanism'])
    return cls(kind=found['kind'], mechanism=mechanism)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InheritedEntry:
  """All that a release had spent before it was fine-tuned further.

  Attributes:
    ledger: of that release.
    source: which release, one line for the statement.
  """

  kind: ClassVar[str] = 'inherited'
  ledger: Ledger
  source: str

  def __post_init__(self) -> None:
    """Checks every value."""
    _check_type('ledger', self.ledger, Ledger)
    if not strict_json.line('source', self.source):
      raise ValueError('Expected source to say which release it is.')

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Every event of the release; it goes no further."""
    del num_more_steps
    return self.ledger.dp_events()

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    return {
      'kind': self.kind,
      'source': self.source,
      'ledger': self.ledger.to_json(),
    }

  @classmethod
  def from_json(cls, value: Any) -> InheritedEntry:
    """Reads `to_json` back."""
    names = ('kind', 'source', 'ledger')
    found = strict_json.fields('an inherited event', value, names)
    ledger = Ledger.from_json(found['ledger'])
    return cls(ledger=ledger, source=found['source'])


Entry = DpSgdEntry | GaussianEntry | InheritedEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
  """Every event in order, and the budget they share.

  Guarantees:
    * The event that was calibrated is the event that is spent, to the bit:
      `ledger_test.py::test_event_calibrated_is_event_spent`.
    * Spending past the budget is refused:
      `ledger_test.py::test_spending_past_the_budget_is_refused`.
    * Every kind of event counts, an inherited ledger included:
      `ledger_test.py::test_every_kind_of_event_counts`.
    * Steps that are run again are charged again:
      `ledger_test.py::test_replayed_steps_are_charged`.
    * A released training goes no further:
      `ledger_test.py::test_sealed_training_goes_no_further`.
    * It is read back as it was, or not at all:
      `ledger_test.py::test_round_trip`,
      `ledger_test.py::test_damaged_ledger_is_refused`.

  Attributes:
    delta: of the guarantee.
    budget_epsilon: what the total may reach; infinite for no limit.
    unit: what one record is.
    relation: of neighbouring datasets.
    entries: in the order in which they were begun.
  """

  delta: float
  budget_epsilon: float = math.inf
  unit: str = 'image'
  relation: str = mechanism_lib.ADD_OR_REMOVE_ONE
  entries: tuple[Entry, ...] = ()

  def __post_init__(self) -> None:
    """Checks every value, and that the entries speak of the same guarantee."""
    delta = strict_json.probability('delta', self.delta)
    budget = strict_json.real(
      'budget_epsilon', self.budget_epsilon, positive=True, finite=False
    )
    object.__setattr__(self, 'delta', delta)
    object.__setattr__(self, 'budget_epsilon', budget)
    object.__setattr__(self, 'entries', tuple(self.entries))
    checks.check_one_of('unit', self.unit, UNITS)
    mechanism_lib.check_relation(self.relation)
    for entry in self.entries:
      self._check_entry(entry)

  def add(self, entry: Entry) -> Ledger:
    """Returns the ledger with one more entry.

    Raises:
      UsageError: what it spends is more than what is left.
    """
    result = dataclasses.replace(self, entries=(*self.entries, entry))
    if result.would_exceed(0):
      raise errors.UsageError(_over_budget(result, 0, 'this event'))
    return result

  def with_steps(self, num_steps: int) -> Ledger:
    """Returns the ledger after that many MORE steps of the current training.

    Raises:
      UsageError: they would spend more than what is left, or the training
        has been sealed.
      ValueError: there is no training, or its mechanism has fewer steps.
    """
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    current = self._current()
    self.check_can_spend(num_steps)
    return self._with_current(
      dataclasses.replace(current, num_steps=current.num_steps + num_steps)
    )

  def charge_replayed(self, num_steps: int) -> Ledger:
    """Returns the ledger with steps that are lost, and run again differently.

    They are spent already, so this never refuses; later steps may be.
    """
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    current = self._current()
    total = current.num_replayed_steps + num_steps
    return self._with_current(
      dataclasses.replace(current, num_replayed_steps=total)
    )

  def seal(self) -> Ledger:
    """Returns the ledger of a training whose weights leave: it ends here."""
    return self._with_current(
      dataclasses.replace(self._current(), is_sealed=True)
    )

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Every event so far, and of some more steps of the current training."""
    last = len(self.entries) - 1
    return tuple(
      event
      for i, entry in enumerate(self.entries)
      for event in entry.dp_events(num_more_steps if i == last else 0)
    )

  def epsilon(self, accountant: str = accounting.SMALLER) -> float:
    """Epsilon of all that is spent; infinite where an event has no noise."""
    return accounting.epsilon(self.dp_events(), self.delta, accountant)

  def would_exceed(self, num_more_steps: int) -> bool:
    """Whether some more steps would spend more than the budget."""
    num_planned = self._num_planned_steps()
    # If all that is planned fits, so does less: one epsilon for all steps.
    if num_more_steps < num_planned and not self._exceeds(num_planned):
      return False
    return self._exceeds(num_more_steps)

  def check_can_spend(self, num_more_steps: int) -> None:
    """Raises UsageError if some more steps would break the promise."""
    if self.entries and getattr(self.entries[-1], 'is_sealed', False):
      raise errors.UsageError(
        'Expected a training that is not released yet: its ledger is sealed;'
        ' start a new workdir, or fine-tune the release.'
      )
    if num_more_steps and self.would_exceed(num_more_steps):
      what = f'{num_more_steps} more steps'
      raise errors.UsageError(_over_budget(self, num_more_steps, what))

  def summary(self) -> tuple[str, ...]:
    """Lines for a person: what is spent, and what is left."""
    spent = self.epsilon()
    lines = [
      f'spent               epsilon {self.epsilon("pld"):.6g} by PLD,'
      f' {self.epsilon("rdp"):.6g} by RDP, at delta {self.delta:g}'
    ]
    if math.isfinite(self.budget_epsilon):
      left = max(0.0, self.budget_epsilon - spent)
      lines.append(
        f'left                epsilon {left:.6g} of {self.budget_epsilon:g}'
      )
    lines += [f'event               {_describe(e)}' for e in self.entries]
    return tuple(lines)

  def to_json(self) -> dict[str, Any]:
    """Returns a JSON object: no NaN, no infinity (None says there is none)."""
    budget = self.budget_epsilon
    return {
      'version': VERSION,
      'relation': self.relation,
      'unit': self.unit,
      'delta': self.delta,
      'budget_epsilon': budget if math.isfinite(budget) else None,
      'events': [entry.to_json() for entry in self.entries],
    }

  @classmethod
  def from_json(cls, value: Mapping[str, Any] | str | bytes) -> Ledger:
    """Reads `to_json` back.

    Args:
      value: the object, or its text.

    Raises:
      ValueError: anything is missing, unknown, or out of range; one line.
    """
    if isinstance(value, (str, bytes)):
      value = strict_json.loads(value)
    names = ('version', 'relation', 'unit', 'delta', 'budget_epsilon', 'events')
    found = strict_json.fields('the ledger', value, names)
    if found['version'] != VERSION or isinstance(found['version'], bool):
      raise ValueError(
        f'Expected the ledger to have version {VERSION}, not'
        f' {str(found["version"])[:40]!r}.'
      )
    budget = found['budget_epsilon']
    try:
      entries = tuple(
        _entry_from_json(entry)
        for entry in strict_json.items('events', found['events'])
      )
    except RecursionError as e:
      raise ValueError('Expected ledgers less deeply nested.') from e
    return cls(
      delta=found['delta'],
      budget_epsilon=math.inf if budget is None else budget,
      unit=strict_json.line('unit', found['unit']),
      relation=found['relation'],
      entries=entries,
    )

  def _check_entry(self, entry: Entry) -> None:
    if not isinstance(entry, Entry):
      raise ValueError(
        f'Expected an entry of a ledger, not {type(entry).__name__}.'
      )
    if isinstance(entry, DpSgdEntry) and entry.mechanism.delta != self.delta:
      raise ValueError(
        f'Expected delta={entry.mechanism.delta!r} of the mechanism to be that'
        f' of its ledger, {self.delta!r}.'
      )
    if isinstance(entry, InheritedEntry) and entry.ledger.unit != self.unit:
      raise ValueError(
        f'Expected unit={self.unit!r} to be that of the inherited ledger,'
        f' {entry.ledger.unit!r}.'
      )

  def _current(self) -> DpSgdEntry:
    """The training that goes on."""
    last = self.entries[-1] if self.entries else None
    if not isinstance(last, DpSgdEntry):
      raise ValueError('Expected a ledger whose last entry is a DpSgdEntry.')
    return last

  def _with_current(self, entry: DpSgdEntry) -> Ledger:
    return dataclasses.replace(self, entries=(*self.entries[:-1], entry))

  def _num_planned_steps(self) -> int:
    last = self.entries[-1] if self.entries else None
    if not isinstance(last, DpSgdEntry):
      return 0
    return last.mechanism.num_steps - last.num_steps

  def _exceeds(self, num_more_steps: int) -> bool:
    if math.isinf(self.budget_epsilon):
      return False
    events = self.dp_events(num_more_steps)
    total = accounting.epsilon(events, self.delta)
    return total > self.budget_epsilon * (1 + _ROUNDING)


def start(
  mechanism: mechanism_lib.DpSgdMechanism,
  config: accounting.PrivacyConfig,
  *,
  unit: str = 'image',
  before: Sequence[Entry] = (),
) -> Ledger:
  """The ledger before the first step.

  Args:
    mechanism: as calibrated from `config`, with `before` as what was spent.
    config: its epsilon is the budget; where it is computed, the budget is
      what the whole mechanism spends.
    unit: 'image' or 'person'.
    before: entries that were spent earlier.

  Returns:
    A ledger with zero steps of the mechanism.

  Raises:
    UsageError: `before` alone is above the budget.
  """
  budget = config.epsilon
  if budget is None:
    events = [event for entry in before for event in entry.dp_events()]
    events.append(mechanism.dp_event())
    budget = accounting.epsilon(events, config.delta)
  ledger = Ledger(
    delta=config.delta,
    budget_epsilon=budget,
    unit=unit,
    relation=config.relation,
  )
  for entry in (*before, DpSgdEntry(mechanism=mechanism)):
    ledger = ledger.add(entry)
  return ledger


def _over_budget(ledger: Ledger, num_more_steps: int, what: str) -> str:
  events = ledger.dp_events(num_more_steps)
  total = accounting.epsilon(events, ledger.delta)
  return (
    f'Expected {what} to keep within epsilon={ledger.budget_epsilon:g}: the'
    f' total would be {total:.6g}; spend less, or promise a larger epsilon in'
    ' a new workdir.'
  )


def _entry_from_json(value: Any) -> Entry:
  kind = value.get('kind') if isinstance(value, dict) else None
  if kind == DpSgdEntry.kind:
    return DpSgdEntry.from_json(value)
  if kind == InheritedEntry.kind:
    return InheritedEntry.from_json(value)
  kinds = (DpSgdEntry.kind, InheritedEntry.kind, *GAUSSIAN_KINDS)
  if kind not in kinds:
    raise ValueError(f'Expected an event to have a kind, one of {kinds}.')
  return GaussianEntry.from_json(value)


def _describe(entry: Entry) -> str:
  if isinstance(entry, DpSgdEntry):
    m = entry.mechanism
    return (
      f'DP-SGD, {entry.num_steps} of {m.num_steps} steps'
      f' ({entry.num_replayed_steps} replayed), noise multiplier'
      f' {m.noise_multiplier:g}, sampling probability {m.sampling_prob:.6g}'
    )
  if isinstance(entry, GaussianEntry):
    return (
      f'{entry.mechanism.purpose}, noise multiplier'
      f' {entry.mechanism.noise_multiplier:g}'
    )
  return f'inherited: {entry.source}'


def _check_type(name: str, value: Any, wanted: type) -> None:
  """Raises ValueError unless a value is of the type wanted."""
  if not isinstance(value, wanted):
    raise ValueError(
      f'Expected {name} to be a {wanted.__name__}, not {type(value).__name__}.'
    )
