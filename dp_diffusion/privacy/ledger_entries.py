"""What a ledger's entries are: a DP-SGD training, or a noised statistic."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import dp_accounting

from dp_diffusion import array_types
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import strict_json

GAUSSIAN_KINDS = ('gaussian', 'noised_histogram')


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
    check_type('mechanism', self.mechanism, mechanism_lib.DpSgdMechanism)
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
    check_type('mechanism', self.mechanism, mechanism_lib.GaussianMechanism)
    array_types.check_one_of('kind', self.kind, GAUSSIAN_KINDS)

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


def check_type(name: str, value: Any, wanted: type) -> None:
  """Raises ValueError unless a value is of the type wanted."""
  if not isinstance(value, wanted):
    raise ValueError(
      f'Expected {name} to be a {wanted.__name__}, not {type(value).__name__}.'
    )
