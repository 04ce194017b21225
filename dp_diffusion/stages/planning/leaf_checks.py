"""Checks patterns of leaves against the network, before any compute.

Fine-tuning would otherwise refuse them only after hours of pre-training.
"""

from __future__ import annotations

from dp_diffusion import config as config_lib
from dp_diffusion.models import weights
from dp_diffusion.privacy import clipping
from dp_diffusion.stages.run import assembly
from dp_diffusion.training import state as train_state


def check(config: config_lib.Config) -> None:
  """Checks `finetune.trainable` and the keys that name trained leaves.

  The network is traced, not compiled, and only if one of the keys is set.

  Raises:
    UsageError: a pattern matches no leaf, or no leaf that is trained, a
      trained leaf is in no group, or rows of new classes would be frozen.
  """
  finetune = config.finetune
  if finetune.trainable == ('*',) and not (
    finetune.gradient_scales or finetune.clip_groups
  ):
    return
  params = assembly.param_shapes(config, config.data)
  reset = () if config.has_same_classes else (weights.CLASS_ROWS,)
  is_trained = weights.trainable_fn(params, finetune.trainable, reset)
  trained, _ = train_state.partition(params, is_trained)
  clipping.check_leaves(
    trained,
    assembly.grad_config(
      finetune, config.privacy.l2_clip_norm, batch_has_draw_axis=False
    ),
  )
