"""DP-MEPF: mean embeddings of perceptual features, noised once.

The method is that of Harder et al. 2022, arXiv 2205.12900. The features are the
activations of a network trained on public data, and their squares, so that the
generator is fitted to first and second moments.

Deviation: both moments form one vector, released once; Harder et al. release
them separately and divide the budget. Large maps of activations are first
averaged over squares of pixels. This limits the number of features, and so the
noise, which matters for small datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from dp_diffusion import config_keys
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.models import feature_nets
from dp_diffusion.models import small_cnn

# float32[B, H, W, C] in [-1, 1] -> activations [B, ...] of a public network.
ActivationsFn = Callable[[types.Array], Sequence[types.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpMepfConfig:
  """Settings of the perceptual features."""

  net: str = config_keys.key(
    '',
    "An .npz of a public feature network (models/feature_nets.py); '' trains"
    ' one on the public images of the config.',
  )
  max_side: int = config_keys.key(
    8,
    'Largest side in pixels of a map of activations; larger maps are averaged.',
    '>= 1',
  )
  second_moment: float = config_keys.key(
    0.5, 'Share of the squares in the squared norm of the features.', '[0, 1)'
  )

  def __post_init__(self) -> None:
    config_keys.check(self)


def make_feature_fn(
  config: DpMepfConfig, activations_fn: ActivationsFn
) -> mean_embedding.FeatureFn:
  """Returns a function that computes the moments of the activations.

  Args:
    config: settings of the features.
    activations_fn: the network.

  Returns:
    A function from float32[B, H, W, C] in [-1, 1] to float32[B, F], whose rows
    have norm at most 1.
  """

  def features(images: types.Array) -> types.Array:
    maps = [_shrink(a, config.max_side) for a in activations_fn(images)]
    first = [mean_embedding.unit_norm(x) for x in maps]
    parts = [((1 - config.second_moment) / len(maps), first)]
    if config.second_moment:
      squares = [mean_embedding.unit_norm(jnp.square(x)) for x in maps]
      parts.append((config.second_moment / len(maps), squares))
    return jnp.concatenate(
      [x * weight**0.5 for weight, rows in parts for x in rows], axis=1
    )

  return features


def from_weights(weights: feature_nets.Weights) -> ActivationsFn:
  """Returns a function for the activations of a LeNet-5 or a CIFAR ResNet.

  Args:
    weights: the arrays of an .npz file, by name.

  Raises:
    ValueError: the arrays are of neither network.
  """
  _, net = feature_nets.kind_of(weights)

  def activations(images: types.Array) -> list[types.Array]:
    found: list[types.Array] = []
    net(weights, (images + 1.0) * 127.5, found.append)
    return found

  return activations


def from_small_cnn(variables: types.PyTree, num_classes: int) -> ActivationsFn:
  """Returns a function for the activations of a publicly trained `SmallCNN`.

  Args:
    variables: the variables of the Flax module.
    num_classes: number of classes that it was trained on.
  """
  module = small_cnn.SmallCNN(num_classes=num_classes)

  def activations(images: types.Array) -> list[types.Array]:
    _, found = module.apply(
      variables, images, capture_intermediates=True, mutable=['intermediates']
    )
    layers = found['intermediates']
    names = [n for n in sorted(layers) if n.startswith('GroupNorm')]
    maps = [layers[name]['__call__'][0] for name in (*names, 'Dense_0')]
    return [jax.nn.relu(x) for x in maps]

  return activations


def _shrink(maps: types.Array, max_side: int) -> types.Array:
  """Averages maps over squares of pixels and flattens them to float32[B, F].

  Beyond the border of a map, pixels of the last squares count as 0.
  """
  if maps.ndim == 4:
    factor = -(-max(maps.shape[1:3]) // max_side)
    window = (1, factor, factor, 1)
    total = jax.lax.reduce_window(
      maps, 0.0, jax.lax.add, window, window, 'SAME'
    )
    maps = total / factor**2
  return maps.reshape((len(maps), -1))
