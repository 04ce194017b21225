"""Audits without a training: what the private step would let out."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages import audit as audit_stage

_CONFIGS = pathlib.Path(__file__).parent.parent.parent / 'configs'


@dataclasses.dataclass(frozen=True)
class Simulated:
  """What an audit sees.

  Attributes:
    observed: float64[T, m].
    is_selected: bool[T, m].
    is_included: bool[m].
  """

  observed: np.ndarray
  is_selected: np.ndarray
  is_included: np.ndarray


def mechanism(epsilon: float, **changes: str) -> mechanism_lib.DpSgdMechanism:
  """That of the audit of `configs/digits.py` at a claim."""
  keys = {f'audit.{name}': text for name, text in changes.items()}
  keys['audit.epsilon'] = str(epsilon)
  config = config_lib.load(str(_CONFIGS / 'digits.py'), keys)
  privacy = audit_stage.on_public_images(config).privacy
  return accounting.calibrate(privacy).mechanism


def simulate(
  claimed: mechanism_lib.DpSgdMechanism,
  num_canaries: int,
  rng: np.random.Generator,
  noise_factor: float = 1.0,
  drift: float = 0.0,
) -> Simulated:
  """A run of all steps.

  Args:
    claimed: the mechanism.
    num_canaries: m.
    rng: of coins, selection and noise.
    noise_factor: of the noise that there is over the claimed one.
    drift: std of what other records add to each canary's coordinate.
  """
  shape = (claimed.num_steps, num_canaries)
  is_included = rng.random(num_canaries) < 0.5
  is_selected = (rng.random(shape) < claimed.sampling_prob) & is_included
  noise = claimed.noise_multiplier * noise_factor * rng.normal(size=shape)
  others = drift * rng.normal(size=num_canaries)
  return Simulated(is_selected + noise + others, is_selected, is_included)
