"""The section of the report on distances between sets of images.

Each distance is defined, has an interval, and is shown beside that of real
images.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.metrics import quality
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

_SPACE = '\N{NO-BREAK SPACE}'


def section(found: quality.Comparison) -> page.Section:
  """Returns the section with distances of synthetic and of real images.

  Args:
    found: the result of `quality.compare`.
  """
  columns = {'Synthetic': found.synthetic}
  if found.synthetic_at_equal_number is not found.synthetic:
    columns['Synthetic, as many as real'] = found.synthetic_at_equal_number
  columns['Real, held out: what good is'] = found.real
  first = found.synthetic.kernel
  words = (
    f'How far the images are from the reference ({first.reference},'
    f' {formats.number(first.num_reference)} images), measured in features:'
    f' {first.features}. Real images that nobody trained on are'
    ' measured alike: no synthetic image can be expected to do better.'
  )
  blocks: list[page.Block] = [
    page.Text(words),
    page.Text(_features_words(found.features)),
    page.Table(('', *columns), _rows(columns)),
    page.Details('What these numbers are', page.Text(_definitions(found))),
  ]
  if any(part.frechet is None for part in columns.values()):
    title, number = _titles(found.synthetic)[0], found.features.num_features
    blocks.insert(3, page.Text(_without_frechet(title, number)))
  data = {'left_out': '', **found.to_dict()}
  return page.Section('Distances', tuple(blocks), {'quality': data})


def network_objection(test: features.NetworkTest) -> str:
  """Returns why distances in this network's features would be meaningless.

  It is computed from public images alone.

  Args:
    test: test of the network on public images.

  Returns:
    The reason, or '' if the network has learned enough.
  """
  if not test.num_images:
    return (
      'No distance is shown: no public images could be held out to test the'
      ' feature network on, so nothing says that it has learned anything.'
      ' Take more public images, or other evaluate.features.'
    )
  if not test.is_better_than_chance:
    return (
      'No distance is shown: the feature network has learned too little to'
      f' tell images from noise. {network_words(test)} The interval must lie'
      ' above that share, and the accuracy must be at least'
      f' {formats.percent(test.required)}. Train longer, on public images that'
      ' are more alike, or set other evaluate.features.'
    )
  if not test.has_enough_live:
    return (
      'No distance is shown: too few features differ between public images.'
      f' {network_words(test)} At least a tenth of the features must be live.'
    )
  return ''


def network_words(test: features.NetworkTest) -> str:
  """Describes the feature network's result on held-out public images."""
  return (
    f'It is right on {formats.percent(test.accuracy)} of'
    f' {formats.number(test.num_images)} held-out public images (95 %'
    f' interval {100 * test.low:.1f} – {formats.percent(test.high)}), where'
    ' always answering the commonest class is right on'
    f' {formats.percent(test.chance)}, and {formats.number(test.num_live)} of'
    f' its {formats.number(test.num_features)} features are live (differ'
    ' between these images).'
  )


def noise_objection(found: quality.FeatureFacts) -> str:
  """Returns why distances are not shown if noise passes for images; else ''.

  Args:
    found: facts on the features of a network, with `noise`.
  """
  if not found.noise or not found.noise.is_taken_for_images:
    return ''
  return (
    'No distance is shown: these features take noise for images.'
    f' {noise_words(found.noise)} Noise must have less than half of that.'
  )


def reason_for_none(
  found: quality.FeatureFacts, counts: Mapping[str, int]
) -> str:
  """Returns why no distance can be measured; '' if one can.

  Args:
    found: facts on the features.
    counts: set of images ('training', 'held-out real', 'synthetic') -> number
      of its images.
  """
  if found.network and (objection := network_objection(found.network)):
    return objection
  few = [
    f'{name} images: {n}'
    for name, n in counts.items()
    if n < quality.MIN_IMAGES
  ]
  if few:
    return (
      f'No distance is shown: at least {quality.MIN_IMAGES} images of each set'
      f' are needed ({", ".join(few)}).'
    )
  live, number = found.num_live, found.num_features
  if live is not None and not features.are_enough_live(live, number):
    return (
      f'No distance is shown: only {formats.number(live)} of the'
      f' {formats.number(number)} features differ between the reference images;'
      ' at least a tenth of them must differ.'
    )
  return ''


def left_out(reason: str, found: quality.FeatureFacts) -> page.Section:
  """Returns a section that says why there are no distances.

  Args:
    reason: the result of `reason_for_none` or of an objection.
    found: facts on the features that would have been used.
  """
  start = 'No distance is shown'
  reason_words = reason.replace(start, f'**{start}**', 1)
  words = f'Features: {found.name}. {reason_words}'
  data = {'left_out': reason, 'features': found.to_dict()}
  return page.Section('Distances', (page.Text(words),), {'quality': data})


def _features_words(found: quality.FeatureFacts) -> str:
  """Says whether these features can tell images apart."""
  live = (
    f'{formats.number(found.num_live)} of {formats.number(found.num_features)}'
    ' features are live: they differ between the reference images.'
  )
  words = live
  if found.network is not None:
    words = (
      'The feature network has learned from public images alone.'
      f' {network_words(found.network)} Among the reference images {live}'
    )
  return f'{words} {noise_words(found.noise)}' if found.noise else words


def noise_words(found: quality.Noise) -> str:
  """Describes the precision of noise in the features."""
  return (
    f'Noise, {formats.number(found.num_images)} held-out images with their'
    f' pixels shuffled, has a precision of'
    f' {formats.percent(found.precision)}; the same images as they are, at'
    f' {formats.percent(found.real_precision)}.'
  )


def _without_frechet(title: str, num_features: int) -> str:
  return (
    f'{title} is left out where a set has no more images than there are'
    f' features ({formats.number(num_features)}): it would be far too large.'
    ' `evaluate.allow_few_images` shows it all the same.'
  )


def _titles(measured: quality.Quality) -> tuple[str, str]:
  """Returns the names of the Frechet and the kernel distance.

  They are FID and KID in the features of FID alone.
  """
  if measured.kernel.is_inception:
    return 'FID', 'KID'
  return 'Frechet distance', 'Kernel distance'


def _rows(
  columns: Mapping[str, quality.Quality],
) -> list[tuple[str | int, ...]]:
  """Returns a row per distance, with a cell per set of images."""
  parts = columns.values()
  frechet_title, kernel_title = _titles(next(iter(parts)))
  frechets = [part.frechet for part in parts]
  kernels = [part.kernel for part in parts]
  shares = [part.precision_recall for part in parts]
  return [
    ('Images', *(k.num_synthetic for k in kernels)),
    (
      frechet_title,
      *(
        _with_error(f.value, f.std_error) if f else formats.NOTHING
        for f in frechets
      ),
    ),
    (
      f'{frechet_title} of infinitely many',
      *(formats.number(f and f.value_at_infinity) for f in frechets),
    ),
    (kernel_title, *(_with_error(k.value, k.std_error) for k in kernels)),
    ('Precision', *(_share(s.precision, s.precision_interval) for s in shares)),
    ('Recall', *(_share(s.recall, s.recall_interval) for s in shares)),
  ]


def _definitions(found: quality.Comparison) -> str:
  kernel = found.synthetic.kernel
  frechet_title, kernel_title = _titles(found.synthetic)
  extrapolated = ''
  if found.synthetic.frechet:
    extrapolated = f' over {len(found.synthetic.frechet.curve)} sample sizes'
  neighbors = found.synthetic.precision_recall.num_neighbors
  return '\n'.join(
    (
      f'- **{frechet_title}**: squared Frechet distance between two normal'
      ' distributions that have the means and covariances of the two sets of'
      ' features. 0 is best. It is too large for few images, so compare at'
      ' equal numbers. ±: 1.96 standard errors over samples of the measured'
      ' images (jackknife over ten groups); the reference counts as fixed.',
      f'- **{frechet_title} of infinitely many**: the same, extrapolated'
      f'{extrapolated} to infinitely many images'
      ' (arXiv 1911.07023). Its error is larger than that of the distance, and'
      ' not known.',
      f'- **{kernel_title}**: squared maximum mean discrepancy under a cubic'
      ' kernel (arXiv 1801.01401): unbiased for any number of images, and'
      ' around 0 for equal distributions, so that it may be negative. ±: 1.96'
      f' standard errors over {kernel.num_subsets} disjoint subsets.',
      '- **Precision**: share of the measured images that lie among the'
      ' reference images, nearer to one of them than its neighbour number'
      f' {neighbors} (arXiv 1904.06991). High: images look real. In brackets:'
      ' 95 % interval (Wilson’s; by person where persons are known), the'
      ' reference counts as fixed.',
      '- **Recall**: share of the reference images that lie among the measured'
      ' ones in the same way. High: the variety of the real images is there.'
      ' It falls with the number of images; compare at equal numbers.',
      '- ± takes the images as independent of one another: it is too small'
      ' where several are of one person.',
    )
  )


def _with_error(value: float, std_error: float) -> str:
  """Formats a value with its 95 % interval, both to the same decimal.

  >>> _with_error(12.3456, 0.25).replace(_SPACE, ' ')
  '12.35 ± 0.49'
  >>> _with_error(-0.00031, 0.0022).replace(_SPACE, ' ')
  '−0.0003 ± 0.0043'
  >>> _with_error(2.0, 0.0).replace(_SPACE, ' ')
  '2 ± 0'
  """
  half = scoring.Z_95 * std_error
  if not (math.isfinite(half) and half > 0):
    return f'{formats.number(value)}{_SPACE}±{_SPACE}{formats.number(half)}'
  decimals = max(0, 1 - math.floor(math.log10(half)))
  shown = formats.signed(value, decimals)
  return f'{shown}{_SPACE}±{_SPACE}{half:.{decimals}f}'


def _share(value: float, interval: tuple[float, float]) -> str:
  low, high = interval
  return (
    f'{formats.percent(value)} ({100 * low:.1f}{_SPACE}–{_SPACE}'
    f'{100 * high:.1f})'
  )
