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
  assert section.data['quality'] == {'left_out': '', **found.to_dict()}
  assert '4 of 4 features are live' in html


def test_each_share_has_its_own_interval():
  found = make_comparison(60)
  parts = (found.synthetic, found.synthetic_at_equal_number, found.real)
  columns = dict(zip('abc', parts))
  *_, precisions, recalls = quality_section._rows(columns)
  assert (precisions[0], recalls[0]) == ('Precision', 'Recall')
  for part, precision, recall in zip(parts, precisions[1:], recalls[1:]):
    shares = part.precision_recall
    for cell, value, (low, high) in (
      (precision, shares.precision, shares.precision_interval),
      (recall, shares.recall, shares.recall_interval),
    ):
      assert cell.replace('\N{NO-BREAK SPACE}', ' ') == (
        f'{100 * value:.1f} % ({100 * low:.1f} – {100 * high:.1f})'
      )


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


def make_test(**changes):
  found = {'accuracy': 0.7, 'low': 0.66, 'high': 0.74, 'chance': 0.125}
  counts = {'num_images': 2000, 'num_features': 128, 'num_live': 97}
  return features.NetworkTest(**(found | counts | changes))


def test_the_networks_own_accuracy_stands_beside_the_distances():
  found = make_comparison(40)
  facts = dataclasses.replace(found.features, network=make_test())
  section = quality_section.section(dataclasses.replace(found, features=facts))
  html = as_html(section).replace('\N{NO-BREAK SPACE}', ' ')
  assert 'right on 70.0 % of 2,000 held-out public images' in html
  assert '66.0 – 74.0 %' in html and 'right on 12.5 %' in html
  assert '97 of its 128 features are live' in html
  stored = section.data['quality']['features']['network']
  assert stored['accuracy'] == 0.7 and stored['chance'] == 0.125
  assert stored['is_better_than_chance'] and stored['num_live'] == 97


def test_the_reason_stands_in_the_place_of_the_numbers():
  test = make_test(accuracy=0.008, low=0.005, high=0.013, chance=0.006)
  facts = quality.FeatureFacts(name='small', num_features=128, network=test)
  reason = quality_section.reason_for_none(facts, {})
  section = quality_section.left_out(reason, facts)
  html = as_html(section).replace('\N{NO-BREAK SPACE}', ' ')
  assert '<strong>No distance is shown</strong>: the feature network' in html
  assert 'right on 0.8 % of 2,000' in html and '<table' not in html
  stored = section.data['quality']
  assert stored['left_out'] == reason
  assert not stored['features']['network']['is_better_than_chance']
  assert set(stored) == {'left_out', 'features'}


def test_a_distance_that_is_missing_is_explained():
  rng = np.random.default_rng(0)
  sets = [rng.normal(size=(n, 25)) for n in (40, 22, 60)]
  found = quality.compare(
    features.pixels((5, 5, 1)), *sets, reference_name='cats train'
  )
  html = as_html(quality_section.section(found))
  assert 'no more images than there are features (25)' in html
  assert 'nan' not in html.lower() and 'None' not in html


@pytest.mark.parametrize('few', ['training', 'held-out real', 'synthetic'])
def test_a_set_of_fewer_than_20_images_has_no_distances(few):
  counts = dict.fromkeys(('training', 'held-out real', 'synthetic'), 20)
  facts = quality.facts(features.pixels((2, 2, 1)), np.eye(4))
  assert quality_section.reason_for_none(facts, counts) == ''
  reason = quality_section.reason_for_none(facts, counts | {few: 19})
  assert f'({few} images: 19)' in reason and 'at least 20' in reason


def test_features_that_hardly_differ_give_no_distances():
  counts = dict.fromkeys(('training', 'held-out real', 'synthetic'), 20)
  reference = np.ones((30, 128))
  reference[:, :6] = np.arange(30)[:, None]
  facts = quality.facts(features.pixels((8, 16, 1)), reference)
  assert '6 of the 128 features' in quality_section.reason_for_none(
    facts, counts
  )
