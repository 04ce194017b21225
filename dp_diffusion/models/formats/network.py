"""What a foreign file says of its network, whatever its format.

Shapes and names of a file fix the size of a network; they do not say how many
heads its attention has, along which schedule it was trained, or in which unit
it takes time. Where a format writes that down it is in `said`; for weights that
are known (`published`) the format's module adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from dp_diffusion import errors
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.models.formats import arrays

CLASS_ROWS, NULL_ROW = weights.CLASS_ROWS, weights.NULL_ROW


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """What names and shapes fix; two networks of one may still differ.

  Attributes:
    channels: of the first level.
    channel_multipliers: one per level.
    num_blocks: residual blocks per level.
    attention_levels: levels with attention, 0 for the first.
    scale_shift: as in `unet.UNetConfig`.
    conv_resample: as in `unet.UNetConfig`.
    resblock_updown: as in `unet.UNetConfig`.
    image_channels: of the input.
    has_variance: whether the output has a variance beside the mean.
    num_classes: rows of classes in the file, 0 for none.
  """

  channels: int
  channel_multipliers: tuple[int, ...]
  num_blocks: int
  attention_levels: tuple[int, ...]
  scale_shift: bool
  conv_resample: bool
  resblock_updown: bool
  image_channels: int
  has_variance: bool
  num_classes: int

  def model_keys(self, side: int) -> dict[str, Any]:
    """Values of `config.model`, for images of a side in pixels."""
    levels = len(self.channel_multipliers)
    sides = [-(-side >> level) for level in range(levels)]
    return {
      'channels': self.channels,
      'channel_multipliers': self.channel_multipliers,
      'num_blocks': self.num_blocks,
      'attention_resolutions': tuple(sides[i] for i in self.attention_levels),
      'scale_shift': self.scale_shift,
      'conv_resample': self.conv_resample,
      'resblock_updown': self.resblock_updown,
      'crop_odd_sides': bool(side % 2 ** (levels - 1)),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A network in a file.

  Attributes:
    path: of the file.
    architecture: what its shapes fix.
    said: dotted key -> value that shapes do not fix and that is known; a key
      that is not there is the user's to give.
    names: of published weights of this architecture; empty where none are
      known.
    arrays: our path -> values in our layout; without rows of classes that the
      file does not hold.
    their_names: our path -> name in the file.
  """

  path: str
  architecture: Architecture
  said: Mapping[str, Any]
  names: tuple[str, ...]
  arrays: Mapping[str, arrays.LazyArray]
  their_names: Mapping[str, str]

  def lines(self, config: unet.UNetConfig) -> list[str]:
    """What became of the file in a network of ours, for the terminal.

    Args:
      config: of our network.
    """
    a = self.architecture
    what = f'for {" or ".join(self.names)}' if self.names else 'as configured'
    keys = {**a.model_keys(0), **self.said}
    del keys['attention_resolutions'], keys['crop_odd_sides']
    if keys.get('model.num_heads'):
      keys.pop('model.head_channels', None)  # Not used.
    said = ', '.join(f'{k.split(".")[-1]}={v}' for k, v in keys.items())
    lines = [f'{self.path} is taken {what}: {said}']
    if a.has_variance:
      lines.append('the learned variance is not used, only the mean')
    absent = [CLASS_ROWS, NULL_ROW]
    if a.num_classes == config.num_classes:
      del absent[0]
    lines.append(f'zeros, since the file has none: {", ".join(absent)}')
    return lines

  def params(self, config: unet.UNetConfig, side: int) -> dict[str, np.ndarray]:
    """All weights of a network of ours, by path.

    Rows of classes are those of the file where it has as many; else they are
    zeros, and so is the row of the null class: a network without classes then
    answers as it did, whatever the label.

    Args:
      config: of our network, with the keys of this one.
      side: of its images, pixels.

    Returns:
      float32 arrays by path.

    Raises:
      UsageError: names an array that does not fit, or is damaged.
    """
    shapes = jax.tree.map(
      lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
      unet.param_shapes(config, side, side),
    )
    wanted = {k: v.shape for k, v in weights.flatten(shapes).items()}
    found = dict(self.arrays)
    if CLASS_ROWS in found and found[CLASS_ROWS].shape != wanted[CLASS_ROWS]:
      del found[CLASS_ROWS]
    absent = {CLASS_ROWS, NULL_ROW} - set(found)
    for path, shape in wanted.items():
      got = found[path].shape if path in found else None
      if path not in absent and got != shape:
        raise errors.UsageError(
          f'Expected {self.their_names.get(path, path)} of {self.path} to have'
          f' the shape {list(shape)} in our layout, found'
          f' {"none" if got is None else list(got)}.'
        )
    if more := sorted(set(found) - set(wanted)):
      raise errors.UsageError(
        f'Expected {self.path} to hold no more than the network of'
        f' config.model, found {self.their_names[more[0]]}.'
      )
    params = {k: np.zeros(wanted[k], np.float32) for k in sorted(absent)}
    for path in sorted(found):
      params[path] = found[path].load()
      if not np.isfinite(params[path]).all():
        raise errors.UsageError(
          f'Expected {self.their_names[path]} of {self.path} to be finite: it'
          ' is damaged.'
        )
    return params
