"""Recipes for one machine: `:cpu` (2 cores, about an hour) and `:one_gpu`.

Other configs use these recipes; this file is no config that can be run. The
tables below hold all numbers. `fill` computes the keys that depend on the
declared number of records, and returns lines that state them.

Public pre-training is on `rendered`, images by formula: no download.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
import math
from typing import Any

import ml_collections

from dp_diffusion.baselines import class_gaussians
from dp_diffusion.baselines import class_head


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """Settings with which a run fits one kind of machine.

  Attributes:
    hardware: the machine, in words.
    image_size: pixels of height and width, unless a config sets another.
    draws_per_step: expected number of draws of all records in a private step.
    num_steps: private steps.
    max_tries: draws of an image, at most, until the model takes it for its
      class, where there are few classes to ask for and there is no class head.
    head_steps: steps of the class head, where there are enough records.
    first_timestep: where samples start from Gaussians of the classes, if there
      are many classes of enough records.
    keys: config key -> value, for all other keys.
  """

  hardware: str
  image_size: int
  draws_per_step: int
  num_steps: int
  max_tries: int = 1
  head_steps: int = 0
  first_timestep: int = 0
  keys: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Head:
  """Steps, noise and share of the budget of a class head; 0 steps for none."""

  num_steps: int = 0
  noise_multiplier: float = 0.0
  share: float = 0.0


# Largest K; more draws hardly reduce the variance of a record's gradient.
_MOST_DRAWS = {'image': 8, 'person': 32}
# Largest sampling probability; above it, sampling amplifies privacy little.
_LARGEST_SHARE = {'image': 0.25, 'person': 0.5}
# The class head takes a share of the budget, by mu^2. What it costs and what it
# learns depend on the noise of the mean gradient, were there a single step. As
# far as `_LITTLE_NOISE`, the smaller share does for all steps; beyond it, the
# larger share is taken, and steps are fewer with the root of the noise. Above
# `_MOST_NOISE` (about 1,100 records at epsilon 10) there is no class head.
_SHARES_OF_HEAD = (0.1, 0.2)
_LITTLE_NOISE = 1e-4
_MOST_NOISE = 1e-3
# Whoever sets one of these chooses a class head, or none, altogether.
_OF_HEAD = {
  'finetune.class_head.num_steps',
  'finetune.class_head.noise_multiplier',
  'sample.labels_from_head',
  'sample.average_length',
}
# The Gaussians of the classes take a share of the budget, by mu^2, where the
# std of the noise in the variance of a reduced pixel is at most this. Pixels
# are in [-1, 1], so a pixel that is black or white has the variance 1.
_SHARE_OF_GAUSSIANS = 0.05
_MOST_NOISE_OF_GAUSSIANS = 0.02
_SIDE_OF_GAUSSIANS = 6
_OF_GAUSSIANS = {
  'finetune.class_gaussians.noise_multiplier',
  'finetune.class_gaussians.side',
  'finetune.mixture_boundaries',
  'finetune.mixture_weights',
  'sample.sampler.first_timestep',
}
# Asking the model for a class costs a dozen evaluations for each class.
_MOST_CLASSES_TO_ASK_FOR = 4

_BOTH = {
  'pretrain.data.name': 'rendered',
  'pretrain.data.split': 'train',
  'pretrain.data.class_names': (),  # Those of `rendered`.
  'pretrain.data.flip': True,
  'pretrain.optimizer.schedule': 'cosine',
  'diffusion.schedule': 'cosine',
  'diffusion.prediction': 'v',
  'diffusion.label_drop_prob': 0.1,
  'model.attention_resolutions': (),
  'model.conv_resample': False,
  'model.num_groups': 8,
  'model.head_channels': 16,
  'finetune.mixture_boundaries': (),
  'finetune.mixture_weights': (),
  'finetune.checkpoint_every_steps': 25,
  'privacy.l2_clip_norm': 0.3,
  'sample.sampler.name': 'dpm_solver_pp_2m',
  'sample.sampler.spacing': 'log_snr',
  'sample.sampler.guidance_weight': 1.0,
  'evaluate.classifier.optimizer': 'adamw',
  'evaluate.classifier.learning_rate': 2e-3,
  'evaluate.classifier.warmup_steps': 50,
  'evaluate.classifier.weight_decay': 1e-2,
  'evaluate.num_seeds': 1,
  'evaluate.ensemble_size': 0,
  'evaluate.features': 'public',
  'evaluate.max_train_images': 20_000,
  'evaluate.diffusion_classifier_images': 1000,
  'evaluate.max_distance_images': 10_000,
  'baseline.dp_merf.num_features': 2000,
  'baseline.dp_mepf.max_side': 4,
  'baseline.generator.num_steps': 2000,
  'baseline.generator.batch_size': 100,
  'baseline.dp_classifier.name': 'small_cnn',
  'baseline.dp_classifier.num_steps': 150,
  'baseline.dp_classifier.expected_batch_size': 1024,
  'baseline.dp_classifier.augmult': 1,
}

RECIPES = {
  'cpu': Recipe(
    hardware='2 CPU cores',
    image_size=24,
    draws_per_step=2048,
    num_steps=120,
    max_tries=4,
    head_steps=60,
    first_timestep=499,
    keys={
      **_BOTH,
      'finetune.mixture_boundaries': (0, 250, 1000),
      'finetune.mixture_weights': (0.5, 0.5),
      'model.channels': 24,
      'model.channel_multipliers': (1, 2),
      'model.num_blocks': 1,
      'model.compute_dtype': 'float32',
      'pretrain.num_steps': 800,
      'pretrain.batch_size': 128,
      'pretrain.optimizer.learning_rate': 2e-3,
      'pretrain.optimizer.warmup_steps': 50,
      'pretrain.ema_decay': 0.99,
      'pretrain.checkpoint_every_steps': 200,
      'finetune.optimizer.learning_rate': 3e-3,
      'finetune.optimizer.warmup_steps': 5,
      'finetune.ema_decay': 0.95,
      'sample.num_samples': 5000,
      'sample.shard_size': 5000,
      'sample.sampler.num_steps': 15,
      'evaluate.classifier.name': 'small_cnn',
      'evaluate.classifier.num_steps': 500,
    },
  ),
  'one_gpu': Recipe(
    hardware='one GPU',
    image_size=32,
    draws_per_step=16_384,
    num_steps=200,
    keys={
      **_BOTH,
      'model.channels': 64,
      'model.channel_multipliers': (1, 2, 2),
      'model.num_blocks': 1,
      'model.compute_dtype': 'bfloat16',
      'pretrain.num_steps': 5000,
      'pretrain.batch_size': 512,
      'pretrain.data.num_images': 100_000,
      'pretrain.optimizer.learning_rate': 1e-3,
      'pretrain.optimizer.warmup_steps': 300,
      'pretrain.ema_decay': 0.997,
      'finetune.optimizer.learning_rate': 1e-3,
      'finetune.ema_decay': 0.97,
      'sample.num_samples': 20_000,
      'sample.sampler.num_steps': 20,
      'evaluate.classifier.name': 'wrn_16_4',
      'evaluate.classifier.num_steps': 4000,
    },
  ),
}


def use(config: ml_collections.ConfigDict, machine: str) -> None:
  """Sets the keys that do not depend on the number of records.

  Args:
    config: changed in place.
    machine: a name in `RECIPES`.
  """
  recipe = RECIPES[machine]
  config.update_from_flattened_dict(dict(recipe.keys))
  config.data.image_size = recipe.image_size
  config.pretrain.data.image_size = recipe.image_size
  config.privacy.num_steps = recipe.num_steps


def use_whole(
  config: ml_collections.ConfigDict, machine: str, image_size: int = 0
) -> None:
  """Sets all keys, for a dataset whose number of records is known.

  The config file has `finish` as well, for what follows from epsilon.

  Args:
    config: changed in place, except delta and channels.
    machine: a name in `RECIPES`.
    image_size: pixels; 0 for the recipe's size.
  """
  use(config, machine)
  config.name += f'-{machine}'
  if image_size:
    config.data.image_size = image_size
  fill(config, machine, ('privacy.delta',))


def fill(
  config: ml_collections.ConfigDict,
  machine: str,
  typed: Collection[str],
) -> list[str]:
  """Sets the keys that depend on the declared number of records.

  Only public numbers are read: those of the config.

  Args:
    config: changed in place.
    machine: a name in `RECIPES`.
    typed: dotted keys that the user has set, which are not changed.

  Returns:
    Lines that say what was chosen, and why.
  """
  recipe, unit = RECIPES[machine], config.data.unit
  num_records = config.privacy.num_examples
  chosen: dict[str, Any] = {}
  most = max(1, math.floor(_LARGEST_SHARE[unit] * num_records))
  batch_size = min(recipe.draws_per_step, most)
  if 'privacy.expected_batch_size' in typed:
    batch_size = config.privacy.expected_batch_size
  chosen['privacy.expected_batch_size'] = batch_size
  draws = max(1, round(recipe.draws_per_step / max(1, batch_size)))
  chosen['finetune.augmult'] = min(_MOST_DRAWS[unit], draws)
  chosen['privacy.delta'] = tenth_of_one_over(num_records)
  for key in ('image_size', 'channels'):
    chosen[f'pretrain.data.{key}'] = config.data[key]
  _update(config, chosen, typed)
  privacy, model = config.privacy, config.model
  num_steps = privacy.num_steps  # None where it is solved for.
  steps = 'as many as fit' if num_steps is None else f'{num_steps:,}'
  return [
    f'{machine}: for {recipe.hardware}, images of {config.data.image_size}x'
    f'{config.data.image_size} pixels, {model.channels} base channels,'
    f' {config.pretrain.num_steps:,} public and {steps} private'
    ' steps',
    f'{machine}: for {num_records:,} {unit}s as declared, expected batch'
    f' {privacy.expected_batch_size:,} (at most'
    f' {_LARGEST_SHARE[unit]:.0%} of them), K = {config.finetune.augmult}'
    f' (about {recipe.draws_per_step:,} draws a step, at most'
    f' {_MOST_DRAWS[unit]} each), delta {privacy.delta:g}',
  ]


def finish(
  config: ml_collections.ConfigDict, variant: str, typed: Collection[str]
) -> list[str]:
  """Sets what follows from epsilon, if the variant names a machine.

  Args:
    config: changed in place, after the keys of the command line.
    variant: that of the config file.
    typed: dotted keys that the user has set, which are not changed.

  Returns:
    Lines that say what was chosen.
  """
  machine = named(variant)
  return fill_classes(config, machine, typed) if machine else []


def fill_classes(
  config: ml_collections.ConfigDict, machine: str, typed: Collection[str]
) -> list[str]:
  """Sets the keys by which sampled images get their classes.

  A class head says which class an image shows, and Gaussians of the classes
  give their layout, where there are enough records for the noise of both.
  Without a class head the model itself is asked, if there are few classes to
  ask for. Only public numbers are read.

  Args:
    config: changed in place; classes, number of records, epsilon and delta are
      final.
    machine: a name in `RECIPES`.
    typed: dotted keys that the user has set, which are not changed.

  Returns:
    Lines that say what was chosen.
  """
  recipe, head, gaussians = RECIPES[machine], _Head(), {}
  if not _OF_HEAD & set(typed):
    head = _class_head(recipe, config)
  if not _OF_GAUSSIANS & set(typed):
    gaussians = _class_gaussians(recipe, config)
  lines = []
  if head.num_steps:
    chosen = {
      'finetune.class_head.num_steps': head.num_steps,
      'finetune.class_head.noise_multiplier': head.noise_multiplier,
      'finetune.class_head.scattering': True,
      'sample.labels_from_head': True,
      'sample.class_probabilities': True,
      'sample.sampler.max_tries': 1,
      'sample.sampler.guidance_weight': 0.0,
    }
    lines.append(
      f'{machine}: {head.share:.0%} of the budget (of mu^2) trains a class'
      ' head, which says what class a sampled image shows; set'
      ' --config.finetune.class_head.num_steps=0 for none'
    )
  else:
    chosen = _asked_classes(config, recipe)
  if gaussians:
    lines.append(
      f'{machine}: {_SHARE_OF_GAUSSIANS:.0%} of the budget (of mu^2) gives the'
      ' mean and the covariance of each class, from which samples start; set'
      ' --config.finetune.class_gaussians.noise_multiplier=0 for none'
    )
  _update(config, chosen | gaussians, typed)
  return lines


def _update(
  config: ml_collections.ConfigDict,
  chosen: Mapping[str, Any],
  typed: Collection[str],
) -> None:
  """Sets the chosen keys, except those that the user has typed."""
  config.update_from_flattened_dict(
    {key: value for key, value in chosen.items() if key not in typed}
  )


def _asked_classes(
  config: ml_collections.ConfigDict, recipe: Recipe
) -> dict[str, Any]:
  """Returns the keys by which the model is asked what class an image shows."""
  num_classes = len(config.data.class_names)
  if recipe.max_tries > 1 and 2 <= num_classes <= _MOST_CLASSES_TO_ASK_FOR:
    return {
      'sample.sampler.max_tries': recipe.max_tries,
      'sample.sampler.guidance_weight': 0.0,
    }
  return {}


def _class_head(recipe: Recipe, config: ml_collections.ConfigDict) -> _Head:
  """Returns the class head for the records, the classes and the budget.

  Args:
    recipe: of the machine.
    config: gives classes, epsilon, delta and the number of records.
  """
  privacy = config.privacy
  has_noise = bool(privacy.epsilon) and math.isfinite(privacy.epsilon)
  if not recipe.head_steps or not has_noise or len(config.data.class_names) < 2:
    return _Head()
  records = max(1, privacy.num_examples)
  small, large = _SHARES_OF_HEAD
  share, num_steps = small, recipe.head_steps
  noise = class_head.noise_of_share(privacy.epsilon, privacy.delta, 1, small)
  noise /= records
  if noise > _LITTLE_NOISE:
    share = large
    noise *= math.sqrt(small / large)
    fewer = math.sqrt(min(1.0, _LITTLE_NOISE / noise))
    num_steps = round(recipe.head_steps * fewer)
  if noise > _MOST_NOISE:
    return _Head()
  multiplier = class_head.noise_of_share(
    privacy.epsilon, privacy.delta, num_steps, share
  )
  return _Head(num_steps, float(f'{multiplier:.4g}'), share)


def _class_gaussians(
  recipe: Recipe, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns the keys by which samples start from Gaussians of the classes.

  A network that trains for few private steps tells few classes apart by itself,
  but not many. No private draw is then noisier than the start.

  Args:
    recipe: of the machine.
    config: gives classes, channels, epsilon, delta and number of records.
  """
  privacy, first = config.privacy, recipe.first_timestep
  num_classes = len(config.data.class_names)
  if not first or num_classes <= _MOST_CLASSES_TO_ASK_FOR:
    return {}
  if not privacy.epsilon or not math.isfinite(privacy.epsilon):
    return {}
  trained, num_timesteps = first + 1, config.diffusion.num_timesteps
  if trained > num_timesteps or config.sample.sampler.num_steps > trained:
    return {}
  multiplier = class_head.noise_of_share(  # The sensitivity is 1 here too.
    privacy.epsilon, privacy.delta, 1, _SHARE_OF_GAUSSIANS
  )
  noise = class_gaussians.noise_of_products(
    multiplier,
    max(1, privacy.num_examples) / num_classes,
    _SIDE_OF_GAUSSIANS,
    config.data.channels,
  )
  if noise > _MOST_NOISE_OF_GAUSSIANS:
    return {}
  return {
    'finetune.class_gaussians.noise_multiplier': float(f'{multiplier:.4g}'),
    'finetune.class_gaussians.side': _SIDE_OF_GAUSSIANS,
    'finetune.mixture_boundaries': (0, trained // 2, trained, num_timesteps),
    'finetune.mixture_weights': (0.5, 0.5, 0.0),
    'sample.sampler.first_timestep': first,
  }


def tenth_of_one_over(num_records: int) -> float:
  """The largest power of ten that is at most a tenth of 1 / num_records.

  >>> tenth_of_one_over(1000), tenth_of_one_over(22_000)
  (0.0001, 1e-06)
  """
  num_zeros = len(str(max(1, num_records) - 1)) if num_records > 1 else 0
  return float(f'1e-{num_zeros + 1}')


def named(variant: str) -> str:
  """The machine that a variant asks for; '' for none.

  >>> named('cpu'), named('10k'), named('cpu,smoke')
  ('cpu', '', '')
  """
  names = variant.split(',')
  found = [name for name in names if name in RECIPES]
  return found[-1] if found and 'smoke' not in names else ''
