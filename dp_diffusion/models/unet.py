"""The denoiser, a U-Net after Dhariwal & Nichol 2021 (arXiv 2105.05233).

Its adaptive group normalisation is optional here (`scale_shift`). The network
is pre-trained on public images, fine-tuned privately, then used for sampling.
An example's output does not depend on the other examples of the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dp_diffusion import checks
from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.models import layers
from dp_diffusion.models import materialize
from dp_diffusion.models import upsampling

NULL_LABEL = -1
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network without what follows from the images and their classes.

  The defaults are those of the 80.4M network of CIFAR-10.
  """

  channels: int = config_keys.key(
    192, 'Channels of the first level; even.', '>= 1', mark='R'
  )
  channel_multipliers: tuple[int, ...] = config_keys.key(
    (1, 2, 2, 2),
    'One per level. Each level has half the side of the level before.',
    config_keys.Allowed('>= 1'),
    mark='R',
  )
  num_blocks: int = config_keys.key(
    2,
    'Residual blocks per level (one more on the way up).',
    '>= 1',
    mark='R',
  )
  attention_resolutions: tuple[int, ...] = config_keys.key(
    (16,),
    'Longer sides, in pixels, of the levels that have attention; the middle'
    ' block always has it.',
    '>= 1',
    mark='R',
  )
  head_channels: int = config_keys.key(
    64,
    'Channels of an attention head; they must divide those of the middle.',
    config_keys.Allowed('>= 1'),
    mark='r',
  )
  num_groups: int = config_keys.key(
    32,
    'Groups of every normalisation; they must divide channels.',
    config_keys.Allowed('>= 1'),
    mark='R',
  )
  dropout: float = config_keys.key(
    0.0, 'Probability, inside residual blocks.', '[0, 1)', mark='r'
  )
  scale_shift: bool = config_keys.key(
    False,
    'Whether the embedding scales and shifts the normalisation instead of being'
    ' added before it.',
    mark='r',
  )
  conv_resample: bool = config_keys.key(
    True, 'Whether down- and upsampling have a convolution.', mark='r'
  )
  compute_dtype: str = config_keys.key(
    'float32',
    'Of the arithmetic; parameters are always float32.',
    tuple(_DTYPES),
  )
  num_heads: int = config_keys.key(
    0,
    'Heads of every attention block; 0 takes as many as have head_channels'
    ' each.',
    '>= 0',
    is_later=True,
  )
  norm_eps: float = config_keys.key(
    layers.GROUP_NORM_EPS,
    'Constant that normalisations add to the variance.',
    '> 0',
    is_later=True,
  )
  resblock_updown: bool = config_keys.key(
    False,
    'Whether sides halve and double inside a residual block (arXiv 2105.05233'
    ' section 3), instead of in a convolution.',
    is_later=True,
  )
  crop_odd_sides: bool = config_keys.key(
    False,
    'Whether sides may be no multiple of 2^(levels - 1). Half of an odd side'
    ' is then rounded up, and the upsampling half cuts the surplus.',
    is_later=True,
  )
  patch_size: int = config_keys.key(
    1,
    'Sides, in pixels, of the patches that the network takes as one pixel of'
    ' more channels (one kind of the downsampling in arXiv 2301.11093). At 2, a'
    ' convolution of the first level costs a quarter. Image sides must be'
    ' multiples of it, and attention_resolutions counts patches.',
    '>= 1',
    is_later=True,
  )
  time_scale: float = config_keys.key(
    1.0,
    'The network embeds time_scale * timestep + time_offset.',
    '> 0',
    is_later=True,
  )
  time_offset: float = config_keys.key(
    0.0,
    'See time_scale. For instance, a network trained with T = 4000 on the'
    ' cosine schedule serves T = 1000 at timestep 4 t + 3.',
    'finite',
    is_later=True,
  )

  def __post_init__(self) -> None:
    if not self.channel_multipliers or min(self.channel_multipliers) < 1:
      raise ValueError(
        f'Expected channel_multipliers={self.channel_multipliers!r} to hold '
        'one positive integer per level.'
      )
    config_keys.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetConfig(ModelConfig):
  """Shape of the network.

  Attributes:
    num_classes: number of real classes; label -1 is the null class.
    image_channels: channels of input and output.
  """

  num_classes: int = 10
  image_channels: int = 3

  def __post_init__(self) -> None:
    super().__post_init__()
    for name in ('num_classes', 'image_channels'):
      checks.check_at_least(name, getattr(self, name), 1)
    if self.channels % 2:
      raise ValueError(f'Expected channels={self.channels} to be even.')
    layers.check_divides(
      'num_groups', self.num_groups, 'channels', self.channels
    )
    middle = self.channels * self.channel_multipliers[-1]
    name = 'num_heads' if self.num_heads else 'head_channels'
    layers.check_divides(
      name, getattr(self, name), 'channels of the middle', middle
    )

  def to_dict(self) -> dict[str, Any]:
    """Every field, in the order in which releases have always held them."""
    fields = dataclasses.asdict(self)
    of_data = {
      name: fields.pop(name) for name in ('num_classes', 'image_channels')
    }
    names = list(fields)
    last = names.index('conv_resample') + 1
    return {
      **{name: fields[name] for name in names[:last]},
      **of_data,
      **{name: fields[name] for name in names[last:]},
    }

  @property
  def side_divisor(self) -> int:
    """Image sides must be multiples of this number of pixels."""
    return self.patch_size * 2 ** (len(self.channel_multipliers) - 1)

  def sides(self, side: int) -> tuple[int, ...]:
    """Returns the side of each level, in patches; halves are rounded up."""
    patches = side // self.patch_size
    return tuple(
      -(-patches >> level) for level in range(len(self.channel_multipliers))
    )

  def check_image_shape(self, height: int, width: int, channels: int) -> None:
    """Raises ValueError when the network cannot take images of this shape."""
    if channels != self.image_channels:
      raise ValueError(
        f'Expected images of {channels} channels to have '
        f'image_channels={self.image_channels}.'
      )
    if height % self.patch_size or width % self.patch_size:
      raise ValueError(
        f'Expected image sides {height}x{width} to be multiples of '
        f'patch_size={self.patch_size}.'
      )
    is_odd = height % self.side_divisor or width % self.side_divisor
    if is_odd and not self.crop_odd_sides:
      raise ValueError(
        f'Expected image sides {height}x{width} to be multiples of '
        f'{self.side_divisor}, for {len(self.channel_multipliers)} levels '
        f'(channel_multipliers={self.channel_multipliers!r}), or '
        'crop_odd_sides=True.'
      )
    sides = self.sides(max(height, width))
    unused = [r for r in self.attention_resolutions if r not in sides]
    if unused and len(unused) == len(self.attention_resolutions):
      raise ValueError(
        f'Expected attention_resolutions={self.attention_resolutions!r} to '
        f'name a side among {sides}.'
      )


class ResBlock(nn.Module):
  """Two 3x3 convolutions with the embedding between them, and a shortcut.

  Attributes:
    features: output channels.
    config: config of the network.
    resample: 'down' halves and 'up' doubles the sides, before the first
      convolution and in the shortcut; '' does neither.
  """

  features: int
  config: UNetConfig
  resample: str = ''

  @nn.compact
  def __call__(
    self, x: jax.Array, embedding: jax.Array, is_training: bool
  ) -> jax.Array:
    """Maps float[B, H, W, C] and float[B, E] to float[B, H', W', features]."""
    config, dtype = self.config, _DTYPES[self.config.compute_dtype]
    norm_fn = functools.partial(
      layers.GroupNorm, config.num_groups, dtype, config.norm_eps
    )
    x = materialize.keep(x)
    h = nn.silu(norm_fn(name='norm_1')(x))
    stride: float = 1
    if self.resample == 'down':
      h, x = layers.halve(h), layers.halve(x)
    elif self.resample == 'up':
      stride, x = upsampling.STRIDE, upsampling.repeat(x)
    h = layers.Conv(self.features, stride=stride, dtype=dtype, name='conv_1')(h)
    factor = 2 if config.scale_shift else 1
    condition = layers.Dense(
      factor * self.features, dtype=dtype, name='embedding'
    )(embedding)
    norm = norm_fn(name='norm_2')
    if config.scale_shift:
      scale, shift = jnp.split(condition, 2, axis=-1)
      h = norm(h, (shift, scale))
    else:
      h = norm(layers.broadcast_add(h, condition[:, None, None]))
    h = nn.silu(h)
    if config.dropout:
      h = nn.Dropout(config.dropout)(h, deterministic=not is_training)
    h = layers.Conv(
      self.features, is_zero_init=True, dtype=dtype, name='conv_2'
    )(h)
    if x.shape[-1] != self.features:
      x = layers.Conv(
        self.features, kernel_size=1, dtype=dtype, name='shortcut'
      )(x)
    return materialize.keep(x + h)


class UNet(nn.Module):
  """The denoiser.

  Attributes:
    config: shape of the network.
  """

  config: UNetConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    timestep: jax.Array,
    label: jax.Array,
    is_training: bool = False,
  ) -> jax.Array:
    """Predicts the noise, the image or the velocity, as it was trained to.

    Args:
      x: float32[B, H, W, C], noisy images.
      timestep: int32[B] in [0, T).
      label: int32[B] in [-1, num_classes); -1 is the null class.
      is_training: whether dropout is applied; it needs the rng 'dropout'.

    Returns:
      float32[B, H, W, C].

    Raises:
      ValueError: sides or channels that the network cannot take.
    """
    config, dtype = self.config, _DTYPES[self.config.compute_dtype]
    config.check_image_shape(*x.shape[1:])
    embedding = nn.silu(self._embed(timestep, label))
    levels = tuple(enumerate(config.channel_multipliers))

    def block(
      h: jax.Array, features: int, name: str, resample: str = ''
    ) -> jax.Array:
      module = ResBlock(features, config, resample, name=name)
      return module(h, embedding, is_training)

    def attend(h: jax.Array, name: str, is_always: bool = False) -> jax.Array:
      if is_always or max(h.shape[1:3]) in config.attention_resolutions:
        h = _attention(config, h.shape[-1], name)(h)
      return h

    def sample(h: jax.Array, way: str, level: int) -> jax.Array:
      name = f'{way}_{level}_sample'
      if config.resblock_updown:
        return block(h, h.shape[-1], name, way)
      return _resampling(config, way, name)(h)

    h = layers.to_patches(x, config.patch_size)
    h = layers.Conv(config.channels, dtype=dtype, name='stem')(h)
    skips = [h]
    for level, multiplier in levels:
      for i in range(config.num_blocks):
        h = block(h, config.channels * multiplier, f'down_{level}_block_{i}')
        h = attend(h, f'down_{level}_attention_{i}')
        skips.append(h)
      if level < len(levels) - 1:
        h = sample(h, 'down', level)
        skips.append(h)

    h = block(h, h.shape[-1], 'middle_block_0')
    h = attend(h, 'middle_attention', is_always=True)
    h = block(h, h.shape[-1], 'middle_block_1')

    for level, multiplier in reversed(levels):
      for i in range(config.num_blocks + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = block(h, config.channels * multiplier, f'up_{level}_block_{i}')
        h = attend(h, f'up_{level}_attention_{i}')
      if level > 0:
        h = _cut(sample(h, 'up', level), *skips[-1].shape[1:3])

    norm = layers.GroupNorm(
      config.num_groups, dtype, config.norm_eps, name='norm_out'
    )
    h = nn.silu(norm(h))
    features = config.image_channels * config.patch_size**2
    h = layers.Conv(features, is_zero_init=True, dtype=dtype, name='out')(h)
    return layers.from_patches(h.astype(jnp.float32), config.patch_size)

  def _embed(self, timestep: jax.Array, label: jax.Array) -> jax.Array:
    """Embeds timestep and label, [B, 4 * channels]."""
    config, dtype = self.config, _DTYPES[self.config.compute_dtype]
    features = 4 * config.channels
    time = timestep
    if (config.time_scale, config.time_offset) != (1, 0):
      time = timestep * config.time_scale + config.time_offset
    h = layers.timestep_embedding(time, config.channels).astype(dtype)
    h = nn.silu(layers.Dense(features, dtype=dtype, name='time_1')(h))
    h = layers.Dense(features, dtype=dtype, name='time_2')(h)
    return h + layers.LabelEmbedding(
      config.num_classes, features, dtype, name='label'
    )(label)


def _attention(config: UNetConfig, channels: int, name: str) -> nn.Module:
  """Returns an attention layer for `channels`, with the config's heads."""
  head_channels = config.head_channels
  if config.num_heads:
    layers.check_divides('num_heads', config.num_heads, name, channels)
    head_channels = channels // config.num_heads
  return layers.Attention(
    head_channels,
    config.num_groups,
    _DTYPES[config.compute_dtype],
    config.norm_eps,
    name=name,
  )


def _resampling(config: UNetConfig, way: str, name: str) -> nn.Module:
  """Returns the layer that halves ('down') or doubles ('up') the sides."""
  dtype = _DTYPES[config.compute_dtype]
  if way == 'down':
    return layers.Downsample(
      config.conv_resample, dtype, config.crop_odd_sides, name=name
    )
  return layers.Upsample(config.conv_resample, dtype, name=name)


def _cut(h: jax.Array, height: int, width: int) -> jax.Array:
  """Cuts float[B, H, W, C] to its first `height` rows and `width` columns."""
  is_larger = h.shape[1:3] != (height, width)
  return h[:, :height, :width] if is_larger else h


def param_shapes(config: UNetConfig, height: int, width: int) -> types.Params:
  """Returns the shapes of the parameters, without allocating any."""
  variables = jax.eval_shape(
    UNet(config).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, height, width, config.image_channels), 'float32'),
    jax.ShapeDtypeStruct((1,), 'int32'),
    jax.ShapeDtypeStruct((1,), 'int32'),
  )
  return variables['params']


def num_parameters(config: UNetConfig, height: int, width: int) -> int:
  """Returns the number of parameters, without allocating any."""
  shapes = param_shapes(config, height, width)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def make_denoise_fn(model: UNet, params: types.Params) -> types.DenoiseFn:
  """Binds weights, for use without training."""

  def denoise(
    x_t: types.Array,
    timestep: types.Array,
    label: types.Array,
  ) -> types.Array:
    output: Any = model.apply({'params': params}, x_t, timestep, label)
    return output

  return denoise
