"""The words of a privacy statement that do not depend on its numbers."""

from __future__ import annotations

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
SUMMED = 'added noise to sums over them'  # And trained on nothing else.

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
  'Images held out for evaluation, and the evaluation itself, which stays with'
  ' whoever ran it.',
  'Other releases made from the same data: their epsilons add up.',
)

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
  'The public data of the pre-training.',
  'Images held out for evaluation.',
)

SEVERAL_IMAGES = (
  'Several images of one person: they are protected one by one, not together.'
)


def assumptions(
  *, insecure: bool, is_trained: bool
) -> tuple[tuple[str, str], ...]:
  """What the accounting assumes, and whether it holds.

  Args:
    insecure: whether the secret was planted by a test.
    is_trained: whether an event is DP-SGD; else all are noised sums.
  """
  of_training = (
    (
      'At each step every record is selected on its own, with the same'
      ' probability; no batch is truncated, and an empty one is a step too.',
      'yes',
    ),
    (
      'One record moves the sum of clipped gradients by at most the clip norm.',
      'yes, up to the rounding of 32-bit floating-point sums',
    ),
    (
      'Gaussian noise is added once to that sum.',
      'yes, up to the rounding of 32-bit floating-point numbers',
    ),
  )
  of_sums = (
    (
      'One record moves each sum by at most its sensitivity, stated with it.',
      'yes, up to the rounding of 32-bit floating-point sums',
    ),
    (
      'Gaussian noise is added once to each sum.',
      'yes, up to the rounding of 32-bit floating-point numbers',
    ),
  )
  return (
    *(of_training if is_trained else of_sums),
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
