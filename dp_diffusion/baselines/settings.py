"""The section `baseline` of a config."""

from __future__ import annotations

import dataclasses

from dp_diffusion import config_keys
from dp_diffusion.baselines import dp_classifier
from dp_diffusion.baselines import dp_mepf
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator
from dp_diffusion.baselines import private_evolution

METHODS = ('dp_classifier', 'dp_mepf', 'dp_merf', 'private_evolution')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig:
  """Settings of the baselines, each of which uses the config's `privacy`."""

  dp_merf: dp_merf.DpMerfConfig = config_keys.section(
    'The random features of DP-MERF.'
  )
  dp_mepf: dp_mepf.DpMepfConfig = config_keys.section(
    'The perceptual features of DP-MEPF, and of Private Evolution.'
  )
  generator: generator.GeneratorConfig = config_keys.section(
    'The generator that is fitted to either kind of features.'
  )
  dp_classifier: dp_classifier.DpClassifierConfig = config_keys.section(
    'The classifier trained on the sensitive images directly.'
  )
  private_evolution: private_evolution.PrivateEvolutionConfig = (
    config_keys.section(
      'The public images that sensitive ones vote for.',
      default=private_evolution.PrivateEvolutionConfig(),
      is_later=True,
    )
  )
