"""Every config key, its default and its unit. Other configs override this one.

A key that the command line overrides keeps the type that it has here:
`--config.privacy.epsilon=5`, `--config.finetune.trainable="('mid*',)"`, or
`none` for a key that may be left out.

Marks: [P] stated in the paper (arXiv 2302.13861), [R] agreed by two
re-implementations of its hyper-parameter table, [r] from one, our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_collections
from ml_collections import config_dict


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """The defaults; they name no dataset, so they do not run by themselves."""
  config = ml_collections.ConfigDict()
  config.name = ''  # Of the run, for titles and citations.
  config.seed = 0  # Public randomness: first weights, samples. Never noise.
  config.data = _data()  # The sensitive images.
  config.model = _model()
  config.diffusion = _diffusion()
  config.pretrain = _pretrain()
  # Follows data.tfds_dir, unless it is set itself.
  config.pretrain.data.tfds_dir = config.data.get_oneway_ref('tfds_dir')
  config.finetune = _finetune()
  config.privacy = _privacy()
  config.sample = _sample()
  config.evaluate = _evaluate()
  config.baseline = _baseline()
  config.audit = _audit()
  config.distributed = _distributed()
  return apply_variant(config, variant, {})


def apply_variant(
  config: ml_collections.ConfigDict,
  variant: str,
  variants: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
  """Changes `config` as the variant says.

  Args:
    config: changed in place.
    variant: '' or names in `variants` with commas, applied in this order.
    variants: name -> function that changes a config in place.

  Returns:
    `config`.

  Raises:
    ValueError: an unknown variant; lists the known ones.
  """
  for name in variant.split(',') if variant else ():
    if name not in variants:
      known = ', '.join(sorted(variants)) or 'none'
      raise ValueError(f'Expected variant {name!r} to be one of: {known}.')
    variants[name](config)
  return config


def smoke(config: ml_collections.ConfigDict) -> None:
  """Every stage in a minute, on a few images; nothing is learned.

  They are the first of the dataset, or some of the folder, that the command
  line gives (data.path, data.tfds_dir or data.manual_dir); without any they
  are made up, in the shape of the real ones. The network keeps its levels,
  attention and classes and loses its width; the image classifier is a small
  one.
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
  """After `smoke`, for a variant that reads prepared datasets: no stand-in.

  Returns:
    Whether `smoke` came before; if not, nothing is changed.
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
  'evaluate.allow_few_images': True,
  'evaluate.held_out_split': '',
}
_SMOKE_PRETRAIN = {
  'pretrain.num_steps': 2,
  'pretrain.optimizer.warmup_steps': 1,
  'pretrain.batch_size': 8,
  'pretrain.checkpoint_every_steps': 2,
}


def _data() -> ml_collections.ConfigDict:
  data = ml_collections.ConfigDict()
  data.name = ''  # A source of dp_diffusion/data, or 'tfds:NAME'.
  data.split = 'train'  # The split that is trained on.
  data.test_split = 'test'  # The split that is held out for evaluation.
  data.tfds_dir = ''  # Folder of prepared TFDS datasets; '' is TFDS's own.
  data.manual_dir = ''  # Folder with archives placed by hand.
  data.path = ''  # Own images: folder, .zip, .npz or .parquet.
  data.person_csv = ''  # Own images: CSV that says who is on which image.
  data.file_column = 'file'  # Its column with the image's path; or file_name.
  data.person_column = 'person'  # Its column with the person; or of labels.csv.
  data.image_key = ''  # TFDS feature, parquet column; '' finds the only image.
  data.label_key = ''  # TFDS feature, column of a table; '' finds it.
  data.person_key = ''  # TFDS feature; '' is none.
  data.image_size = 0  # Pixels, height and width.
  data.channels = 0  # 1 grey, 3 RGB.
  data.class_names = ()  # Label i is class_names[i]; public.
  data.split_seed = 0  # Of a train/test division that the source lacks.
  data.test_fraction = 0.2  # Of such a division, in (0, 1).
  data.source_seed = 0  # Of a source that makes its images.
  data.num_images = 0  # How many it makes; 0 is its default.
  data.max_images = 0  # Of a folder, chosen by split_seed; 0 is all.
  data.stand_in = ''  # Source in its place where no place is given (smoke).
  data.unit = 'image'  # One record: 'image', or 'person' (all their images).
  data.skip_unreadable = False  # Leave unreadable files out, or refuse.
  data.value_range = ()  # Stored values of black and white, for deep files.
  data.frames = ''  # Of a stack or animation: 'first', 'all'; '' refuses it.
  data.max_image_pixels = 64_000_000  # Larger files are refused unopened.
  data.max_in_memory_bytes = 1 << 30  # Larger sets are memory-mapped.
  data.cache_dir = ''  # '' is the user's cache folder.
  data.reflect_pad = 0  # Pixels of reflected border for the random crop.
  data.flip = False  # Flip half of the draws left to right.
  return data


def _model() -> ml_collections.ConfigDict:
  model = ml_collections.ConfigDict()
  model.channels = 192  # Base channels [R].
  model.channel_multipliers = (1, 2, 2, 2)  # One per resolution [R].
  model.num_blocks = 2  # Residual blocks per resolution [R].
  model.attention_resolutions = (16,)  # Sides in pixels with attention [R].
  model.head_channels = 64  # Channels per attention head [r].
  model.num_groups = 32  # Of GroupNorm [R].
  model.dropout = 0.0  # Probability [r].
  model.scale_shift = False  # Time embedding scales and shifts the norms [r].
  model.conv_resample = True  # Convolution when sides halve and double [r].
  model.compute_dtype = 'float32'  # Or 'bfloat16'; parameters are float32.
  model.num_heads = 0  # Attention heads; 0 follows head_channels.
  model.norm_eps = 1e-5  # Added to the variance in GroupNorm.
  model.resblock_updown = False  # Residual blocks halve and double sides.
  model.crop_odd_sides = False  # Sides need be no multiple of 2^(levels - 1).
  model.time_scale = 1.0  # What is embedded is time_scale * timestep
  model.time_offset = 0.0  # + time_offset, in steps.
  return model


def _diffusion() -> ml_collections.ConfigDict:
  diffusion = ml_collections.ConfigDict()
  diffusion.schedule = 'linear'  # 'linear' [R] or 'cosine'.
  diffusion.num_timesteps = 1000  # T [R].
  diffusion.prediction = 'eps'  # 'eps' [R], 'x0' or 'v'.
  diffusion.loss_weighting = 'none'  # 'none' [R] or 'min_snr', gamma 5.
  diffusion.label_drop_prob = 0.0  # Draws of the null class, for guidance.
  return diffusion


def _optimizer(learning_rate: float, warmup: int) -> ml_collections.ConfigDict:
  optimizer = ml_collections.ConfigDict()
  optimizer.name = 'adam'  # 'adam', 'adamw' or 'sgd'.
  optimizer.learning_rate = learning_rate  # Peak, in update units.
  optimizer.warmup_steps = warmup  # Steps of linear warm-up from 0.
  optimizer.schedule = 'constant'  # 'constant', 'cosine' or 'linear', to 0.
  optimizer.b1 = 0.9  # Adam's decay of the mean.
  optimizer.b2 = 0.999  # Adam's decay of the square.
  optimizer.eps = 1e-8  # Adam's eps, beside gradients of unit clip norm.
  optimizer.weight_decay = 0.0  # 'adamw': per unit of learning rate.
  optimizer.momentum = 0.0  # 'sgd'.
  # l2 norm of the gradient of a public batch; none is off.
  optimizer.max_grad_norm = config_dict.placeholder(float)
  return optimizer


def _pretrain() -> ml_collections.ConfigDict:
  pretrain = ml_collections.ConfigDict()
  pretrain.data = _data()  # The public images.
  pretrain.num_steps = 200_000  # Steps [r]; 0 takes init_from as it is.
  pretrain.batch_size = 1024  # Images per step, over all devices [r].
  pretrain.optimizer = _optimizer(1e-3, 5000)  # [r]
  pretrain.ema_decay = 0.9999  # [r]
  pretrain.checkpoint_every_steps = 1000  # Steps.
  pretrain.mixture_boundaries = ()  # Timestep mixture; () is uniform [r].
  pretrain.mixture_weights = ()  # One per interval.
  pretrain.init_from = ''  # A run, a release (its ledger counts) or an .npz.
  pretrain.init_sha256 = ''  # The hash that its file must have.
  pretrain.init_key_map = ''  # JSON: our leaf -> its array, models/key_map.py.
  # A bare .npz was made with the model and diffusion of this config.
  pretrain.init_as_configured = False
  # Or init_from is a file of another project, which sets model and diffusion:
  # 'improved_diffusion', 'guided_diffusion', 'diffusers' (docs/weights.md).
  pretrain.init_format = ''
  # With init_as_configured: guided-diffusion's use_new_attention_order.
  pretrain.init_new_attention_order = False
  return pretrain


def _finetune() -> ml_collections.ConfigDict:
  finetune = ml_collections.ConfigDict()
  finetune.augmult = 128  # K, draws per record and step [R].
  finetune.optimizer = _optimizer(1e-3, 0)  # [R]
  finetune.ema_decay = 0.9999  # Warms up from the first private step [r].
  finetune.release_weights = 'ema'  # Which weights leave: 'ema' or 'last'.
  finetune.rescale_to_unit_norm = True  # Learning rate free of the clip norm.
  finetune.microbatch_size = 0  # Records per device at a time; 0 chooses.
  finetune.draw_chunk_size = 0  # Draws at a time; 0 is all K.
  finetune.checkpoint_every_steps = 10  # Steps.
  finetune.mixture_boundaries = ()  # Timestep mixture; () is uniform.
  finetune.mixture_weights = ()  # One per interval.
  finetune.trainable = ('*',)  # Patterns of the leaves that train.
  return finetune


def _privacy() -> ml_collections.ConfigDict:
  privacy = ml_collections.ConfigDict()
  privacy.solve_for = 'noise_multiplier'  # Or 'num_steps', or 'epsilon'.
  privacy.epsilon = config_dict.placeholder(float)  # In total; inf: no noise.
  privacy.delta = 1e-5  # At most 1 / num_examples.
  privacy.noise_multiplier = config_dict.placeholder(float)  # std/sensitivity
  privacy.num_steps = config_dict.placeholder(int)  # Private steps.
  privacy.expected_batch_size = 0  # Records per step, on average.
  privacy.num_examples = 0  # Records, as declared in public; may be rounded.
  privacy.l2_clip_norm = 1e-3  # l2 norm of a record's gradient [R].
  privacy.relation = 'add_or_remove_one'  # Which datasets are neighbours.
  privacy.allow_large_delta = False  # Allow delta > 1 / num_examples.
  privacy.secret_dir = ''  # '' is private/; else a folder of this run alone.
  # Bands of noise that is correlated over steps; 1 is independent noise.
  privacy.num_bands = 1
  # std of the noise on the label histogram, in records per class; 0 is none.
  privacy.label_histogram_noise_multiplier = 0.0
  return privacy


def _sample() -> ml_collections.ConfigDict:
  sample = ml_collections.ConfigDict()
  sample.num_samples = 50_000  # Images in the release.
  sample.sampler = ml_collections.ConfigDict()
  sample.sampler.name = 'ancestral'  # Or 'ddim', 'dpm_solver_pp_2m'.
  sample.sampler.num_steps = 1000  # Network steps per image.
  # Of the timesteps; or 'uniform', or 'log_snr': for the cosine schedule.
  sample.sampler.spacing = 'quadratic'
  sample.sampler.guidance_weight = 0.0  # 0 is none, at half the cost.
  sample.sampler.eta = 0.0  # 'ddim': 0 is deterministic.
  sample.sampler.clip_x0 = True  # Clip each estimate to [-1, 1].
  sample.batch_size = 500  # Images per device at a time.
  sample.shard_size = 10_000  # Images per .npz file.
  # 'uniform', one public weight per class ('0.2,0.8'), or 'noised_histogram'.
  sample.labels = 'uniform'
  sample.write_tfds = True  # Also in TFDS form, where TensorFlow is there.
  return sample


def _evaluate() -> ml_collections.ConfigDict:
  evaluate = ml_collections.ConfigDict()
  evaluate.classifier = ml_collections.ConfigDict()
  evaluate.classifier.name = 'wrn_40_4'  # The paper's [r].
  evaluate.classifier.num_steps = 10_000  # Optimizer steps.
  evaluate.classifier.batch_size = 128  # Images per step.
  evaluate.classifier.optimizer = 'sgd'  # Momentum 0.9; or 'adamw'.
  evaluate.classifier.learning_rate = 0.1  # Peak; cosine to 0.
  evaluate.classifier.warmup_steps = 500  # Steps.
  # Per unit of learning rate, decoupled: 5e-4 of coupled SGD with momentum.
  evaluate.classifier.weight_decay = 5e-3
  evaluate.classifier.label_smoothing = 0.0  # In [0, 1).
  evaluate.classifier.reflect_pad = 0  # Pixels of border for random crops.
  evaluate.classifier.flip = False  # Flip half of the images left to right.
  evaluate.classifier.validation_fraction = 0.1  # Of the training images.
  evaluate.classifier.num_validations = 10  # Times that it is scored.
  evaluate.classifier.patience = 0  # Validations; 0 never stops early.
  # Others, each by its own recipe: 'wrn_16_4', 'small_cnn', ...
  evaluate.classifiers = ()
  evaluate.num_seeds = 5  # Networks per source of images and classifier.
  evaluate.ensemble_size = 5  # Of these, put together; 0 is none.
  # Shares of the synthetic images, such as (0.1, 0.3, 1.0), for a curve.
  evaluate.size_shares = ()
  evaluate.selection = _selection()
  evaluate.svm = False  # Also scikit-learn's RBF SVM.
  evaluate.max_train_images = 0  # Per source of images; 0 is all.
  # For distances: '' (none), 'inception' (FID), 'public' (a CNN trained on the
  # public images), 'pixels', or the path of an .npz network.
  evaluate.features = ''
  evaluate.inception_path = ''  # '' is the user's cache, fetched on first use.
  # Held-out images of the distribution trained on; '' is data.test_split.
  evaluate.held_out_split = ''
  evaluate.max_distance_images = 50_000  # Of each set, in distances.
  evaluate.allow_few_images = False  # Distances of fewer images than features.
  evaluate.memorization = True  # Look for copies of training images.
  return evaluate


def _selection() -> ml_collections.ConfigDict:
  # A grid of settings that are scored on synthetic and on real images; the
  # grid is off where all is ().
  selection = ml_collections.ConfigDict()
  selection.names = ()  # Networks.
  selection.num_steps = ()  # Optimizer steps.
  selection.learning_rates = ()  # Peaks.
  selection.weight_decays = ()  # Per unit of learning rate.
  selection.label_smoothings = ()  # In [0, 1).
  return selection


def _baseline() -> ml_collections.ConfigDict:
  # Of experiments/baseline.py alone.
  names = ('dp_merf', 'dp_mepf', 'generator', 'dp_classifier')
  baseline = ml_collections.ConfigDict({name: {} for name in names})
  baseline.dp_merf.num_features = 10_000  # Random Fourier features.
  baseline.dp_merf.length_scale = 0.5  # Of the kernel; 1 is half the range.
  baseline.dp_mepf.net = ''  # .npz; '' trains one on the public images.
  baseline.dp_mepf.max_side = 8  # Pixels; larger maps are averaged.
  baseline.dp_mepf.second_moment = 0.5  # Share of the squares, in [0, 1).
  baseline.generator.latent_dim = 16  # Normal numbers per image.
  baseline.generator.channels = 32  # Of the last maps.
  baseline.generator.num_steps = 20_000  # Optimizer steps.
  baseline.generator.batch_size = 500  # Generated images per step.
  baseline.generator.optimizer = _optimizer(1e-3, 0)
  classifier = baseline.dp_classifier
  classifier.name = 'wrn_16_4'  # Normalised by groups.
  classifier.num_public_steps = 0  # On labelled public images, before.
  classifier.public_batch_size = 128  # Images per public step.
  classifier.public_optimizer = _optimizer(1e-3, 0)
  classifier.num_steps = 1000  # Private steps.
  classifier.expected_batch_size = 4096  # Records per step, on average.
  classifier.l2_clip_norm = 1.0  # l2 norm of a record's gradient.
  classifier.augmult = 16  # K, draws per record and step.
  classifier.optimizer = _optimizer(1e-3, 0)
  classifier.ema_decay = 0.99  # Warms up from the first step.
  return baseline


def _audit() -> ml_collections.ConfigDict:
  audit = ml_collections.ConfigDict()
  audit.epsilon = 1.0  # The claim that is tested, in a job of its own.
  audit.delta = 1e-5  # Of the claim.
  audit.num_steps = 50  # Private steps.
  audit.expected_batch_size = 90  # Records per step, were all canaries in.
  audit.num_filler = 1000  # Public images that are in, at most.
  audit.num_canaries = 10_000  # Gradient canaries, in by fair coins.
  audit.num_image_canaries = 1000  # Images of noise, likewise; 0 is none.
  audit.num_guesses_in = 400  # Highest scores, guessed in.
  audit.num_guesses_out = 0  # Lowest scores, guessed out.
  audit.confidence = 0.95  # Of the lower bound on epsilon.
  return audit


def _distributed() -> ml_collections.ConfigDict:
  distributed = ml_collections.ConfigDict()
  distributed.enable = False  # Several processes, through jax.distributed.
  distributed.coordinator_address = ''  # 'host:port'; '' is detected.
  distributed.num_processes = 0  # 0 is detected.
  distributed.process_id = -1  # -1 is detected.
  return distributed
