"""The card of a release, `README.md`: its content and its guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_diffusion.privacy import statement as statement_lib


def text(
  privacy_card: str,
  info: Mapping[str, Any] | None,
  tfds_folder: str,
  *,
  can_sample: bool = False,
) -> str:
  """Returns the card in markdown.

  Args:
    privacy_card: result of `statement.card`.
    info: content of `dataset/dataset.json`; None if only a model is released.
    tfds_folder: folder of the TFDS form, relative to the release; '' for none.
    can_sample: whether `dp_diffusion.sample` takes the model.
  """
  guarantee, details = statement_lib.card_parts(privacy_card)
  title, contents = 'A model of images', []
  if info is not None:
    title = 'Synthetic images, and the model that made them'
    contents = [_dataset_card(info, tfds_folder)]
  parts = [
    f'# {title}',
    guarantee,
    '## What lies here',
    *contents,
    _MODEL_CARD,
    *([_SAMPLE_CARD] if can_sample else []),
    *(['## Privacy', details] if details else []),
  ]
  return '\n\n'.join(parts) + '\n'


_MODEL_CARD = """\
`model/params.npz` holds the weights, one array per layer (and a mark that says
so, `released_under_differential_privacy`), and `model/model.json` the
architecture they belong to. `privacy.json` states the guarantee with every
event it comes from, and the sha256 of every file here.

Check both from a checkout of dp_diffusion, with NumPy, SciPy and dp-accounting.
That shows whether the statement and the files agree. It does not prove what
ran.

```
python -m dp_diffusion.privacy.verify FOLDER_OF_THIS_FILE
```"""

_SAMPLE_CARD = """\
With JAX there too, the model gives more images, under the same guarantee:

```
python -m dp_diffusion.sample FOLDER_OF_THIS_FILE --num=1000 --out=more.npz
```"""


def _dataset_card(info: Mapping[str, Any], tfds_folder: str) -> str:
  """Describes how to load the dataset."""
  height, width, channels = info['image_shape']
  num_classes = max(1, len(info['class_names']))
  card = f"""\
`samples.png` shows some of the {info['num_images']:,} synthetic images of
{height}x{width} pixels, {channels} channel{'s' if channels > 1 else ''},
{num_classes} class{'es' if num_classes > 1 else ''};
`dataset/dataset.json` names the classes.

```python
import glob
import numpy as np

shards = [np.load(p) for p in sorted(glob.glob('dataset/images-*.npz'))]
images = np.concatenate([s['images'] for s in shards])  # uint8[N, H, W, C]
labels = np.concatenate([s['labels'] for s in shards])  # int32[N]
```"""
  if tfds_folder:
    card += f"""

Or with TensorFlow Datasets:

```python
import tensorflow_datasets as tfds

dataset = tfds.builder_from_directory('{tfds_folder}').as_dataset(split='train')
```"""
  return card
