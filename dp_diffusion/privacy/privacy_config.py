"""The section `privacy` of a config: the promised guarantee."""

from __future__ import annotations

import dataclasses
import functools
import math

from dp_diffusion import config_keys
from dp_diffusion.privacy import banded_sgd
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import strict_json

SOLVABLE = ('noise_multiplier', 'num_steps', 'epsilon')
_POSITIVE = config_keys.Allowed(
  '> 0', functools.partial(strict_json.real, positive=True)
)
_POSITIVE_OR_INFINITE = config_keys.Allowed(
  '> 0, or inf',
  functools.partial(strict_json.real, positive=True, finite=False),
)
_NON_NEGATIVE = config_keys.Allowed('>= 0', strict_json.real)
_COUNT = config_keys.Allowed(
  '>= 1', functools.partial(strict_json.integer, minimum=1)
)
_PROBABILITY = config_keys.Allowed('(0, 1)', strict_json.probability)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
  """The promised guarantee, and which number is computed from the others.

  >>> promise = PrivacyConfig(
  ...   epsilon=4.0,
  ...   delta=1e-3,
  ...   num_steps=2,
  ...   expected_batch_size=10,
  ...   num_examples=100,
  ...   l2_clip_norm=1.0,
  ... )
  >>> promise.solve_for, promise.is_private
  ('noise_multiplier', True)

  Guarantees:
    * Every bad value is refused in one line, before any compute:
      `accounting_test.py::test_bad_config_is_refused`.
    * So is what the sums of a step do not hold, in the plan:
      `accounting_test.py::test_what_a_step_would_refuse_is_refused_here`.
  """

  epsilon: float | None = config_keys.key(
    None,
    'What may be spent in total, an inherited ledger included; inf trains'
    ' without privacy.',
    _POSITIVE_OR_INFINITE,
  )
  delta: float = config_keys.key(
    1e-5,
    'Delta of the guarantee; at most 1 / num_examples, unless'
    ' allow_large_delta.',
    _PROBABILITY,
    is_required=True,
  )
  noise_multiplier: float | None = config_keys.key(
    None,
    'Std of the noise over the sensitivity of the sum of gradients.',
    _NON_NEGATIVE,
  )
  num_steps: int | None = config_keys.key(None, 'Private steps.', _COUNT)
  expected_batch_size: int = config_keys.key(
    0,
    'Records per step, on average; to be set.',
    _COUNT,
    is_required=True,
  )
  num_examples: int = config_keys.key(
    0,
    'Records of the sensitive dataset, as declared in public; may be rounded;'
    ' to be set.',
    _COUNT,
    is_required=True,
  )
  l2_clip_norm: float = config_keys.key(
    1e-3,
    'Largest l2 norm of the gradient of one record.',
    _POSITIVE,
    mark='R',
    is_required=True,
  )
  solve_for: str = config_keys.key(
    'noise_multiplier',
    'Which of these keys is computed from the others; it is none.',
    SOLVABLE,
  )
  relation: str = config_keys.key(
    mechanism_lib.ADD_OR_REMOVE_ONE,
    'Which datasets are neighbours.',
    config_keys.Allowed(
      repr(mechanism_lib.ADD_OR_REMOVE_ONE),
      lambda _, relation: mechanism_lib.check_relation(relation),
    ),
  )
  allow_large_delta: bool = config_keys.key(
    False,
    'Accept a delta above 1 / num_examples.',
    config_keys.Allowed('', strict_json.boolean),
  )
  secret_dir: str = config_keys.key(
    '',
    "Local folder of the secret, of no other run; '' is the workdir's"
    ' private/.',
  )
  num_bands: int = config_keys.key(
    1,
    'Bands of noise that is correlated over steps (privacy/banded_sgd.py); 1'
    ' is independent noise.',
    _COUNT,
  )
  label_histogram_noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on each class of the label histogram, in records; 0 makes'
    ' no histogram.',
    _NON_NEGATIVE,
  )

  def __post_init__(self) -> None:
    """Checks each value, then those that depend on one another."""
    config_keys.check(self)
    for name in sorted(SOLVABLE, key=lambda name: name != self.solve_for):
      self._check_given(name)
    mechanism_lib.check_batch_size(self.expected_batch_size, self.num_examples)
    banded_sgd.check_bands(
      self.num_bands, self.expected_batch_size, self.num_examples
    )
    self._check_grid()
    self._check_delta()
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
    """Class of the mechanism that these keys choose."""
    if self.num_bands > 1:
      return banded_sgd.BandedSgdMechanism
    return mechanism_lib.DpSgdMechanism

  def mechanism(
    self, noise_multiplier: float, num_steps: int
  ) -> mechanism_lib.TrainingMechanism:
    """Returns the mechanism of this config with these computed numbers."""
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

  def _check_grid(self) -> None:
    """What a step would refuse; said here, before anything is computed."""
    grid_limits.check_clip_norm(self.l2_clip_norm)
    grid_limits.check_records('num_examples', self.num_examples)
    for name in ('noise_multiplier', 'label_histogram_noise_multiplier'):
      noise = getattr(self, name)
      if noise is not None:
        grid_limits.check_noise(name, strict_json.real(name, noise))

  def _check_delta(self) -> None:
    if self.delta * self.num_examples > 1 and not self.allow_large_delta:
      raise ValueError(
        f'Expected delta={self.delta!r} to be <= 1/num_examples='
        f'{1 / self.num_examples:.3g}, above which publishing one record in'
        ' full would pass; lower it or set allow_large_delta=True.'
      )
