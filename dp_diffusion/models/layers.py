"""Layers of the networks. In each, an example's output depends on it alone.

`unet`, `small_cnn` and `wide_resnet` use them. Images are float[B, H, W, C].
Parameters are float32. `dtype` is the dtype of the computation, except that
statistics of a normalisation and softmax are always computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from dp_diffusion import checks
from dp_diffusion.models import convolution
from dp_diffusion.models import materialize
from dp_diffusion.models import upsampling

Dtype = Any
GROUP_NORM_EPS = 1e-5
_default_init = nn.initializers.lecun_normal()


class Conv(nn.Module):
  """Convolution with a 3x3 or 1x1 kernel, zero-padded by 1 or 0.

  Attributes:
    features: output channels.
    kernel_size: 3 or 1.
    stride: 1 or 2, or with a 3x3 kernel 0.5, which first repeats every pixel to
      2x2; output side = ceil(side / stride).
    is_zero_init: whether the kernel starts at zero.
    use_bias: whether a bias is added.
    kernel_init: initializer of the kernel, unless `is_zero_init`.
    dtype: dtype of the computation.
    form: form of the kernel gradient, see `convolution`.
  """

  features: int
  kernel_size: int = 3
  stride: float = 1
  is_zero_init: bool = False
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer = _default_init
  dtype: Dtype = jnp.float32
  form: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float[B, H, W, Ci] to float[B, H', W', features]."""
    if self.kernel_size not in (1, 3):
      raise ValueError(f'Expected kernel_size={self.kernel_size} to be 1 or 3.')
    size = self.kernel_size
    if self.stride not in (convolution.STRIDES if size == 3 else (1, 2)):
      raise ValueError(
        f'Expected stride={self.stride} to be 1 or 2, or 0.5 of a 3x3 kernel.'
      )
    kernel = self.param(
      'kernel',
      nn.initializers.zeros if self.is_zero_init else self.kernel_init,
      (size, size, x.shape[-1], self.features),
      jnp.float32,
    ).astype(self.dtype)
    x = x.astype(self.dtype)
    if size == 1:
      step = int(self.stride)
      y = jnp.dot(x[:, ::step, ::step], kernel[0, 0])
    else:
      y = convolution.conv3x3(x, kernel, self.stride, self.form)
    if self.use_bias:
      bias = self.param(
        'bias', nn.initializers.zeros, (self.features,), jnp.float32
      )
      y = broadcast_add(y, bias[None, None, None])
    return materialize.keep_gradient(y)


class Dense(nn.Module):
  """`nn.Dense` whose bias gradient is summed in float32 (`broadcast_add`).

  Attributes:
    features: output features.
    dtype: dtype of the computation.
  """

  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float[B, Ci] to [B, features] of `dtype`."""
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', _default_init, shape, jnp.float32)
    y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
    bias = self.param(
      'bias', nn.initializers.zeros, (self.features,), jnp.float32
    )
    return broadcast_add(y, bias[None])


def broadcast_add(y: jax.Array, value: jax.Array) -> jax.Array:
  """Adds a value that is broadcast, such as a bias over pixels, in float32.

  The gradient of a broadcast is a sum, which XLA computes in the dtype of the
  addition. In bfloat16 a sum over pixels stops growing at 256 times its terms.
  XLA fuses the casts, so only the result, in the dtype of `y`, is stored.

  Args:
    y: of any float dtype.
    value: float that can be broadcast to the shape of `y`.

  Returns:
    `y + value`, of the shape and dtype of `y`.
  """
  return (y.astype(jnp.float32) + value.astype(jnp.float32)).astype(y.dtype)


class GroupNorm(nn.Module):
  """Group normalisation (Wu & He 2018, arXiv 1803.08494), float32 statistics.

  The statistics, the scale, the bias and a conditioning shift are combined into
  one factor and one offset per channel of each example, so that the image is
  read only twice and written once.

  Attributes:
    num_groups: number of groups; it must divide the number of channels.
    dtype: dtype of the result.
    eps: added to the variance.
  """

  num_groups: int
  dtype: Dtype = jnp.float32
  eps: float = GROUP_NORM_EPS

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    shift_scale: tuple[jax.Array, jax.Array] | None = None,
  ) -> jax.Array:
    """Normalises each group of channels of each example.

    Args:
      x: float[B, H, W, C].
      shift_scale: (shift, scale), each float[B, C]; the result is
        normalised * (1 + scale) + shift. None leaves it out.

    Returns:
      [B, H, W, C] of `dtype`.

    Raises:
      ValueError: num_groups does not divide C.
    """
    channels = x.shape[-1]
    check_divides('num_groups', self.num_groups, 'channels', channels)
    scale = self.param('scale', nn.initializers.ones, (channels,), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (channels,), jnp.float32)
    x = x.astype(jnp.float32)
    mean, rstd = _group_statistics(x, self.num_groups, self.eps)
    factor = rstd * scale[None]
    offset = bias[None] - mean * factor
    if shift_scale is not None:
      shift, extra = (v.astype(jnp.float32) for v in shift_scale)
      factor = factor * (1 + extra)
      offset = offset * (1 + extra) + shift
    y = x * factor[:, None, None] + offset[:, None, None]
    return y.astype(self.dtype)


def _group_statistics(
  x: jax.Array, num_groups: int, eps: float
) -> tuple[jax.Array, jax.Array]:
  """Returns mean and 1 / std of each channel's group, float32[B, C] each."""
  batch, height, width, channels = x.shape
  size = channels // num_groups

  def group_mean(per_channel_sum: jax.Array) -> jax.Array:
    grouped = per_channel_sum.reshape(batch, num_groups, size).sum(-1)
    return grouped / (height * width * size)

  mean = group_mean(x.sum((1, 2)))
  mean_of_squares = group_mean(jnp.square(x).sum((1, 2)))
  variance = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
  rstd = jax.lax.rsqrt(variance + eps)

  def per_channel(grouped: jax.Array) -> jax.Array:
    return jnp.repeat(grouped, size, axis=-1)

  return per_channel(mean), per_channel(rstd)


class Attention(nn.Module):
  """Multi-head self-attention over pixels, added to its input.

  As in Dhariwal & Nichol 2021 (arXiv 2105.05233), it normalises, projects to
  queries, keys and values, takes the softmax in float32, and projects back with
  weights that start at zero.

  Attributes:
    head_channels: channels of a head; they must divide the channels of x.
    num_groups: number of groups of the normalisation.
    dtype: dtype of the computation.
    norm_eps: constant that the normalisation adds to the variance.
  """

  head_channels: int
  num_groups: int
  dtype: Dtype = jnp.float32
  norm_eps: float = GROUP_NORM_EPS

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float[B, H, W, C] to the same shape."""
    batch, height, width, channels = x.shape
    check_divides('head_channels', self.head_channels, 'channels', channels)
    norm = GroupNorm(self.num_groups, self.dtype, self.norm_eps, name='norm')
    h = norm(x)
    h = Conv(3 * channels, kernel_size=1, dtype=self.dtype, name='qkv')(h)
    shape = (batch, height * width, -1, self.head_channels)
    q, k, v = (part.reshape(shape) for part in jnp.split(h, 3, axis=-1))
    scale = 1 / math.sqrt(self.head_channels)
    logits = jnp.einsum('bqhc,bkhc->bhqk', q * scale, k)
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    h = jnp.einsum('bhqk,bkhc->bqhc', weights.astype(self.dtype), v)
    h = h.reshape(batch, height, width, channels)
    project = Conv(
      channels, kernel_size=1, is_zero_init=True, dtype=self.dtype, name='proj'
    )
    return materialize.keep(x + project(h))


class Downsample(nn.Module):
  """Halves the sides by a 3x3 convolution of stride 2, or by a 2x2 mean.

  Attributes:
    with_conv: True for the convolution, False for the mean.
    dtype: dtype of the computation.
    may_be_odd: whether an odd side is rounded up; otherwise it is refused.
  """

  with_conv: bool = True
  dtype: Dtype = jnp.float32
  may_be_odd: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float[B, H, W, C] to float[B, H / 2, W / 2, C]."""
    height, width, channels = x.shape[1:]
    if (height % 2 or width % 2) and not self.may_be_odd:
      raise ValueError(f'Expected sides {height}x{width} to be even.')
    if self.with_conv:
      return Conv(channels, stride=2, dtype=self.dtype, name='conv')(x)
    return halve(x)


def halve(x: jax.Array) -> jax.Array:
  """Returns the means of 2x2 pixels; an odd side repeats its last pixel.

  Args:
    x: float[B, H, W, C].

  Returns:
    float[B, ceil(H / 2), ceil(W / 2), C].
  """
  batch, height, width, channels = x.shape
  if height % 2 or width % 2:
    rest = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return halve(jnp.pad(x, rest, mode='edge'))
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def to_patches(x: jax.Array, size: int) -> jax.Array:
  """Joins the pixels of each patch into the channels of one pixel.

  Args:
    x: float[B, H, W, C]; `size` divides H and W.
    size: side of a patch, in pixels.

  Returns:
    float[B, H / size, W / size, size * size * C].
  """
  if size == 1:
    return x
  batch, height, width, channels = x.shape
  shape = (batch, height // size, size, width // size, size, channels)
  patches = x.reshape(shape).transpose(0, 1, 3, 2, 4, 5)
  return patches.reshape(batch, height // size, width // size, -1)


def from_patches(x: jax.Array, size: int) -> jax.Array:
  """Undoes `to_patches`.

  Args:
    x: float[B, H, W, size * size * C].
    size: side of a patch, in pixels.

  Returns:
    float[B, size * H, size * W, C].
  """
  if size == 1:
    return x
  batch, height, width, _ = x.shape
  pixels = x.reshape(batch, height, width, size, size, -1)
  pixels = pixels.transpose(0, 1, 3, 2, 4, 5)
  return pixels.reshape(batch, size * height, size * width, -1)


class Upsample(nn.Module):
  """Doubles the sides by repeating pixels; a 3x3 convolution may follow.

  Attributes:
    with_conv: whether the convolution follows.
    dtype: dtype of the computation.
  """

  with_conv: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float[B, H, W, C] to float[B, 2 H, 2 W, C]."""
    if self.with_conv:
      stride = upsampling.STRIDE
      return Conv(x.shape[-1], stride=stride, dtype=self.dtype, name='conv')(x)
    return upsampling.repeat(x)


def timestep_embedding(
  timestep: jax.Array, features: int, max_period: float = 10_000.0
) -> jax.Array:
  """Returns sinusoids of geometric frequencies (arXiv 2006.11239, app. B).

  Args:
    timestep: int32[B] or float32[B], in steps.
    features: number of values per timestep; it must be even.
    max_period: longest wavelength divided by 2 pi, in steps.

  Returns:
    float32[B, features]: cosines, then sines.

  Raises:
    ValueError: `features` is odd.
  """
  if features % 2:
    raise ValueError(f'Expected features={features} to be even.')
  half = features // 2
  frequency = jnp.exp(
    -math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half
  )
  angle = timestep.astype(jnp.float32)[:, None] * frequency[None]
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class LabelEmbedding(nn.Module):
  """Embeds labels. The null class is a parameter apart from the real classes.

  Attributes:
    num_classes: number of real classes; the parameter `classes` has one row
      for each.
    features: length of an embedding.
    dtype: dtype of the result.
  """

  num_classes: int
  features: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, label: jax.Array) -> jax.Array:
    """Maps int32[B] in [-1, num_classes) to [B, features]; -1 is null.

    The embedding of a label outside that range is NaN, so that the error shows.
    """
    init = nn.initializers.normal(1.0)
    classes = self.param(
      'classes', init, (self.num_classes, self.features), jnp.float32
    )
    null = self.param('null', init, (self.features,), jnp.float32)
    # A product replaces a gather, whose per-example gradient is a slow scatter.
    one_hot = jax.nn.one_hot(label, self.num_classes, dtype=jnp.float32)
    rows = jnp.dot(one_hot, classes, precision=jax.lax.Precision.HIGHEST)
    is_null = (label == -1)[:, None]
    is_known = (label >= -1) & (label < self.num_classes)
    rows = jnp.where(is_null, null[None], rows)
    return jnp.where(is_known[:, None], rows, jnp.nan).astype(self.dtype)


def check_divides(name: str, divisor: int, total_name: str, total: int) -> None:
  """Raises ValueError, naming both values, unless divisor divides total."""
  if divisor < 1 or total % divisor:
    raise ValueError(
      f'Expected {name}={divisor} to divide {total_name}={total}.'
    )


def check_private_safe(variables: Mapping[str, Any]) -> None:
  """Raises ValueError if a layer couples the examples of a batch.

  Such a layer (batch normalisation, spectral normalisation) stores statistics
  of earlier batches beside its parameters. They are neither clipped nor noised.

  Args:
    variables: variables of a model, as its `init` returns them, or their
      shapes.

  Raises:
    ValueError: a layer has other variables than parameters; names the layers.
  """
  kept = {k: v for k, v in variables.items() if k != 'params' and v}
  leaves = jax.tree_util.tree_flatten_with_path(kept)[0]
  found = {tuple(str(k.key) for k in path[:-1]) for path, _ in leaves}
  if found:
    layers = sorted({'/'.join(path[1:]) or '.' for path in found})
    kinds = ', '.join(sorted({path[0] for path in found}))
    raise ValueError(
      'Expected no layer that couples the examples of a batch in a private'
      f' model, found {kinds} in {checks.some(layers)}: take a layer that looks'
      ' at one example, such as group normalisation.'
    )
