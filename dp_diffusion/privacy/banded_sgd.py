"""DP-SGD with noise that is correlated over neighbouring steps (banded).

Each record belongs to one of b groups, which take turns. At step t the records
of group t mod b are selected independently, with b times the probability of
plain DP-SGD, so that the expected batch is the same. The noise of the sums is
C^-1 z, where z is independent Gaussian noise and C is lower triangular with b
bands, the first b coefficients of the square root of the prefix sum (Kalinin
and Lampert 2024, arXiv 2405.13763), scaled to columns of norm 1. The noise of
later steps cancels part of that of earlier ones.

The accounting is exact (Choquette-Choo et al. 2023, arXiv 2306.08153). The
contributions of a record are at least b steps apart and meet independent parts
of z. The training therefore costs as much as ceil(num_steps / b) steps of
DP-SGD with the sampling probability of a group. This is better than plain
DP-SGD for few epochs and a large epsilon, and worse for many epochs.

Deviation: the group of each record is drawn independently, and groups are not
of equal size, so that adding a record does not change another one's group.

Guarantees:
  * Event and strategy are those of jax_privacy.
    `banded_sgd_test.py::test_epsilon_is_that_of_jax_privacy`,
    `banded_sgd_test.py::test_strategy_is_that_of_jax_privacy`.
  * The conditions of the theorem hold: columns have norm 1, and are orthogonal
    if b or more steps apart.
    `banded_sgd_test.py::test_columns_meet_the_theorem`.
  * A record takes part only in steps of its group, at the stated rate.
    `banded_sgd_test.py::test_records_take_part_in_turn`.
  * Steps that are lost and run again are charged, each as a step of the
    record's group. `banded_sgd_test.py::test_replayed_steps_are_charged`.
  * A mechanism is unchanged by saving and loading, and bad values are refused.
    `banded_sgd_test.py::test_round_trip`,
    `banded_sgd_test.py::test_bad_value_is_refused`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import dp_accounting

from dp_diffusion.privacy import entries
from dp_diffusion.privacy import mechanism
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import strict_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedSgdMechanism(mechanism.TrainingMechanism):
  """DP-SGD with banded noise.

  Attributes:
    num_bands: number b of groups of records and of bands of C; 1 would be plain
      DP-SGD.
  """

  kind: ClassVar[str] = 'banded_dp_sgd'
  num_bands: int

  def __post_init__(self) -> None:
    """Checks every value; a group must hold at least an expected batch."""
    super().__post_init__()
    value = strict_json.integer('num_bands', self.num_bands, minimum=2)
    object.__setattr__(self, 'num_bands', value)
    check_bands(self.num_bands, self.expected_batch_size, self.num_examples)

  @property
  def sampling_prob(self) -> float:
    """Probability that a record is selected at a step of its group."""
    return self.num_bands * self.expected_batch_size / self.num_examples

  @property
  def num_groups(self) -> int:
    """Number of groups of records that take turns."""
    return self.num_bands

  @property
  def selection(self) -> str:
    """Describes how records are selected, for the plan."""
    return f'{super().selection}, from 1 of {self.num_bands} groups in turn'

  @property
  def noise_strategy(self) -> tuple[float, ...]:
    """First column of C, b coefficients of norm 1."""
    found = [1.0]
    for k in range(1, self.num_bands):
      found.append(found[-1] * (2 * k - 1) / (2 * k))
    norm = math.hypot(*found)
    return tuple(value / norm for value in found)

  def dp_event(
    self, num_steps: int | None = None, num_replayed_steps: int = 0
  ) -> dp_accounting.DpEvent:
    """Returns a selected Gaussian for each step of a record's group.

    Each replayed step counts as one more, since its first run had other noise.
    """
    num_steps = self.num_steps if num_steps is None else num_steps
    num_steps = strict_json.integer('num_steps', num_steps, minimum=0)
    count = -(-num_steps // self.num_bands) + num_replayed_steps
    return self.selected_gaussians(count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandedSgdEntry(entries.TrainingEntry):
  """One training with banded noise."""

  mechanism_type = BandedSgdMechanism
  mechanism: BandedSgdMechanism

  def summary(self) -> str:
    """Returns steps, noise and selection in one line."""
    m = self.mechanism
    return (
      f'DP-SGD with noise of {m.num_bands} bands, {self.num_steps} of'
      f' {m.num_steps} steps ({self.num_replayed_steps} replayed), noise'
      f' multiplier {m.noise_multiplier:g}, sampling probability'
      f' {m.sampling_prob:.6g} of a group'
    )

  def describe(self) -> list[str]:
    """Describes the steps, for the card."""
    m = self.mechanism
    text = (
      f'DP-SGD with correlated noise: {self.num_steps} steps, at which'
      f' {m.num_bands} groups of {m.num_examples} records took turns; each'
      ' record of the group was selected with probability'
      f' {m.sampling_prob:.6g} ({m.expected_batch_size} expected), its gradient'
      f' clipped to norm {m.l2_clip_norm:g}, and Gaussian noise of'
      f' {m.noise_multiplier:g} times the clip norm added to the sum through a'
      f' matrix of {m.num_bands} bands.'
    )
    if self.num_replayed_steps:
      text += f' {self.num_replayed_steps} lost steps are charged besides.'
    return [text]

  def training_assumptions(self) -> tuple[entries.Assumption, ...]:
    """Returns assumptions on selection by groups, clip and noise."""
    num = self.mechanism.num_bands
    return (
      (
        f'Each record is in one of {num} groups, drawn at random for each on'
        ' its own. The groups take turns; at each step every record of the'
        ' group is selected on its own, with the same probability; no batch is'
        ' truncated, and an empty one is a step too.',
        'yes',
      ),
      statement_words.CLIPPED,
      (
        'The noise of the sums is C^-1 z: z is Gaussian, independent over steps'
        f' and of one size; C is lower triangular with {num} bands, the same at'
        ' every step, and columns of norm 1.',
        'yes, up to the rounding of 32-bit floating-point numbers',
      ),
    )


def check_bands(
  num_bands: int, expected_batch_size: int, num_examples: int
) -> None:
  """Raises ValueError unless a group holds at least an expected batch."""
  if num_bands * expected_batch_size > num_examples:
    raise ValueError(
      f'Expected num_bands={num_bands} to be <= num_examples /'
      f' expected_batch_size={num_examples / expected_batch_size:.4g}, as each'
      ' batch comes from one group; lower it or expected_batch_size.'
    )
