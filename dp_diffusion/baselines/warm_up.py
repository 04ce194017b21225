"""What a warm-up from noised statistics of the sensitive images consists of.

Before its private steps, fine-tuning trains the network by the loop of
pre-training, on images that noised statistics give. For whoever has no public
images these are class means (`class_means`), and then images of a generator
that is fitted to a noised mean embedding (`dp_merf`), as in FETA-Pro (arXiv
2601.06368). For whoever has more public images than fit, they are those of the
public classes for which the sensitive images vote (`public_votes`), as in
PrivImage (arXiv 2311.12850). The same votes can choose, for each sensitive
class, the public class whose embedding it starts from. The statistics are
events of the ledger; what is made of them is post-processing and costs nothing
more.

Guarantees:
  * Each statistic that is used has an entry, with its noise and its number.
    `warm_up_test.py::test_each_statistic_has_an_entry`.
  * A use without a statistic, and a statistic without a use, are refused.
    `warm_up_test.py::test_steps_and_noise_go_together`.
  * Public images without classes to choose from are refused.
    `warm_up_test.py::test_there_must_be_public_classes_to_choose_from`.
"""

from __future__ import annotations

import dataclasses

from dp_diffusion import config_keys
from dp_diffusion import errors
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.baselines import public_votes
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import label_histogram
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.training import optimizers

MEANS = 'class means for a warm-up'
EMBEDDING = 'mean embedding for a warm-up'
_NOISE = {
  'mean_steps': 'mean_noise_multiplier',
  'generated_steps': 'embedding_noise_multiplier',
  'has_votes': 'votes_noise_multiplier',
}
_USES = {'has_votes': 'chosen_steps or rows_from_votes'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmUpConfig:
  """A training on noised statistics before the private steps; 0 steps: none.

  Optimizer, batch size, average, timesteps and checkpoints are those of
  `pretrain`.
  """

  mean_steps: int = config_keys.key(
    0, 'Steps on noised class means, which come first; 0 makes none.', '>= 0'
  )
  mean_noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on the sum of each class, divided by its sensitivity.',
    '>= 0',
  )
  num_means: int = config_keys.key(
    1, 'Noised means per class, each with noise of its own.', '>= 1'
  )
  generated_steps: int = config_keys.key(
    0, 'Steps on images of a DP-MERF generator; 0 makes none.', '>= 0'
  )
  embedding_noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on the mean embedding, divided by its sensitivity.',
    '>= 0',
  )
  num_generated: int = config_keys.key(
    10_000, 'Images of the generator.', '>= 1'
  )
  chosen_steps: int = config_keys.key(
    0,
    'Steps, the last ones, on images of `pretrain.data` whose classes the'
    ' sensitive images vote for; 0 makes none. Pre-training on all of them is'
    ' apart, and `pretrain.num_steps=0` leaves it out.',
    '>= 0',
    is_later=True,
  )
  votes_noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on the votes of each pair of classes, divided by their'
    ' sensitivity.',
    '>= 0',
    is_later=True,
  )
  num_chosen: int = config_keys.key(
    2,
    'Public classes that are chosen for each sensitive class.',
    '>= 1',
    is_later=True,
  )
  rows_from_votes: bool = config_keys.key(
    False,
    'Whether the embedding of each class starts from that of a public class,'
    ' which the votes choose, instead of new random numbers. The weights must'
    ' be pre-trained on the classes of `pretrain.data`.',
    is_later=True,
  )
  dp_merf: dp_merf.DpMerfConfig = config_keys.section(
    'The random features of the mean embedding.',
    default=dp_merf.DpMerfConfig(),
  )
  generator: generator.GeneratorConfig = config_keys.section(
    'The generator that is fitted to the mean embedding.',
    default=generator.GeneratorConfig(optimizer=optimizers.OptimizerConfig()),
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'finetune.warm_up.')
    for use, noise in _NOISE.items():
      name, value = f'finetune.warm_up.{noise}', getattr(self, noise)
      grid_limits.check_noise(name, value)
      if bool(getattr(self, use)) != bool(value):
        wanted = _USES.get(use, f'{use}={getattr(self, use)}')
        raise ValueError(
          f'Expected {name}={value:g} and finetune.warm_up.{wanted} to be both'
          ' 0 or both > 0: without noise the statistic would not be private,'
          ' without a use its cost in vain.'
        )

  @property
  def num_steps(self) -> int:
    """Steps of the whole warm-up; 0 if there is none."""
    return self.mean_steps + self.generated_steps + self.chosen_steps

  @property
  def has_votes(self) -> bool:
    """Whether sensitive images vote for public classes."""
    return bool(self.chosen_steps or self.rows_from_votes)

  @property
  def is_used(self) -> bool:
    """Whether there is anything to do before the private steps."""
    return bool(self.num_steps or self.rows_from_votes)

  @property
  def mean_mechanism(self) -> mechanism_lib.GaussianMechanism:
    """Mechanism of the class means, if they are used."""
    return _mechanism(self.mean_noise_multiplier, MEANS, self.num_means)

  @property
  def embedding_mechanism(self) -> mechanism_lib.GaussianMechanism:
    """Mechanism of the mean embedding, if it is used."""
    return _mechanism(self.embedding_noise_multiplier, EMBEDDING)

  @property
  def votes_entry(self) -> entries_lib.Entry:
    """Ledger entry of the votes, if they are used."""
    return ledger_lib.GaussianEntry(
      mechanism=mechanism_lib.GaussianMechanism(
        noise_multiplier=self.votes_noise_multiplier,
        l2_sensitivity=label_histogram.L2_SENSITIVITY,
        purpose=public_votes.PURPOSE,
      )
    )

  def check_public_classes(self, num_public: int, num_classes: int) -> None:
    """Refuses public images among whose classes nothing can be chosen.

    Args:
      num_public: number of classes of `pretrain.data`.
      num_classes: number of classes of `data`.

    Raises:
      UsageError: there are fewer than two classes, or than are chosen.
    """
    if self.rows_from_votes and num_public < max(2, num_classes):
      raise errors.UsageError(
        'Expected finetune.warm_up.rows_from_votes to be False for'
        f' pretrain.data with {num_public} class(es): each of the {num_classes}'
        ' class(es) of data starts from another one, of at least 2. Name public'
        ' images with more classes.'
      )
    if self.chosen_steps and num_public < max(2, self.num_chosen):
      raise errors.UsageError(
        f'Expected finetune.warm_up.chosen_steps={self.chosen_steps} to be 0'
        f' for pretrain.data with {num_public} class(es): at least 2, and at'
        f' least num_chosen={self.num_chosen}, are needed to choose from. Name'
        ' public images with classes.'
      )

  def entries(self) -> tuple[entries_lib.Entry, ...]:
    """Returns the ledger entries of all statistics that are used."""
    used = []
    if self.mean_steps:
      used.append(self.mean_mechanism)
    if self.generated_steps:
      used.append(self.embedding_mechanism)
    found = [ledger_lib.GaussianEntry(mechanism=m) for m in used]
    return (*found, self.votes_entry) if self.has_votes else tuple(found)


def _mechanism(
  noise_multiplier: float, purpose: str, count: int = 1
) -> mechanism_lib.GaussianMechanism:
  return mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier,
    l2_sensitivity=mean_embedding.L2_SENSITIVITY,
    purpose=purpose,
    count=count,
  )
