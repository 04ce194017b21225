"""The kernel distance against loops, its bias and its standard error."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.evaluation.metrics import kid


class FakeExtractor:
  def __init__(self, is_inception=False):
    self.num_features = 3
    self.is_inception = is_inception
    self.name = 'Inception-v3' if is_inception else 'lenet5'


def compare(x, y, is_inception=False, seed=0):
  return kid.compare(
    FakeExtractor(is_inception), x, y, reference_name='train', seed=seed
  )


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_against_loops(m, n, seed):
  rng = np.random.default_rng(seed)
  x, y = rng.normal(size=(m, 3)), rng.normal(size=(n, 3))

  def k(a, b):
    return (sum(p * q for p, q in zip(a, b, strict=True)) / 3 + 1) ** 3

  same_x = [k(x[i], x[j]) for i in range(m) for j in range(m) if i != j]
  same_y = [k(y[i], y[j]) for i in range(n) for j in range(n) if i != j]
  cross = [k(a, b) for a in x for b in y]
  expected = np.mean(same_x) + np.mean(same_y) - 2 * np.mean(cross)
  np.testing.assert_allclose(kid.squared_mmd(x, y), expected, rtol=1e-9)


def test_is_unbiased_and_its_standard_error_is_honest():
  rng = np.random.default_rng(0)
  scores = []
  for _ in range(200):
    x, y = rng.normal(size=(2, 100, 3))
    result = compare(x, y)
    scores.append(result.value / result.std_error)
  # Ten subsets give Student's t of 9 degrees, of standard deviation 1.13.
  assert abs(np.mean(scores)) < 4 * 1.13 / np.sqrt(200)
  assert 0.9 < np.std(scores) < 1.4
  assert min(scores) < 0


def test_tells_distributions_apart():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(500, 3)), rng.normal(size=(500, 3)) + 1
  result = compare(x, y)
  assert result.value > 5 * result.std_error


@pytest.mark.parametrize(
  'm, n, size, subsets',
  [(20, 99, 2, 10), (99, 57, 5, 11), (13000, 12000, 1000, 12)],
)
def test_subsets_share_no_image(m, n, size, subsets, monkeypatch):
  seen = []
  monkeypatch.setattr(
    kid, 'squared_mmd', lambda x, y: seen.append((x, y)) or float(len(seen))
  )
  x, y = np.arange(m)[:, None], np.arange(n)[:, None]
  result = compare(x, y, seed=3)
  assert (result.subset_size, result.num_subsets) == (size, subsets)
  for side in zip(*seen, strict=True):
    picked = np.concatenate(side).ravel()
    assert len(picked) == len(set(picked)) == size * subsets
  first = np.concatenate([s[0] for s in seen])
  seen.clear()
  compare(x, y, seed=4)
  assert (np.concatenate([s[0] for s in seen]) != first).any()


def test_subsets_are_of_all_images(monkeypatch):
  """Not of the first ones, which are of the first classes."""
  seen = []
  monkeypatch.setattr(
    kid, 'squared_mmd', lambda x, y: seen.append((x, y)) or float(len(seen))
  )
  x, y = np.arange(60)[:, None], np.arange(25)[:, None]
  for seed in range(9):
    compare(x, y, seed=seed)
    compare(y, x, seed=seed)
  for side, other in zip(seen[::2], seen[1::2], strict=True):
    assert side[0].shape == other[1].shape
  for image_set in zip(*seen, strict=True):
    assert {*range(60)} == set(np.concatenate(image_set).ravel())


def test_only_inception_gives_a_kid():
  x, y = np.random.default_rng(0).normal(size=(2, 20, 3))
  names = []
  for is_inception in (True, False):
    result = compare(x, y, is_inception)
    names.append(json.loads(json.dumps(result.to_dict()))['name'])
    assert names[-1] == result.name
  assert names == ['KID', 'kernel distance (lenet5 features)']


def test_too_few_are_refused():
  with pytest.raises(errors.UsageError, match='at least 20 images'):
    compare(np.zeros((30, 3)), np.zeros((19, 3)))
