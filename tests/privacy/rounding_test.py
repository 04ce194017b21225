"""Bounds in few figures."""

from __future__ import annotations

import decimal

import hypothesis
from hypothesis import strategies as st
import pytest

from dp_diffusion.privacy import rounding


@hypothesis.given(st.floats(1e-300, 1e300, allow_nan=False), st.integers(1, 9))
def test_never_below_and_hardly_above(bound: float, figures: int) -> None:
  text = rounding.up(bound, figures)
  exact = decimal.Decimal(bound)
  unit = decimal.Decimal(1).scaleb(exact.adjusted() - figures + 1)
  assert float(text) >= bound
  assert decimal.Decimal(text) - exact < unit
  text = rounding.down(bound, figures)
  assert float(text) <= bound
  assert exact - decimal.Decimal(text) < unit


@pytest.mark.parametrize('bound', [1e-5, 1.1, 0.3, 10.0, 2.0, 1e-12, 7e-9])
def test_short_numbers_stay_as_they_are(bound: float) -> None:
  assert float(rounding.up(bound, 6)) == bound
  assert float(rounding.down(bound, 6)) == bound


def test_nothing_and_everything() -> None:
  for round_it in (rounding.up, rounding.down):
    assert round_it(0.0) == '0'
    assert round_it(float('inf')) == 'inf'
