"""The distances of the report: each defined, with its interval, beside real."""

from __future__ import annotations

import math

from dp_diffusion.evaluation.classifiers import scoring
from dp_diffusion.evaluation.metrics import quality
from dp_diffusion.evaluation.report import formats
from dp_diffusion.evaluation.report import page

_Z_95 = 1.96
_SPACE = '\N{NO-BREAK SPACE}'


def section(found: quality.Comparison) -> page.Section:
  """Distances of synthetic images, and those of held-out real ones.

  Args:
    found: what `quality.compare` measured.
  """
  columns = {'Synthetic': found.synthetic}
  if found.synthetic_at_equal_number is not found.synthetic:
    columns['Synthetic, as many as real'] = found.synthetic_at_equal_number
  columns['Real, held out: what good is'] = found.real
  first = found.synthetic.frechet
  words = (
    f'How far the images are from the reference ({first.reference},'
    f' {formats.number(first.num_reference)} images), measured in features:'
    f' {first.features}. Real images that nobody trained on are'
    ' measured alike: no synthetic image can be expected to do better.'
  )
  frechet_title = 'FID' if first.is_inception else 'Frechet distance'
  kernel_title = 'KID' if first.is_inception else 'Kernel distance'
  rows = [
    ('Images', *(q.frechet.num_synthetic for q in columns.values())),
    (
      frechet_title,
      *(
        _with_error(q.frechet.value, q.frechet.std_error)
        for q in columns.values()
      ),
    ),
    (
      f'{frechet_title} of infinitely many',
      *(formats.number(q.frechet.value_at_infinity) for q in columns.values()),
    ),
    (
      kernel_title,
      *(
        _with_error(q.kernel.value, q.kernel.std_error)
        for q in columns.values()
      ),
    ),
    (
      'Precision',
      *(
        _share(q.precision_recall.precision, q.precision_recall.num_synthetic)
        for q in columns.values()
      ),
    ),
    (
      'Recall',
      *(
        _share(q.precision_recall.recall, q.precision_recall.num_reference)
        for q in columns.values()
      ),
    ),
  ]
  return page.Section(
    'Distances',
    (
      page.Text(words),
      page.Table(('', *columns), rows),
      page.Details(
        'What these numbers are',
        page.Text(_definitions(found, frechet_title, kernel_title)),
      ),
    ),
    {'quality': found.to_dict()},
  )


def _definitions(
  found: quality.Comparison, frechet_title: str, kernel_title: str
) -> str:
  frechet, kernel = found.synthetic.frechet, found.synthetic.kernel
  neighbors = found.synthetic.precision_recall.num_neighbors
  return '\n'.join(
    (
      f'- **{frechet_title}**: squared Frechet distance between two normal'
      ' distributions that have the means and covariances of the two sets of'
      ' features. 0 is best. It is too large for few images, so compare at'
      ' equal numbers. ±: 1.96 standard errors over samples of the measured'
      ' images (jackknife over ten groups); the reference counts as fixed.',
      f'- **{frechet_title} of infinitely many**: the same, extrapolated over'
      f' {len(frechet.curve)} sample sizes to infinitely many images'
      ' (arXiv 1911.07023). Its error is larger than that of the distance, and'
      ' not known.',
      f'- **{kernel_title}**: squared maximum mean discrepancy under a cubic'
      ' kernel (arXiv 1801.01401): unbiased for any number of images, and'
      ' around 0 for equal distributions, so that it may be negative. ±: 1.96'
      f' standard errors over {kernel.num_subsets} disjoint subsets.',
      '- **Precision**: share of the measured images that lie among the'
      ' reference images, nearer to one of them than its neighbour number'
      f' {neighbors} (arXiv 1904.06991). High: images look real. In brackets:'
      ' Wilson’s 95 % interval, the reference counts as fixed.',
      '- **Recall**: share of the reference images that lie among the measured'
      ' ones in the same way. High: the variety of the real images is there.'
      ' It falls with the number of images; compare at equal numbers.',
    )
  )


def _with_error(value: float, std_error: float) -> str:
  """A value with its 95 % interval, both to the same decimal.

  >>> _with_error(12.3456, 0.25).replace(_SPACE, ' ')
  '12.35 ± 0.49'
  >>> _with_error(-0.00031, 0.0022).replace(_SPACE, ' ')
  '−0.0003 ± 0.0043'
  >>> _with_error(2.0, 0.0).replace(_SPACE, ' ')
  '2 ± 0'
  """
  half = _Z_95 * std_error
  if not (math.isfinite(half) and half > 0):
    return f'{formats.number(value)}{_SPACE}±{_SPACE}{formats.number(half)}'
  decimals = max(0, 1 - math.floor(math.log10(half)))
  shown = formats.signed(value, decimals)
  return f'{shown}{_SPACE}±{_SPACE}{half:.{decimals}f}'


def _share(value: float, number: int) -> str:
  low, high = scoring.wilson_interval(value * number, number)
  return (
    f'{formats.percent(value)} ({100 * low:.1f}{_SPACE}–{_SPACE}'
    f'{100 * high:.1f})'
  )
