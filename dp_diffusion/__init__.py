"""Differentially private diffusion models: train, sample and measure.

Users of the library import these names; each has an example in its docstring:

  clipped_grad_sum, GradConfig   the sum of clipped per-example gradients
  DpSgdMechanism                 what a private training does, and its event
  PrivacyConfig, calibrate       the noise that keeps a promised epsilon
  Ledger                         everything that was spent
  verify                         whether a release is what its statement says
  load_release                   a released model, and images sampled from it
  run_stage                      one stage of a run, as the command line runs it

`import dp_diffusion` alone imports none of them, and asks for no device: each
is imported when it is first used. For that this file holds code, which no other
`__init__.py` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from dp_diffusion.privacy.accounting import calibrate
  from dp_diffusion.privacy.clipping import GradConfig
  from dp_diffusion.privacy.clipping import clipped_grad_sum
  from dp_diffusion.privacy.ledger import Ledger
  from dp_diffusion.privacy.mechanism import DpSgdMechanism
  from dp_diffusion.privacy.privacy_config import PrivacyConfig
  from dp_diffusion.privacy.verify import verify
  from dp_diffusion.released_model import load_release
  from dp_diffusion.stages.runner import run_stage

__all__ = [
  'DpSgdMechanism',
  'GradConfig',
  'Ledger',
  'PrivacyConfig',
  'calibrate',
  'clipped_grad_sum',
  'load_release',
  'run_stage',
  'verify',
]

_MODULE_OF = {
  'DpSgdMechanism': 'dp_diffusion.privacy.mechanism',
  'GradConfig': 'dp_diffusion.privacy.clipping',
  'Ledger': 'dp_diffusion.privacy.ledger',
  'PrivacyConfig': 'dp_diffusion.privacy.privacy_config',
  'calibrate': 'dp_diffusion.privacy.accounting',
  'clipped_grad_sum': 'dp_diffusion.privacy.clipping',
  'load_release': 'dp_diffusion.released_model',
  'run_stage': 'dp_diffusion.stages.runner',
  'verify': 'dp_diffusion.privacy.verify',
}

if not TYPE_CHECKING:  # Or a type checker would take any name.

  def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
