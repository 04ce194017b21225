"""The card of a release, `README.md`: its content and its guarantee.

The section `card` of a config says what only the publisher knows: the name of
the data, licence, contact. Nothing that was measured on real images comes into
the card, as the guarantee does not cover it.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import datetime
import os
import re
import time
from typing import Any

from dp_diffusion import config_keys
from dp_diffusion.privacy import statement as statement_lib
from dp_diffusion.privacy import statement_words

PAPER_URL = 'https://arxiv.org/abs/2302.13861'
_PAPER = (
  'Ghalebikesabi et al., Differentially Private Diffusion Models Generate'
  f' Useful Synthetic Images, 2023, {PAPER_URL}'
)
_IDENTIFIER = re.compile(r'[a-z0-9]+(?:[.+-][a-z0-9]+)*')
_URL = re.compile(r'https?://[!#-;=?-Z_a-z~%]+')
_MOST_LETTERS = 400
_SIZES = {  # Number of images below which a size is called so.
  10**3: 'n<1K',
  10**4: '1K<n<10K',
  10**5: '10K<n<100K',
  10**6: '100K<n<1M',
  10**7: '1M<n<10M',
  10**8: '10M<n<100M',
}


def _check_line(name: str, value: str) -> None:
  """Refuses what would not stay one line of the card."""
  is_line = value.isprintable() and value == value.strip()
  if not is_line or len(value) > _MOST_LETTERS or '<' in value or '`' in value:
    raise ValueError(
      f'Expected {name}={value!r} to be one line of at most {_MOST_LETTERS}'
      ' letters, without < or `.'
    )


def _check_url(name: str, value: str) -> None:
  if value and not (_URL.fullmatch(value) and len(value) <= _MOST_LETTERS):
    raise ValueError(
      f'Expected {name}={value!r} to be a link that begins with https://, of'
      " ASCII letters without spaces, or ''."
    )


def _check_date(name: str, value: str) -> None:
  try:
    is_date = not value or datetime.date.fromisoformat(value).isoformat()
    if is_date not in (True, value):
      raise ValueError
  except ValueError:
    raise ValueError(
      f"Expected {name}={value!r} to be a date such as '2026-01-31', or ''."
    ) from None


_LINE = config_keys.Allowed('a line of text', _check_line)
_LINK = config_keys.Allowed("a link, or ''", _check_url)
_DATE = config_keys.Allowed("a date as '2026-01-31', or ''", _check_date)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardConfig:
  """What the card of the release says beside the guarantee; all is public.

  It may be changed when the run is complete: the same command with other values
  writes the card, and the statement over it, again.
  """

  data_name: str = config_keys.key(
    '',
    "Name of the sensitive images for readers of the release; '' for"
    ' data.name.',
    _LINE,
    is_later=True,
  )
  license: str = config_keys.key(
    '',
    "Licence of the release: an identifier such as 'cc-by-4.0', a link, or"
    " words; '' says that none was given.",
    _LINE,
    is_later=True,
  )
  contact: str = config_keys.key(
    '',
    'Whom to ask about the release: name, address, or both.',
    _LINE,
    is_later=True,
  )
  url: str = config_keys.key(
    '', 'Where the release will be published.', _LINK, is_later=True
  )
  code_url: str = config_keys.key(
    '', 'Where the code that made the release is found.', _LINK, is_later=True
  )
  citation: str = config_keys.key(
    '',
    "How the release is to be cited; '' composes it from name, contact, date"
    ' and link.',
    _LINE,
    is_later=True,
  )
  date: str = config_keys.key(
    '',
    "Date of the release; '' for the day on which the card is written"
    ' (SOURCE_DATE_EPOCH, if it is set).',
    _DATE,
    is_later=True,
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'card.')

  def dated(self) -> CardConfig:
    """Returns the same with a date."""
    if self.date:
      return self
    secs = int(os.environ.get('SOURCE_DATE_EPOCH') or time.time())
    day = datetime.datetime.fromtimestamp(secs, datetime.UTC).date()
    return dataclasses.replace(self, date=day.isoformat())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Channels:
  """As what the sensitive images were read, and who decided it.

  Attributes:
    number: 1 (grey) or 3 (colour).
    is_found: whether images were opened to decide it; None if that was not
      recorded.
  """

  number: int
  is_found: bool | None

  def in_words(self) -> str:
    """Returns a line for the card.

    >>> Channels(number=1, is_found=False).in_words()
    'grey (1 channel), as was set and not read from the images.'
    """
    kind = 'grey (1 channel)' if self.number == 1 else 'colour (3 channels)'
    if self.is_found is None:
      return f'{kind}. Who decided it, config or images, was not recorded.'
    if not self.is_found:
      return f'{kind}, as was set and not read from the images.'
    return (
      f'{kind}, as some of the sensitive images showed that were opened for it.'
      ' Epsilon does not count this: the answer is taken to be public, and at'
      ' least nine in ten of them had to agree on it.'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
  """What lies in a release.

  Attributes:
    info: content of `dataset/dataset.json`; None if only a model is released.
    parquet_folder: relative folder of the parquet files, '' if there are none.
    tfds_folder: relative folder of the TFDS dataset, '' if there is none.
    can_sample: whether `model.json` says how images are sampled.
    has_class_head: whether there is a class head.
    has_class_gaussians: whether samples start from Gaussians of the classes.
    labels_from_head: whether it labels the images.
  """

  info: Mapping[str, Any] | None
  parquet_folder: str = ''
  tfds_folder: str = ''
  can_sample: bool = False
  has_class_head: bool = False
  has_class_gaussians: bool = False
  labels_from_head: bool = False


def text(
  statement: Mapping[str, Any],
  config: CardConfig,
  contents: Contents,
  channels: Channels | None = None,
) -> str:
  """Returns the card in markdown, with metadata (YAML) at its top.

  Args:
    statement: result of `statement.statement`.
    config: what the publisher says; with a date.
    contents: what lies in the release.
    channels: as what the images were read; None says nothing of it.
  """
  guarantee, details = statement_lib.card_parts(statement_lib.card(statement))
  about = []
  if contents.info is not None:
    about = [_dataset_card(contents.info), _loading(contents)]
  parts = [
    f'# {title(statement, contents)}',
    guarantee,
    '## What lies here',
    *about,
    _MODEL_CARD,
    *([_HEAD_CARD] if contents.has_class_head else []),
    *([_GAUSSIANS_CARD] if contents.has_class_gaussians else []),
    *([_SAMPLE_CARD] if contents.can_sample else []),
    f'## Made from\n\n{_made_from(statement, config, channels)}',
    f'## Intended use\n\n{_INTENDED_USE}',
    f'## Limits\n\n{_limits(statement, contents)}',
    f'## Licence, contact, citation\n\n{_rights(statement, config, contents)}',
    *(['## Privacy', details] if details else []),
  ]
  return _front_matter(config, contents) + '\n\n'.join(parts) + '\n'


def title(statement: Mapping[str, Any], contents: Contents) -> str:
  """Returns the title of the release."""
  made_from = f'made from {statement["dataset"]}'
  if contents.info is None:
    return f'A model of images, {made_from}'
  return f'Synthetic images, {made_from}, and the model that made them'


def about(
  statement: Mapping[str, Any], config: CardConfig, contents: Contents
) -> dict[str, Any]:
  """Returns the properties of the dataset in its Croissant file."""
  assert contents.info is not None
  name = contents.info['name']
  # The sentence comes last: `verify` looks for it there.
  found = {
    'name': name,
    'description': f'{title(statement, contents)}. {statement["statement"]}',
    'license': config.license or 'None was given.',
    'url': config.url or config.code_url or PAPER_URL,
    'datePublished': config.date,
    'version': '1.0.0',
    'citeAs': citation(statement, config, contents),
  }
  if config.contact:
    found['creator'] = {'@type': 'sc:Organization', 'name': config.contact}
  return found


def citation(
  statement: Mapping[str, Any], config: CardConfig, contents: Contents
) -> str:
  """Returns how the release is to be cited, as a line."""
  if config.citation:
    return config.citation
  parts = [config.contact, title(statement, contents), config.date, config.url]
  return ', '.join(part for part in parts if part)


def _front_matter(config: CardConfig, contents: Contents) -> str:
  """Returns metadata as Hugging Face reads them, which `verify` restricts."""
  lines = ['---']
  if _IDENTIFIER.fullmatch(config.license):
    lines.append(f'license: {config.license}')
  elif config.license:
    is_link = _URL.fullmatch(config.license)
    name = 'license_link' if is_link else 'license_name'
    lines += ['license: other', f'{name}: {_quoted(config.license)}']
  if contents.info is not None:
    num_images = contents.info['num_images']
    sizes = [word for most, word in _SIZES.items() if num_images < most]
    is_labelled = len(contents.info['class_names']) > 1
    task = (
      'image-classification'
      if is_labelled
      else ('unconditional-image-generation')
    )
    lines += ['task_categories:', f'- {task}']
    lines += ['size_categories:', f'- {sizes[0] if sizes else "100M<n<1B"}']
  lines += ['tags:', '- differential-privacy', '- synthetic']
  if contents.parquet_folder:
    lines += ['configs:', '- config_name: default', '  data_files:']
    lines += ['  - split: train']
    lines += [f'    path: {contents.parquet_folder}/*.parquet']
  return '\n'.join([*lines, '---', '', ''])


def _quoted(value: str) -> str:
  r"""Returns a YAML string of ASCII letters.

  >>> print(_quoted('a "b" é'))
  "a \U00000022b\U00000022 \U000000e9"
  """
  letters = (
    c if ' ' <= c <= '~' and c not in '"\\' else f'\\U{ord(c):08x}'
    for c in value
  )
  return f'"{"".join(letters)}"'


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

_HEAD_CARD = """\
`model/class_head.npz` is a linear classifier of activations of the network and,
if it has a `scattering_kernel`, of scattering coefficients. It was trained on
the sensitive images under the same guarantee.
`dp_diffusion.load_release(FOLDER).classify(images)` uses it."""

_GAUSSIANS_CARD = """\
`model/class_gaussians.npz` holds a mean image and a covariance of few pixels
for each class, estimated from the sensitive images under the same guarantee.
Sampling starts from noised images of these Gaussians, instead of pure noise."""

_SAMPLE_CARD = """\
With JAX there too, the model gives more images, under the same guarantee:

```
python -m dp_diffusion.sample FOLDER_OF_THIS_FILE --num=1000 --out=more.npz
```"""

_INTENDED_USE = """\
- Instead of the sensitive images where those may not be given away: to develop
  and compare methods, to teach, to train classifiers that are then tested on
  real images.
- Not as evidence of anything about one person, and not to decide about people
  by what was never tested on real images.
- Not to find out how frequent a class is: labels were chosen, or follow a
  noised count that is listed below."""


def _dataset_card(info: Mapping[str, Any]) -> str:
  """Describes the dataset."""
  height, width, channels = info['image_shape']
  num_classes = max(1, len(info['class_names']))
  text = f"""\
`samples.png` shows some of the {info['num_images']:,} synthetic images:
{height}x{width} pixels, {channels} channel{'s' if channels > 1 else ''},\
 {num_classes} class{'es' if num_classes > 1 else ''}.
`dataset/dataset.json` names the classes."""
  return text + (_SOFT_LABELS if info.get('has_class_probabilities') else '')


_SOFT_LABELS = """\
 Each image also has
`class_probabilities`: how probable the class head finds each class. A
classifier can learn these soft labels instead of the labels, by
`torch.nn.CrossEntropyLoss` or `optax.softmax_cross_entropy`. For further images
`dp_diffusion.load_release(FOLDER).classify(images)` gives their logarithms."""


_NUMPY = """\
With NumPy (`pip install numpy`), in this folder:

```python
import glob
import numpy as np

shards = [np.load(p) for p in sorted(glob.glob('dataset/images-*.npz'))]
images = np.concatenate([s['images'] for s in shards])  # uint8[N, H, W, C]
labels = np.concatenate([s['labels'] for s in shards])  # int32[N]
{soft}```"""
_SOFT_IN_NUMPY = """\
soft = np.concatenate([s['class_probabilities'] for s in shards])
"""

_TORCH = """\
With PyTorch (`pip install torch`), from these arrays:

```python
import torch

pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255  # in [0, 1]
classes = torch.from_numpy(labels).long()
dataset = torch.utils.data.TensorDataset(pixels, classes)
loader = torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)
```"""

_HUGGING_FACE = """\
With Hugging Face datasets (`pip install datasets pillow`), from `{folder}`:

```python
import datasets

dataset = datasets.load_dataset('FOLDER_OF_THIS_FILE', split='train')
```"""

_CROISSANT = """\
With mlcroissant (`pip install mlcroissant pyarrow pillow`), from
`croissant.json`:

```python
import mlcroissant

records = mlcroissant.Dataset(jsonld='croissant.json').records('images')
```"""

_TFDS = """\
With TensorFlow Datasets (`pip install tensorflow-datasets tensorflow`), in this
folder:

```python
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory('{folder}')
dataset = builder.as_dataset(split='train', as_supervised=True)
```

The same without TensorFlow (`pip install tensorflow-datasets pillow`), as NumPy
arrays:

```python
import tensorflow_datasets as tfds

builder = tfds.builder_from_directory('{folder}')
source = builder.as_data_source(split='train')  # source[0]['image']
```"""


def _loading(contents: Contents) -> str:
  """Says how the dataset is loaded, in code."""
  assert contents.info is not None
  is_soft = contents.info.get('has_class_probabilities', False)
  found = [_NUMPY.format(soft=_SOFT_IN_NUMPY if is_soft else ''), _TORCH]
  if contents.parquet_folder:
    found += [_HUGGING_FACE.format(folder=contents.parquet_folder), _CROISSANT]
  if contents.tfds_folder:
    found.append(_TFDS.format(folder=contents.tfds_folder))
  return '\n\n'.join(found)


def _made_from(
  statement: Mapping[str, Any], config: CardConfig, channels: Channels | None
) -> str:
  """Names the data, the code and the date."""
  public = [
    statement_words.public_data_line(entry)
    for entry in statement['public_data']
  ] or [statement_words.NO_PUBLIC_DATA]
  code = f'dp_diffusion, revision {statement["code_revision"]}'
  return statement_lib.bullets(
    [
      f'**Sensitive images**: {statement["dataset"]}. They are not here.',
      *([f'**Read as**: {channels.in_words()}'] if channels else []),
      *(f'**Public images of the pre-training**: {line}' for line in public),
      f'**Code**: {code}'
      + (f', {config.code_url}' if config.code_url else '.'),
      f'**Date**: {config.date}',
    ]
  )


def _limits(statement: Mapping[str, Any], contents: Contents) -> str:
  """Says what the images are not good for; nothing of it was measured."""
  ledger = statement_lib.parse_ledger(statement)
  learned = 'It was learned'
  if counts := ledger.declared_counts():
    learned += f' from {max(counts):,} declared records'
  num_classes = len(contents.info['class_names']) if contents.info else 0
  of_classes = f' of {num_classes} classes' if num_classes > 1 else ''
  return statement_lib.bullets(
    [
      f'{learned}{of_classes}, under noise that hides each of them. The fewer'
      ' records, the less: what is rare among them is missing or wrong.',
      f'{_what_a_label_is(contents)} The image may not show it, and may look'
      ' right and be wrong.',
      'Where training changed little, images resemble the public ones.',
      'No quality is stated here: it is measured on real images, which this'
      ' guarantee does not cover. For some classes a classifier trained on'
      ' these images may be no better than guessing. Ask whoever published'
      ' them, or test on real images of your own.',
    ]
  )


def _what_a_label_is(contents: Contents) -> str:
  if contents.labels_from_head:
    return 'A label is the class that the class head finds in the image.'
  return 'A label is the class that was asked for.'


def _rights(
  statement: Mapping[str, Any], config: CardConfig, contents: Contents
) -> str:
  """Names licence, contact and citation."""
  given = config.license or 'none was given: ask before you use the images'
  return statement_lib.bullets(
    [
      f'**Licence**: {given}.',
      f'**Contact**: {config.contact or "whoever published this folder"}.',
      *([f'**Published at**: {config.url}'] if config.url else []),
      f'**Cite the release as**: {citation(statement, config, contents)}',
      f'**And the method as**: {_PAPER}',
    ]
  )
