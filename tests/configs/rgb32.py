"""Generated 32x32 RGB images, two levels, attention at 16: for tests."""

from __future__ import annotations

from configs import default
from configs import digits


def get_config(variant: str = ''):
  """Smoke sizes of everything; persons are the unit in `:person`."""
  config = digits.get_config('smoke')
  config.name = 'rgb32'
  for data in (config.data, config.pretrain.data):
    data.name = 'generated'
    data.image_size = 32
    data.channels = 3
    data.class_names = ('first', 'second')
    data.num_images = 64
    data.flip = True
    data.reflect_pad = 4
  config.pretrain.data.source_seed = 1
  config.pretrain.num_steps = 3
  config.pretrain.batch_size = 8
  config.model.channel_multipliers = (1, 2)
  config.model.attention_resolutions = (16,)
  config.diffusion.schedule = 'linear'
  config.diffusion.prediction = 'eps'
  config.diffusion.label_drop_prob = 0.1
  config.privacy.num_examples = 64
  config.privacy.delta = 1e-3
  config.privacy.expected_batch_size = 8
  config.privacy.num_steps = 2
  config.finetune.microbatch_size = 4
  config.finetune.mixture_boundaries = (0, 30, 600, 1000)
  config.finetune.mixture_weights = (0.015, 0.785, 0.2)
  config.sample.num_samples = 8
  config.sample.batch_size = 4
  config.sample.shard_size = 8
  config.sample.sampler.name = 'dpm_solver_pp_2m'
  config.sample.sampler.guidance_weight = 0.5
  config.evaluate.svm = False
  config.evaluate.features = ''  # 8 images are too few for distances.
  config.evaluate.classifier.name = 'logistic_regression'
  config.evaluate.classifiers = ()
  config.evaluate.num_seeds = 1
  config.evaluate.ensemble_size = 0
  config.evaluate.size_shares = ()
  config.evaluate.selection.learning_rates = ()
  config.evaluate.classifier.num_steps = 4
  return default.apply_variant(config, variant, {'person': _person})


def _person(config) -> None:
  config.data.unit = 'person'
  config.privacy.num_examples = 16
  config.privacy.expected_batch_size = 4
  config.privacy.delta = 1e-2
