"""What the report says of distances is what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dp_diffusion.evaluation.metrics import features
from dp_diffusion.evaluation.metrics import quality
from dp_diffusion.evaluation.report import page
from dp_diffusion.evaluation.report import quality_section


def make_comparison(num_synthetic):
  rng = np.random.default_rng(0)
  sets = [
    rng.normal(size=(n, 4)).astype(np.float32) for n in (90, 40, num_synthetic)
  ]
  return quality.compare(
    features.pixels((2, 2, 1)), *sets, reference_name='cats train'
  )


def as_html(section):
  return page.render('n', 'e', 't', 'l', [page.Section('', ()), section])


@pytest.mark.parametrize('num_synthetic', [40, 60])
def test_every_number_stands_in_the_table(num_synthetic):
  found = make_comparison(num_synthetic)
  section = quality_section.section(found)
  html = as_html(section).replace('\N{NO-BREAK SPACE}', ' ')
  for part in (found.synthetic, found.synthetic_at_equal_number, found.real):
    assert (
      quality_section._with_error(
        part.frechet.value, part.frechet.std_error
      ).replace('\N{NO-BREAK SPACE}', ' ')
      in html
    )
    assert f'{part.frechet.value_at_infinity:.4g}' in html
    assert f'± {1.96 * part.kernel.std_error:.2g}' in html
    assert f'{100 * part.precision_recall.precision:.1f} % (' in html
    assert f'{100 * part.precision_recall.recall:.1f} % (' in html
  assert ('as many as real' in html) == (num_synthetic == 60)
  assert 'cats train, 90 images' in html and 'features: pixels' in html
  assert section.data['quality'] == found.to_dict()


def test_only_inceptions_distance_is_called_fid():
  found = make_comparison(40)
  html = as_html(quality_section.section(found))
  assert 'FID' not in html and 'KID' not in html
  change = dataclasses.replace

  def as_inception(part):
    return change(
      part,
      frechet=change(part.frechet, is_inception=True),
      kernel=change(part.kernel, is_inception=True),
    )

  parts = ('synthetic', 'synthetic_at_equal_number', 'real')
  found = change(found, **{p: as_inception(getattr(found, p)) for p in parts})
  html = as_html(quality_section.section(found))
  assert 'FID' in html and 'KID' in html
