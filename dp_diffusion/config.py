"""Builds frozen config dataclasses from a `ConfigDict` and overrides.

Everything is checked here, before any compute: an unknown key, a wrong type or
an impossible value gives an error of one line. Stages use only the frozen
`Config`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

import ml_collections
from ml_collections import config_dict

from dp_diffusion import config_keys
from dp_diffusion import config_sources
from dp_diffusion import config_values
from dp_diffusion import config_weights
from dp_diffusion import console
from dp_diffusion import errors
from dp_diffusion import leaf_patterns
from dp_diffusion import release_card
from dp_diffusion.baselines import class_gaussians
from dp_diffusion.baselines import class_head
from dp_diffusion.baselines import settings as baseline_settings
from dp_diffusion.baselines import warm_up
from dp_diffusion.data import registry
from dp_diffusion.data import same_source
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.diffusion import timesteps
from dp_diffusion.evaluation import evaluate_config
from dp_diffusion.models import unet
from dp_diffusion.models.formats import foreign
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import audit
from dp_diffusion.privacy import grid_limits
from dp_diffusion.training import optimizers
from dp_diffusion.training import power_averages

UsageError = errors.UsageError
_OF_INIT = ('init_sha256', 'init_key_map', 'init_as_configured', 'init_format')
NUM_INCEPTION_FEATURES = 2048
NOISED_HISTOGRAM = 'noised_histogram'  # A way to choose the labels.
_BOUNDARIES = (
  'Edges 0 < ... < T of the intervals that timesteps are drawn from; () is'
  ' uniform.'
)
_WEIGHTS = (
  'Probability of each interval; uniform within it. 0 leaves its timesteps to'
  ' the other training, as DP-SynGen (arXiv 2412.09842) leaves early and late'
  ' ones to the public one.'
)
ModelConfig = unet.ModelConfig
DiffusionConfig = schedules.DiffusionConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
  """Public pre-training."""

  data: registry.DataConfig = config_keys.section(
    'The public images.', also=config_sources.KEYS
  )
  num_steps: int = config_keys.key(
    200_000,
    'Optimizer steps; 0 takes init_from (or fresh weights) as it is.',
    '>= 0',
    mark='r',
  )
  batch_size: int = config_keys.key(
    1024, 'Images per step, over all devices.', '>= 1', mark='r'
  )
  optimizer: optimizers.OptimizerConfig = config_keys.section(
    'The optimizer of pre-training [r].', changed={'warmup_steps': 5000}
  )
  ema_decay: float = config_keys.key(
    0.9999, 'Decay per step of the averaged weights.', '[0, 1)', mark='r'
  )
  checkpoint_every_steps: int = config_keys.key(
    1000, 'Steps between checkpoints.', '>= 1'
  )
  mixture_boundaries: tuple[int, ...] = config_keys.key(
    (), _BOUNDARIES, mark='r'
  )
  mixture_weights: tuple[float, ...] = config_keys.key((), _WEIGHTS)
  init_from: str = config_keys.key(
    '',
    'Weights to start from: a run, a release (its ledger counts) or an .npz;'
    ' or, with init_format, a file that another project has published.',
  )
  init_sha256: str = config_keys.key(
    '', "The hash that the file of init_from must have; '' for any."
  )
  init_key_map: str = config_keys.key(
    '',
    "A JSON file that maps our leaves to foreign ones (models/key_map.py); ''"
    ' for none.',
  )
  init_as_configured: bool = config_keys.key(
    False,
    'You vouch that a bare .npz was made with the model and diffusion of this'
    ' config; with init_format, with those keys of them that no shape fixes.',
  )
  init_format: str = config_keys.key(
    '',
    'The format of another project that init_from is in (docs/weights.md): the'
    " keys of model and diffusion are then those of its network; '' for none.",
    config_keys.Allowed(
      ', '.join(map(repr, ('', *foreign.FORMATS))),
      lambda _, name: foreign.check_format(name),
    ),
    is_later=True,
  )
  init_new_attention_order: bool = config_keys.key(
    False,
    'With init_as_configured: weights in the format of guided-diffusion have'
    ' its use_new_attention_order.',
    is_later=True,
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'pretrain.')
    optimizers.check_public('pretrain.optimizer', self.optimizer)
    if self.init_format and self.init_key_map:
      raise ValueError(
        f'Expected one of pretrain.init_format={self.init_format!r} and'
        f' pretrain.init_key_map={self.init_key_map!r}: a format has its own'
        ' names.'
      )
    if self.init_new_attention_order and not (
      self.init_format == 'guided_diffusion' and self.init_as_configured
    ):
      raise ValueError(
        'Expected pretrain.init_new_attention_order only with'
        " pretrain.init_format='guided_diffusion' and"
        ' pretrain.init_as_configured=True.'
      )
    for name in _OF_INIT:
      if getattr(self, name) and not self.init_from:
        raise ValueError(
          f'Expected pretrain.init_from to be set, as pretrain.{name} is.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
  """Private fine-tuning."""

  augmult: int = config_keys.key(
    128, 'K, draws per record and step.', '>= 1', mark='R'
  )
  optimizer: optimizers.OptimizerConfig = config_keys.section(
    'The optimizer of the private steps [R]; see rescale_to_unit_norm.'
  )
  ema_decay: float = config_keys.key(
    0.9999,
    'Decay per step of the averaged weights; warms up as'
    ' min(decay, (1 + t) / (10 + t)) from the first private step.',
    '[0, 1)',
    mark='r',
  )
  release_weights: str = config_keys.key(
    'ema', 'Which weights leave: the averaged or the last.', ('ema', 'last')
  )
  rescale_to_unit_norm: bool = config_keys.key(
    True,
    'Divide clipped gradients by the clip norm, so that the learning rate does'
    ' not depend on it.',
  )
  microbatch_size: int = config_keys.key(
    0, 'Records per device at a time; 0 chooses.', '>= 0'
  )
  draw_chunk_size: int = config_keys.key(
    0, 'Draws at a time; 0 is all K; must divide K.', '>= 0'
  )
  checkpoint_every_steps: int = config_keys.key(
    10, 'Steps between checkpoints.', '>= 1'
  )
  mixture_boundaries: tuple[int, ...] = config_keys.key((), _BOUNDARIES)
  mixture_weights: tuple[float, ...] = config_keys.key((), _WEIGHTS)
  antithetic_noise: bool = config_keys.key(
    False,
    'Each of the K draws is the mean of two losses, of a noise and of its'
    ' negative, at one timestep. It costs as much as twice as many draws, and'
    ' the gradient of a record varies less than with those.',
    is_later=True,
  )
  trainable: tuple[str, ...] = config_keys.key(
    ('*',), "Path patterns of the leaves that train; '*' is all."
  )
  gradient_scales: tuple[str, ...] = config_keys.key(
    (),
    'Numbers by which gradients of leaves are multiplied before the clip, such'
    " as 'label/classes=50': these leaves then get a larger share of the clip"
    ' norm, and relatively less noise. Several patterns have spaces between'
    ' them; the first text that matches holds; other leaves have 1.',
    config_keys.Allowed("'PATTERN=NUMBER'", leaf_patterns.parse),
    is_later=True,
  )
  scaled_quantity: str = config_keys.key(
    'gradient',
    "What gradient_scales scale. With 'gradient' the noised gradient is divided"
    " by the scale again, so that the leaf has less noise. With 'parameter' a"
    ' leaf is its scale times a parameter that the optimizer trains, so that'
    " the leaf's learning rate is larger too, by the scale with Adam.",
    optimizers.SCALED,
    is_later=True,
  )
  clip_groups: tuple[str, ...] = config_keys.key(
    (),
    'Groups of leaves that are clipped by themselves, with shares that sum to'
    " 1, such as 'label/* time*=0.2,*=0.8': a group is clipped to the clip norm"
    ' times the root of its share. The first text that matches a leaf holds,'
    ' and each leaf needs one; () clips the whole gradient.',
    config_keys.Allowed("'PATTERN=SHARE'", leaf_patterns.parse),
    is_later=True,
  )
  power_averages: tuple[float, ...] = config_keys.key(
    (),
    'Relative lengths of further averages of the weights (EDM2), such as'
    ' (0.05, 0.1): shares of the training over which they are taken.'
    ' sample.average_length then chooses a length after the training; () keeps'
    ' none.',
    f'(0, {power_averages.MAX_LENGTH}]',
    is_later=True,
  )
  warm_up: warm_up.WarmUpConfig = config_keys.section(
    'A training on noised statistics of the sensitive images before the private'
    ' steps, by the other keys of pretrain; privacy.epsilon covers both.',
    default=warm_up.WarmUpConfig(),
    is_later=True,
  )
  class_gaussians: class_gaussians.ClassGaussiansConfig = config_keys.section(
    'Noised means and covariances of the classes, from which samples start at'
    ' sample.sampler.first_timestep; privacy.epsilon covers both.',
    default=class_gaussians.ClassGaussiansConfig(),
    is_later=True,
  )
  class_head: class_head.ClassHeadConfig = config_keys.section(
    'A linear classifier of features of images, trained on the sensitive'
    ' images after the private steps; privacy.epsilon covers both.',
    default=class_head.ClassHeadConfig(),
    is_later=True,
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'finetune.')
    if self.scaled_quantity != 'gradient' and not self.gradient_scales:
      raise ValueError(
        'Expected finetune.gradient_scales to be set, as finetune.'
        f'scaled_quantity={self.scaled_quantity!r} is.'
      )
    if self.draw_chunk_size and self.augmult % self.draw_chunk_size:
      raise ValueError(
        f'Expected finetune.draw_chunk_size={self.draw_chunk_size} to divide'
        f' finetune.augmult={self.augmult}.'
      )
    if len(set(self.power_averages)) < len(self.power_averages):
      raise ValueError(
        f'Expected finetune.power_averages={self.power_averages} to be'
        ' different lengths.'
      )
    if not self.trainable:
      raise ValueError(
        "Expected finetune.trainable to name at least one pattern; ('*',) "
        'trains every leaf.'
      )

  @property
  def passes_per_draw(self) -> int:
    """How often a draw goes through the network."""
    return 2 if self.antithetic_noise else 1

  def group_rules(self) -> tuple[leaf_patterns.Rule, ...]:
    """Returns `clip_groups`, parsed."""
    return leaf_patterns.parse_all('finetune.clip_groups', self.clip_groups)

  def power_exponents(self) -> tuple[float, ...]:
    """Returns the exponents of `power_averages`."""
    return tuple(power_averages.exponent(x) for x in self.power_averages)

  def scale_rules(self) -> tuple[leaf_patterns.Rule, ...]:
    """Returns `gradient_scales`, parsed."""
    return leaf_patterns.parse_all(
      'finetune.gradient_scales', self.gradient_scales
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
  """Sampling the synthetic dataset."""

  num_samples: int = config_keys.key(50_000, 'Images in the release.', '>= 1')
  sampler: samplers.SamplerConfig = config_keys.section('How images are made.')
  batch_size: int = config_keys.key(500, 'Images per device at a time.', '>= 1')
  shard_size: int = config_keys.key(10_000, 'Images per .npz file.', '>= 1')
  labels: str = config_keys.key(
    'uniform',
    "Labels to sample: one public weight per class, as '0.2,0.8'; or"
    ' a histogram of the sensitive labels, noised by'
    ' privacy.label_histogram_noise_multiplier.',
    config_keys.Allowed(f"'uniform', weights or {NOISED_HISTOGRAM!r}"),
  )
  average_length: float = config_keys.key(
    0.0,
    'Relative length of the average of the weights that is released and sampled'
    ' from, made from those of finetune.power_averages. It may be chosen after'
    ' the training, by synthetic or public images alone. 0 keeps the weights of'
    ' finetune.release_weights.',
    f'[0, {power_averages.MAX_LENGTH}]',
    is_later=True,
  )
  labels_from_head: bool = config_keys.key(
    False,
    'Whether the label of an image is the class that the class head finds, and'
    ' not the one that it was sampled for.',
    is_later=True,
  )
  class_probabilities: bool = config_keys.key(
    False,
    'Whether the dataset also holds how probable the class head finds each'
    ' class of each image: soft labels, which a classifier can learn instead of'
    ' the labels.',
    is_later=True,
  )
  write_tfds: bool = config_keys.key(
    True, 'Also write the dataset in TFDS form, where TensorFlow is installed.'
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'sample.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
  """Several processes; see `training/parallel.py`."""

  enable: bool = config_keys.key(
    False, 'Call jax.distributed.initialize at the start.'
  )
  coordinator_address: str = config_keys.key(
    '', "'host:port', or '' where jax detects it."
  )
  num_processes: int = config_keys.key(
    0, 'Processes in all; 0 where jax detects it.', '>= 0'
  )
  process_id: int = config_keys.key(
    -1, 'This process; -1 where jax detects it.', '>= -1'
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'distributed.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything a run depends on; `docs/config.md` lists each key.

  Attributes:
    found: dotted keys that were not set, so that sensitive images were opened
      to decide them. It is no key itself.
  """

  name: str = config_keys.key(
    '', 'Of the run, for titles and citations.', is_required=True
  )
  seed: int = config_keys.key(
    0,
    'Public randomness: first weights and samples; never noise.',
    '[0, 2**31)',
    is_required=True,
  )
  data: registry.DataConfig = config_keys.section(
    'The sensitive images.', also=config_sources.KEYS
  )
  model: ModelConfig = config_keys.section('The denoiser.')
  diffusion: DiffusionConfig = config_keys.section(
    'What pre-training, fine-tuning and sampling share.'
  )
  pretrain: PretrainConfig = config_keys.section('Public pre-training.')
  finetune: FinetuneConfig = config_keys.section('Private fine-tuning.')
  privacy: accounting.PrivacyConfig = config_keys.section(
    'What is promised, and which number is computed from the others.'
  )
  sample: SampleConfig = config_keys.section('The synthetic dataset.')
  card: release_card.CardConfig = config_keys.section(
    'What the card of the release says beside the guarantee: all of it is'
    ' public, and may be changed when the run is complete.',
  )
  evaluate: evaluate_config.EvaluateConfig = config_keys.section(
    'Measuring the released dataset on real held-out images.'
  )
  baseline: baseline_settings.BaselineConfig = config_keys.section(
    'Other methods, of experiments/baseline.py alone; each under the privacy'
    ' of the config.'
  )
  audit: audit.AuditConfig = config_keys.section(
    'A lower bound on epsilon: a job of its own, on public images and'
    ' canaries, under a claim of its own.'
  )
  distributed: DistributedConfig = config_keys.section('Several processes.')
  found: tuple[str, ...] = config_keys.fact(())

  def __post_init__(self) -> None:
    config_keys.check(self)
    if self.data.image_size != self.pretrain.data.image_size or (
      self.data.channels != self.pretrain.data.channels
    ):
      raise ValueError(
        'Expected pretrain.data to have images of the size of data:'
        f' image_size={self.pretrain.data.image_size},'
        f' channels={self.pretrain.data.channels} against'
        f' image_size={self.data.image_size},'
        f' channels={self.data.channels}.'
      )
    self._check_held_out()
    config_sources.check_read(self.data, self.pretrain.data)
    self._check_classes()
    self._check_enough_images()
    for data in (self.data, self.pretrain.data):
      size = data.image_size
      for name in ('image_size', 'channels'):
        if not getattr(data, name):
          raise ValueError(
            f'Expected data.{name}=0 to be that of the images: the network is'
            ' made for it.'
          )
      self.unet_config(data).check_image_shape(size, size, data.channels)
    self.pretrain_diffusion()
    samplers.timestep_sequence(self.sample.sampler, self.finetune_diffusion())
    self.sample.sampler.check_classes(self.data.num_classes)
    weight = self.sample.sampler.guidance_weight
    if weight and not self.diffusion.label_drop_prob:
      raise ValueError(
        f'Expected diffusion.label_drop_prob to be > 0 with sample.sampler.'
        f'guidance_weight={weight:g}: guidance needs a trained null class.'
      )
    if self.sample.labels != NOISED_HISTOGRAM:
      config_values.parse_weights(
        'sample.labels', self.sample.labels, self.data.num_classes
      )
    noise = self.privacy.label_histogram_noise_multiplier
    if (self.sample.labels == NOISED_HISTOGRAM) != bool(noise):
      raise ValueError(
        f'Expected sample.labels={self.sample.labels!r} and privacy.'
        f'label_histogram_noise_multiplier={noise:g} to go together:'
        f' {NOISED_HISTOGRAM!r} with noise > 0, all other labels with 0.'
      )
    if self.sample.average_length and not self.finetune.power_averages:
      raise ValueError(
        'Expected finetune.power_averages to be set, as sample.average_length='
        f'{self.sample.average_length:g} is: it is made from them.'
      )
    if self.sample.labels == NOISED_HISTOGRAM and (
      self.finetune.warm_up.generated_steps
    ):
      raise ValueError(
        f'Expected sample.labels={NOISED_HISTOGRAM!r} to be public shares with'
        ' finetune.warm_up.generated_steps='
        f'{self.finetune.warm_up.generated_steps}: the generator needs them'
        ' before there is a histogram.'
      )
    self._check_optimizers()

  @property
  def reads_public_images(self) -> bool:
    """Whether any step before the private ones reads `pretrain.data`."""
    return bool(self.pretrain.num_steps or self.finetune.warm_up.has_votes)

  @property
  def has_same_classes(self) -> bool:
    """Whether `pretrain.data` has the classes of `data`, in one order."""
    return self.pretrain.data.class_names == self.data.class_names

  def unet_config(self, data: registry.DataConfig) -> unet.UNetConfig:
    """Returns the network for the classes of `data`, private or public."""
    return unet.UNetConfig(
      **dataclasses.asdict(self.model),
      num_classes=data.num_classes,
      image_channels=data.channels,
    )

  def pretrain_diffusion(self) -> schedules.DiffusionProcess:
    """Diffusion process with the timesteps of pre-training."""
    return self._diffusion(self.pretrain)

  def finetune_diffusion(self) -> schedules.DiffusionProcess:
    """Diffusion process with timesteps and noise of private fine-tuning."""
    return self._diffusion(self.finetune, self.finetune.antithetic_noise)

  def warm_up_as_pretraining(self) -> Config:
    """Returns the config of a pre-training that does what the warm-up does.

    It has the steps of `finetune.warm_up`, and images as `data` says.
    """
    pretrain = dataclasses.replace(
      self.pretrain, data=self.data, num_steps=self.finetune.warm_up.num_steps
    )
    return dataclasses.replace(self, pretrain=pretrain)

  def _check_held_out(self) -> None:
    """Refuses to test on training images: the terminal shows the accuracy."""
    for name, split in (
      ('data.test_split', self.data.test_split),
      ('evaluate.held_out_split', self.evaluate.held_out_split),
    ):
      if split and same_source.do_overlap(split, self.data.split):
        raise ValueError(
          f'Expected {name}={split!r} to be other than'
          f' data.split={self.data.split!r}, and to share no image with it:'
          ' accuracy would be that of images trained on.'
        )

  def _check_optimizers(self) -> None:
    """Refuses scales, shares, optimizers and warm-ups that cannot work."""
    grid_limits.check_leaves(
      [rule.value for rule in self.finetune.scale_rules()],
      [rule.value for rule in self.finetune.group_rules()],
      self.privacy.l2_clip_norm,
    )
    optimizers.check_private(
      'finetune.optimizer', self.finetune.optimizer, self.privacy.num_bands
    )
    for name, stage, num_steps, what in (
      ('pretrain', self.pretrain, self.pretrain.num_steps, 'the stage'),
      (
        'pretrain',
        self.pretrain,
        self.finetune.warm_up.num_steps,
        'finetune.warm_up, which has the same optimizer',
      ),
      ('finetune', self.finetune, self.privacy.num_steps, 'the stage'),
    ):
      if num_steps and stage.optimizer.warmup_steps >= num_steps:
        raise ValueError(
          f'Expected {name}.optimizer.warmup_steps='
          f'{stage.optimizer.warmup_steps} to be < the {num_steps} steps of'
          f' {what}.'
        )

  def _check_classes(self) -> None:
    """Refuses labels without class names; a folder reports its own error."""
    read = {'data': self.data, 'pretrain.data': self.pretrain.data}
    if not self.reads_public_images:
      del read['pretrain.data']
    for name, data in read.items():
      if not data.class_names and data.name != 'folder':
        raise ValueError(
          f'Expected {name}.class_names=() to name every class of'
          f" {data.name!r}, label i as class_names[i]; ('all',) for one. Leave"
          ' the key out to take those that the source itself states.'
        )
    has_head, num_classes = (
      self.finetune.class_head.is_used,
      self.data.num_classes,
    )
    if has_head and num_classes < 2:
      raise ValueError(
        'Expected finetune.class_head.num_steps='
        f'{self.finetune.class_head.num_steps} to be 0 for data of'
        f' {num_classes} class(es): a head tells at least two apart.'
      )
    if has_head and self.sample.average_length:
      raise ValueError(
        f'Expected sample.average_length={self.sample.average_length:g} to be 0'
        ' with finetune.class_head: the head reads the weights that it was'
        ' trained with.'
      )
    if self.sample.labels_from_head and not has_head:
      raise ValueError(
        'Expected sample.labels_from_head to be False where'
        ' finetune.class_head.num_steps=0: there is no head to ask.'
      )
    if self.sample.class_probabilities and not self.sample.labels_from_head:
      raise ValueError(
        'Expected sample.class_probabilities to be False where'
        ' sample.labels_from_head=False: they are those of the class head, and'
        ' the label is the likeliest class.'
      )
    self._check_gaussians()
    if self.finetune.warm_up.rows_from_votes and self.has_same_classes:
      raise ValueError(
        'Expected finetune.warm_up.rows_from_votes to be False where'
        ' pretrain.data has the classes of data: their embeddings are kept.'
      )
    public = self.pretrain.data.class_names
    if public:  # Else the stage counts them when it has read them.
      self.finetune.warm_up.check_public_classes(
        len(public), self.data.num_classes
      )

  def _check_gaussians(self) -> None:
    """Refuses a start without Gaussians, and Gaussians without a start."""
    used, first = (
      self.finetune.class_gaussians,
      self.sample.sampler.first_timestep,
    )
    if used.is_used != bool(first):
      raise ValueError(
        f'Expected sample.sampler.first_timestep={first} and finetune.'
        f'class_gaussians.noise_multiplier={used.noise_multiplier:g} to be'
        ' both 0 or both > 0: samples start from the Gaussians of the classes,'
        ' which have no other use.'
      )
    if first:
      weights = timesteps.probabilities(self.finetune_diffusion())
      if not weights[first : first + 1].any():
        raise ValueError(
          f'Expected sample.sampler.first_timestep={first} to be a timestep'
          ' that finetune.mixture_weights='
          f'{self.finetune.mixture_weights} train: sampling starts there.'
        )
    if used.is_used and used.side > self.data.image_size:
      raise ValueError(
        f'Expected finetune.class_gaussians.side={used.side} to be at most'
        f' data.image_size={self.data.image_size}.'
      )

  def _check_enough_images(self) -> None:
    """Refuses FID with fewer images than features, which is meaningless."""
    evaluate, sizes = self.evaluate, [self.sample.num_samples]
    if self.data.unit == 'image':
      sizes.append(self.privacy.num_examples)
      if self.data.name == 'folder':  # A share of the images is held out.
        share = self.data.test_fraction
        sizes.append(round(sizes[-1] * share / (1 - share)))
    is_asked = (
      evaluate.features == 'inception' and not evaluate.allow_few_images
    )
    if is_asked and min(sizes) <= NUM_INCEPTION_FEATURES:
      raise ValueError(
        "Expected evaluate.features='inception' only with more than"
        f' {NUM_INCEPTION_FEATURES} images, sampled, to train on and held out,'
        f" not {min(sizes)}: set it to '', or evaluate.allow_few_images=True."
      )

  def _diffusion(
    self,
    stage: PretrainConfig | FinetuneConfig,
    antithetic_noise: bool = False,
  ) -> schedules.DiffusionProcess:
    return schedules.DiffusionProcess(
      **dataclasses.asdict(self.diffusion),
      mixture_boundaries=stage.mixture_boundaries,
      mixture_weights=stage.mixture_weights,
      antithetic_noise=antithetic_noise,
    )


def start() -> ml_collections.ConfigDict:
  """Returns the default config, which `configs/default.py` uses."""
  config = ml_collections.ConfigDict()
  for path, _, keys, _ in config_keys.sections(Config):
    section = config
    for name in path.split('.') if path else ():
      if name not in section:
        section[name] = ml_collections.ConfigDict()
      section = section[name]
    for key in keys:
      value = key.default
      if value is None:
        value = config_dict.placeholder(config_keys.type_of(key))
      section[key.path.rpartition('.')[2]] = value
  return config


def load(
  config_argument: str, overrides: Mapping[str, str] | None = None
) -> Config:
  """Loads a config file, applies overrides, and checks everything.

  It prints which keys the config file sets itself (`config_values.load_file`).

  Args:
    config_argument: 'configs/NAME.py' or 'configs/NAME.py:VARIANT'.
    overrides: dotted key -> text, as the user typed it.

  Returns:
    The frozen config.

  Raises:
    UsageError: one line that names the value, the expected one and the fix.
  """
  config, finish = config_values.load_file(config_argument)
  typed = overrides or {}
  named = config.pretrain.data.name if 'pretrain' in config else ''
  for key, text in typed.items():
    config_values.override(config, key, text, Config)
    config_sources.keep_typed(config, key)
  found = config_sources.find_channels(config, _data_config)
  for line in finish(config, typed):
    console.say(line)
  config_sources.find_public_classes(config, _data_config, typed, named)
  config_weights.resolve(config, typed)
  return dataclasses.replace(freeze(config, typed), found=found)


def _data_config(section: Any) -> registry.DataConfig:
  """Converts a section of a `ConfigDict` that names images, and checks it."""
  values = section.to_dict()
  values.pop('stand_in', None)
  return config_values.build(registry.DataConfig, values, 'data.')


def freeze(
  config: ml_collections.ConfigDict, typed: Collection[str] = ()
) -> Config:
  """Builds the frozen dataclasses from a `ConfigDict`.

  Args:
    config: a config with all keys.
    typed: dotted keys that the user typed.

  Raises:
    UsageError: a key is unknown or missing, or a value has a wrong type or is
      impossible.
  """
  values = config_sources.resolve(config.to_dict(), typed)
  return config_values.build(Config, values, '')


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a config dataclass as JSON values; infinity becomes 'inf'.

  Keys that were added later are left out if they have their default, so that
  the result equals the record that an earlier version made of the same run.
  """

  def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
      return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if not _is_left_out(value, field)
      }
    if isinstance(value, dict):
      return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
      return [plain(v) for v in value]
    if isinstance(value, float) and value in (float('inf'), float('-inf')):
      return str(value)
    return value

  return plain(config)


def with_later_keys(values: Any, kind: type) -> Any:
  """Returns what `to_dict` wrote, with the later keys that it left out.

  They had their default, whether or not the version that wrote it knew them.

  Args:
    values: JSON values of a config dataclass, or of some of its sections.
    kind: the dataclass.
  """
  if not isinstance(values, Mapping):
    return values  # A damaged record.
  hints, found = config_keys.type_hints(kind), dict(values)
  for field in dataclasses.fields(kind):
    if field.name not in found:
      if not config_keys.is_later(field):
        continue
      found[field.name] = to_dict(field.default)
    inner = hints[field.name]
    if isinstance(inner, type) and dataclasses.is_dataclass(inner):
      found[field.name] = with_later_keys(found[field.name], inner)
  return found


def _is_left_out(config: Any, field: dataclasses.Field[Any]) -> bool:
  is_default = getattr(config, field.name) == field.default
  return config_keys.is_fact(field) or (
    config_keys.is_later(field) and is_default
  )
