"""Measures the memory that distances between two sets of 50,000 images need.

  python -m experiments.benchmarks.evaluation_memory

The evaluation stage computes all its metrics of 50,000 synthetic images, 50,000
training images and 10,000 held-out images of 32x32x3, with 2,048 features each.
The features of Inception would take hours on a CPU, and the network's memory
does not grow with the images. So a network of its size with random weights
stays loaded and sees one batch, and a random projection computes the features.
The memory is that which the system cannot reclaim ('anonymous'); only Linux
reports it.
"""

from __future__ import annotations

from collections.abc import Sequence
import tempfile
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import config as config_lib
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.models import inception
from dp_diffusion.stages.evaluation import image_distances
from dp_diffusion.stages.run import interrupts
from experiments.benchmarks import harness
from experiments.benchmarks import host_peak
from experiments.benchmarks import table

MAX_GB = 2.0
_GB = 1e9


def main(argv: Sequence[str] | None = None) -> None:
  """Measures and writes."""
  parser = harness.parser(__doc__, 'evaluation_memory')
  parser.add_argument('--images', type=int, default=50_000)
  arguments = parser.parse_args(argv)
  num = 200 if arguments.smoke else arguments.images
  harness.start()
  config = config_lib.load(
    'configs/cifar10.py', {'evaluate.allow_few_images': str(arguments.smoke)}
  )
  rng = np.random.default_rng(0)
  synthetic, train, held_out = (
    (
      rng.integers(0, 256, (n, 32, 32, 3), np.uint8),
      rng.integers(0, 10, n).astype(np.int32),
    )
    for n in (num, num, num // 5)
  )
  peak: dict[str, int] = {}
  with host_peak.watched(peak), tempfile.TemporaryDirectory() as folder:
    found = image_distances.sections(
      config,
      _extractor(is_small=arguments.smoke),
      image_distances.ImageSets(
        synthetic=synthetic, train=train, held_out=held_out
      ),
      epath.Path(folder),
      interrupts.Stop(''),
    )
  if len(found) != 2:
    raise RuntimeError(f'{len(found)} sections, not distances and copies.')
  rows = [
    table.row(
      f'GB to compare {num:,} images of 32x32 with {num:,} and {num // 5:,}',
      peak['RssAnon'] / _GB,
      {'GB with pages of files': peak['VmHWM'] / _GB},
      at_most=MAX_GB,
    )
  ]
  harness.save('evaluation_memory', rows, arguments)


def _extractor(*, is_small: bool) -> features.NetExtractor:
  """Loads a network as large as Inception; returns projections as features."""
  num = 16 if is_small else inception.NUM_FEATURES
  rng = np.random.default_rng(1)
  params: dict[str, Any] = {
    'projection': rng.normal(size=(3072, num)).astype(np.float32) / 55
  }
  if not is_small:
    net = inception.InceptionV3()
    batch_size = image_distances.images_per_device('inception', 'cpu')
    images = rng.integers(0, 256, (batch_size, 32, 32, 3), np.uint8)
    x = jax.jit(inception.preprocess)(images)
    variables = jax.jit(net.init)(jax.random.key(0), x[:1])
    params['inception'] = variables
    jax.block_until_ready(jax.jit(net.apply)(variables, x))
  return features.NetExtractor(
    name='projection',
    num_features=num,
    apply_fn=_project,
    params=params,
  )


def _project(params: Any, images: jax.Array) -> jax.Array:
  x = images.reshape((len(images), -1)).astype(jnp.float32) / 255
  return jax.nn.relu(x @ params['projection'])


if __name__ == '__main__':
  main()
