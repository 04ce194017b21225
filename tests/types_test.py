"""Tests of dp_diffusion/types.py, errors.py and checks.py."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from dp_diffusion import checks
from dp_diffusion import errors
from dp_diffusion import types


@pytest.mark.parametrize(
  ('check', 'good', 'bad'),
  [
    (checks.check_positive, [1e-300, 1, math.inf], [0, -1, math.nan]),
    (checks.check_non_negative, [0, 1], [-1e-300, math.nan]),
    (checks.check_finite, [0, -1e300], [math.inf, -math.inf, math.nan]),
    (checks.check_open_unit_interval, [1e-9, 0.5], [0, 1, 2, math.nan]),
  ],
)
def test_checks(check, good, bad):
  for value in good:
    check('x', value)
  for value in bad:
    with pytest.raises(ValueError, match=r'^Expected x=.* to be .*\.$'):
      check('x', value)


def test_check_at_least():
  checks.check_at_least('x', 2, 2)
  for value in (1, math.nan):
    with pytest.raises(ValueError, match=r'Expected x=\w+ to be >= 2\.'):
      checks.check_at_least('x', value, 2)


def test_check_one_of_lists_what_is_known():
  checks.check_one_of('x', 'a', ('a', 'b'))
  with pytest.raises(ValueError, match=r"one of 'a', 'b'\.$"):
    checks.check_one_of('x', 'zzz', ('b', 'a'))
  with pytest.raises(ValueError, match="did you mean 'linear'"):
    checks.check_one_of('x', 'liner', ('linear', 'cosine'))


def test_usage_errors_are_value_errors():
  assert issubclass(errors.UsageError, ValueError)


def test_a_dataset_has_at_least_one_class():
  spec = types.DatasetSpec(name='x', image_shape=(8, 8, 1), class_names=())
  assert spec.num_classes == 1
  assert not spec.has_person


def test_arrays_are_those_of_jax():
  assert types.Array is jax.Array
  assert isinstance(jax.random.key(0), types.Key)
  with pytest.raises(AttributeError, match='no attribute'):
    _ = types.Nothing
  assert not isinstance(np.ones(1), types.Array)
