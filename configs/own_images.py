r"""Your own images: where a hospital starts from.

1. Put the images into one subfolder per class (or a .zip of that, or an .npz
   with `images` and `labels`). Class names are public: choose harmless ones.
2. Say how many there are to train on, BEFORE looking further: a fifth is held
   out for evaluation. The number is published, and may be rounded.
3. Take the variant whose size is nearest, and look at the plan, which opens no
   image and says what is wrong with the path:

     python -m dp_diffusion.main --config=configs/own_images.py:10k \
       --config.data.path=/data/scans \
       --config.data.class_names="('benign', 'malignant')" \
       --config.privacy.num_examples=9000 --config.privacy.delta=1e-5 \
       --config.pretrain.init_from=runs/imagenet32 \
       --config.pretrain.num_steps=0 --workdir=runs/scans --stage=plan

   (without the `pretrain` keys it plans, and does, the whole pre-training).
4. Look at them as the network will: the same with --stage=inspect writes
   `private/training_images.png` and `private/survey.json`.
5. Run the same without --stage. Publish `release/`, nothing else.

If a person can be on several images, protect persons: a CSV with the columns
`file` and `person` as --config.data.person_csv, --config.data.unit=person, and
num_examples and expected_batch_size counting persons.

Noise multipliers for 32x32 images with what each variant sets (add or remove
one; PLD). The last column is what matters: the std of the noise in the mean
gradient at epsilon 10, in units of the clip norm. Ten times the images bring
it down about sevenfold; no setting of a small dataset makes up for that.

  variant  images   delta  batch  steps  eps 1  eps 5  eps 10  noise / batch
  1k         1000   1e-04    500    100 16.008  4.076   2.381       0.004763
  10k       10000   1e-05   2500    200 13.296  3.296   1.935       0.000774
  100k     100000   1e-06  16384    200  9.927  2.466   1.486       0.000091

Network, optimizer, K, clip norm, timesteps and sampler are the paper's for
32x32 images [R], pre-trained on ImageNet32, once, with configs/imagenet32.py in
runs/imagenet32, on whatever machine. Batches, steps and deltas of the table are
our choice: delta is a tenth of one over the number of images.

Hardware: 8 accelerators of 80 GB. Hours of fine-tuning at an assumed 200
TFLOP/s each: 0.1 (1k), 0.9 (10k), 6 (100k); not measured.

Expected: below CIFAR-10's accuracy for fewer images; measure it, in
`evaluation/`, which is NOT covered by the guarantee.

Images of any size and kind are cut to their middle square and resized; alpha is
dropped (a transparent pixel shows its hidden colour). Files deeper than 8 bits
need data.value_range=(black, white) unless the set uses its whole depth; files
of several images are refused unless data.frames='first' or 'all'. DICOM needs
`pip install dp_diffusion[dicom]` and is mapped by data.value_range in modality
units (Hounsfield), or by each file's own window. A class without images is no
error. docs/inputs.md has all forms of input. `:1k` measures no FID, which has
more features.

Deviation: as in configs/cifar10.py (unit norm, EMA warm-up, bfloat16).
Variants: `:1k`, `:10k` (also without a variant), `:100k`, and `:smoke`.
"""

from __future__ import annotations

import functools

import ml_collections

from configs import cifar10
from configs import default
from configs import imagenet32

# variant: (images, delta, expected batch, steps).
SIZES = {
  '1k': (1000, 1e-4, 500, 100),
  '10k': (10_000, 1e-5, 2500, 200),
  '100k': (100_000, 1e-6, 16_384, 200),
}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Epsilon 10 for 10,000 images; see the module for what to set."""
  config = default.get_config()
  config.name = 'own_images'
  config.data.name = 'folder'
  config.data.image_size = 32
  config.data.channels = 3
  imagenet32.use(config.pretrain.data)
  config.privacy.epsilon = 10.0
  cifar10.use_recipe(config)
  _size(config, '10k')
  return default.apply_variant(config, variant, VARIANTS)


def _size(config: ml_collections.ConfigDict, name: str) -> None:
  num_examples, delta, batch_size, num_steps = SIZES[name]
  config.privacy.num_examples = num_examples
  config.privacy.delta = delta
  config.privacy.expected_batch_size = batch_size
  config.privacy.num_steps = num_steps
  # FID needs more images than it has features.
  config.evaluate.features = 'inception' if num_examples > 5000 else ''


VARIANTS = {
  'smoke': default.smoke,
  '1k': functools.partial(_size, name='1k'),
  '10k': functools.partial(_size, name='10k'),
  '100k': functools.partial(_size, name='100k'),
}
