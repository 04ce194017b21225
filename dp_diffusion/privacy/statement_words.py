"""The texts of a privacy statement that do not depend on its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
from typing import Any

from dp_diffusion.privacy import strict_json

NOT_PRIVATE = (
  'There is NO differential-privacy guarantee: at least one event adds no'
  ' noise. Treat everything here as if it were the sensitive data.'
)

SETTING = (
  'Central differential privacy: a curator who holds the sensitive images'
  ' {did} and released what is listed here. The adversary sees all of'
  ' it, and may know the code, every setting and every other record; the bound'
  ' holds whatever is computed from the release, now or later.'
)
TRAINED = 'trained on them'
SUMMED = 'added noise to sums over them'  # They were used for nothing else.

RELATION = (
  'Two datasets are neighbours if one is the other with one record added or'
  ' removed.'
)

UNITS = {
  'image': (
    'One record is one image. Who has several images in the data is protected'
    ' less: the guarantee holds for each image, and weakens with their number.'
    ' For k images of one person epsilon is to be read as k times epsilon, and'
    ' delta as k exp((k - 1) epsilon) times delta, at most.'
  ),
  'person': (
    'One record is all images of one person: the guarantee holds for each'
    ' person, however many images there are.'
  ),
}

TRUST = (
  'A central curator: whoever ran the training saw the sensitive images and'
  ' the secret randomness, and is trusted to keep both.',
  'The code at the revision below, its dependencies, the machines it ran on,'
  ' and the network between them, over which they share the secret.',
  'The declared number of records, and that records are what the unit says.',
)

TRAINING_COVERED = (
  'Every gradient of the private training: each record that was selected, at'
  ' each step, in every augmentation.'
)
ACCESSES_COVERED = (
  'Every noised statistic listed as an event.',
  'What an inherited release had spent before.',
)

ACCESSES_NOT_COVERED = (
  'Choosing hyper-parameters by results on the sensitive data.',
  'Reading the images, where that shows that they fit the declared classes and'
  ' size: an error goes to whoever ran it, and to nobody else.',
  'Comparing the images with those of the pre-training: where one is equal, the'
  ' run ends with a message to whoever ran it, and nothing is released.',
  'Images held out for evaluation, and the evaluation itself, which stays with'
  ' whoever ran it.',
  'Other releases made from the same data: their epsilons add up.',
)

# Config keys that may be decided by opening some of the images.
DECIDED_BY_OPENING = {
  'data.channels': (
    'Opening some of the images to see whether they are grey or in colour: the'
    ' answer, which is published here, is taken to be public.'
  ),
}

TRAINING_RELEASED = (
  'The weights after the last private step, and synthetic images sampled from'
  ' them: whatever is computed from the weights alone costs nothing more.'
)
SUMS_RELEASED = (
  'What was computed from the noised sums alone, such as a generator trained to'
  ' match them and its synthetic images: it costs nothing more.'
)
RELEASED = (
  'Every file listed, with its sha256; no other file belongs to the release.',
)

NOT_COVERED = (
  'Timing of the training and access to its host.',
  'An adversary who breaks the cryptography behind the randomness: secrecy of'
  ' selection and noise is computational, not information-theoretic.',
  'Residual effects of floating-point arithmetic on the noise.',
  'Hyper-parameters tuned on the sensitive data.',
  'Several releases from the same data: they add up.',
  'The public data of the pre-training, listed here: an altered copy of a'
  ' sensitive image among them (another crop, size or lossy format) would not'
  ' be found.',
  'Images held out for evaluation.',
)

SEVERAL_IMAGES = (
  'Several images of one person: they are protected one by one, not together.'
)


COMPARISONS = {
  'none_equal': (
    'no image equal to a sensitive one was found in them, images of a single'
    ' colour aside'
  ),
  'rendered': 'made from a seed, not collected',
  'changed': (
    'NOT those of the pre-training any more when they were compared with the'
    ' sensitive images'
  ),
  'not_at_hand': (
    'NOT compared with the sensitive images, as they were not at hand any more'
  ),
  'unknown': (
    'what they have seen is not known here, and was taken to be public'
  ),
  'not_private': 'not compared, as there is no guarantee',
}
PART = ' They are another part of the dataset of the sensitive images.'
NO_PUBLIC_DATA = 'none; training starts from weights of a seed.'
_PUBLIC_DATA = (
  'source',
  'split',
  'images_sha256',
  'comparison',
  'is_part_of_sensitive_dataset',
)


def public_data(
  images: Mapping[str, Any], comparison: str, *, is_part: bool = False
) -> dict[str, Any]:
  """What a statement says of images that the first weights have seen.

  Args:
    images: 'source', 'split' and 'images_sha256'; the last two may be ''.
    comparison: one of COMPARISONS.
    is_part: whether they are another part of the sensitive dataset.
  """
  return check_public_data(
    {
      **{name: images[name] for name in _PUBLIC_DATA[:3]},
      'comparison': comparison,
      'is_part_of_sensitive_dataset': is_part,
    }
  )


def check_public_data(value: Any) -> dict[str, Any]:
  """Returns one entry of a statement's `public_data`.

  Raises:
    ValueError: it is none; one line.
  """
  found = strict_json.fields('public_data', value, _PUBLIC_DATA)
  for name in ('source', 'split', 'comparison'):
    strict_json.line(name, found[name])
  digest = strict_json.line('images_sha256', found['images_sha256'])
  if digest and not re.fullmatch('[0-9a-f]{64}', digest):
    raise ValueError('Expected images_sha256 to be a hexadecimal SHA-256.')
  if found['comparison'] not in COMPARISONS:
    raise ValueError(f'Expected comparison to be one of {sorted(COMPARISONS)}.')
  name = 'is_part_of_sensitive_dataset'
  strict_json.boolean(name, found[name])
  return found


def public_data_line(entry: Mapping[str, Any]) -> str:
  """One entry in words."""
  split = f', split {entry["split"]}' if entry['split'] else ''
  digest = entry['images_sha256']
  images = f', images of sha256 {digest}' if digest else ''
  text = (
    f'{entry["source"]}{split}{images}: {COMPARISONS[entry["comparison"]]}.'
  )
  return text + (PART if entry['is_part_of_sensitive_dataset'] else '')


# What the accounting assumes of events, each with whether it holds.
CLIPPED = (
  'One record moves the sum of clipped gradients by at most the clip norm.',
  'yes, up to the rounding of 32-bit floating-point sums',
)
OF_DP_SGD = (
  (
    'At each step every record is selected on its own, with the same'
    ' probability; no batch is truncated, and an empty one is a step too.',
    'yes',
  ),
  CLIPPED,
  (
    'Gaussian noise is added once to that sum.',
    'yes, up to the rounding of 32-bit floating-point numbers',
  ),
)
OF_SUMS = (
  (
    'One record moves each sum by at most its sensitivity, stated with it.',
    'yes, up to the rounding of 32-bit floating-point sums',
  ),
  (
    'Gaussian noise is added once to each sum.',
    'yes, up to the rounding of 32-bit floating-point numbers',
  ),
)


def assumptions(
  of_events: Sequence[tuple[str, str]], *, insecure: bool
) -> tuple[tuple[str, str], ...]:
  """What the accounting assumes, and whether it holds.

  Args:
    of_events: of the trainings; OF_SUMS where all events are noised sums.
    insecure: whether the secret was planted by a test.
  """
  return (
    *of_events,
    (
      'Selection and noise are random to the adversary.',
      'NO, the secret was planted for a test'
      if insecure
      else 'yes, against an adversary who cannot break SHAKE-256 or Threefry',
    ),
    (
      'The number of records is declared, and does not depend on who is in'
      ' the data.',
      'as far as whoever declared it kept to that',
    ),
    (
      'All that leaves is of one run; what is done again with other randomness'
      ' is charged again.',
      'yes',
    ),
    (
      'Each accountant overstates: losses are discretised pessimistically, and'
      ' rounding errors of the transforms are bounded and paid for in delta.',
      'yes',
    ),
  )
