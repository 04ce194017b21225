"""Handwritten digits at 8x8, on two CPU cores, without any download.

  python -m dp_diffusion.main --config=configs/digits.py --workdir=runs/digits

Sensitive: 1,437 of scikit-learn's real handwritten digits, 360 held out.
Public: digits rendered from fonts and strokes. Hardware: 2 CPU cores, about
6 minutes. The paper has no such data; this is the smallest run of all stages
that learns something.
Variants: `:smoke`; `:cpu` and `:one_gpu` change nothing, because the config
already fits any machine.
"""

from __future__ import annotations

import ml_collections

from configs import default

CLASS_NAMES = tuple('0123456789')


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the demonstration; `:smoke` takes a minute, for testing only."""
  config = default.get_config()
  config.name = 'digits'
  for data, name in ((config.data, 'digits'), (config.pretrain.data, 'glyphs')):
    data.name = name
    data.image_size = 8
    data.channels = 1
    data.class_names = CLASS_NAMES

  config.model.channels = 16
  config.model.channel_multipliers = (1, 2)
  config.model.num_blocks = 1
  config.model.attention_resolutions = ()
  config.model.num_groups = 8
  config.model.head_channels = 16
  config.model.conv_resample = False
  config.diffusion.schedule = 'cosine'  # By experiments/ablation_prediction.
  config.diffusion.prediction = 'v'
  # Timesteps stay uniform in fine-tuning: experiments/ablation_mixture.

  config.pretrain.num_steps = 600  # Not none: experiments/ablation_pretraining.
  config.pretrain.batch_size = 256
  config.pretrain.optimizer.learning_rate = 2e-3
  config.pretrain.optimizer.warmup_steps = 100
  config.pretrain.optimizer.schedule = 'cosine'
  config.pretrain.ema_decay = 0.995
  config.pretrain.checkpoint_every_steps = 500

  config.privacy.epsilon = 10.0
  config.privacy.delta = 1e-4
  config.privacy.num_examples = 1437
  config.privacy.expected_batch_size = 480
  config.privacy.num_steps = 60
  config.privacy.l2_clip_norm = 0.3  # By experiments/ablation_optimizer.
  config.finetune.augmult = 4  # By experiments/ablation_k.
  config.finetune.optimizer.learning_rate = 2e-3
  config.finetune.ema_decay = 0.97  # By experiments/ablation_optimizer.
  config.finetune.microbatch_size = 32
  config.finetune.checkpoint_every_steps = 25

  config.sample.num_samples = 5000
  # Without guidance: experiments/ablation_guidance.
  config.sample.sampler.name = 'ddim'
  config.sample.sampler.num_steps = 40  # By experiments/ablation_sampler.
  config.sample.shard_size = 2500

  config.evaluate.classifier.name = 'small_cnn'
  config.evaluate.classifier.optimizer = 'adamw'
  config.evaluate.classifier.learning_rate = 2e-3
  config.evaluate.classifier.warmup_steps = 50
  config.evaluate.classifier.weight_decay = 1e-2
  config.evaluate.classifier.num_steps = 300
  config.evaluate.num_seeds = 1
  config.evaluate.ensemble_size = 0
  config.evaluate.svm = True
  config.evaluate.features = 'public'
  _set_baseline(config.baseline)
  return default.apply_variant(config, variant, VARIANTS)


def _set_baseline(baseline: ml_collections.ConfigDict) -> None:
  baseline.dp_merf.num_features = 1000
  baseline.dp_mepf.max_side = 2
  baseline.generator.num_steps = 1000
  baseline.generator.batch_size = 100
  baseline.generator.channels = 16
  baseline.generator.latent_dim = 8
  baseline.dp_classifier.name = 'small_cnn'
  baseline.dp_classifier.num_public_steps = 300
  baseline.dp_classifier.num_steps = 60
  baseline.dp_classifier.expected_batch_size = 480
  baseline.dp_classifier.augmult = 1


def _as_it_is(config: ml_collections.ConfigDict) -> None:
  del config


def _smoke(config: ml_collections.ConfigDict) -> None:
  config.name = 'digits-smoke'
  config.pretrain.data.num_images = 300
  config.model.channels = 8
  config.model.num_groups = 4
  config.model.head_channels = 8
  config.pretrain.num_steps = 6
  config.pretrain.optimizer.warmup_steps = 2
  config.pretrain.batch_size = 32
  config.pretrain.checkpoint_every_steps = 3
  config.privacy.num_steps = 4
  config.privacy.expected_batch_size = 32
  config.finetune.augmult = 2
  config.finetune.microbatch_size = 16
  config.finetune.checkpoint_every_steps = 2
  config.sample.num_samples = 60
  config.sample.sampler.num_steps = 4
  config.sample.batch_size = 20
  config.sample.shard_size = 40
  config.evaluate.classifier.num_steps = 20
  config.evaluate.classifier.batch_size = 32
  config.evaluate.classifier.num_validations = 1
  config.evaluate.classifiers = ('logistic_regression',)
  config.evaluate.num_seeds = 2
  config.evaluate.ensemble_size = 2
  config.evaluate.size_shares = (0.5, 1.0)
  config.evaluate.selection.learning_rates = (1e-3, 1e-2)
  config.evaluate.allow_few_images = True
  config.evaluate.diffusion_classifier_images = 20
  config.update_from_flattened_dict(default.SMOKE_AUDIT)
  config.update_from_flattened_dict(default.SMOKE_BASELINE)


VARIANTS = {'smoke': _smoke, 'cpu': _as_it_is, 'one_gpu': _as_it_is}
