"""Published weights: their addresses, and the settings their files do not hold.

The flags are those of the README of each repository. `docs/weights.md` is
written from this table by `experiments/weights_oracles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from dp_diffusion.models.formats import network

_OPENAI = 'https://openaipublic.blob.core.windows.net/diffusion'
_COSINE = {
  'diffusion.schedule': 'cosine',
  'diffusion.num_timesteps': 1000,
  'diffusion.prediction': 'eps',
}
_LINEAR = {**_COSINE, 'diffusion.schedule': 'linear'}
_NORMS = {'model.num_groups': 32, 'model.norm_eps': 1e-5}
# Timestep t of the cosine schedule with T = 1000 is timestep 4 t + 3 of that
# with T = 4000. A network with `rescale_timesteps` takes a quarter of it.
_RESCALED = {'model.time_scale': 1.0, 'model.time_offset': 0.75}
_OF_4000 = {'model.time_scale': 4.0, 'model.time_offset': 3.0}
_OF_1000 = {'model.time_scale': 1.0, 'model.time_offset': 0.0}
_FOUR_HEADS = {'model.num_heads': 4}
_HEADS_OF_64 = {'model.num_heads': 0, 'model.head_channels': 64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """Published weights of one architecture, made with the same settings.

  Attributes:
    names: names of the files, without their numbers of training steps.
    urls: addresses of the files, in the order of `names`.
    licence: licence of the repository that publishes them.
    architecture: what the arrays determine.
    said: dotted key -> value that the arrays do not determine.
    is_new_order: whether the rows of `qkv` are ordered as ours, see
      `openai_unet`.
    flags: flags of the owner's code, with which the tests compare outputs.
  """

  names: tuple[str, ...]
  urls: tuple[str, ...]
  licence: str
  architecture: network.Architecture
  said: Mapping[str, Any]
  is_new_order: bool = False
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Entries = Sequence[Entry]


def find(entries: Entries, architecture: network.Architecture) -> Entry | None:
  """Returns the entry with this architecture, or None."""
  return next((e for e in entries if e.architecture == architecture), None)


def _improved(
  channels: int, multipliers: tuple[int, ...], num_classes: int
) -> network.Architecture:
  return network.Architecture(
    channels=channels,
    channel_multipliers=multipliers,
    num_blocks=3,
    # Attention is at sides of 16 and 8 pixels, for images of 32 or 64.
    attention_levels=(1, 2) if multipliers[-1] == 2 else (2, 3),
    scale_shift=True,
    conv_resample=True,
    resblock_updown=False,
    image_channels=3,
    has_variance=True,
    num_classes=num_classes,
  )


def _guided(**changes: Any) -> network.Architecture:
  return network.Architecture(
    **{
      'channels': 256,
      'num_blocks': 2,
      'scale_shift': True,
      'conv_resample': True,
      'resblock_updown': True,
      'image_channels': 3,
      'has_variance': True,
      'num_classes': 1000,
      **changes,
    }
  )


IMPROVED: Entries = (
  Entry(
    names=('cifar10_uncond_50M', 'cifar10_uncond_vlb_50M'),
    urls=(
      f'{_OPENAI}/march-2021/cifar10_uncond_50M_500K.pt',
      f'{_OPENAI}/march-2021/cifar10_uncond_vlb_50M_500K.pt',
    ),
    licence='MIT',
    architecture=_improved(128, (1, 2, 2, 2), 0),
    said={**_COSINE, **_NORMS, **_FOUR_HEADS, **_RESCALED},
    flags={
      'image_size': 32,
      'num_channels': 128,
      'num_res_blocks': 3,
      'learn_sigma': True,
      'diffusion_steps': 4000,
      'noise_schedule': 'cosine',
    },
  ),
  Entry(
    names=('imagenet64_uncond_100M', 'imagenet64_uncond_vlb_100M'),
    urls=(
      f'{_OPENAI}/march-2021/imagenet64_uncond_100M_1500K.pt',
      f'{_OPENAI}/march-2021/imagenet64_uncond_vlb_100M_1500K.pt',
    ),
    licence='MIT',
    architecture=_improved(128, (1, 2, 3, 4), 0),
    said={**_COSINE, **_NORMS, **_FOUR_HEADS, **_RESCALED},
    flags={
      'image_size': 64,
      'num_channels': 128,
      'num_res_blocks': 3,
      'learn_sigma': True,
      'diffusion_steps': 4000,
      'noise_schedule': 'cosine',
    },
  ),
  Entry(
    names=('imagenet64_cond_270M',),
    urls=(f'{_OPENAI}/march-2021/imagenet64_cond_270M_250K.pt',),
    licence='MIT',
    architecture=_improved(192, (1, 2, 3, 4), 1000),
    said={**_COSINE, **_NORMS, **_FOUR_HEADS, **_OF_4000},
    flags={
      'image_size': 64,
      'num_channels': 192,
      'num_res_blocks': 3,
      'learn_sigma': True,
      'class_cond': True,
      'diffusion_steps': 4000,
      'noise_schedule': 'cosine',
      'rescale_timesteps': False,
    },
  ),
)

GUIDED: Entries = (
  Entry(
    names=('64x64_diffusion',),
    urls=(f'{_OPENAI}/jul-2021/64x64_diffusion.pt',),
    licence='MIT',
    architecture=_guided(
      channels=192,
      num_blocks=3,
      channel_multipliers=(1, 2, 3, 4),
      attention_levels=(1, 2, 3),
    ),
    said={**_COSINE, **_NORMS, **_HEADS_OF_64, **_OF_1000},
    is_new_order=True,
    flags={
      'image_size': 64,
      'num_channels': 192,
      'num_res_blocks': 3,
      'num_head_channels': 64,
      'attention_resolutions': '32,16,8',
      'learn_sigma': True,
      'class_cond': True,
      'resblock_updown': True,
      'use_new_attention_order': True,
      'diffusion_steps': 1000,
      'noise_schedule': 'cosine',
    },
  ),
  Entry(
    names=('128x128_diffusion',),
    urls=(f'{_OPENAI}/jul-2021/128x128_diffusion.pt',),
    licence='MIT',
    architecture=_guided(
      channel_multipliers=(1, 1, 2, 3, 4), attention_levels=(2, 3, 4)
    ),
    said={**_LINEAR, **_NORMS, **_FOUR_HEADS, **_OF_1000},
    flags={
      'image_size': 128,
      'num_channels': 256,
      'num_res_blocks': 2,
      'num_heads': 4,
      'attention_resolutions': '32,16,8',
      'learn_sigma': True,
      'class_cond': True,
      'resblock_updown': True,
      'diffusion_steps': 1000,
      'noise_schedule': 'linear',
    },
  ),
)
