r"""Fashion-MNIST from scratch: no public image is used.

  python -m dp_diffusion.main --config=configs/fashion_mnist.py \
    --workdir=runs/fashion_mnist

The paper has no such row; every value is that of configs/mnist.py, whose
dataset has the same size, and is our choice: epsilon 10, delta 1e-5, noise
multiplier 2.282 [C].

Hardware and hours: as configs/mnist.py, 8 accelerators, about 12; not measured.

Expected: not published for this network. DPImageBench's table at epsilon 10:
85.6 % without public data (DPDM), 85.4 % for this method with pre-training and
3.8M parameters, 87.3 % the best (DP-FETA).

Variants: `:smoke` runs in a minute on made-up images. `:cpu` (24x24, 2 cores)
and `:one_gpu` are the recipes of configs/recipes, pre-trained on images by
formula; not measured.

Deviation: as in configs/mnist.py (unit norm, EMA warm-up).
"""

from __future__ import annotations

import functools

import ml_collections

from configs import default
from configs import mnist
from configs.recipes import machines

CLASS_NAMES = (
  *('T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt'),
  *('Sneaker', 'Bag', 'Ankle boot'),
)


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns MNIST's recipe for clothes; see the module for variants."""
  config = default.get_config()
  config.name = 'fashion_mnist'
  config.data.name = 'tfds:fashion_mnist'
  config.data.class_names = CLASS_NAMES
  mnist.use_recipe(config)
  return default.apply_variant(config, variant, VARIANTS)


VARIANTS = {
  'smoke': default.smoke,
  'cpu': functools.partial(machines.use_whole, machine='cpu'),
  'one_gpu': functools.partial(
    machines.use_whole, machine='one_gpu', image_size=28
  ),
}
finish = machines.finish
