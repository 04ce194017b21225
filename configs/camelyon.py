r"""Camelyon17-WILDS, tumour or not, pre-trained on ImageNet32.

  python -m dp_diffusion.main --config=configs/camelyon.py \
    --workdir=runs/camelyon

It is evaluated on the test hospital, from which no training image comes.
The archive (10.7 GB, CC0) is downloaded, or read from --config.data.manual_dir.

The paper (column Camelyon17): 80.4M parameters [R, C]; expected batch 16,384,
200 steps, Adam at 1e-3 [r]; clip norm 1e-3 [r]; K = 128; timesteps and
augmentation as for CIFAR-10; EMA 0.9999 [r]; epsilon 10 and delta 3e-6 [P],
noise multiplier 0.763 [C]; 32x32 pixels [r]; 1000 ancestral steps without
guidance [r]; WRN-40-4 [r]. Pre-training: see configs/imagenet32.py.

Hardware: 8 accelerators of 80 GB. Hours, from 3.5e19 FLOP of fine-tuning,
1.7e19 of pre-training and 1.4e18 of sampling at an assumed 200 TFLOP/s each:
6 + 3 + 0.3; not measured.

Expected: accuracy 91.1 % [P]; real data 96.5 % at best, a DP-SGD classifier
90.5 % [P]; 84.8 % in DPImageBench's re-implementation with 3.8M parameters.

One record is one patch. Many come from one patient, who is then NOT protected
as a whole: --config.data.unit=person does that, with privacy.num_examples and
privacy.expected_batch_size counting patients.

Variants: `:smoke` runs in a minute on made-up images. `:cpu` (24x24, 2 cores)
and `:one_gpu` are the recipes of configs/recipes, pre-trained on images by
formula; not measured.

Deviation: as in configs/cifar10.py (unit norm, EMA warm-up, bfloat16).
"""

from __future__ import annotations

import functools

import ml_collections

from configs import cifar10
from configs import default
from configs import imagenet32
from configs.recipes import machines

CLASS_NAMES = ('normal', 'tumor')


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the paper's setting; see the module for variants."""
  config = default.get_config()
  config.name = 'camelyon'
  config.data.name = 'camelyon17'
  config.data.test_split = 'test'  # Hospital 2, out of distribution.
  config.data.image_size = 32
  config.data.channels = 3
  config.data.class_names = CLASS_NAMES
  imagenet32.use(config.pretrain.data)
  config.privacy.epsilon = 10.0
  config.privacy.delta = 3e-6
  config.privacy.num_examples = 302_436
  cifar10.use_recipe(config)
  # Images of hospital 2 look different, so distances use held-out patches of
  # the training hospitals.
  config.evaluate.held_out_split = 'id_val'
  return default.apply_variant(config, variant, VARIANTS)


VARIANTS = {
  'smoke': default.smoke,
  'cpu': functools.partial(machines.use_whole, machine='cpu'),
  'one_gpu': functools.partial(machines.use_whole, machine='one_gpu'),
}
finish = machines.finish
