r"""ImageNet at 32x32: the public pre-training of CIFAR-10 and Camelyon17.

  python -m dp_diffusion.main --config=configs/imagenet32.py \
    --workdir=runs/imagenet32

then, for each sensitive dataset,

  python -m dp_diffusion.main --config=configs/cifar10.py \
    --config.pretrain.init_from=runs/imagenet32 --config.pretrain.num_steps=0

Nothing here is sensitive, so epsilon is infinite: the private stage takes one
step without noise at a rate too small to matter, and what is sampled and
measured is the pre-trained network. `--stage=pretrain` alone is enough for the
use above.

Data: TFDS `imagenet_resized/32x32` 0.1.0, 1,281,167 images of 1,000 classes in
TFDS's own order; TFDS publishes no names, so a class is called by its number.
The paper: 80.4M parameters [R, C], 200,000 steps of batch 1024, Adam, learning
rate 1e-3 after 5,000 warm-up steps, uniform timesteps [r], EMA 0.9999 [r].
Hardware: 8 accelerators of 80 GB. Hours, from 1.7e19 FLOP at an assumed 200
TFLOP/s each: 3 to pre-train, 1 to sample; not measured.
Expected: none is published for this stage.

Deviation: matrix products in bfloat16 (parameters and gradient norms stay
float32); the paper does not say.
Deviation: 20,000 images are sampled and each classifier sees at most 50,000.
"""

from __future__ import annotations

import math

import ml_collections

from configs import default

CLASS_NAMES = tuple(str(i) for i in range(1000))


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the public pre-training; `:smoke` takes a minute."""
  config = default.get_config()
  config.name = 'imagenet32'
  use(config.data)
  config.data.test_split = 'validation'
  use(config.pretrain.data)
  config.model.compute_dtype = 'bfloat16'

  config.privacy.epsilon = math.inf
  config.privacy.delta = 1e-7
  config.privacy.num_examples = 1_281_167
  config.privacy.expected_batch_size = 64
  config.privacy.num_steps = 1
  config.finetune.augmult = 1
  config.finetune.optimizer.learning_rate = 1e-12

  config.sample.num_samples = 20_000
  config.evaluate.max_train_images = 50_000
  config.evaluate.features = 'inception'
  return default.apply_variant(config, variant, VARIANTS)


def use(data: ml_collections.ConfigDict) -> None:
  """Sets a `data` section to the training images of ImageNet32."""
  data.name = 'tfds:imagenet_resized/32x32'
  data.image_size = 32
  data.channels = 3
  data.class_names = CLASS_NAMES


VARIANTS = {'smoke': default.smoke}
