"""A tiny release: 8x8 images of two classes, a network of random weights."""

from __future__ import annotations

import pathlib
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion import release
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.models import unet
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement as statement_lib

CLASSES = ('circle', 'star')
SIZE = 8
BATCH_SIZE = 2
NETWORK = unet.UNetConfig(
  channels=8,
  channel_multipliers=(1,),
  num_blocks=1,
  attention_resolutions=(),
  head_channels=8,
  num_groups=4,
  num_classes=len(CLASSES),
  image_channels=1,
)
DIFFUSION = schedules.DiffusionConfig(
  schedule='cosine',
  num_timesteps=100,
  prediction='v',
  loss_weighting='none',
  label_drop_prob=0.1,
)
SAMPLER = samplers.SamplerConfig(name='ddim', num_steps=2, guidance_weight=0.5)
LEDGER = ledger_lib.Ledger(
  delta=1e-3,
  entries=(
    ledger_lib.DpSgdEntry(
      mechanism=mechanism_lib.DpSgdMechanism(
        num_examples=100,
        expected_batch_size=10,
        num_steps=2,
        noise_multiplier=2.0,
        l2_clip_norm=1.0,
        delta=1e-3,
      ),
      num_steps=2,
    ),
  ),
)


def params(network: unet.UNetConfig = NETWORK) -> dict[str, np.ndarray]:
  """Random weights of the network: path -> float32."""
  variables = jax.eval_shape(
    unet.UNet(network).init,
    jax.random.key(0),
    jnp.zeros((1, SIZE, SIZE, network.image_channels)),
    jnp.zeros((1,), jnp.int32),
    jnp.zeros((1,), jnp.int32),
  )
  rng = np.random.default_rng(0)
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  return {
    # A small output, or every pixel would be black or white.
    name: np.float32(0.05 if name.startswith('out') else 0.5)
    * rng.normal(size=leaf.shape).astype(np.float32)
    for name, leaf in flat.items()
  }


def make(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
  """Writes and seals it.

  Args:
    folder: that becomes `release/`.
    **changes: of `model.json`; None leaves a key out.
  """
  description = {
    'unet': NETWORK.to_dict(),
    'diffusion': config_lib.to_dict(DIFFUSION),
    'class_names': list(CLASSES),
    'image_size': SIZE,
    'sampling': {
      'sampler': config_lib.to_dict(SAMPLER),
      'batch_size': BATCH_SIZE,
    },
    **changes,
  }
  kept = {key: value for key, value in description.items() if value is not None}
  release.write_model(folder, params(), kept)
  return seal(folder)


def make_statement() -> dict[str, Any]:
  """The privacy statement of the ledger above."""
  return statement_lib.statement(
    LEDGER,
    dataset='shapes',
    insecure_secret=False,
    code_revision='abc',
    versions={'jax': '1'},
  )


def seal(folder: pathlib.Path) -> pathlib.Path:
  """Writes the card and the statement over all files."""
  statement = make_statement()
  release.write_card(folder, statement)
  release.seal(folder, statement)
  return folder
