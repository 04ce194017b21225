"""Fits a generator of images to a noised mean embedding.

The sensitive images enter only through `mean_embedding.noised_mean`. The
training is therefore post-processing: it may take any number of steps, and the
generator and its images may be released.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dp_diffusion import compiling
from dp_diffusion import config_keys
from dp_diffusion import console
from dp_diffusion import types
from dp_diffusion.baselines import mean_embedding
from dp_diffusion.training import optimizers

_NUM_HALVINGS = 2  # The first maps have a quarter of the image's side.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
  """The generator and its training."""

  latent_dim: int = config_keys.key(
    16, 'Number of latent variables of an image.', '>= 1'
  )
  channels: int = config_keys.key(
    32, 'Channels of the last maps; earlier maps have more.', '>= 1'
  )
  num_steps: int = config_keys.key(20_000, 'Number of optimizer steps.', '>= 1')
  batch_size: int = config_keys.key(500, 'Generated images per step.', '>= 1')
  optimizer: optimizers.OptimizerConfig = config_keys.section(
    'Optimizer of the generator.'
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    optimizers.check_public('optimizer', self.optimizer)


class Generator(nn.Module):
  """A class-conditional generator: a dense layer, then upsampling convolutions.

  Attributes:
    image_shape: (H, W, C) of the images.
    num_classes: number of classes.
    channels: see `GeneratorConfig`.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  channels: int

  @nn.compact
  def __call__(self, latents: jax.Array, labels: jax.Array) -> jax.Array:
    """Maps float32[B, Z], int32[B] to float32[B, H, W, C] in [-1, 1]."""
    height, width, channels = self.image_shape
    wide = self.channels * 2**_NUM_HALVINGS
    x = jnp.concatenate(
      [latents, nn.Embed(self.num_classes, latents.shape[1])(labels)], axis=1
    )
    x = nn.relu(nn.LayerNorm()(nn.Dense(4 * wide)(x)))
    side = (-(-height // 2**_NUM_HALVINGS), -(-width // 2**_NUM_HALVINGS))
    x = nn.Dense(side[0] * side[1] * wide)(x)
    x = x.reshape((len(x), *side, wide))
    for i in reversed(range(_NUM_HALVINGS)):
      x = nn.relu(nn.LayerNorm()(x))
      size = (-(-height // 2**i), -(-width // 2**i))
      x = jax.image.resize(x, (len(x), *size, x.shape[3]), 'nearest')
      x = nn.Conv(self.channels * 2**i, (3, 3))(x)
    x = nn.relu(nn.LayerNorm()(x))
    return jnp.tanh(nn.Conv(channels, (3, 3))(x))


def train(
  config: GeneratorConfig,
  module: Generator,
  feature_fn: mean_embedding.FeatureFn,
  target: np.ndarray,
  labels: np.ndarray,
  key: types.Key,
  stop: Callable[[], object] = lambda: None,
) -> types.Params:
  """Fits the embedding of generated images to the noised one.

  The training minimises the squared distance, arXiv 2002.11603 eq. 6.

  Args:
    config: settings of the training.
    module: the generator.
    feature_fn: the features from which the target was computed.
    target: float32[num_classes, F], the result of `mean_embedding.noised_mean`.
    labels: int32[batch_size], labels of the generated images, in the public
      proportions of the classes.
    key: typed PRNG key[] from the public seed.
    stop: called before each step; it raises to end the training.

  Returns:
    The parameters of the generator.
  """
  optimizer = optimizers.make(config.optimizer, config.num_steps)
  latents = jnp.zeros((1, config.latent_dim))
  init_key, draw_key = jax.random.split(key)
  init = compiling.jit_for_one_call(module.init)
  params = init(init_key, latents, labels[:1])['params']

  @jax.jit
  def step(
    params: types.Params, opt_state: optax.OptState, i: jax.Array
  ) -> tuple[types.Params, optax.OptState]:
    z = jax.random.normal(
      jax.random.fold_in(draw_key, i), (len(labels), config.latent_dim)
    )

    def loss_fn(params: types.Params) -> jax.Array:
      images = _apply(module, params, z, labels)
      found = mean_embedding.generated_mean(
        feature_fn(images), jnp.asarray(labels), module.num_classes
      )
      return jnp.sum(jnp.square(found - target))

    grads = jax.grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  opt_state = optimizer.init(params)
  with console.progress('training a generator', config.num_steps) as advance:
    for i in range(config.num_steps):
      stop()
      params, opt_state = step(params, opt_state, np.int32(i))
      advance()
  return jax.device_get(params)


def sample(
  module: Generator,
  params: types.Params,
  latent_dim: int,
  labels: np.ndarray,
  key: types.Key,
  batch_size: int = 500,
) -> np.ndarray:
  """Generates an image for each label.

  Args:
    module: the generator.
    params: the result of `train`.
    latent_dim: number of latent variables, as in the training.
    labels: int32[N].
    key: typed PRNG key[] from the public seed. The noise of image i depends
      only on (key, i).
    batch_size: images generated at a time.

  Returns:
    uint8[N, H, W, C].
  """

  @jax.jit
  def generate(numbers: jax.Array, labels: jax.Array) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
    z = jax.vmap(lambda k: jax.random.normal(k, (latent_dim,)))(keys)
    images = _apply(module, params, z, labels)
    return jnp.round((images + 1) * 127.5).astype(jnp.uint8)

  batches = []
  for start in range(0, len(labels), batch_size):
    numbers = np.arange(start, start + batch_size, dtype=np.int32)
    padded = np.resize(labels[start : start + batch_size], batch_size)
    batches.append(np.asarray(generate(numbers, padded)))
  return np.concatenate(batches)[: len(labels)]


def _apply(
  module: Generator,
  params: types.Params,
  latents: jax.Array,
  labels: jax.Array | np.ndarray,
) -> jax.Array:
  images = module.apply({'params': params}, latents, labels)
  assert isinstance(images, jax.Array)
  return images
