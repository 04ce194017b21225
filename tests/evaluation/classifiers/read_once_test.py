"""The test set is read once, and only after the choices."""

from __future__ import annotations

import pytest

from dp_diffusion.evaluation.classifiers import read_once


def test_held_out_images_are_read_once_and_only_after_the_choices():
  reads = []
  held_out = read_once.HeldOut(lambda: reads.append(1) or 'images')
  with held_out.closed():
    with pytest.raises(RuntimeError, match='while choices are made'):
      held_out.open()
  assert not reads
  assert held_out.open() == 'images'
  with pytest.raises(RuntimeError, match='read once'):
    held_out.open()
  with pytest.raises(RuntimeError, match='no choice may follow'):
    with held_out.closed():
      pass
  assert reads == [1]


def test_a_failed_choice_leaves_the_held_out_images_unread():
  held_out = read_once.HeldOut(lambda: 'images')
  with pytest.raises(KeyError):
    with held_out.closed():
      raise KeyError
  assert held_out.open() == 'images'
