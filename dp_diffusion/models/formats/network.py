"""The network of a foreign file, described alike for every format.

The names and shapes of the arrays determine the size of the network. They do
not tell how many heads its attention has, with which schedule it was trained,
or in which unit it takes the timestep. These values are in `said` where the
file states them, or where the weights are well-known ones (`published`).
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
  """What the names and shapes of the arrays determine of a network.

  Two networks of the same architecture may still differ, in their schedule for
  instance.

  Attributes:
    channels: channels of the first level.
    channel_multipliers: one per level.
    num_blocks: residual blocks per level.
    attention_levels: indices of the levels with attention; 0 is the first.
    scale_shift: as in `unet.UNetConfig`.
    conv_resample: as in `unet.UNetConfig`.
    resblock_updown: as in `unet.UNetConfig`.
    image_channels: channels of the input.
    has_variance: whether the network outputs a variance beside the mean.
    num_classes: number of class embeddings in the file; 0 if it has none.
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
    """Returns the values of `config.model` for images of `side` pixels."""
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
    path: path of the file.
    architecture: what the shapes determine.
    said: dotted key -> value that the shapes do not show, where it is known. A
      key that is absent must be given by the user.
    names: names of published weights of this architecture; empty if none are
      known.
    arrays: our path -> values in our layout. Class embeddings are absent where
      the file has none.
    their_names: our path -> name in the file.
  """

  path: str
  architecture: Architecture
  said: Mapping[str, Any]
  names: tuple[str, ...]
  arrays: Mapping[str, arrays.LazyArray]
  their_names: Mapping[str, str]

  def lines(self, config: unet.UNetConfig) -> list[str]:
    """Returns lines for the terminal that say how the file is used.

    Args:
      config: the config of our network.
    """
    a = self.architecture
    what = f'for {" or ".join(self.names)}' if self.names else 'as configured'
    keys = {**a.model_keys(0), **self.said}
    del keys['attention_resolutions'], keys['crop_odd_sides']
    if keys.get('model.num_heads'):
      keys.pop('model.head_channels', None)  # `num_heads` replaces it.
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
    """Returns all weights of our network, by path.

    The class embeddings are those of the file if it has the same number of
    classes. Otherwise they are zeros, and so is the null class's: the network
    then gives the same output for every label, that of the original.

    Args:
      config: the config of our network, which holds the values of `keys`.
      side: side length of its images, in pixels.

    Returns:
      float32 arrays by path.

    Raises:
      UsageError: names an array that has another shape or is damaged.
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
