"""MNIST from scratch: no public image is used.

  python -m dp_diffusion.main --config=configs/mnist.py --workdir=runs/mnist

The paper (column MNIST): base channels 64, one block per level, multipliers
1,2,2 [R], attention at 14x14 [R], about 4.4M parameters [C]; linear schedule,
T = 1000, epsilon-prediction [R]; expected batch 4096, 4000 steps, Adam at 5e-4
[r]; clip norm 1e-3 [r]; K = 128; timesteps [0,200) [200,800) [800,1000) with
weights 0.05 0.9 0.05 [r]; EMA 0.999 [r]; epsilon 10 and delta 1e-5 [P], noise
multiplier 2.282 [C]; 1000 ancestral steps without guidance [r]; WRN-40-4 [r].

Hardware: 8 accelerators. Hours, from 1.0e19 FLOP of fine-tuning and 8e16 of
sampling at an assumed 30 TFLOP/s each: 12 + 0.1; not measured.

Expected: accuracy 98.6 % [P]; 97.4 % in DPImageBench's re-implementation with
pre-training, 3.8M parameters.

Variants: `:smoke` runs in a minute on made-up images. `:letters` pre-trains on
`emnist_letters` (26 upright letters), prepared in --config.data.tfds_dir.
`:cpu` does so with a small network at 14x14, on 2 CPU cores. They combine:
`:smoke,letters`, `:smoke,cpu`, on the first images of both. `:one_gpu` is the
recipe of configs/recipes, pre-trained on images by formula; not measured.

Deviation: gradients are divided by the clip norm, so that Adam's eps of 1e-8
stays far below the noise.
Deviation: the EMA warms up, min(0.999, (1 + t) / (10 + t)).
Deviation (`:cpu`): a small network and few steps, the cosine schedule and
v-prediction, 15 steps of DPM-Solver++ even in log-SNR, a WRN-16-1; a class head
labels the samples, which start from Gaussians of the classes (configs/recipes);
chosen here, not the paper's.
Deviation (`:letters`, `:cpu`): the paper pre-trains no network for MNIST.
"""

from __future__ import annotations

import functools
import string

import ml_collections

from configs import default
from configs.recipes import machines

CLASS_NAMES = tuple(str(i) for i in range(10))


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the paper's setting at epsilon 10; see the module for variants."""
  config = default.get_config()
  config.name = 'mnist'
  config.data.name = 'tfds:mnist'
  config.data.class_names = CLASS_NAMES
  use_recipe(config)
  return default.apply_variant(config, variant, VARIANTS)


def use_recipe(config: ml_collections.ConfigDict) -> None:
  """Sets training from scratch on 60,000 grey images of 28x28."""
  for data in (config.data, config.pretrain.data):
    data.image_size = 28
    data.channels = 1
  config.pretrain.data.name = 'generated'  # Not read: there are no steps.
  config.pretrain.num_steps = 0

  config.model.channels = 64
  config.model.channel_multipliers = (1, 2, 2)
  config.model.num_blocks = 1
  config.model.attention_resolutions = (14,)

  config.privacy.epsilon = 10.0
  config.privacy.delta = 1e-5
  config.privacy.num_examples = 60_000
  config.privacy.expected_batch_size = 4096
  config.privacy.num_steps = 4000
  config.finetune.optimizer.learning_rate = 5e-4
  config.finetune.ema_decay = 0.999
  config.finetune.checkpoint_every_steps = 50
  config.finetune.mixture_boundaries = (0, 200, 800, 1000)
  config.finetune.mixture_weights = (0.05, 0.9, 0.05)
  config.evaluate.features = 'inception'


def _letters(config: ml_collections.ConfigDict) -> None:
  is_smoke = default.smoke_on_files(config)
  config.name += '-letters'
  config.evaluate.features = 'public'
  config.data.name = 'tfds:mnist'
  config.pretrain.data.name = 'tfds:emnist_letters'
  config.pretrain.data.class_names = tuple(string.ascii_lowercase)
  config.pretrain.num_steps = 2 if is_smoke else 20_000
  config.pretrain.batch_size = 8 if is_smoke else 512
  config.pretrain.optimizer.warmup_steps = 1 if is_smoke else 1000


def _cpu(config: ml_collections.ConfigDict) -> None:
  is_smoke = default.smoke_on_files(config)
  _letters(config)
  config.name = config.name.replace('letters', 'cpu')
  for data in (config.data, config.pretrain.data):
    data.image_size = 14
  config.model.channel_multipliers = (1, 2)
  config.model.attention_resolutions = ()
  config.model.conv_resample = False
  config.diffusion.schedule = 'cosine'
  config.diffusion.prediction = 'v'
  config.finetune.mixture_boundaries = ()
  config.finetune.mixture_weights = ()
  config.sample.sampler.name = 'dpm_solver_pp_2m'
  config.evaluate.classifier.name = 'small_cnn'
  config.evaluate.classifier.optimizer = 'adamw'
  config.evaluate.classifier.learning_rate = 2e-3
  config.evaluate.classifier.warmup_steps = 50
  config.evaluate.classifier.weight_decay = 1e-2
  if is_smoke:
    return
  config.evaluate.classifiers = ('wrn_16_1',)
  config.audit.epsilon = 4.0
  config.audit.expected_batch_size = 660
  config.audit.num_canaries = 20_000
  config.audit.num_guesses_in = 320  # Fewer could not refute epsilon 4.
  config.model.channels = 24
  config.model.num_groups = 8
  config.model.head_channels = 16
  config.pretrain.num_steps = 1000
  config.pretrain.batch_size = 256
  config.pretrain.optimizer.learning_rate = 2e-3
  config.pretrain.optimizer.warmup_steps = 100
  config.pretrain.optimizer.schedule = 'cosine'
  config.pretrain.ema_decay = 0.995
  config.privacy.expected_batch_size = 1024
  config.privacy.num_steps = 300
  config.privacy.l2_clip_norm = 0.3
  config.finetune.augmult = 2
  config.finetune.optimizer.learning_rate = 2e-3
  config.finetune.ema_decay = 0.98
  config.sample.sampler.num_steps = 15
  config.sample.sampler.spacing = 'log_snr'
  config.evaluate.classifier.num_steps = 1000


VARIANTS = {
  'smoke': default.smoke,
  'letters': _letters,
  'cpu': _cpu,
  'one_gpu': functools.partial(
    machines.use_whole, machine='one_gpu', image_size=28
  ),
}
finish = machines.finish
