"""The default config, which all other configs change.

Each key is defined once, in the code that reads it (`config_keys`): its
default, its unit and the values allowed. `docs/config.md` lists all keys.

A key that the command line overrides keeps the type that it has there:
`--config.privacy.epsilon=5`, `--config.finetune.trainable="('mid*',)"`, or
`none` for a key that may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_collections

from dp_diffusion import config as config_lib


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the defaults, which name no dataset and so do not run."""
  config = config_lib.start()
  # This key has the value of data.tfds_dir unless it is set itself.
  config.pretrain.data.tfds_dir = config.data.get_oneway_ref('tfds_dir')
  return apply_variant(config, variant, {})


def apply_variant(
  config: ml_collections.ConfigDict,
  variant: str,
  variants: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
  """Changes `config` as the variant says.

  Args:
    config: the config, changed in place.
    variant: '' or names in `variants` with commas, applied in this order.
    variants: name -> function that changes a config in place.

  Returns:
    `config`.

  Raises:
    ValueError: the variant is unknown; the message lists the known ones.
  """
  for name in variant.split(',') if variant else ():
    if name not in variants:
      known = ', '.join(sorted(variants)) or 'none'
      raise ValueError(f'Expected variant {name!r} to be one of: {known}.')
    variants[name](config)
  return config


def smoke(config: ml_collections.ConfigDict) -> None:
  """Makes every stage run in about a minute, on a few images, for testing.

  The images are the first of the dataset, or some of the folder, that the
  command line gives (data.path, data.tfds_dir or data.manual_dir). Without any,
  images of the same shape are made up. The network keeps its levels, attention
  and classes, but is narrow; the image classifier is a small one.
  """
  config.name += '-smoke'
  config.update_from_flattened_dict(_SMOKE)
  first = f'[:{config.privacy.num_examples}]'
  for seed, data in enumerate((config.data, config.pretrain.data)):
    data.update(
      stand_in='generated',
      num_images=96,  # A quarter more to test: distances need 20 images.
      max_images=400,
      source_seed=seed,
    )
    if data.name.startswith('tfds:'):
      data.update(split=data.split + first, test_split=data.test_split + first)
  has_classes = len(config.pretrain.data.class_names) > 1
  # Without public classes there is no network to learn features.
  config.evaluate.features = 'public' if has_classes else ''
  if config.pretrain.num_steps:
    config.update_from_flattened_dict(_SMOKE_PRETRAIN)


def smoke_on_files(config: ml_collections.ConfigDict) -> bool:
  """Makes a smoke run read prepared datasets instead of made-up images.

  Returns:
    Whether `smoke` was applied before; otherwise nothing is changed.
  """
  if not config.data.stand_in:
    return False
  first = f'[:{config.privacy.num_examples}]'
  nothing = {'stand_in': '', 'max_images': 0, 'num_images': 0, 'source_seed': 0}
  config.data.update(nothing, split=f'train{first}', test_split=f'test{first}')
  config.pretrain.data.update(nothing, split=f'train{first}')
  return True


SMOKE_AUDIT = {  # In seconds, and still large enough to find a fault.
  'audit.epsilon': 1.0,
  'audit.num_steps': 50,
  'audit.expected_batch_size': 10,
  'audit.num_filler': 60,
  'audit.num_canaries': 400,
  'audit.num_image_canaries': 40,
  'audit.num_guesses_in': 50,
}
SMOKE_BASELINE = {
  'baseline.dp_merf.num_features': 20,
  'baseline.generator.latent_dim': 2,
  'baseline.generator.channels': 4,
  'baseline.generator.num_steps': 2,
  'baseline.generator.batch_size': 20,
  'baseline.private_evolution.num_generations': 2,
  'baseline.private_evolution.population': 5,
  'baseline.dp_classifier.name': 'logistic_regression',
  'baseline.dp_classifier.num_steps': 2,
  'baseline.dp_classifier.expected_batch_size': 8,
}
_SMOKE = {
  **SMOKE_AUDIT,
  **SMOKE_BASELINE,
  'model.channels': 8,
  'model.num_blocks': 1,
  'model.num_groups': 4,
  'model.head_channels': 8,
  'model.compute_dtype': 'float32',
  'privacy.num_examples': 96,
  'privacy.expected_batch_size': 8,
  'privacy.num_steps': 2,
  'privacy.delta': 1e-3,
  'finetune.augmult': 2,
  'finetune.microbatch_size': 4,
  'finetune.optimizer.warmup_steps': 0,
  'finetune.checkpoint_every_steps': 2,
  'sample.num_samples': 20,
  'sample.sampler.num_steps': 2,
  'sample.batch_size': 10,
  'sample.shard_size': 10,
  'evaluate.classifier.name': 'small_cnn',
  'evaluate.classifier.num_steps': 2,
  'evaluate.classifier.num_validations': 1,
  'evaluate.classifiers': ('logistic_regression',),
  'evaluate.num_seeds': 2,
  'evaluate.ensemble_size': 2,
  'evaluate.size_shares': (0.5, 1.0),
  'evaluate.selection.learning_rates': (1e-3, 1e-2),
  'evaluate.max_train_images': 64,
  'evaluate.diffusion_classifier_images': 20,
  'evaluate.allow_few_images': True,
  'evaluate.held_out_split': '',
}
_SMOKE_PRETRAIN = {
  'pretrain.num_steps': 2,
  'pretrain.optimizer.warmup_steps': 1,
  'pretrain.batch_size': 8,
  'pretrain.checkpoint_every_steps': 2,
}
