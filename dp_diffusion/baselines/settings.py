"""The section `baseline` of a config."""

from __future__ import annotations

import dataclasses

from dp_diffusion.baselines import dp_classifier
from dp_diffusion.baselines import dp_mepf
from dp_diffusion.baselines import dp_merf
from dp_diffusion.baselines import generator

METHODS = ('dp_classifier', 'dp_mepf', 'dp_merf')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineConfig:
  """How the baselines are run; each under the `privacy` of the config.

  Attributes:
    dp_merf: random features.
    dp_mepf: perceptual features.
    generator: what is fitted to either.
    dp_classifier: trained on the sensitive images directly.
  """

  dp_merf: dp_merf.DpMerfConfig
  dp_mepf: dp_mepf.DpMepfConfig
  generator: generator.GeneratorConfig
  dp_classifier: dp_classifier.DpClassifierConfig
