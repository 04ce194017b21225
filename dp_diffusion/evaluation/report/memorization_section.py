"""The section of the report on copies of training images."""

from __future__ import annotations

import math

import numpy as np

from dp_diffusion.evaluation.metrics import memorization
from dp_diffusion.evaluation.report import charts
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import image_grids
from dp_diffusion.evaluation.report import page

TITLE = 'Copies of training images'
_MAX_NAMED = 20  # Largest number of copies listed by their index.


def section(
  synthetic: memorization.MemorizationResult,
  real: memorization.MemorizationResult | None,
  image_shape: tuple[int, int, int],
  pairs_path: str,
) -> page.Section:
  """Returns the section with the tests of synthetic and of real images.

  Args:
    synthetic: results for the synthetic images.
    real: results for held-out real images in their place, which copy nothing;
      None if there are too few of them.
    image_shape: (H, W, C), for showing distances per pixel value.
    pairs_path: path of the figure of the closest pairs. It shows training
      images and is therefore not in the report.
  """
  both = (synthetic, real) if real else (synthetic,)
  header = ('', 'Synthetic', 'Real, held out')[: 1 + len(both)]
  rows = [
    ('Images', *(len(r.train_distances) for r in both)),
    (
      'Nearer to training images than fresh ones are: z',
      *(_z(r.c_t, r.c_t_p_value) for r in both),
    ),
    (
      'Nearest real image is a training image',
      *(formats.percent(r.closer_to_train.fraction) for r in both),
    ),
    (
      '… by chance alone',
      *(formats.percent(r.closer_to_train.expected) for r in both),
    ),
    (
      '… difference: z',
      *(_z(r.closer_to_train.z, r.closer_to_train.p_value) for r in both),
    ),
    ('Authentic', *(formats.percent(r.authenticity) for r in both)),
    ('Equal to a training image', *(r.num_exact for r in both)),
    (
      '… of one colour, and held out as well',
      *(r.num_shared_blanks for r in both),
    ),
  ]
  picture = page.Figure(
    _distances(synthetic, image_shape),
    alt='Three histograms of distances to nearest images; see the caption.',
    title='Distance to the nearest image',
    caption=(
      'Copies would put the solid line to the left of the other two. Root'
      ' mean square over pixel values from 0 to 255.'
    ),
  )
  return page.Section(
    TITLE,
    (
      page.Text(verdict(synthetic)),
      page.Table(header, rows),
      picture,
      page.Details(
        'What these numbers are', page.Text(_definitions(synthetic))
      ),
      page.Text(
        f'The closest pairs are drawn in `{pairs_path}`: they show training'
        ' images and are not for publication.'
      ),
    ),
    {
      'memorization': {
        'synthetic': synthetic.to_dict(),
        'real': real.to_dict() if real else None,
        'closest_pairs': pairs_path,
      }
    },
  )


def left_out(reason: str) -> page.Section:
  """Returns a section that says why there are no tests."""
  data = {'left_out': reason}
  return page.Section(TITLE, (page.Text(reason),), {'memorization': data})


def verdict(found: memorization.MemorizationResult) -> str:
  """Returns the finding in one or two sentences."""
  searched = (
    f'{formats.number(len(found.train_distances))} synthetic images were'
    f' compared with {formats.number(found.num_train)} training and'
    f' {formats.number(found.num_held_out)} held-out images'
    f' ({found.space}, every pair).'
  )
  if found.equal_to_train:
    return _verdict_of_copies(found, searched)
  if found.is_copying:
    return (
      f'**Copying is found.** {searched} The synthetic images are nearer to'
      ' the training images than to held-out ones, more than chance allows.'
    )
  near = (
    ' They are nearer to the training images than fresh ones are, but to the'
    ' held-out images as well: low contrast or blur does that.'
    if found.is_near_everything
    else ''
  )
  return (
    f'**No copying is found.** {searched}{near}{_held_out_twins(found)}'
    ' This is no proof of privacy: epsilon is.'
  )


def _verdict_of_copies(
  found: memorization.MemorizationResult, searched: str
) -> str:
  """Returns the finding if synthetic images equal training images."""
  numbers = ', '.join(map(str, found.equal_to_train[:_MAX_NAMED]))
  more = ', …' if found.num_exact > _MAX_NAMED else ''
  title = '**Copying is found.**'
  if not found.is_copying:
    title = '**Equal images are found, all of them blank.**'
  words = [
    f'{title} {searched} {formats.number(found.num_exact)} of the synthetic'
    f' images equal a training image to the bit (number {numbers}{more},'
    ' counted from 0 among those compared).'
  ]
  if found.num_shared_blanks:
    words.append(
      f'{formats.number(found.num_shared_blanks)} of these have one colour'
      ' alone and equal a held-out image, too: such an image can be drawn'
      ' without having seen it, and shows nothing of a single training image.'
    )
  return ' '.join(words) + _held_out_twins(found)


def _held_out_twins(found: memorization.MemorizationResult) -> str:
  """Says how many held-out images equal a training image; '' for none."""
  number = found.num_held_out_equal_training
  if not number:
    return ''
  return (
    f' Of the held-out images, {formats.number(number)} equal a training image'
    ' to the bit: accuracy on them shows memory only.'
  )


def closest_pairs(
  found: memorization.MemorizationResult,
  synthetic: np.ndarray,
  train: np.ndarray,
) -> bytes:
  """Draws synthetic images above the training images nearest to them.

  Args:
    found: gives the pairs.
    synthetic: uint8[N, H, W, C].
    train: uint8[T, H, W, C].

  Returns:
    A PNG file.
  """
  first = [pair.synthetic for pair in found.pairs]
  second = [pair.train for pair in found.pairs]
  images = np.concatenate([synthetic[first], train[second]])
  labels = np.repeat(np.arange(2, dtype=np.int32), len(first))
  return image_grids.class_grid(
    images, labels, ('synthetic', 'training'), per_class=len(first)
  )


def _distances(
  found: memorization.MemorizationResult, image_shape: tuple[int, int, int]
) -> bytes:
  scale = math.sqrt(math.prod(image_shape))
  return charts.histograms(
    {
      'synthetic to training': found.train_distances / scale,
      'synthetic to held-out': found.held_out_distances / scale,
      'held-out to training': found.reference_distances / scale,
    },
    (charts.SYNTHETIC, charts.PUBLIC, charts.REAL),
    'root mean square difference',
  )


def _z(value: float, p_value: float) -> str:
  """Formats a z-score with its p-value.

  >>> _z(-2.5, 0.0062)
  '−2.50 (p = 0.0062)'
  """
  return f'{formats.signed(value, 2)} (p = {formats.p_value(p_value)})'


def _definitions(found: memorization.MemorizationResult) -> str:
  return '\n'.join(
    (
      '- **Nearer to training images than fresh ones are**: z-score of'
      ' Mann-Whitney for distances to the nearest training image, synthetic'
      ' against held-out (arXiv 2004.05675). Standard deviation 1 if the two'
      f' are alike. Below −{memorization.COPYING_Z:g} are copies, and images'
      ' of low contrast or blurred ones, too; the next line tells them apart.'
      ' Far above 0 means that the images are not yet like real ones.',
      '- **Nearest real image is a training image**: share of the images, among'
      f' {formats.number(found.num_train)} training and'
      f' {formats.number(found.num_held_out)} held-out images. Which of them'
      ' were trained on would not matter without copying; z and p are over'
      ' permutations of that (of persons, where they are known), and z above'
      f' {memorization.COPYING_Z:g} is copying.',
      '- **Authentic**: share of the images that are further from their nearest'
      ' training image than that one is from its own nearest neighbour'
      ' (arXiv 2102.08921).',
      '- All distances are exact, in'
      f' {found.space}. For the real column half of the held-out images stand'
      ' in for the synthetic ones.',
    )
  )
