"""The numbers of the mechanisms that use sensitive images.

One object holds the number of records, their selection, the clip norm and the
noise. Sampler, clip, noise and accountant all read it, so the calibrated event
is the event that is spent.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar, Self

import dp_accounting

from dp_diffusion.privacy import strict_json

ADD_OR_REMOVE_ONE = 'add_or_remove_one'


def check_relation(relation: str) -> None:
  """Raises ValueError for a neighbouring relation that is not implemented."""
  if relation != ADD_OR_REMOVE_ONE:
    raise ValueError(
      f'Expected relation={relation!r} to be {ADD_OR_REMOVE_ONE!r}, the only'
      ' one that is accounted for.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingMechanism:
  """The numbers of a private training by steps; subclasses add the event.

  Sampler, clip, noise and accountant use these attributes and methods, and do
  not ask for the kind of the mechanism.

  Attributes:
    num_examples: declared, public number of records of the sensitive dataset
      (images or persons); it need not be the exact count.
    expected_batch_size: mean number of records in a step, the constant by which
      the noised sum is divided.
    num_steps: number of steps of the whole training, including empty batches.
    noise_multiplier: std of the noise on the sum, divided by the sensitivity of
      the sum; it has no unit. 0 means not private.
    l2_clip_norm: largest l2 norm of the gradient of one record.
    delta: delta of the guarantee.
    relation: neighbouring datasets differ by adding or removing one record.
  """

  kind: ClassVar[str]
  num_examples: int
  expected_batch_size: int
  num_steps: int
  noise_multiplier: float
  l2_clip_norm: float
  delta: float
  relation: str = ADD_OR_REMOVE_ONE

  def __post_init__(self) -> None:
    """Checks every value and makes it a plain Python number."""
    check_relation(self.relation)
    for name in ('num_examples', 'expected_batch_size', 'num_steps'):
      value = strict_json.integer(name, getattr(self, name), minimum=1)
      object.__setattr__(self, name, value)
    check_batch_size(self.expected_batch_size, self.num_examples)
    noise = strict_json.real('noise_multiplier', self.noise_multiplier)
    clip = strict_json.real('l2_clip_norm', self.l2_clip_norm, positive=True)
    delta = strict_json.probability('delta', self.delta)
    object.__setattr__(self, 'noise_multiplier', noise)
    object.__setattr__(self, 'l2_clip_norm', clip)
    object.__setattr__(self, 'delta', delta)

  @property
  def sampling_prob(self) -> float:
    """Probability that a record is selected at a step."""
    return self.expected_batch_size / self.num_examples

  @property
  def num_groups(self) -> int:
    """Number of groups of records that take turns; 1 if they do not."""
    return 1

  @property
  def selection(self) -> str:
    """Describes how records are selected, for the plan."""
    return (
      f'exact Poisson, probability {self.sampling_prob:.6g}'
      f' ({self.expected_batch_size} expected)'
    )

  @property
  def noise_strategy(self) -> tuple[float, ...]:
    """Coefficients of `correlated_noise`; (1,) is independent noise."""
    return (1.0,)

  @property
  def accumulated_noise(self) -> float:
    """Std of the summed noise of all steps, divided by a sum's sensitivity.

    It allows a comparison of mechanisms with different noise strategies.
    """
    strategy = self.noise_strategy
    if len(strategy) == 1:
      return self.noise_multiplier * math.sqrt(self.num_steps)
    response: list[float] = []  # Share of a step's z in later noise.
    total, squares = 0.0, 0.0
    for step in range(self.num_steps):
      past = zip(strategy[1:], reversed(response), strict=False)
      fresh = 0.0 if step else 1.0
      response.append((fresh - sum(c * r for c, r in past)) / strategy[0])
      total += response[-1]
      squares += total**2
    return self.noise_multiplier * math.sqrt(squares)

  @property
  def is_private(self) -> bool:
    """Whether any noise is added."""
    return self.noise_multiplier > 0

  def selected_gaussians(self, count: int) -> dp_accounting.DpEvent:
    """Returns `count` Gaussian steps with Poisson selection, as one event."""
    if count == 0:  # SelfComposedDpEvent refuses a count of 0.
      return dp_accounting.NoOpDpEvent()
    step = dp_accounting.PoissonSampledDpEvent(
      self.sampling_prob, dp_accounting.GaussianDpEvent(self.noise_multiplier)
    )
    return dp_accounting.SelfComposedDpEvent(step, count)

  def dp_event(
    self, num_steps: int | None = None, num_replayed_steps: int = 0
  ) -> dp_accounting.DpEvent:
    """Returns the event for the accountants.

    Args:
      num_steps: number of steps done, >= 0; None means all.
      num_replayed_steps: number of steps that were lost and run again with
        other randomness, >= 0; they are counted in addition.
    """
    raise NotImplementedError

  def to_dict(self) -> dict[str, Any]:
    """Returns what `from_dict` reads; JSON types only."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, value: Mapping[str, Any]) -> Self:
    """Reads `to_dict` back; any other key or type is a ValueError."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**strict_json.fields('the DP-SGD mechanism', value, names))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpSgdMechanism(TrainingMechanism):
  """DP-SGD with exact Poisson selection (Abadi et al. 2016, arXiv 1607.00133).

  At each step every record is selected independently with `sampling_prob`, the
  gradient of each is clipped, and Gaussian noise is added once to their sum.

  >>> mechanism = DpSgdMechanism(
  ...   num_examples=100,
  ...   expected_batch_size=10,
  ...   num_steps=2,
  ...   noise_multiplier=3.0,
  ...   l2_clip_norm=0.5,
  ...   delta=1e-3,
  ... )
  >>> mechanism.sampling_prob, mechanism.is_private
  (0.1, True)

  Guarantees:
    * The calibrated event is the event that is spent, to the bit:
      `ledger_test.py::test_event_calibrated_is_event_spent`.
    * Sampler, clip and noise use its numbers, and the std of the noise is
      relative to the sensitivity of the SUM:
      `finetune_test.py::test_mechanism_reaches_every_part`,
      `private_step_test.py::test_noise_std_of_an_update`.
    * Nonsense cannot be constructed:
      `mechanism_test.py::test_bad_value_is_refused`.
    * Saved and loaded, it is the same mechanism:
      `mechanism_test.py::test_round_trip`.
  """

  kind: ClassVar[str] = 'dp_sgd'

  def dp_event(
    self, num_steps: int | None = None, num_replayed_steps: int = 0
  ) -> dp_accounting.DpEvent:
    """Returns a selected Gaussian for each step, including replayed ones."""
    if num_steps is None:
      num_steps = self.num_steps
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    return self.selected_gaussians(num_steps + num_replayed_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMechanism:
  """Gaussian noise on a statistic of all records, such as a label histogram.

  Guarantees:
    * Its epsilon equals the closed form of Balle and Wang 2018 (arXiv
      1805.06530, theorem 8):
      `mechanism_test.py::test_gaussian_matches_closed_form`.
    * Nonsense cannot be constructed:
      `mechanism_test.py::test_bad_value_is_refused`.
    * Saved and loaded, it is the same mechanism:
      `mechanism_test.py::test_round_trip`.

  Attributes:
    noise_multiplier: std of the noise divided by the sensitivity; 0 means not
      private.
    l2_sensitivity: largest l2 change of the statistic when one record is added
      or removed; 1 for a histogram in which a record counts once.
    purpose: name of the statistic, one line for the statement.
    count: how many times the statistic was released.
  """

  noise_multiplier: float
  l2_sensitivity: float
  purpose: str
  count: int = 1

  def __post_init__(self) -> None:
    """Checks every value and makes it a plain Python number."""
    noise = strict_json.real('noise_multiplier', self.noise_multiplier)
    sensitivity = strict_json.real(
      'l2_sensitivity', self.l2_sensitivity, positive=True
    )
    count = strict_json.integer('count', self.count, minimum=1)
    object.__setattr__(self, 'noise_multiplier', noise)
    object.__setattr__(self, 'l2_sensitivity', sensitivity)
    object.__setattr__(self, 'count', count)
    if not strict_json.line('purpose', self.purpose):
      raise ValueError('Expected purpose to say what is computed.')

  @property
  def noise_std(self) -> float:
    """Std of the noise, in the unit of the statistic."""
    return self.noise_multiplier * self.l2_sensitivity

  @property
  def is_private(self) -> bool:
    """Whether any noise is added."""
    return self.noise_multiplier > 0

  def dp_event(self) -> dp_accounting.DpEvent:
    """Returns the event for the accountants."""
    one = dp_accounting.GaussianDpEvent(self.noise_multiplier)
    return dp_accounting.SelfComposedDpEvent(one, self.count)

  def to_dict(self) -> dict[str, Any]:
    """Returns what `from_dict` reads; JSON types only."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, value: Mapping[str, Any]) -> GaussianMechanism:
    """Reads `to_dict` back; any other key or type is a ValueError."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**strict_json.fields('the Gaussian mechanism', value, names))


def check_batch_size(expected_batch_size: int, num_examples: int) -> None:
  """Raises ValueError unless a batch is expected to fit in the dataset."""
  if expected_batch_size > num_examples:
    raise ValueError(
      f'Expected expected_batch_size={expected_batch_size} to be <='
      f' num_examples={num_examples}; lower it.'
    )
