"""A classifier trained by DP-SGD on the sensitive images themselves.

Somebody who needs one classifier and no images would train it so, instead of
publishing a synthetic dataset. The private step is that of `training`, with the
same selection, clip, noise and ledger; only the loss differs.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dp_diffusion import checks
from dp_diffusion import compiling
from dp_diffusion import config_keys
from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.models import layers
from dp_diffusion.models import small_cnn
from dp_diffusion.models import wide_resnet
from dp_diffusion.privacy import privacy_config
from dp_diffusion.training import optimizers

NAMES = ('logistic_regression', 'small_cnn', 'wrn_16_4', 'wrn_40_4')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DpClassifierConfig:
  """The classifier, its public pre-training and its private training."""

  name: str = config_keys.key(
    'wrn_16_4',
    'Kind of network. It has group normalisation, since examples must not be'
    ' coupled.',
    NAMES,
  )
  num_public_steps: int = config_keys.key(
    0,
    'Steps of pre-training on labelled public images; 0 trains from scratch.',
    '>= 0',
  )
  public_batch_size: int = config_keys.key(
    128, 'Images in a step of pre-training.', '>= 1'
  )
  public_optimizer: optimizers.OptimizerConfig = config_keys.section(
    'Optimizer of the pre-training.'
  )
  num_steps: int = config_keys.key(1000, 'Number of private steps.', '>= 1')
  expected_batch_size: int = config_keys.key(
    4096, 'Mean number of records in a private step.', '>= 1'
  )
  l2_clip_norm: float = config_keys.key(
    1.0, 'Largest l2 norm of the gradient of one record.', '> 0'
  )
  augmult: int = config_keys.key(
    16, 'Number of draws K per record and step.', '>= 1'
  )
  optimizer: optimizers.OptimizerConfig = config_keys.section(
    'Optimizer of the private steps; its gradients are divided by the clip'
    ' norm.'
  )
  ema_decay: float = config_keys.key(
    0.99,
    'Decay of the moving average that is released; warms up from the first'
    ' step.',
    '[0, 1)',
  )

  def __post_init__(self) -> None:
    config_keys.check(self)
    optimizers.check_public('public_optimizer', self.public_optimizer)

  def privacy(
    self, config: privacy_config.PrivacyConfig
  ) -> privacy_config.PrivacyConfig:
    """Returns the run's privacy config with the steps of the classifier.

    Args:
      config: the run's config, which gives epsilon, delta, num_examples and the
        relation.

    Returns:
      The config from which `accounting.calibrate` computes the noise.

    Raises:
      UsageError: epsilon is not given, or the optimizer needs other noise.
    """
    try:
      optimizers.check_private(
        'baseline.dp_classifier.optimizer', self.optimizer, config.num_bands
      )
    except ValueError as error:
      raise errors.UsageError(str(error)) from None
    if config.epsilon is None:
      raise errors.UsageError(
        'Expected privacy.epsilon to be given, as the classifier is calibrated'
        ' to it; set it, and solve_for=noise_multiplier.'
      )
    return dataclasses.replace(
      config,
      solve_for='noise_multiplier',
      noise_multiplier=None,
      num_steps=self.num_steps,
      expected_batch_size=min(self.expected_batch_size, config.num_examples),
      l2_clip_norm=self.l2_clip_norm,
    )


class LogisticRegression(nn.Module):
  """One dense layer over the pixels."""

  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps float32[B, H, W, C] to logits float32[B, num_classes]."""
    del train
    return nn.Dense(self.num_classes)(x.reshape((x.shape[0], -1)))


def make_module(name: str, num_classes: int) -> nn.Module:
  """Returns the network of a name in `NAMES`; no layer couples examples."""
  checks.check_one_of('name', name, NAMES)
  if name == 'small_cnn':
    return small_cnn.SmallCNN(num_classes=num_classes)
  if name == 'logistic_regression':
    return LogisticRegression(num_classes=num_classes)
  depth, width = (int(part) for part in name.split('_')[1:])
  return wide_resnet.WideResNet(
    num_classes=num_classes, depth=depth, width=width, norm='group'
  )


def init_params(
  module: nn.Module, image_shape: tuple[int, int, int], key: types.Key
) -> types.Params:
  """Returns initial weights, float32, drawn from a public key.

  Args:
    module: the network.
    image_shape: (H, W, C).
    key: typed PRNG key, consumed.

  Raises:
    ValueError: a layer couples the examples of a batch.
  """
  init = compiling.jit_for_one_call(module.init)
  variables = init(key, jnp.zeros((1, *image_shape)))
  layers.check_private_safe(variables)
  return variables['params']


def make_loss_fn(module: nn.Module, data: augment.CropAndFlip) -> types.LossFn:
  """Returns a function for the cross-entropy of ONE draw of ONE example.

  Args:
    module: the network.
    data: settings of the augmentation.

  Returns:
    loss_fn(params, {'image': uint8[H, W, C], 'label': int32[]}, key).
  """

  def loss_fn(
    params: types.Params,
    example: types.Example,
    draw_key: types.Key,
  ) -> types.Array:
    image = augment.augment(example['image'], draw_key, data)
    logits = module.apply({'params': params}, image[None], train=True)
    assert isinstance(logits, jax.Array)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits[0], example['label']
    )

  return loss_fn


def make_predict_fn(
  module: nn.Module, params: types.Params, batch_size: int = 500
) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function from uint8[N, H, W, C] to predicted classes int32[N]."""

  @jax.jit
  def classes(images: jax.Array) -> jax.Array:
    logits = module.apply({'params': params}, augment.to_float(images))
    assert isinstance(logits, jax.Array)
    return jnp.argmax(logits, axis=1)

  def predict(images: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(images), batch_size):
      batch = np.asarray(images[start : start + batch_size])
      rows = np.minimum(np.arange(batch_size), len(batch) - 1)
      found.append(np.asarray(classes(batch[rows]))[: len(batch)])
    return np.concatenate(found).astype(np.int32)

  return predict
