"""The networks whose outputs are compared with those of their owners' code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from dp_diffusion.models.formats import published

_ENTRIES = {
  'improved_diffusion': published.IMPROVED,
  'guided_diffusion': published.GUIDED,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One network with random weights.

  Attributes:
    name: name of the case.
    format_name: one of `foreign.FORMATS`.
    flags: flags of the owner's script.
    unet: arguments of the owner's network, if no flags can describe it.
    typed: config keys that the file does not determine, as a user types them;
      empty for published architectures.
    num_classes: classes of our network; equals those of the file if it has any.
    num_timesteps: timesteps of our network.
    num_groups: groups of the owner's normalisation.
    dtype: dtype in which the file is written.
    sides: sides of the images whose outputs are compared, in pixels.
    sampled_sides: sides of the images that are sampled, in pixels.
    num_sampler_steps: steps of DDIM.
    scheduler: arguments of diffusers' scheduler.
    timesteps: timestep of each image.
    labels: label of each image.
    is_fixture: whether the quick test reads it.
  """

  name: str
  format_name: str
  flags: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  unet: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  typed: Mapping[str, str] = dataclasses.field(default_factory=dict)
  num_classes: int = 0
  num_timesteps: int = 1000
  num_groups: int = 32
  dtype: str = 'float32'
  sides: Sequence[int] = (16, 12)
  sampled_sides: Sequence[int] = (16,)
  num_sampler_steps: int = 8
  scheduler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  timesteps: Sequence[int] = (0, 77, 500, 998)
  labels: Sequence[int] = (0, 1, 2, 0)
  is_fixture: bool = False


_SMALL = {
  'in_channels': 3,
  'model_channels': 32,
  'out_channels': 6,
  'num_res_blocks': 2,
  'attention_resolutions': (2,),
  'channel_mult': (1, 2),
  'num_heads': 4,
  'use_scale_shift_norm': True,
}
_TINY = {
  **_SMALL,
  'model_channels': 8,
  'num_res_blocks': 1,
  'num_heads': 2,
}
_4000 = {'learn_sigma': True, 'diffusion_steps': 4000}
_RESCALED = {'model.time_scale': '1', 'model.time_offset': '0.75'}
_OF_4000 = {'model.time_scale': '4', 'model.time_offset': '3'}


def _typed(schedule: str, **more: str) -> dict[str, str]:
  return {
    'pretrain.init_as_configured': 'true',
    'diffusion.schedule': schedule,
    'diffusion.prediction': 'eps',
    'model.num_groups': '32',
    **{key.replace('__', '.'): value for key, value in more.items()},
  }


_IMPROVED = (
  Case(
    name='tiny improved',
    format_name='improved_diffusion',
    flags={**_4000, 'noise_schedule': 'cosine'},
    unet=_TINY,
    typed={
      **_typed('cosine', model__num_heads='2'),
      **_RESCALED,
      'model.num_groups': '4',
    },
    num_classes=3,
    num_groups=4,
    dtype='float16',
    sides=(8,),
    sampled_sides=(8,),
    is_fixture=True,
  ),
  Case(
    name='small improved, rescaled time',
    format_name='improved_diffusion',
    flags={**_4000, 'noise_schedule': 'cosine'},
    unet=_SMALL,
    typed={**_typed('cosine', model__num_heads='4'), **_RESCALED},
    num_classes=3,
    sides=(16, 28),
  ),
  Case(
    name='small improved, five classes, time as it is',
    format_name='improved_diffusion',
    flags={**_4000, 'noise_schedule': 'cosine', 'rescale_timesteps': False},
    unet={**_SMALL, 'num_classes': 5, 'channel_mult': (1, 1, 2, 2)},
    typed={**_typed('cosine', model__num_heads='4'), **_OF_4000},
    num_classes=5,
    sides=(16, 28),
  ),
  Case(
    name='small improved, linear, no scales, no learned variance',
    format_name='improved_diffusion',
    flags={'diffusion_steps': 1000, 'noise_schedule': 'linear'},
    unet={
      **_SMALL,
      'out_channels': 3,
      'use_scale_shift_norm': False,
      'num_heads': 1,
    },
    typed=_typed('linear', model__num_heads='1'),
    num_classes=3,
  ),
  Case(
    name='small improved, linear T = 4000',
    format_name='improved_diffusion',
    flags={**_4000, 'noise_schedule': 'linear'},
    unet=_SMALL,
    typed={
      **_typed('linear', model__num_heads='4'),
      'model.time_scale': '0.25',
      'diffusion.num_timesteps': '4000',
    },
    num_classes=3,
    num_timesteps=4000,
    timesteps=(0, 77, 2500, 3999),
  ),
)

_GUIDED_TINY = {**_TINY, 'image_size': 8, 'resblock_updown': True}
_GUIDED = (
  Case(
    name='tiny guided',
    format_name='guided_diffusion',
    flags={'learn_sigma': True, 'noise_schedule': 'cosine'},
    unet={
      **_GUIDED_TINY,
      'num_classes': 3,
      'num_head_channels': 8,
      'use_new_attention_order': True,
    },
    typed={
      **_typed('cosine', model__head_channels='8'),
      'model.num_groups': '4',
      'pretrain.init_new_attention_order': 'true',
    },
    num_classes=3,
    num_groups=4,
    dtype='float16',
    sides=(8,),
    sampled_sides=(8,),
    is_fixture=True,
  ),
  Case(
    name='small guided, legacy order',
    format_name='guided_diffusion',
    flags={'learn_sigma': True, 'noise_schedule': 'linear'},
    unet={
      **_SMALL,
      'image_size': 16,
      'channel_mult': (1, 1, 2, 2),
      'resblock_updown': True,
      'num_head_channels': 16,
    },
    typed=_typed('linear', model__head_channels='16'),
    num_classes=3,
    sides=(16, 28),
  ),
  Case(
    name='small guided, convolutions, five classes',
    format_name='guided_diffusion',
    flags={'learn_sigma': True, 'noise_schedule': 'cosine'},
    unet={
      **_SMALL,
      'image_size': 16,
      'num_classes': 5,
      'use_new_attention_order': True,
      'channel_mult': (1, 2, 2),
      'attention_resolutions': (2, 4),
    },
    typed={
      **_typed('cosine', model__num_heads='4'),
      'pretrain.init_new_attention_order': 'true',
    },
    num_classes=5,
  ),
  Case(
    name='small guided, means of pixels',  # Improved-diffusion has none.
    format_name='guided_diffusion',
    flags={'learn_sigma': True, 'noise_schedule': 'linear'},
    unet={**_SMALL, 'image_size': 16, 'conv_resample': False},
    typed=_typed('linear', model__num_heads='4'),
    num_classes=3,
  ),
)


def _true_size(format_name: str) -> list[Case]:
  """The published networks, in their true size."""
  cases = []
  for entry in _ENTRIES[format_name]:
    own = entry.flags['image_size']
    cases.append(
      Case(
        name=entry.names[0],
        format_name=format_name,
        flags=entry.flags,
        num_classes=entry.architecture.num_classes or 3,
        sides=sorted({min(own, 64), 32, 28}, reverse=True),
        sampled_sides=(32,),
        num_sampler_steps=5,
        timesteps=(3, 500, 998),
        labels=(0, 2, 1),
      )
    )
  return cases


_TINY_DIFFUSERS = {
  'in_channels': 3,
  'out_channels': 3,
  'block_out_channels': (8, 16),
  'layers_per_block': 1,
  'norm_num_groups': 4,
  'attention_head_dim': 4,
  'down_block_types': ('DownBlock2D', 'AttnDownBlock2D'),
  'up_block_types': ('AttnUpBlock2D', 'UpBlock2D'),
}
_DIFFUSERS = (
  Case(
    name='tiny diffusers',
    format_name='diffusers',
    unet=_TINY_DIFFUSERS,
    num_classes=3,
    dtype='float16',
    sides=(8,),
    sampled_sides=(8,),
    is_fixture=True,
  ),
  Case(
    name='small diffusers, five classes, scales, one head, velocity',
    format_name='diffusers',
    unet={
      **_TINY_DIFFUSERS,
      'block_out_channels': (32, 64, 64),
      'layers_per_block': 2,
      'norm_num_groups': 32,
      'attn_norm_num_groups': 32,
      'attention_head_dim': None,
      'norm_eps': 1e-6,
      'resnet_time_scale_shift': 'scale_shift',
      'num_class_embeds': 5,
      'down_block_types': ('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
      'up_block_types': ('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    },
    scheduler={
      'beta_schedule': 'squaredcos_cap_v2',
      'prediction_type': 'v_prediction',
    },
    num_classes=5,
    sides=(16, 12),
  ),
  Case(
    name='UNet2DModel with its defaults',
    format_name='diffusers',
    num_classes=3,
    sides=(32,),
    sampled_sides=(),
    timesteps=(3, 500, 998),
    labels=(0, 2, 1),
  ),
)

CASES: Sequence[Case] = (
  *_IMPROVED,
  *_GUIDED,
  *_DIFFUSERS,
  *_true_size('improved_diffusion'),
  *_true_size('guided_diffusion'),
)
