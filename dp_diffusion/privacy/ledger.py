"""The ledger of all events that were spent on the sensitive images.

A ledger is saved with the weights in one atomic step, grows with every private
step, refuses to exceed its budget, and becomes part of the published statement.
It is immutable: each method returns a new ledger.

Deviation: the run id is not part of it, since the id depends on the secret and
on the dataset, and the ledger is published.
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
from dp_diffusion.privacy import banded_sgd
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import strict_json

VERSION = 1
UNITS = ('image', 'person')
GAUSSIAN_KINDS = ('gaussian', 'noised_histogram')
# Tolerance for an epsilon from another machine, which may differ in last bits.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpSgdEntry(entries_lib.TrainingEntry):
  """One DP-SGD training."""

  mechanism_type = mechanism_lib.DpSgdMechanism

  def summary(self) -> str:
    """Returns steps, noise and selection in one line."""
    m = self.mechanism
    return (
      f'DP-SGD, {self.num_steps} of {m.num_steps} steps'
      f' ({self.num_replayed_steps} replayed), noise multiplier'
      f' {m.noise_multiplier:g}, sampling probability {m.sampling_prob:.6g}'
    )

  def describe(self) -> list[str]:
    """Describes the steps, for the card."""
    m = self.mechanism
    text = (
      f'DP-SGD: {self.num_steps} steps; at each, every one of {m.num_examples}'
      f' records was selected with probability {m.sampling_prob:.6g}'
      f' ({m.expected_batch_size} expected), its gradient clipped to norm'
      f' {m.l2_clip_norm:g}, and Gaussian noise of {m.noise_multiplier:g} times'
      ' the clip norm added to the sum.'
    )
    if self.num_replayed_steps:
      text += f' {self.num_replayed_steps} lost steps are charged besides.'
    return [text]

  def training_assumptions(self) -> tuple[entries_lib.Assumption, ...]:
    """Returns assumptions on selection, clip and noise."""
    return statement_words.OF_DP_SGD


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianEntry(entries_lib.Entry):
  """A noised statistic of the sensitive records, spent when it is entered.

  Attributes:
    mechanism: the statistic and its noise.
    kind: 'noised_histogram' (of labels), or 'gaussian' for other statistics.
  """

  mechanism: mechanism_lib.GaussianMechanism
  kind: str = 'gaussian'

  def __post_init__(self) -> None:
    """Checks every value."""
    entries_lib.check_type(
      'mechanism', self.mechanism, mechanism_lib.GaussianMechanism
    )
    checks.check_one_of('kind', self.kind, GAUSSIAN_KINDS)

  @property
  def noise_multiplier(self) -> float:
    """Std of the noise divided by the sensitivity of the statistic."""
    return self.mechanism.noise_multiplier

  @property
  def noise_std(self) -> float:
    """Std of the noise, in the unit of the statistic."""
    return self.mechanism.noise_std

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Returns its event; it has no steps."""
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

  def summary(self) -> str:
    """Returns the name of the statistic and the noise, in one line."""
    m = self.mechanism
    times = f' ({m.count} times)' if m.count > 1 else ''
    return f'{m.purpose}{times}, noise multiplier {m.noise_multiplier:g}'

  def describe(self) -> list[str]:
    """Describes the statistic and its noise, for the card."""
    m = self.mechanism
    return [
      f'{m.purpose} ({self.kind}), {m.count} time(s), with Gaussian noise of'
      f' std {m.noise_std:g} (noise multiplier {m.noise_multiplier:g},'
      f' sensitivity {m.l2_sensitivity:g}).'
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InheritedEntry(entries_lib.Entry):
  """Everything that a release had spent before it was fine-tuned further.

  Attributes:
    ledger: ledger of that release.
    source: name of the release, one line for the statement.
  """

  kind: ClassVar[str] = 'inherited'
  ledger: Ledger
  source: str

  def __post_init__(self) -> None:
    """Checks every value."""
    entries_lib.check_type('ledger', self.ledger, Ledger)
    if not strict_json.line('source', self.source):
      raise ValueError('Expected source to say which release it is.')

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Returns the events of the release, to which none are added."""
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

  def summary(self) -> str:
    """Returns the name of the release, in one line."""
    return f'inherited: {self.source}'

  def describe(self) -> list[str]:
    """Describes the events of the release, for the card."""
    below = [
      f'  {line}' for entry in self.ledger.entries for line in entry.describe()
    ]
    return [f'Inherited from {self.source}:', *(below or ['  Nothing.'])]

  def training_assumptions(self) -> tuple[entries_lib.Assumption, ...]:
    """Returns the assumptions on the trainings of the release."""
    return self.ledger.training_assumptions()

  def declared_counts(self) -> tuple[int, ...]:
    """Returns the declared numbers of records of the release's trainings."""
    return self.ledger.declared_counts()

  def check_fits(self, delta: float, unit: str) -> None:
    """Raises ValueError unless the release protects the same unit."""
    del delta
    if self.ledger.unit != unit:
      raise ValueError(
        f'Expected unit={unit!r} to be that of the inherited ledger,'
        f' {self.ledger.unit!r}.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
  """All events in order, and their common budget.

  >>> mechanism = mechanism_lib.DpSgdMechanism(
  ...   num_examples=100,
  ...   expected_batch_size=10,
  ...   num_steps=2,
  ...   noise_multiplier=3.0,
  ...   l2_clip_norm=0.5,
  ...   delta=1e-3,
  ... )
  >>> ledger = Ledger(delta=1e-3, budget_epsilon=4.0)
  >>> ledger = ledger.add(begin(mechanism)).with_steps(2)
  >>> 0 < ledger.epsilon() < 4.0
  True

  Guarantees:
    * The calibrated event is the event that is spent, to the bit:
      `ledger_test.py::test_event_calibrated_is_event_spent`.
    * Spending more than the budget is refused:
      `ledger_test.py::test_spending_past_the_budget_is_refused`.
    * Every kind of event counts, an inherited ledger included:
      `ledger_test.py::test_every_kind_of_event_counts`,
      `ledger_test.py::test_everything_that_a_release_had_spent_counts`.
    * Steps that are run again are charged again:
      `ledger_test.py::test_replayed_steps_are_charged`.
    * A released training cannot continue:
      `ledger_test.py::test_sealed_training_goes_no_further`.
    * A ledger is read back unchanged, or refused:
      `ledger_test.py::test_round_trip`,
      `ledger_test.py::test_damaged_ledger_is_refused`.

  Attributes:
    delta: delta of the guarantee.
    budget_epsilon: largest total epsilon; infinity for no limit.
    unit: what one record is, 'image' or 'person'.
    relation: relation of neighbouring datasets.
    entries: entries in the order in which they were begun.
  """

  delta: float
  budget_epsilon: float = math.inf
  unit: str = 'image'
  relation: str = mechanism_lib.ADD_OR_REMOVE_ONE
  entries: tuple[entries_lib.Entry, ...] = ()

  def __post_init__(self) -> None:
    """Checks every value, and that all entries have the same guarantee."""
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
      if type(entry) not in KINDS.values():
        raise ValueError(
          f'Expected an entry of a ledger, not {type(entry).__name__}.'
        )
      entry.check_fits(self.delta, self.unit)

  def add(self, entry: entries_lib.Entry) -> Ledger:
    """Returns the ledger with one more entry.

    Raises:
      UsageError: the entry would exceed the budget.
    """
    result = dataclasses.replace(self, entries=(*self.entries, entry))
    if result.would_exceed(0):
      raise errors.UsageError(_over_budget(result, 0, 'this event'))
    return result

  def with_steps(self, num_steps: int) -> Ledger:
    """Returns the ledger with that many MORE steps of the current training.

    Raises:
      UsageError: the steps would exceed the budget, or the training was
        released.
      ValueError: there is no training, or its mechanism has fewer steps.
    """
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    last = self._last()
    self.check_can_spend(num_steps)
    return self._with_last(last.with_steps(num_steps))

  def charge_replayed(self, num_steps: int) -> Ledger:
    """Returns the ledger with more replayed steps.

    They are spent already, so they are never refused; later steps may be.
    """
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    return self._with_last(self._last().with_replayed(num_steps))

  def seal(self) -> Ledger:
    """Returns the ledger with its training released, after which it ends."""
    return self._with_last(self._last().seal())

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Returns all events, with some more steps of the current training."""
    last = len(self.entries) - 1
    return tuple(
      event
      for i, entry in enumerate(self.entries)
      for event in entry.dp_events(num_more_steps if i == last else 0)
    )

  def epsilon(self, accountant: str = accounting.SMALLER) -> float:
    """Returns epsilon of all events; infinity if an event has no noise."""
    return accounting.epsilon(self.dp_events(), self.delta, accountant)

  def would_exceed(self, num_more_steps: int) -> bool:
    """Whether some more steps would exceed the budget."""
    num_planned = self.entries[-1].num_planned_steps if self.entries else 0
    # If all planned steps fit, fewer do, so one epsilon serves every step.
    if num_more_steps < num_planned and not self._exceeds(num_planned):
      return False
    return self._exceeds(num_more_steps)

  def check_can_spend(self, num_more_steps: int) -> None:
    """Raises UsageError if some more steps would exceed the budget."""
    if self.entries and self.entries[-1].is_sealed:
      raise errors.UsageError(
        'Expected a training that is not released yet: its ledger is sealed;'
        ' start a new workdir, or fine-tune the release.'
      )
    if num_more_steps and self.would_exceed(num_more_steps):
      what = f'{num_more_steps} more steps'
      raise errors.UsageError(_over_budget(self, num_more_steps, what))

  def training_assumptions(self) -> tuple[entries_lib.Assumption, ...]:
    """Returns the assumptions on the trainings; () if there are none."""
    return entries_lib.merge(
      [entry.training_assumptions() for entry in self.entries]
    )

  def declared_counts(self) -> tuple[int, ...]:
    """Returns the declared number of records of each training."""
    return tuple(n for entry in self.entries for n in entry.declared_counts())

  def summary(self) -> tuple[str, ...]:
    """Returns lines for the terminal on what is spent and what is left."""
    spent = self.epsilon()
    lines = [
      f'spent               epsilon {rounding.up(self.epsilon("pld"), 6)} by'
      f' PLD, {rounding.up(self.epsilon("rdp"), 6)} by RDP, at delta'
      f' {rounding.up(self.delta, 6)}'
    ]
    if math.isfinite(self.budget_epsilon):
      left = max(0.0, self.budget_epsilon - spent)
      lines.append(
        f'left                epsilon {rounding.down(left, 6)} of'
        f' {self.budget_epsilon:g}'
      )
    lines += [f'event               {e.summary()}' for e in self.entries]
    return tuple(lines)

  def to_json(self) -> dict[str, Any]:
    """Returns a JSON object without NaN and infinity; None means no limit."""
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

  def _last(self) -> entries_lib.Entry:
    """Returns the last entry, the only one that may have more steps."""
    if not self.entries:
      raise entries_lib.no_training()
    return self.entries[-1]

  def _with_last(self, entry: entries_lib.Entry) -> Ledger:
    return dataclasses.replace(self, entries=(*self.entries[:-1], entry))

  def _exceeds(self, num_more_steps: int) -> bool:
    if math.isinf(self.budget_epsilon):
      return False
    events = self.dp_events(num_more_steps)
    total = accounting.epsilon(events, self.delta)
    return total > self.budget_epsilon * (1 + _ROUNDING)


def start(
  mechanism: mechanism_lib.TrainingMechanism,
  config: accounting.PrivacyConfig,
  *,
  unit: str = 'image',
  before: Sequence[entries_lib.Entry] = (),
) -> Ledger:
  """Returns the ledger before the first step of a training.

  Args:
    mechanism: the mechanism, calibrated from `config` with `before` as spent.
    config: gives the budget, its epsilon. If epsilon is computed, the budget is
      what the whole mechanism spends.
    unit: 'image' or 'person'.
    before: entries that were spent earlier.

  Returns:
    A ledger with zero steps of the mechanism.

  Raises:
    UsageError: `before` alone exceeds the budget.
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
  for entry in (*before, begin(mechanism)):
    ledger = ledger.add(entry)
  return ledger


def _over_budget(ledger: Ledger, num_more_steps: int, what: str) -> str:
  events = ledger.dp_events(num_more_steps)
  total = accounting.epsilon(events, ledger.delta)
  return (
    f'Expected {what} to keep within epsilon={ledger.budget_epsilon:g}: the'
    f' total would be {rounding.up(total, 6)}; spend less, or promise a larger'
    ' epsilon in a new workdir.'
  )


def begin(
  mechanism: mechanism_lib.TrainingMechanism,
) -> entries_lib.Entry:
  """Returns the entry of a training before its first step."""
  return _TRAININGS[mechanism.kind](mechanism=mechanism)


def _entry_from_json(value: Any) -> entries_lib.Entry:
  kind = value.get('kind') if isinstance(value, dict) else None
  if not isinstance(kind, str) or kind not in KINDS:
    raise ValueError(
      f'Expected an event to have a kind, one of {tuple(KINDS)}.'
    )
  return KINDS[kind].from_json(value)


# The table of all kinds; kinds of training are in the first part.
_TRAININGS: Mapping[str, type[entries_lib.TrainingEntry]] = {
  entry.mechanism_type.kind: entry
  for entry in (DpSgdEntry, banded_sgd.BandedSgdEntry)
}
KINDS: Mapping[str, type[entries_lib.Entry]] = {
  **_TRAININGS,
  InheritedEntry.kind: InheritedEntry,
  **dict.fromkeys(GAUSSIAN_KINDS, GaussianEntry),
}
