"""Converts the `UNet2DModel` of Hugging Face's diffusers to our network.

`config.json` beside the weights describes the network, and a pipeline's
`../scheduler/scheduler_config.json` describes the diffusion. Every value that
our network cannot reproduce is refused by its key: an embedding with sines
first or with shifted frequencies, a convolution that is padded on one side, and
so on. For this reason `google/ddpm-cifar10-32` and similar ones are refused.

Sources: `UNet2DModel`, `unet_2d_blocks`, `DDPMScheduler` of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import json
import math
from typing import Any

from etils import epath
import numpy as np

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models.formats import arrays
from dp_diffusion.models.formats import network
from dp_diffusion.models.formats import safetensors_file
from dp_diffusion.models.formats import torch_file

WEIGHTS = 'diffusion_pytorch_model'
_DOWN = {'DownBlock2D': False, 'AttnDownBlock2D': True}
_UP = {'UpBlock2D': False, 'AttnUpBlock2D': True}
# key: (the values that our network supports, the default of diffusers).
_FIXED: Mapping[str, tuple[tuple[Any, ...], Any]] = {
  '_class_name': (('UNet2DModel',), 'UNet2DModel'),
  'center_input_sample': ((False,), False),
  'time_embedding_type': (('positional',), 'positional'),
  'freq_shift': ((0,), 0),
  'flip_sin_to_cos': ((True,), True),
  'mid_block_type': (('UNetMidBlock2D',), 'UNetMidBlock2D'),
  'mid_block_scale_factor': ((1,), 1),
  'downsample_padding': ((1,), 1),
  'downsample_type': (('conv',), 'conv'),
  'upsample_type': (('conv',), 'conv'),
  'act_fn': (('silu', 'swish'), 'silu'),
  'resnet_time_scale_shift': (('default', 'scale_shift'), 'default'),
  'add_attention': ((True,), True),
  'class_embed_type': ((None,), None),
}
_SCHEDULES = {'linear': 'linear', 'squaredcos_cap_v2': 'cosine'}
_PREDICTIONS = {'epsilon': 'eps', 'sample': 'x0', 'v_prediction': 'v'}
_FIXED_OF_SCHEDULER: Mapping[str, tuple[tuple[Any, ...], Any]] = {
  'beta_schedule': (tuple(_SCHEDULES), 'linear'),
  'prediction_type': (tuple(_PREDICTIONS), 'epsilon'),
  'trained_betas': ((None,), None),
  'rescale_betas_zero_snr': ((False,), False),
}
_Leaves = Iterator[tuple[str, 'Leaf']]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """Arrays of the file that are concatenated into one of our arrays.

  Attributes:
    theirs: names of the arrays in the file.
    change: changes the layout of the concatenated array; None keeps it.
  """

  theirs: tuple[str, ...]
  change: Callable[[np.ndarray], np.ndarray] | None = None


def find(path: epath.Path) -> epath.Path:
  """Finds the file of weights in the folder of a pipeline or of its network."""
  for folder in (path, path / 'unet'):
    for ending in ('.safetensors', '.bin'):
      if (folder / f'{WEIGHTS}{ending}').exists():
        return folder / f'{WEIGHTS}{ending}'
  raise errors.UsageError(
    f'Expected pretrain.init_from={path} to hold {WEIGHTS}.safetensors, itself'
    ' or in unet/.'
  )


def read(
  path: epath.Path, configured: Mapping[str, Any] | None
) -> network.Network:
  """Describes the network in a file, from the config beside it.

  Args:
    path: the file of weights, .safetensors or .bin.
    configured: dotted key -> value that the user vouches for. The keys of the
      diffusion are taken from here, since the scheduler's file may be missing.
      None requires that file.

  Raises:
    UsageError: names a file that is missing or a value that our network
      cannot reproduce.
  """
  config = _Values(path.parent / 'config.json', _FIXED)
  architecture = _architecture(config)
  leaves = dict(_leaves(architecture))
  reader = torch_file.read if path.suffix == '.bin' else safetensors_file.read
  found = reader(path)
  names = {name for leaf in leaves.values() for name in leaf.theirs}
  for wrong, words in (
    (sorted(names - set(found)), 'lacks'),
    (sorted(set(found) - names), 'has beside them'),
  ):
    if wrong:
      raise errors.UsageError(
        f'Expected {path} to hold the arrays of its config.json: it {words}'
        f' {checks.some(wrong)}.'
      )
  scheduler = path.parent.parent / 'scheduler' / 'scheduler_config.json'
  if configured is not None:
    said = {k: v for k, v in configured.items() if k.startswith('diffusion.')}
  elif scheduler.exists():
    said = _diffusion(_Values(scheduler, _FIXED_OF_SCHEDULER))
  else:
    raise errors.UsageError(
      f'Nothing says along which diffusion {path} was trained: there is no'
      f' {scheduler}. Give diffusion.schedule, diffusion.num_timesteps and'
      ' diffusion.prediction as they were, and'
      ' pretrain.init_as_configured=True.'
    )
  return network.Network(
    path=str(path),
    architecture=architecture,
    said={**_model(config), **said},
    names=(f'{config.path.parent.name}/{path.name}',),
    arrays={ours: _lazy(found, leaf) for ours, leaf in leaves.items()},
    their_names={ours: leaf.theirs[0] for ours, leaf in leaves.items()},
  )


class _Values:
  """Values of a JSON file of diffusers; unsupported ones are refused."""

  def __init__(
    self,
    path: epath.Path,
    fixed: Mapping[str, tuple[tuple[Any, ...], Any]],
  ) -> None:
    self.path, self._fixed = path, fixed
    try:
      self._values = files.read_json(path)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
      raise errors.UsageError(
        f'Expected {path}, which says what the network is, to be a JSON'
        f' object: {error}.'
      ) from error
    if not isinstance(self._values, dict):
      raise errors.UsageError(f'Expected {path} to be a JSON object.')
    for key, (known, _) in fixed.items():
      if self[key] not in known:
        raise self.refused(key, f'one of {", ".join(map(repr, known))}')

  def __getitem__(self, key: str) -> Any:
    default = self._fixed[key][1] if key in self._fixed else None
    return self._values.get(key, default)

  def refused(self, key: str, expected: str) -> errors.UsageError:
    """Returns the error for a value that is not supported."""
    return errors.UsageError(
      f'Expected {key}={self[key]!r} of {self.path} to be {expected}: the'
      ' network would not be the same here.'
    )

  def is_none(self, key: str) -> bool:
    """Whether the file has the key, with the value null."""
    return key in self._values and self._values[key] is None

  def integer(self, key: str, default: int | None = None) -> int:
    """Returns the positive integer at a key."""
    value = self[key]
    value = default if value is None else value
    if type(value) is not int or value < 1:
      raise self.refused(key, 'a positive integer')
    return value

  def integers(self, key: str) -> tuple[int, ...]:
    """Returns the list of positive integers at a key."""
    value = self[key]
    is_right = isinstance(value, list) and value
    if not is_right or any(type(v) is not int or v < 1 for v in value):
      raise self.refused(key, 'positive integers')
    return tuple(value)

  def one_of_each(self, key: str, known: Mapping[str, bool]) -> list[bool]:
    """Replaces each name of the list at a key by its entry in `known`."""
    value = self[key]
    if not isinstance(value, list) or any(v not in known for v in value):
      raise self.refused(key, f'of {" and ".join(known)}')
    return [known[v] for v in value]


def _architecture(config: _Values) -> network.Architecture:
  widths = config.integers('block_out_channels')
  down = config.one_of_each('down_block_types', _DOWN)
  up = config.one_of_each('up_block_types', _UP)
  if up[::-1] != down or len(down) != len(widths):
    raise config.refused('up_block_types', 'those down, in the other order')
  channels = widths[0]
  if any(w % channels for w in widths):
    raise config.refused('block_out_channels', 'multiples of the first')
  if config['time_embedding_dim'] not in (None, 4 * channels):
    raise config.refused('time_embedding_dim', f'{4 * channels} or none')
  image_channels = config.integer('in_channels', 3)
  if config.integer('out_channels', 3) != image_channels:
    raise config.refused('out_channels', f'in_channels={image_channels}')
  groups = config['attn_norm_num_groups']
  if groups not in (None, config.integer('norm_num_groups', 32)):
    raise config.refused('attn_norm_num_groups', 'norm_num_groups or none')
  has_classes = config['num_class_embeds'] is not None
  return network.Architecture(
    channels=channels,
    channel_multipliers=tuple(w // channels for w in widths),
    num_blocks=config.integer('layers_per_block', 2),
    attention_levels=tuple(i for i, has in enumerate(down) if has),
    scale_shift=config['resnet_time_scale_shift'] == 'scale_shift',
    conv_resample=True,
    resblock_updown=False,
    image_channels=image_channels,
    has_variance=False,
    num_classes=config.integer('num_class_embeds') if has_classes else 0,
  )


def _model(config: _Values) -> dict[str, Any]:
  """Returns the values of `config.model` that no shape determines."""
  eps = config['norm_eps']
  eps = 1e-5 if eps is None else eps
  if not isinstance(eps, float) or not 0 < eps < 1:
    raise config.refused('norm_eps', 'a small positive number')
  heads = {'model.num_heads': 1}  # None means one head as wide as its level.
  if not config.is_none('attention_head_dim'):
    heads = {
      'model.num_heads': 0,
      'model.head_channels': config.integer('attention_head_dim', 8),
    }
  return {
    **heads,
    'model.num_groups': config.integer('norm_num_groups', 32),
    'model.norm_eps': eps,
    'model.time_scale': 1.0,
    'model.time_offset': 0.0,
  }


def _diffusion(scheduler: _Values) -> dict[str, Any]:
  num_timesteps = scheduler.integer('num_train_timesteps', 1000)
  schedule = _SCHEDULES[scheduler['beta_schedule']]
  if schedule == 'linear':
    for key, ours in (('beta_start', 1e-4), ('beta_end', 0.02)):
      value = scheduler[key]
      value = ours if value is None else value
      expected = ours * 1000 / num_timesteps
      if not isinstance(value, float) or not math.isclose(value, expected):
        raise scheduler.refused(key, f'{expected:g}')
  return {
    'diffusion.schedule': schedule,
    'diffusion.num_timesteps': num_timesteps,
    'diffusion.prediction': _PREDICTIONS[scheduler['prediction_type']],
  }


def _leaves(a: network.Architecture) -> _Leaves:
  """Yields each of our paths with the arrays of the file that it takes."""
  levels = range(len(a.channel_multipliers))
  widths = [a.channels * m for m in a.channel_multipliers]
  yield from _dense('time_1', 'time_embedding.linear_1')
  yield from _dense('time_2', 'time_embedding.linear_2')
  if a.num_classes:
    yield network.CLASS_ROWS, Leaf(('class_embedding.weight',))
  yield from _conv('stem', 'conv_in')
  skips, width = [a.channels], a.channels
  for level in levels:
    theirs = f'down_blocks.{level}'
    for i in range(a.num_blocks):
      yield from _block(
        f'down_{level}_block_{i}', f'{theirs}.resnets.{i}', width, widths[level]
      )
      width = widths[level]
      if level in a.attention_levels:
        yield from _attention(
          f'down_{level}_attention_{i}', f'{theirs}.attentions.{i}'
        )
      skips.append(width)
    if level < levels[-1]:
      yield from _conv(
        f'down_{level}_sample/conv', f'{theirs}.downsamplers.0.conv'
      )
      skips.append(width)
  for i in range(2):
    yield from _block(
      f'middle_block_{i}', f'mid_block.resnets.{i}', width, width
    )
  yield from _attention('middle_attention', 'mid_block.attentions.0')
  for level in reversed(levels):
    theirs = f'up_blocks.{levels[-1] - level}'
    for i in range(a.num_blocks + 1):
      features = width + skips.pop()
      yield from _block(
        f'up_{level}_block_{i}',
        f'{theirs}.resnets.{i}',
        features,
        widths[level],
      )
      width = widths[level]
      if level in a.attention_levels:
        yield from _attention(
          f'up_{level}_attention_{i}', f'{theirs}.attentions.{i}'
        )
    if level:
      yield from _conv(f'up_{level}_sample/conv', f'{theirs}.upsamplers.0.conv')
  yield from _norm('norm_out', 'conv_norm_out')
  yield from _conv('out', 'conv_out')


def _conv(ours: str, theirs: str) -> _Leaves:
  yield f'{ours}/kernel', Leaf((f'{theirs}.weight',), arrays.kernel)
  yield f'{ours}/bias', Leaf((f'{theirs}.bias',))


def _dense(ours: str, theirs: str) -> _Leaves:
  yield f'{ours}/kernel', Leaf((f'{theirs}.weight',), arrays.matrix)
  yield f'{ours}/bias', Leaf((f'{theirs}.bias',))


def _norm(ours: str, theirs: str) -> _Leaves:
  yield f'{ours}/scale', Leaf((f'{theirs}.weight',))
  yield f'{ours}/bias', Leaf((f'{theirs}.bias',))


def _block(ours: str, theirs: str, width: int, features: int) -> _Leaves:
  yield from _norm(f'{ours}/norm_1', f'{theirs}.norm1')
  yield from _conv(f'{ours}/conv_1', f'{theirs}.conv1')
  yield from _dense(f'{ours}/embedding', f'{theirs}.time_emb_proj')
  yield from _norm(f'{ours}/norm_2', f'{theirs}.norm2')
  yield from _conv(f'{ours}/conv_2', f'{theirs}.conv2')
  if width != features:
    yield from _conv(f'{ours}/shortcut', f'{theirs}.conv_shortcut')


def _attention(ours: str, theirs: str) -> _Leaves:
  """Yields the leaves of an attention block.

  Queries, keys and values are one projection here, and three in the file.
  """
  yield from _norm(f'{ours}/norm', f'{theirs}.group_norm')
  parts = [f'{theirs}.to_{part}' for part in 'qkv']
  weights = tuple(f'{part}.weight' for part in parts)
  yield f'{ours}/qkv/kernel', Leaf(weights, _pointwise)
  yield f'{ours}/qkv/bias', Leaf(tuple(f'{part}.bias' for part in parts))
  out = f'{theirs}.to_out.0'
  yield f'{ours}/proj/kernel', Leaf((f'{out}.weight',), _pointwise)
  yield f'{ours}/proj/bias', Leaf((f'{out}.bias',))


def _pointwise(x: np.ndarray) -> np.ndarray:
  """Turns a matrix [out, in] into a 1x1 kernel [1, 1, in, out]."""
  return x.transpose(1, 0)[None, None]


def _lazy(found: Mapping[str, arrays.LazyArray], leaf: Leaf) -> Any:
  parts = [found[name] for name in leaf.theirs]
  joined = parts[0]
  if len(parts) > 1:
    shapes = {part.shape for part in parts}
    if len(shapes) > 1 or not parts[0].shape:
      # A comparison of shapes names it later.
      return next(part for part in parts)
    first, *rest = parts[0].shape
    joined = arrays.LazyArray(
      (len(parts) * first, *rest), functools.partial(_join, parts)
    )
  if leaf.change is None:
    return joined
  return arrays.changed(joined, leaf.change)


def _join(parts: list[arrays.LazyArray]) -> np.ndarray:
  return np.concatenate([part.load() for part in parts])
