"""From a `ConfigDict` and command-line overrides to frozen dataclasses.

Everything is checked here, before any compute: unknown keys, wrong types and
impossible values each give one line. Stages see only the frozen `Config`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import dataclasses
from typing import Any

import ml_collections

from dp_diffusion import checks
from dp_diffusion import config_sources
from dp_diffusion import config_values
from dp_diffusion import config_weights
from dp_diffusion import errors
from dp_diffusion.baselines import settings as baseline_settings
from dp_diffusion.data import registry
from dp_diffusion.diffusion import samplers
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation import evaluate_config
from dp_diffusion.models import unet
from dp_diffusion.models.formats import foreign
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import audit
from dp_diffusion.training import optimizers

UsageError = errors.UsageError
_OF_INIT = ('init_sha256', 'init_key_map', 'init_as_configured', 'init_format')
NUM_INCEPTION_FEATURES = 2048
_LATER = 'later'  # Metadata of a field.
NOISED_HISTOGRAM = 'noised_histogram'  # A way to choose the labels.


def _later(default: Any) -> Any:
  """A key that earlier versions did not have; see `to_dict`."""
  return dataclasses.field(default=default, metadata={_LATER: True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The denoiser, without what follows from the data (see `unet_config`).

  Attributes are those of `unet.UNetConfig` of the same name.
  """

  channels: int
  channel_multipliers: tuple[int, ...]
  num_blocks: int
  attention_resolutions: tuple[int, ...]
  head_channels: int
  num_groups: int
  dropout: float
  scale_shift: bool
  conv_resample: bool
  compute_dtype: str
  num_heads: int = _later(0)
  norm_eps: float = _later(1e-5)
  resblock_updown: bool = _later(False)
  crop_odd_sides: bool = _later(False)
  time_scale: float = _later(1.0)
  time_offset: float = _later(0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
  """What both training stages and the sampler share.

  Attributes:
    schedule: 'linear' or 'cosine'.
    num_timesteps: T.
    prediction: 'eps', 'x0' or 'v'.
    loss_weighting: 'none' or 'min_snr'; see `schedules.DiffusionProcess`.
    label_drop_prob: probability in [0, 1) that a draw trains the null class.
  """

  schedule: str
  num_timesteps: int
  prediction: str
  loss_weighting: str
  label_drop_prob: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig:
  """Public pre-training.

  Attributes:
    data: the public images.
    num_steps: optimizer steps; 0 takes `init_from` (or fresh weights) as is.
    batch_size: images per step over all devices.
    optimizer: learning rate in update units.
    ema_decay: in [0, 1).
    checkpoint_every_steps: steps between checkpoints.
    mixture_boundaries: timestep mixture, () for uniform.
    mixture_weights: one per interval.
    init_from: '' or a folder or .npz with weights to start from; or, with
      `init_format`, a file that another project has published.
    init_sha256: '' or the hash that the file of `init_from` must have.
    init_key_map: '' or a JSON file that maps our leaves to foreign ones.
    init_as_configured: the user vouches that a bare .npz was made with the
      model and diffusion of this config; with `init_format`, with those keys
      of them that no shape fixes (`foreign.UNSAID`).
    init_format: '' or one of `foreign.FORMATS`, that of `init_from`: the keys
      of model and diffusion are then those of its network.
    init_new_attention_order: with `init_as_configured`, that weights in the
      format of guided-diffusion have its `use_new_attention_order`.
  """

  data: registry.DataConfig
  num_steps: int
  batch_size: int
  optimizer: optimizers.OptimizerConfig
  ema_decay: float
  checkpoint_every_steps: int
  mixture_boundaries: tuple[int, ...]
  mixture_weights: tuple[float, ...]
  init_from: str
  init_sha256: str
  init_key_map: str
  init_as_configured: bool
  init_format: str = _later('')
  init_new_attention_order: bool = _later(False)

  def __post_init__(self) -> None:
    checks.check_non_negative('pretrain.num_steps', self.num_steps)
    checks.check_at_least('pretrain.batch_size', self.batch_size, 1)
    checks.check_at_least(
      'pretrain.checkpoint_every_steps', self.checkpoint_every_steps, 1
    )
    _check_decay('pretrain.ema_decay', self.ema_decay)
    foreign.check_format(self.init_format)
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
  """Private fine-tuning.

  Attributes:
    augmult: K, draws per record and step.
    optimizer: learning rate in update units; see `rescale_to_unit_norm`.
    ema_decay: in [0, 1); warms up as min(decay, (1 + t) / (10 + t)).
    release_weights: 'ema' or 'last', which weights leave.
    rescale_to_unit_norm: divide clipped gradients by the clip norm.
    microbatch_size: records per device at a time; 0 chooses.
    draw_chunk_size: draws at a time; 0 takes all K at once.
    checkpoint_every_steps: steps between checkpoints.
    mixture_boundaries: timestep mixture, () for uniform.
    mixture_weights: one per interval.
    trainable: path patterns of the leaves that train; ('*',) for all.
  """

  augmult: int
  optimizer: optimizers.OptimizerConfig
  ema_decay: float
  release_weights: str
  rescale_to_unit_norm: bool
  microbatch_size: int
  draw_chunk_size: int
  checkpoint_every_steps: int
  mixture_boundaries: tuple[int, ...]
  mixture_weights: tuple[float, ...]
  trainable: tuple[str, ...]

  def __post_init__(self) -> None:
    if self.augmult < 1:
      raise ValueError(
        f'Expected finetune.augmult={self.augmult!r} to be >= 1: it is the '
        'number of draws per record.'
      )
    checks.check_non_negative('finetune.microbatch_size', self.microbatch_size)
    checks.check_non_negative('finetune.draw_chunk_size', self.draw_chunk_size)
    if self.draw_chunk_size and self.augmult % self.draw_chunk_size:
      raise ValueError(
        f'Expected finetune.draw_chunk_size={self.draw_chunk_size} to divide'
        f' finetune.augmult={self.augmult}.'
      )
    checks.check_at_least(
      'finetune.checkpoint_every_steps', self.checkpoint_every_steps, 1
    )
    checks.check_one_of(
      'finetune.release_weights', self.release_weights, ('ema', 'last')
    )
    _check_decay('finetune.ema_decay', self.ema_decay)
    if not self.trainable:
      raise ValueError(
        "Expected finetune.trainable to name at least one pattern; ('*',) "
        'trains every leaf.'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
  """Sampling the synthetic dataset.

  Attributes:
    num_samples: images in the release.
    sampler: which sampler, with how many steps and which guidance.
    batch_size: images per device at a time.
    shard_size: images per .npz file.
    labels: 'uniform', one weight per class as '0.2,0.8' (public numbers), or
      NOISED_HISTOGRAM.
    write_tfds: also write the dataset in TFDS form.
  """

  num_samples: int
  sampler: samplers.SamplerConfig
  batch_size: int
  shard_size: int
  labels: str
  write_tfds: bool

  def __post_init__(self) -> None:
    checks.check_at_least('sample.num_samples', self.num_samples, 1)
    checks.check_at_least('sample.batch_size', self.batch_size, 1)
    checks.check_at_least('sample.shard_size', self.shard_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistributedConfig:
  """Several processes; see `training/parallel.py`.

  Attributes:
    enable: call `jax.distributed.initialize` at the start.
    coordinator_address: 'host:port', or '' where jax detects it.
    num_processes: processes in all, or 0 where jax detects it.
    process_id: this process, or -1 where jax detects it.
  """

  enable: bool
  coordinator_address: str
  num_processes: int
  process_id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Everything a run depends on; see `configs/default.py` for each key."""

  name: str
  seed: int
  data: registry.DataConfig
  model: ModelConfig
  diffusion: DiffusionConfig
  pretrain: PretrainConfig
  finetune: FinetuneConfig
  privacy: accounting.PrivacyConfig
  sample: SampleConfig
  evaluate: evaluate_config.EvaluateConfig
  baseline: baseline_settings.BaselineConfig
  audit: audit.AuditConfig
  distributed: DistributedConfig

  def __post_init__(self) -> None:
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
    if self.data.test_split == self.data.split:
      raise ValueError(
        f'Expected data.test_split={self.data.test_split!r} to be other than'
        ' data.split: accuracy would be that of images trained on.'
      )
    config_sources.check_read(self.data, self.pretrain.data)
    self._check_classes()
    self._check_enough_images()
    if not 0 <= self.seed < 2**31:
      raise ValueError(f'Expected seed={self.seed} to be in [0, 2**31).')
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
    weight = self.sample.sampler.guidance_weight
    if weight and not self.diffusion.label_drop_prob:
      raise ValueError(
        f'Expected diffusion.label_drop_prob to be > 0 with sample.sampler.'
        f'guidance_weight={weight:g}: guidance needs a trained null class.'
      )
    if self.sample.labels != NOISED_HISTOGRAM:
      num_classes = max(1, len(self.data.class_names))
      config_values.parse_weights(
        'sample.labels', self.sample.labels, num_classes
      )
    noise = self.privacy.label_histogram_noise_multiplier
    if (self.sample.labels == NOISED_HISTOGRAM) != bool(noise):
      raise ValueError(
        f'Expected sample.labels={self.sample.labels!r} and privacy.'
        f'label_histogram_noise_multiplier={noise:g} to go together:'
        f' {NOISED_HISTOGRAM!r} with noise > 0, all other labels with 0.'
      )
    for name, stage, num_steps in (
      ('pretrain', self.pretrain, self.pretrain.num_steps),
      ('finetune', self.finetune, self.privacy.num_steps),
    ):
      if num_steps and stage.optimizer.warmup_steps >= num_steps:
        raise ValueError(
          f'Expected {name}.optimizer.warmup_steps='
          f'{stage.optimizer.warmup_steps} to be < the {num_steps} steps of'
          ' the stage.'
        )

  def unet_config(self, data: registry.DataConfig) -> unet.UNetConfig:
    """The network for the classes of `data` (the private or public ones)."""
    return unet.UNetConfig(
      **dataclasses.asdict(self.model),
      num_classes=max(1, len(data.class_names)),
      image_channels=data.channels,
    )

  def pretrain_diffusion(self) -> schedules.DiffusionProcess:
    """The diffusion with the timesteps of pre-training."""
    return self._diffusion(self.pretrain)

  def finetune_diffusion(self) -> schedules.DiffusionProcess:
    """The diffusion with the timesteps of private fine-tuning."""
    return self._diffusion(self.finetune)

  def _check_classes(self) -> None:
    """Refuses labels without classes; a folder does so and lists them."""
    read = {'data': self.data, 'pretrain.data': self.pretrain.data}
    if not self.pretrain.num_steps:
      del read['pretrain.data']
    for name, data in read.items():
      if not data.class_names and data.name != 'folder':
        raise ValueError(
          f'Expected {name}.class_names=() to name every class of'
          f" {data.name!r}, label i as class_names[i]; ('all',) for one."
        )

  def _check_enough_images(self) -> None:
    """Refuses FID of fewer images than features, which has no meaning."""
    evaluate, sizes = self.evaluate, [self.sample.num_samples]
    if self.data.unit == 'image':
      sizes.append(self.privacy.num_examples)
      if self.data.name == 'folder':  # And a share of all is held out.
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
    self, stage: PretrainConfig | FinetuneConfig
  ) -> schedules.DiffusionProcess:
    return schedules.DiffusionProcess(
      **dataclasses.asdict(self.diffusion),
      mixture_boundaries=stage.mixture_boundaries,
      mixture_weights=stage.mixture_weights,
    )


def _check_decay(name: str, decay: float) -> None:
  if not 0 <= decay < 1:
    raise ValueError(f'Expected {name}={decay!r} to be in [0, 1).')


def load(
  config_argument: str, overrides: Mapping[str, str] | None = None
) -> Config:
  """Loads a config file, applies overrides, and checks everything.

  Args:
    config_argument: 'configs/NAME.py' or 'configs/NAME.py:VARIANT'.
    overrides: dotted key -> text, as typed on the command line.

  Returns:
    The frozen config.

  Raises:
    UsageError: one line that names the value, what was expected and the fix.
  """
  config = config_values.load_file(config_argument)
  for key, text in (overrides or {}).items():
    config_values.override(config, key, text, Config)
    config_sources.keep_typed(config, key)
  config_weights.resolve(config, overrides or {})
  return freeze(config, overrides or {})


def freeze(
  config: ml_collections.ConfigDict, typed: Collection[str] = ()
) -> Config:
  """Builds the frozen dataclasses from a `ConfigDict`.

  Args:
    config: all keys.
    typed: dotted keys of it that the user typed.

  Raises:
    UsageError: unknown or missing key, wrong type, impossible value.
  """
  values = config_sources.resolve(config.to_dict(), typed)
  return config_values.build(Config, values, '')


def to_dict(config: Any) -> dict[str, Any]:
  """A config dataclass as plain JSON values; infinity becomes 'inf'.

  Keys that were added later are left out at their default: what an earlier
  version has recorded of a run stays the record of the same run.
  """

  def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
      return {
        field.name: plain(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if not field.metadata.get(_LATER)
        or getattr(value, field.name) != field.default
      }
    if isinstance(value, dict):
      return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
      return [plain(v) for v in value]
    if isinstance(value, float) and value in (float('inf'), float('-inf')):
      return str(value)
    return value

  return plain(config)
