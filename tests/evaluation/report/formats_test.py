"""Numbers are short, and never NaN."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from dp_diffusion.evaluation.report import formats


@hypothesis.given(st.floats() | st.integers(-(10**12), 10**12))
def test_numbers_are_short_and_finite(value):
  text = formats.number(value)
  assert 0 < len(text) <= 20
  assert 'nan' not in text and 'inf' not in text
