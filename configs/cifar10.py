"""CIFAR-10, pre-trained on ImageNet32: the paper's main result.

  python -m dp_diffusion.main --config=configs/cifar10.py --workdir=runs/cifar10

The paper (column CIFAR-10): 80.4M parameters [R, C]; linear schedule, T = 1000,
epsilon-prediction [R]; expected batch 16,384, 200 steps, Adam at 1e-3 [R]; clip
norm 1e-3 [R]; K = 128 [R]; timesteps [0,30) [30,600) [600,1000) with weights
0.015 0.785 0.2 [R]; reflect-pad 4, random crop, flip [r]; EMA 0.9999 [r];
epsilon 10 and delta 1e-5 [P], noise multiplier 2.451 [C]; 1000 ancestral steps
without guidance [r]; WRN-40-4 [r]. Pre-training: see configs/imagenet32.py.
`--config.privacy.epsilon=1` (or 5, 32, inf) gives the other points of figure 2.

Hardware: 8 accelerators of 80 GB. Hours, from 3.5e19 FLOP of fine-tuning,
1.7e19 of pre-training and 1.4e18 of sampling at an assumed 200 TFLOP/s each:
6 + 3 + 0.3; not measured. `finetune.augmult` scales the first linearly.

Expected: FID 9.8, accuracy 88.0 % (an ensemble, on up to 1M samples) [P]; one
WRN-40-4 on 50,000 samples about 75.6 % [r]; 80.7 % and FID 8.8 in
DPImageBench's re-implementation with 78.5M parameters.

Variants: `:smoke` runs in a minute on made-up images. `:million` samples a
million images (2.8e19 FLOP) and measures accuracy at 50,000 to all of them.
`:jpeg` takes JPEG copies, the datasets `cifar10_jpeg` and `tiny_imagenet32`
(200 classes) prepared in --config.data.tfds_dir, for machines without a
network; its numbers are not comparable with published ones. `:one_gpu` has a
network of about 9M parameters and about 1.5e16 FLOP of each training, a
thousandth of the paper's or less, for one accelerator; with 60 private steps an
H100 took 12 minutes for all stages (`experiments/cifar10_jpeg`). They combine,
in this order: `:smoke,jpeg` (the first images of both), `:jpeg,one_gpu`. `:cpu`
is the recipe of configs/recipes for 2 cores, at 24x24, pre-trained on
images by formula; not measured.

Deviation: gradients are divided by the clip norm, so that Adam's eps of 1e-8
stays far below the noise; the clip norm then changes nothing else.
Deviation: the EMA warms up from the first private step, min(0.9999, (1 + t) /
(10 + t)): a plain 0.9999 over 200 steps would keep 98 % of the public weights.
Deviation: matrix products in bfloat16; the paper does not say.
Deviation (`:one_gpu`): cosine schedule, v-prediction, uniform timesteps, 20
steps of DPM-Solver++ even in log-SNR.
"""

from __future__ import annotations

import ml_collections

from configs import default
from configs import imagenet32
from configs.recipes import machines

CLASS_NAMES = (
  *('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse'),
  *('ship', 'truck'),
)
NUM_PUBLIC_JPEG_CLASSES = 200


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the paper's setting at epsilon 10; see the module for variants."""
  config = default.get_config()
  config.name = 'cifar10'
  config.data.name = 'tfds:cifar10'
  config.data.image_size = 32
  config.data.channels = 3
  config.data.class_names = CLASS_NAMES
  imagenet32.use(config.pretrain.data)
  config.privacy.epsilon = 10.0
  config.privacy.delta = 1e-5
  config.privacy.num_examples = 50_000
  use_recipe(config)
  return default.apply_variant(config, variant, VARIANTS)


def use_recipe(config: ml_collections.ConfigDict) -> None:
  """Sets fine-tuning for 32x32 colours: CIFAR-10 [R], Camelyon17 [r]."""
  config.data.reflect_pad = 4
  config.data.flip = True
  config.model.compute_dtype = 'bfloat16'
  config.privacy.expected_batch_size = 16_384
  config.privacy.num_steps = 200
  config.finetune.mixture_boundaries = (0, 30, 600, 1000)
  config.finetune.mixture_weights = (0.015, 0.785, 0.2)
  config.evaluate.classifier.reflect_pad = 4
  config.evaluate.classifier.flip = True
  config.evaluate.features = 'inception'


def _million(config: ml_collections.ConfigDict) -> None:
  config.sample.num_samples = 1_000_000
  config.evaluate.size_shares = (0.05, 0.1, 0.25, 0.5, 1.0)


def _jpeg(config: ml_collections.ConfigDict) -> None:
  default.smoke_on_files(config)
  config.name += '-jpeg'
  config.evaluate.features = 'public'  # Inception needs a download.
  config.data.name = 'tfds:cifar10_jpeg'
  config.pretrain.data.name = 'tfds:tiny_imagenet32'
  config.pretrain.data.class_names = tuple(
    str(i) for i in range(NUM_PUBLIC_JPEG_CLASSES)
  )


def _cpu(config: ml_collections.ConfigDict) -> None:
  machines.use_whole(config, 'cpu')
  config.data.reflect_pad = 2


def _one_gpu(config: ml_collections.ConfigDict) -> None:
  config.name += '-one_gpu'
  if 'smoke' in config.name:
    return
  config.model.channels = 64
  # Chosen by experiments/ablation_prediction: eps is worse in short trainings.
  config.diffusion.schedule = 'cosine'
  config.diffusion.prediction = 'v'
  config.finetune.mixture_boundaries = ()
  config.finetune.mixture_weights = ()
  config.pretrain.num_steps = 3000
  config.pretrain.batch_size = 512
  config.pretrain.optimizer.warmup_steps = 300
  config.pretrain.optimizer.schedule = 'cosine'
  config.pretrain.ema_decay = 0.997
  config.pretrain.data.flip = True  # 40,000 images are seen 38 times.
  config.privacy.expected_batch_size = 4096
  config.finetune.augmult = 4
  config.finetune.microbatch_size = 256
  config.privacy.num_steps = 100
  config.finetune.ema_decay = 0.97
  config.finetune.checkpoint_every_steps = 25
  config.sample.sampler.name = 'dpm_solver_pp_2m'
  config.sample.sampler.num_steps = 20  # By experiments/ablation_sampler.
  config.sample.sampler.spacing = 'log_snr'
  config.evaluate.classifier.name = 'wrn_16_4'
  config.evaluate.classifier.num_steps = 4000
  config.evaluate.num_seeds = 1
  config.evaluate.ensemble_size = 0


VARIANTS = {
  'smoke': default.smoke,
  'jpeg': _jpeg,
  'million': _million,
  'one_gpu': _one_gpu,
  'cpu': _cpu,
}
finish = machines.finish
