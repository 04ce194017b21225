"""Combines model, diffusion and augmentation for several stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import optax

from dp_diffusion import compiling
from dp_diffusion import config as config_lib
from dp_diffusion import release
from dp_diffusion import types
from dp_diffusion.data import augment
from dp_diffusion.data import registry
from dp_diffusion.diffusion import losses
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import head_classifier
from dp_diffusion.models import kernel_gradients
from dp_diffusion.models import layers
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.training import optimizers
from dp_diffusion.training import state as train_state


def make_loss_fn(
  model: unet.UNet,
  diffusion: schedules.DiffusionProcess,
  data: registry.DataConfig,
  full_params: Callable[[types.Params], types.Params] = lambda params: params,
) -> types.LossFn:
  """Returns the loss function of ONE draw of ONE example.

  Args:
    model: the denoiser.
    diffusion: gives timesteps, noise and target of a draw.
    data: gives the settings of the augmentation.
    full_params: adds the leaves that are not trained.

  Returns:
    loss_fn(params, {'image': uint8[H, W, C], 'label': int32[]}, key).
  """
  has_dropout = bool(model.config.dropout)

  def loss_fn(
    params: types.Params,
    example: types.Example,
    draw_key: types.Key,
  ) -> types.Array:
    augment_key, loss_key, dropout_key = jax.random.split(draw_key, 3)
    x0 = augment.augment(example['image'], augment_key, data)

    def denoise(
      x_t: types.Array,
      timestep: types.Array,
      label: types.Array,
    ) -> types.Array:
      output: Any = model.apply(
        {'params': full_params(params)},
        x_t,
        timestep,
        label,
        is_training=has_dropout,
        rngs={'dropout': dropout_key} if has_dropout else None,
      )
      return output

    return losses.draw_loss(denoise, diffusion, x0, example['label'], loss_key)

  return loss_fn


def finetune_loss_fn(config: config_lib.Config) -> types.LossFn:
  """Returns the loss of private fine-tuning, which the audit attacks."""
  return make_loss_fn(
    unet.UNet(config.unet_config(config.data)),
    config.finetune_diffusion(),
    config.data,
  )


def pretrain_loss_fn(config: config_lib.Config) -> types.LossFn:
  """Returns the loss of public pre-training."""
  data = config.pretrain.data
  return make_loss_fn(
    unet.UNet(config.unet_config(data)), config.pretrain_diffusion(), data
  )


def released_params(
  config: config_lib.Config, state: train_state.TrainState
) -> types.Params:
  """Returns the weights of a trained state that are released."""
  is_ema = config.finetune.release_weights == 'ema'
  return state.all_ema_params if is_ema else state.all_params


def released_head(
  config: config_lib.Config,
  release_dir: epath.Path,
  check_stop: Callable[[], None],
) -> head_classifier.HeadClassifier | None:
  """Loads the class head of a release with its network; None without a head.

  Args:
    config: that of the run which made the release.
    release_dir: the folder `release/`.
    check_stop: called before every batch; raises to end.
  """
  head = release.read_class_head(release_dir)
  if head is None:
    return None
  params, _ = release.read_model(release_dir)
  return head_classifier.HeadClassifier(
    config.unet_config(config.data),
    weights.unflatten(params),
    config.finetune_diffusion(),
    head,
    check_stop,
  )


def grad_config(
  finetune: config_lib.FinetuneConfig,
  l2_clip_norm: float,
  *,
  batch_has_draw_axis: bool,
) -> clipping.GradConfig:
  """Returns how a private step computes and clips gradients."""
  return clipping.GradConfig(
    l2_clip_norm=l2_clip_norm,
    num_draws=finetune.augmult,
    rescale_to_unit_norm=finetune.rescale_to_unit_norm,
    draw_chunk_size=finetune.draw_chunk_size or None,
    batch_has_draw_axis=batch_has_draw_axis,
    gradient_axes=kernel_gradients.gradient_axes,
    gradient_scales=finetune.scale_rules(),
    clip_groups=finetune.group_rules(),
  )


def private_optimizer(
  finetune: config_lib.FinetuneConfig,
  mechanism: mechanism_lib.TrainingMechanism,
) -> optax.GradientTransformation:
  """Returns the optimizer of the private steps, which get noised gradients."""
  rules, scaled = finetune.scale_rules(), finetune.scaled_quantity
  grads = grad_config(
    finetune, mechanism.l2_clip_norm, batch_has_draw_axis=False
  )
  noise = optimizers.KnownNoise(
    std=mechanism.noise_multiplier
    * grads.l2_sensitivity
    / mechanism.expected_batch_size,
    divided_by=rules if scaled == 'gradient' else (),
  )
  optimizer = optimizers.make(finetune.optimizer, mechanism.num_steps, noise)
  return optimizers.with_scales(optimizer, rules, scaled)


def model_description(config: config_lib.Config) -> dict[str, Any]:
  """Network, process and classes of the released weights, for `model.json`."""
  return {
    'unet': config.unet_config(config.data).to_dict(),
    'diffusion': config_lib.to_dict(config.diffusion),
    'class_names': list(config.data.class_names),
    'image_size': config.data.image_size,
    'sampling': sampling_record(config),
  }


def sampling_record(config: config_lib.Config) -> dict[str, Any]:
  """Sampler and batch size, for `model.json` and `dp_diffusion.sample`."""
  return {
    'sampler': config_lib.to_dict(config.sample.sampler),
    'batch_size': config.sample.batch_size,
    **({'labels_from_head': True} if config.sample.labels_from_head else {}),
  }


def init_params(
  config: config_lib.Config, data: registry.DataConfig
) -> types.Params:
  """Returns new weights from the public seed, for the classes of `data`.

  Raises:
    ValueError: a layer couples the examples of a batch.
  """
  model = unet.UNet(config.unet_config(data))
  variables = compiling.jit_for_one_call(model.init)(
    jax.random.key(config.seed),
    jnp.zeros((1, *data.image_shape)),
    jnp.zeros((1,), jnp.int32),
    jnp.zeros((1,), jnp.int32),
  )
  layers.check_private_safe(variables)
  return variables['params']


def param_shapes(
  config: config_lib.Config, data: registry.DataConfig
) -> types.Params:
  """Returns the shapes of `init_params`, without allocating any."""
  height, width, _ = data.image_shape
  return unet.param_shapes(config.unet_config(data), height, width)
