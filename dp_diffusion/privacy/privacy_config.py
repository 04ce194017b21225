"""What is promised: the privacy section of a config, checked."""

from __future__ import annotations

import dataclasses
import math

from dp_diffusion import checks
from dp_diffusion.privacy import banded_sgd
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import strict_json

SOLVABLE = ('noise_multiplier', 'num_steps', 'epsilon')


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
    secret_dir: local folder of the secret, of no other run; '' for the
      workdir's `private/`.
    num_bands: bands of correlated noise, see `banded_sgd`; 1 for independent
      noise.
    label_histogram_noise_multiplier: std of the noise on each class of the
      label histogram, in records; 0 where no histogram is made.
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
  num_bands: int = 1
  label_histogram_noise_multiplier: float = 0.0

  def __post_init__(self) -> None:
    """Checks every value; `solve_for` first, as the rest depends on it."""
    checks.check_one_of('solve_for', self.solve_for, SOLVABLE)
    for name in sorted(SOLVABLE, key=lambda name: name != self.solve_for):
      self._check_given(name)
    mechanism_lib.check_relation(self.relation)
    for name in ('num_examples', 'expected_batch_size'):
      strict_json.integer(name, getattr(self, name), minimum=1)
    mechanism_lib.check_batch_size(self.expected_batch_size, self.num_examples)
    strict_json.real('l2_clip_norm', self.l2_clip_norm, positive=True)
    strict_json.integer('num_bands', self.num_bands, minimum=1)
    banded_sgd.check_bands(
      self.num_bands, self.expected_batch_size, self.num_examples
    )
    strict_json.boolean('allow_large_delta', self.allow_large_delta)
    strict_json.real(
      'label_histogram_noise_multiplier', self.label_histogram_noise_multiplier
    )
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

  @property
  def mechanism_type(self) -> type[mechanism_lib.TrainingMechanism]:
    """The kind of training that these keys choose."""
    if self.num_bands > 1:
      return banded_sgd.BandedSgdMechanism
    return mechanism_lib.DpSgdMechanism

  def mechanism(
    self, noise_multiplier: float, num_steps: int
  ) -> mechanism_lib.TrainingMechanism:
    """The mechanism of this config, with the numbers that are computed."""
    return self.mechanism_type(
      num_examples=self.num_examples,
      expected_batch_size=self.expected_batch_size,
      num_steps=num_steps,
      noise_multiplier=noise_multiplier,
      l2_clip_norm=self.l2_clip_norm,
      delta=self.delta,
      relation=self.relation,
      **({'num_bands': self.num_bands} if self.num_bands > 1 else {}),
    )

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
