"""Equal images are found to the bit, and blank ones are told apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import numpy as np

from dp_diffusion.evaluation.metrics import duplicates


@given(st.integers(0, 99))
def test_against_loops(seed):
  rng = np.random.default_rng(seed)
  a, b = (rng.integers(0, 2, (n, 2, 2, 1)).astype(np.uint8) for n in (7, 5))
  expected = [any((x == y).all() for y in b) for x in a]
  assert duplicates.equal_to_any(a, b).tolist() == expected


def test_nothing_equals_nothing():
  images = np.zeros((2, 2, 2, 3), np.uint8)
  assert not duplicates.equal_to_any(images, images[:0]).any()
  assert duplicates.equal_to_any(images[:0], images).shape == (0,)


def test_digests_are_of_the_rows_that_were_asked_for(monkeypatch):
  images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
  whole = list(duplicates.digests(images, np.arange(6)))
  assert len(set(whole)) == 6
  monkeypatch.setattr(duplicates, '_ROWS_AT_ONCE', 2)
  rows = np.array([5, 1, 4])
  assert list(duplicates.digests(images, rows)) == [whole[i] for i in rows]


def test_an_image_of_one_colour_is_blank():
  images = np.zeros((3, 2, 2, 3), np.uint8)
  images[0] = (200, 10, 10)
  images[1, 0, 0, 0] = 1
  assert duplicates.is_blank(images).tolist() == [True, False, True]
  assert duplicates.is_blank(images[:0]).shape == (0,)
