"""The interface of ledger entries.

A kind of entry defines its events for the accountant, its stored form, and its
texts for statement and card. `ledger.KINDS` is the table of all kinds; no other
code asks for the kind of an entry. A kind of training also has a mechanism
(`mechanism.TrainingMechanism`), which gives sampler, clip and noise their
numbers.

Guarantees:
  * No module asks for the kind of an entry, and a kind of training is named by
    three modules.
    `kinds_test.py::test_no_module_asks_for_the_kind_of_an_entry`,
    `kinds_test.py::test_a_kind_of_training_touches_three_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar, Self

import dp_accounting

from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import strict_json

# An assumption of the accounting, and whether it holds.
Assumption = tuple[str, str]


class Entry:
  """One entry of a ledger. The defaults are those of an entry without steps."""

  @property
  def noise_multiplier(self) -> float | None:
    """Std of the noise divided by the sensitivity; None if there are more."""
    return None

  @property
  def noise_std(self) -> float:
    """Std of the noise on a statistic, in the unit of the statistic.

    Raises:
      ValueError: the entry is not a noised statistic.
    """
    raise ValueError(
      f'Expected an entry of a noised statistic, not {type(self).__name__}.'
    )

  @property
  def num_planned_steps(self) -> int:
    """Number of steps of a training that are still to come."""
    return 0

  @property
  def num_replayed_steps(self) -> int:
    """Number of steps of a training that were lost and run again."""
    return 0

  @property
  def is_sealed(self) -> bool:
    """Whether weights of the training were released, which ends it."""
    return False

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Returns the events for the accountants.

    Args:
      num_more_steps: number of steps to add to those already taken; only a
        training has steps.
    """
    raise NotImplementedError

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    raise NotImplementedError

  @classmethod
  def from_json(cls, value: Any) -> Self:
    """Reads `to_json` back.

    Raises:
      ValueError: anything is missing, unknown, or out of range; one line.
    """
    raise NotImplementedError

  def summary(self) -> str:
    """Returns one line for the user who runs the training."""
    raise NotImplementedError

  def describe(self) -> list[str]:
    """Returns lines for the card, indented by two spaces for each level."""
    raise NotImplementedError

  def training_assumptions(self) -> tuple[Assumption, ...]:
    """Returns the assumptions on its trainings; () if it has none."""
    return ()

  def declared_counts(self) -> tuple[int, ...]:
    """Returns the declared number of records of each of its trainings."""
    return ()

  def check_fits(self, delta: float, unit: str) -> None:
    """Raises ValueError unless a ledger with these values may hold it."""
    del delta, unit

  def with_steps(self, num_steps: int) -> Self:
    """Returns it with that many MORE steps; ValueError if it has no steps."""
    raise no_training()

  def with_replayed(self, num_steps: int) -> Self:
    """Returns it with that many more replayed steps."""
    raise no_training()

  def seal(self) -> Self:
    """Returns it as released, after which no step may follow."""
    raise no_training()


def no_training() -> ValueError:
  """Returns the error for steps on an entry that has none."""
  return ValueError('Expected a ledger whose last entry is a DpSgdEntry.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingEntry(Entry):
  """An entry for a training by steps.

  Attributes:
    mechanism: the mechanism, with the planned number of steps.
    num_steps: number of steps in the weights.
    num_replayed_steps: number of steps that were begun, lost, and run again
      with other randomness. They are charged too.
    is_sealed: whether weights of the training were released, which ends it.
  """

  mechanism_type: ClassVar[type[mechanism_lib.TrainingMechanism]]
  mechanism: mechanism_lib.TrainingMechanism
  num_steps: int = 0
  num_replayed_steps: int = 0
  is_sealed: bool = False

  def __post_init__(self) -> None:
    """Checks every value."""
    check_type('mechanism', self.mechanism, self.mechanism_type)
    for name in ('num_steps', 'num_replayed_steps'):
      value = strict_json.integer(name, getattr(self, name), minimum=0)
      object.__setattr__(self, name, value)
    if self.num_steps > self.mechanism.num_steps:
      raise ValueError(
        f'Expected num_steps={self.num_steps} to be <= the'
        f' {self.mechanism.num_steps} steps of the mechanism.'
      )
    strict_json.boolean('is_sealed', self.is_sealed)

  @property
  def noise_multiplier(self) -> float:
    """Std of the noise divided by the sensitivity of the sum."""
    return self.mechanism.noise_multiplier

  @property
  def num_planned_steps(self) -> int:
    """Number of steps of the mechanism that are still to come."""
    return self.mechanism.num_steps - self.num_steps

  def dp_events(
    self, num_more_steps: int = 0
  ) -> tuple[dp_accounting.DpEvent, ...]:
    """Returns the events of all steps: done, replayed, and some more."""
    num_steps = self.num_steps + num_more_steps
    if not num_steps + self.num_replayed_steps:
      return ()
    return (self.mechanism.dp_event(num_steps, self.num_replayed_steps),)

  def to_json(self) -> dict[str, Any]:
    """Returns what `from_json` reads."""
    return {'kind': self.mechanism_type.kind, **dataclasses.asdict(self)}

  @classmethod
  def from_json(cls, value: Any) -> Self:
    """Reads `to_json` back."""
    kind = cls.mechanism_type.kind
    names = ('kind', *(field.name for field in dataclasses.fields(cls)))
    found = dict(strict_json.fields(f'a {kind} event', value, names))
    del found['kind']
    mechanism = cls.mechanism_type.from_dict(found.pop('mechanism'))
    return cls(mechanism=mechanism, **found)

  def declared_counts(self) -> tuple[int, ...]:
    """Returns the declared number of records of the mechanism."""
    return (self.mechanism.num_examples,)

  def check_fits(self, delta: float, unit: str) -> None:
    """Raises ValueError unless the delta is that of the mechanism."""
    del unit
    if self.mechanism.delta != delta:
      raise ValueError(
        f'Expected delta={self.mechanism.delta!r} of the mechanism to be that'
        f' of its ledger, {delta!r}.'
      )

  def with_steps(self, num_steps: int) -> Self:
    """Returns it with that many MORE steps."""
    return dataclasses.replace(self, num_steps=self.num_steps + num_steps)

  def with_replayed(self, num_steps: int) -> Self:
    """Returns it with that many more replayed steps."""
    total = self.num_replayed_steps + num_steps
    return dataclasses.replace(self, num_replayed_steps=total)

  def seal(self) -> Self:
    """Returns it as released, after which no step may follow."""
    return dataclasses.replace(self, is_sealed=True)


def merge(found: Sequence[tuple[Assumption, ...]]) -> tuple[Assumption, ...]:
  """Joins the assumptions of several entries, each once, in their order.

  >>> merge([(('a', 'yes'),), (('b', 'no'), ('a', 'yes'))])
  (('a', 'yes'), ('b', 'no'))
  """
  return tuple(dict.fromkeys(one for several in found for one in several))


def check_type(name: str, value: Any, wanted: type) -> None:
  """Raises ValueError unless a value has exactly the wanted type."""
  if type(value) is not wanted:
    raise ValueError(
      f'Expected {name} to be a {wanted.__name__}, not {type(value).__name__}.'
    )
