"""Converts networks of improved-diffusion and guided-diffusion to ours.

Both repositories of OpenAI (arXiv 2102.09672, 2105.05233) save the state dict
of a `UNetModel`. The second one adds residual blocks that halve or double the
sides, and another order of queries, keys and values. The names
`input_blocks.N`, `middle_block.N` and `output_blocks.N` number the blocks
through all levels.

Their layout differs from ours:
  * Convolutions are [Cout, Cin, H, W], dense layers are [out, in], and the
    projections of attention are one-dimensional convolutions [out, in, 1].
  * The rows of `qkv` are ordered as [heads, 3, channels of a head] ("legacy",
    in all of improved-diffusion) or, as ours, [3, heads, channels of a head].
  * Where the variance is learned, the output has twice the channels. The first
    half is the mean; the second half is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import re
from typing import Any

import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion.models.formats import arrays
from dp_diffusion.models.formats import network
from dp_diffusion.models.formats import published

_Arrays = Mapping[str, arrays.LazyArray]
_Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Leaf:
  """An array's name in the file, and the kind of its layout."""

  theirs: str
  kind: str  # One of _SHAPES.


def read(
  path: str,
  found: _Arrays,
  entries: published.Entries,
  configured: Mapping[str, Any] | None,
  is_new_order: bool,
) -> network.Network:
  """Describes the network that a state dict belongs to.

  Args:
    path: path of the file, for messages.
    found: the arrays of the file, by name.
    entries: the published weights of this format.
    configured: dotted key -> value that the user vouches for; None takes the
      values from `entries`.
    is_new_order: whether the rows of `qkv` are ordered as ours. It is used with
      `configured` only.

  Raises:
    UsageError: the arrays are those of another network.
  """
  try:
    architecture = _architecture(found)
    leaves = dict(_leaves(architecture))
  except (KeyError, IndexError, ValueError) as error:
    raise _no_network(path, str(error).strip('"\'')) from error
  names = {leaf.theirs for leaf in leaves.values()}
  for wrong, words in (
    (sorted(names - set(found)), 'lacks'),
    (sorted(set(found) - names), 'has beside them'),
  ):
    if wrong:
      raise _no_network(path, f'it {words} {checks.some(wrong)}')
  entry = published.find(entries, architecture)
  said: Mapping[str, Any] = {}
  if configured is not None:
    said = configured
  elif entry is not None:
    said, is_new_order = entry.said, entry.is_new_order
  heads = None if is_new_order else _heads_fn(said)
  return network.Network(
    path=path,
    architecture=architecture,
    said=said,
    names=entry.names if entry and configured is None else (),
    arrays={
      ours: arrays.changed(
        found[leaf.theirs], _change(leaf.kind, architecture, heads)
      )
      for ours, leaf in leaves.items()
    },
    their_names={ours: leaf.theirs for ours, leaf in leaves.items()},
  )


def _no_network(path: str, reason: str) -> errors.UsageError:
  return errors.UsageError(
    f'Expected {path} to hold the arrays of a UNetModel of improved-diffusion'
    f' or guided-diffusion: {reason}.'
  )


def _heads_fn(said: Mapping[str, Any]) -> Callable[[int], int]:
  """Returns the function from channels to the number of heads."""

  def heads(channels: int) -> int:
    number = said.get('model.num_heads', 0)
    return number or channels // said.get('model.head_channels', channels)

  return heads


def _architecture(found: _Arrays) -> network.Architecture:
  """Infers the architecture from the names and shapes of the arrays.

  Raises:
    KeyError: an array is missing.
    ValueError: an array has a shape that no such network has.
  """

  def shape(name: str, rank: int) -> tuple[int, ...]:
    if name not in found:
      raise KeyError(f'it lacks {name}')
    if len(found[name].shape) != rank:
      raise ValueError(f'{name} has the shape {list(found[name].shape)}')
    return found[name].shape

  num_inputs = _count(found, 'input_blocks')
  num_outputs = _count(found, 'output_blocks')
  period, kind = _period(found, num_outputs)
  if num_outputs % period or num_inputs != num_outputs:
    raise ValueError(
      f'{num_inputs} blocks down and {num_outputs} up are no whole levels'
    )
  channels, image_channels = shape('input_blocks.0.0.weight', 4)[:2]
  num_levels = num_outputs // period
  firsts = [1 + level * period for level in range(num_levels)]
  widths = [
    shape(f'input_blocks.{n}.0.out_layers.3.weight', 4)[0] for n in firsts
  ]
  if not channels or any(w % channels or not w for w in widths):
    raise ValueError(f'levels of {widths} channels after one of {channels}')
  num_outputs_of_last = shape('out.2.weight', 4)[0]
  if num_outputs_of_last not in (image_channels, 2 * image_channels):
    raise ValueError(
      f'{num_outputs_of_last} outputs for {image_channels} channels'
    )
  emb = shape('input_blocks.1.0.emb_layers.1.weight', 2)[0]
  has_rows = 'label_emb.weight' in found
  return network.Architecture(
    channels=channels,
    channel_multipliers=tuple(w // channels for w in widths),
    num_blocks=period - 1,
    attention_levels=tuple(
      level
      for level, n in enumerate(firsts)
      if f'input_blocks.{n}.1.qkv.weight' in found
    ),
    scale_shift=emb == 2 * widths[0],
    conv_resample=kind != 'none',
    resblock_updown=kind == 'block',
    image_channels=image_channels,
    has_variance=num_outputs_of_last == 2 * image_channels,
    num_classes=shape('label_emb.weight', 2)[0] if has_rows else 0,
  )


def _count(found: _Arrays, group: str) -> int:
  """Returns the number of blocks in a group, from the largest index named."""
  numbers = [
    int(match[1])
    for name in found
    if (match := re.match(rf'{group}\.(\d{{1,4}})\.', name))
  ]
  if not numbers:
    raise KeyError(f'it has no {group}')
  return max(numbers) + 1


def _period(found: _Arrays, num_outputs: int) -> tuple[int, str]:
  """Returns the blocks per level of the upsampling half, and how it upsamples.

  The second value is 'conv', 'block' or 'none', for an upsampling that has a
  convolution, lies in a residual block, or has no arrays of its own.
  """
  for n in range(num_outputs):
    for place in (1, 2):
      if f'output_blocks.{n}.{place}.conv.weight' in found:
        return n + 1, 'conv'
      if f'output_blocks.{n}.{place}.in_layers.0.weight' in found:
        return n + 1, 'block'
  for n in range(1, num_outputs):  # An upsampling may have no arrays.
    if f'input_blocks.{n}.0.in_layers.0.weight' not in found:
      return n, 'none'
  return num_outputs, 'conv'


def _leaves(a: network.Architecture) -> Iterator[tuple[str, _Leaf]]:
  """Yields each of our paths with the leaf of the file that it takes."""
  period = a.num_blocks + 1
  levels = range(len(a.channel_multipliers))
  widths = [a.channels * m for m in a.channel_multipliers]
  yield from _pair('time_1', 'time_embed.0', 'dense')
  yield from _pair('time_2', 'time_embed.2', 'dense')
  if a.num_classes:
    yield network.CLASS_ROWS, _Leaf('label_emb.weight', 'as_is')
  yield from _pair('stem', 'input_blocks.0.0', 'conv')
  skips, width = [a.channels], a.channels
  for level in levels:
    for i in range(a.num_blocks):
      theirs = f'input_blocks.{1 + level * period + i}'
      yield from _block(
        f'down_{level}_block_{i}', f'{theirs}.0', width, widths[level]
      )
      width = widths[level]
      if level in a.attention_levels:
        yield from _attention(f'down_{level}_attention_{i}', f'{theirs}.1')
      skips.append(width)
    if level < levels[-1]:
      theirs, ours = f'input_blocks.{(level + 1) * period}', f'down_{level}'
      yield from _sample(a, f'{ours}_sample', f'{theirs}.0', 'op')
      skips.append(width)
  yield from _block('middle_block_0', 'middle_block.0', width, width)
  yield from _attention('middle_attention', 'middle_block.1')
  yield from _block('middle_block_1', 'middle_block.2', width, width)
  for level in reversed(levels):
    for i in range(period):
      theirs = f'output_blocks.{(levels[-1] - level) * period + i}'
      features = width + skips.pop()
      yield from _block(
        f'up_{level}_block_{i}', f'{theirs}.0', features, widths[level]
      )
      width = widths[level]
      has_attention = level in a.attention_levels
      if has_attention:
        yield from _attention(f'up_{level}_attention_{i}', f'{theirs}.1')
    if level:
      place = 2 if has_attention else 1
      yield from _sample(a, f'up_{level}_sample', f'{theirs}.{place}', 'conv')
  yield from _norm('norm_out', 'out.0')
  yield from _pair('out', 'out.2', 'mean')


def _pair(ours: str, theirs: str, kind: str) -> Iterator[tuple[str, _Leaf]]:
  bias = 'mean' if kind == 'mean' else 'qkv' if kind == 'qkv' else 'as_is'
  yield f'{ours}/kernel', _Leaf(f'{theirs}.weight', kind)
  yield f'{ours}/bias', _Leaf(f'{theirs}.bias', bias)


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, _Leaf]]:
  yield f'{ours}/scale', _Leaf(f'{theirs}.weight', 'as_is')
  yield f'{ours}/bias', _Leaf(f'{theirs}.bias', 'as_is')


def _block(
  ours: str, theirs: str, width: int, features: int
) -> Iterator[tuple[str, _Leaf]]:
  yield from _norm(f'{ours}/norm_1', f'{theirs}.in_layers.0')
  yield from _pair(f'{ours}/conv_1', f'{theirs}.in_layers.2', 'conv')
  yield from _pair(f'{ours}/embedding', f'{theirs}.emb_layers.1', 'dense')
  yield from _norm(f'{ours}/norm_2', f'{theirs}.out_layers.0')
  yield from _pair(f'{ours}/conv_2', f'{theirs}.out_layers.3', 'conv')
  if width != features:
    yield from _pair(f'{ours}/shortcut', f'{theirs}.skip_connection', 'conv')


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, _Leaf]]:
  yield from _norm(f'{ours}/norm', f'{theirs}.norm')
  yield from _pair(f'{ours}/qkv', f'{theirs}.qkv', 'qkv')
  yield from _pair(f'{ours}/proj', f'{theirs}.proj_out', 'conv_1d')


def _sample(
  a: network.Architecture, ours: str, theirs: str, conv: str
) -> Iterator[tuple[str, _Leaf]]:
  if a.resblock_updown:
    yield from _block(ours, theirs, 0, 0)
  elif a.conv_resample:
    yield from _pair(f'{ours}/conv', f'{theirs}.{conv}', 'conv')


def _change(
  kind: str,
  a: network.Architecture,
  heads: Callable[[int], int] | None,
) -> _Change:
  if kind == 'as_is':
    return lambda x: x
  if kind == 'dense':
    return arrays.matrix
  if kind == 'conv':
    return arrays.kernel
  if kind == 'conv_1d':
    return _of_conv_1d
  if kind == 'mean':
    return lambda x: _kernel(x[: a.image_channels])
  assert kind == 'qkv', kind
  return lambda x: _qkv(x, heads)


def _of_conv_1d(x: np.ndarray) -> np.ndarray:
  """Turns [out, in, 1] into a 1x1 kernel [1, 1, in, out]."""
  return x.transpose(2, 1, 0)[None]


def _kernel(x: np.ndarray) -> np.ndarray:
  """Changes the layout of a kernel; a bias stays as it is."""
  return arrays.kernel(x) if x.ndim > 1 else x


def _qkv(x: np.ndarray, heads: Callable[[int], int] | None) -> np.ndarray:
  """Orders outputs of a kernel or bias as [3, heads, channels of a head]."""
  channels = x.shape[0] // 3
  if heads is not None:
    parted = x.reshape(heads(channels), 3, -1, *x.shape[1:])
    x = np.swapaxes(parted, 0, 1).reshape(x.shape)
  return _of_conv_1d(x) if x.ndim > 1 else x
