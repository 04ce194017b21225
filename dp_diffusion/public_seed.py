"""Public randomness: a stream of `config.seed` for each purpose.

Draws for two purposes would be equal if both had one stream, so each purpose
has a number of its own. Changing a number changes the bits of runs. Not in the
table are the first weights of the network and the choice of held-out images
that the released model classifies, drawn from the seed itself, the order of
public images, from (seed, epoch) (`data/batching.py`), and the places of
gradient canaries, from (seed, their number). Secret randomness is in
`privacy/key_streams.py`.
"""

from __future__ import annotations

import enum

import jax
import numpy as np

from dp_diffusion import types


@enum.unique
class Purpose(enum.IntEnum):
  """What a stream of the public seed is for."""

  PRETRAIN_DRAWS = 1
  SAMPLE_NOISE = 2
  CLASSIFY_NOISE = 3  # Of a diffusion model that classifies images.
  SAMPLE_AGAIN_NOISE = 4  # Of images that the model took for another class.
  PROGRESS_PICTURE_NOISE = 7
  AUDIT_FILLER = 11
  AUDIT_IMAGES = 12
  AUDIT_LOSS_DRAWS = 13
  BASELINE_FEATURES = 101
  BASELINE_GENERATOR = 102
  BASELINE_SAMPLES = 103
  EVOLUTION_CANDIDATES = 104
  EVOLUTION_POPULATIONS = 105
  EVOLUTION_VARIATIONS = 106
  CLASSIFIER_WEIGHTS = 111  # Of the classifier that DP-SGD trains.
  CLASSIFIER_PUBLIC_DRAWS = 112
  WARM_UP_FEATURES = 201
  WARM_UP_GENERATOR = 202
  WARM_UP_SAMPLES = 203
  WARM_UP_DRAWS = 204

  def key(self, seed: int) -> types.Key:
    """Returns the typed key[] of this purpose."""
    return jax.random.fold_in(jax.random.key(seed), self.value)

  def rng(self, seed: int) -> np.random.Generator:
    """Returns the NumPy generator of this purpose."""
    return np.random.default_rng([seed, self.value])
