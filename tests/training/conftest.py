"""A test of standard deviations and a small private problem."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats


@pytest.fixture(scope='session')
def std_is_accepted():
  """Chi-square test of the std of normal samples of mean 0."""

  def accept(samples, std):
    samples = np.asarray(samples, np.float64).ravel()
    tail = stats.chi2.cdf(np.sum((samples / std) ** 2), samples.size)
    return 1e-4 < tail < 1 - 1e-4

  return accept
