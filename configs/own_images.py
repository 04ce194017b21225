r"""Your own images, such as those of a hospital.

1. Put the images into one subfolder per class (or a .zip of that, or an .npz
   with `images` and `labels`). Class names are public: choose harmless ones.
2. Declare how many images there are to train on (a fifth of all is held out for
   evaluation). The number is published, and may be rounded.
3. Choose the variant of your machine, and read the plan. It says what was
   chosen, what it will cost, and whether there are enough images:

     python -m dp_diffusion.main --config=configs/own_images.py:cpu \
       --config.data.path=/data/scans \
       --config.data.class_names="('benign', 'malignant')" \
       --config.privacy.num_examples=9000 --workdir=runs/scans --stage=plan

4. Look at the images as the network will see them: the same command with
   --stage=inspect writes `private/training_images.png` and
   `private/survey.json`.
5. Run the same command without --stage. `private/progress.png` shows samples
   during training. Publish `release/`, nothing else.

If a person can be on several images, protect persons: set
--config.data.unit=person, set --config.data.person_csv to a CSV file with the
columns `file` and `person`, and count persons in num_examples. A few hundred
persons may be too few; the plan says so.

One machine: `:cpu` (2 cores) and `:one_gpu`
--------------------------------------------
Nothing is downloaded: pre-training is on `rendered`, images by formula.
configs/recipes sets image size, network and steps, and computes batch, K and
delta from the declared number of records; the first lines of a run print them.
The command line can set any of them (--config.data.image_size=32 ...).

Mirrored images: if one is as good an image of its class (cells and tissue are,
letters are not), set --config.data.flip=True. Classifiers then mirror too.

Grey or colour: unless --config.data.channels is 1 or 3, 64 of the images are
opened, by `plan` too. If nine in ten are of one kind, this kind is used;
otherwise the key must be set. The choice is taken to be public, as the size and
the class names are.

Hardware: 2 CPU cores, or one GPU. Hours and what to expect: the rows of blood
cells in docs/results.md (`:cpu`); `:one_gpu` is not measured.

The paper's recipe: `:1k`, `:10k`, `:100k`
------------------------------------------
The table shows the noise multipliers of each variant (add or remove one record;
PLD). The last column decides the quality: the std of the noise in the mean
gradient at epsilon 10, in units of the clip norm. Ten times as many images make
it about seven times smaller; no setting of a small dataset can replace this.

  variant  images   delta  batch  steps  eps 1  eps 5  eps 10  noise / batch
  1k         1000   1e-04    500    100 16.008  4.076   2.381       0.004763
  10k       10000   1e-05   2500    200 13.296  3.296   1.935       0.000774
  100k     100000   1e-06  16384    200  9.927  2.466   1.486       0.000091

Network, optimizer, K, clip norm, timesteps and sampler are the paper's for
32x32 images [R]. Pre-train once on ImageNet32, on any machine, with
configs/imagenet32.py in runs/imagenet32; then add

     --config.pretrain.init_from=runs/imagenet32 --config.pretrain.num_steps=0

(without these keys each run does the whole pre-training). Batches, steps and
deltas of the table are our choice: delta is a tenth of one over the number of
images.

Hardware: 8 accelerators of 80 GB. Hours of fine-tuning at an assumed 200
TFLOP/s each: 0.1 (1k), 0.9 (10k), 6 (100k); not measured.

Expected: with fewer images, an accuracy below that of CIFAR-10. The evaluation
measures it in `evaluation/`, which is NOT covered by the guarantee.

Images of any size and kind are cut to their middle square and resized; alpha is
dropped (a transparent pixel shows its hidden colour). Files deeper than 8 bits
need data.value_range=(black, white), unless the images use the whole depth.
Files with several images are refused unless data.frames is 'first' or 'all'.
DICOM needs `pip install dp_diffusion[dicom]`; its values are mapped by
data.value_range in modality units (Hounsfield), or by the window of each file.
A class without images is no error. docs/inputs.md lists all forms of input.
`:1k` measures no FID, because FID has more features than there are images.

Deviation: as in configs/cifar10.py (unit norm, EMA warm-up, bfloat16).
Deviation (`:cpu`, `:one_gpu`): small networks and few steps, cosine schedule,
v-prediction, DPM-Solver++ even in log-SNR; chosen here, not the paper's.
Variants: `:cpu`, `:one_gpu`, `:1k`, `:10k` (also without a variant), `:100k`,
and `:smoke`, also after another.
"""

from __future__ import annotations

from collections.abc import Collection
import functools

import ml_collections

from configs import cifar10
from configs import default
from configs import imagenet32
from configs.recipes import machines

# variant: (images, delta, expected batch, steps).
SIZES = {
  '1k': (1000, 1e-4, 500, 100),
  '10k': (10_000, 1e-5, 2500, 200),
  '100k': (100_000, 1e-6, 16_384, 200),
}


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """Returns the config at epsilon 10; the module says which keys to set."""
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


def finish(
  config: ml_collections.ConfigDict, variant: str, typed: Collection[str]
) -> list[str]:
  """Sets the keys that depend on the number of images and their channels.

  Args:
    config: changed in place.
    variant: as in `get_config`.
    typed: dotted keys that the user has set.

  Returns:
    Lines that say what was chosen.

  Raises:
    ValueError: the user has not set the number of images.
  """
  lines = [] if machines.named(variant) else _lower_delta(config, typed)
  if not set(variant.split(',')) & set(machines.RECIPES):
    return lines
  is_found = 'data.channels' not in typed and config.data.channels
  config.data.channels = config.data.channels or 3
  machine = machines.named(variant)
  if not machine:  # The variant `smoke` has set the other keys.
    config.pretrain.data.channels = config.data.channels
    return lines
  if 'privacy.num_examples' not in typed:
    raise ValueError(
      'Expected --config.privacy.num_examples=N, the declared number of'
      f' {config.data.unit}s to train on (a fifth of all is held out). The'
      ' number is published.'
    )
  has_labels = config.sample.labels_from_head
  lines += machines.fill(config, machine, typed)
  lines += machines.fill_classes(config, machine, typed)
  is_chosen = config.sample.labels_from_head and not has_labels
  if is_chosen and 'sample.num_samples' not in typed:
    config.sample.num_samples *= 2  # None is drawn again.
  if 'evaluate.classifier.flip' not in typed:
    config.evaluate.classifier.flip = config.data.flip
  if 'data.flip' not in typed:
    lines.append(
      f'{machine}: images are not mirrored; where a mirrored one would be as'
      ' good, set --config.data.flip=True'
    )
  kind = 'grey' if config.data.channels == 1 else 'colour'
  if is_found:
    lines.append(f'{machine}: images are read as {kind}, as in their files')
  elif 'data.channels' not in typed:
    lines.append(f'{machine}: images are read as {kind}; none was opened')
  return lines


def _lower_delta(
  config: ml_collections.ConfigDict, typed: Collection[str]
) -> list[str]:
  """Lowers the delta of a variant where it does not fit the typed records."""
  privacy = config.privacy
  fits = privacy.delta * privacy.num_examples <= 1
  if fits or 'privacy.delta' in typed or 'privacy.num_examples' not in typed:
    return []
  delta = machines.tenth_of_one_over(privacy.num_examples)
  line = (
    f'own_images: for {privacy.num_examples:,} {config.data.unit}s as declared,'
    f' delta {delta:g} instead of {privacy.delta:g}'
  )
  privacy.delta = delta
  return [line]


def _by_machine(config: ml_collections.ConfigDict, name: str) -> None:
  machines.use(config, name)
  config.name += f'-{name}'
  config.data.channels = 0  # Found from the images, unless the user sets it.
  config.pretrain.data.channels = 0
  config.data.reflect_pad = 0
  config.data.flip = False  # A mirrored image may not be a valid one.
  config.evaluate.classifier.reflect_pad = 0
  config.evaluate.classifier.flip = False


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
  'cpu': functools.partial(_by_machine, name='cpu'),
  'one_gpu': functools.partial(_by_machine, name='one_gpu'),
}
