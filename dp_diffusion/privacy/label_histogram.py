"""A noised histogram of labels, for the class shares of the samples, or votes.

The exact histogram of the sensitive labels is never written or shown. One with
Gaussian noise is entered in the ledger before DP-SGD is calibrated, so that
both together stay within the budget. A vote for one of several public images
(`baselines.private_evolution`) is a label too: one number for each image.

Guarantees:
  * One record, even a person with many images, changes the histogram by at most
    1 in l2 norm: shares are rounded to a grid, and their sum is exact.
    `label_histogram_test.py::test_one_record_moves_it_by_at_most_one`,
    `::test_order_of_records_does_not_matter`.
  * The noise has the std of its mechanism, and four keys of its own.
    `label_histogram_test.py::test_noise_std`.
"""

from __future__ import annotations

import jax
import numpy as np

from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise

L2_SENSITIVITY = 1.0
PURPOSE = 'histogram of labels'
_UNIT = fixed_point.unit_of(L2_SENSITIVITY)


def entries(noise_multiplier: float) -> tuple[entries_lib.Entry, ...]:
  """Returns the ledger entry of the histogram; none if it is not used.

  Args:
    noise_multiplier: std of the noise in each class, in records; 0 means that
      no histogram is used.
  """
  if not noise_multiplier:
    return ()
  mechanism = mechanism_lib.GaussianMechanism(
    noise_multiplier=noise_multiplier,
    l2_sensitivity=L2_SENSITIVITY,
    purpose=PURPOSE,
  )
  return (ledger.GaussianEntry(mechanism=mechanism, kind='noised_histogram'),)


def noised(
  labels: np.ndarray,
  starts: np.ndarray,
  num_classes: int,
  entry: entries_lib.Entry,
  streams: key_streams.KeyStreams,
  purpose: str = PURPOSE,
) -> np.ndarray:
  """Computes the histogram with noise; it is never returned without.

  Args:
    labels: int[N_images] in [0, num_classes), sorted by record.
    starts: int[N + 1]; record r has labels[starts[r]:starts[r + 1]].
    num_classes: public number of classes.
    entry: the result of `entries`, or of another histogram of sensitivity 1.
    streams: secret randomness of the run; equal streams give equal noise.
    purpose: name of the histogram, which no other statistic of these streams
      has.

  Returns:
    float64[num_classes], noised records per class, which may be negative.
  """
  exact = _histogram(labels, starts, num_classes)
  result = noise.add_noise(
    fixed_point.from_host(exact, _UNIT),
    streams.statistic_keys(purpose),
    entry.noise_std,
  )
  return np.asarray(jax.device_get(result), np.float64)


def _histogram(
  labels: np.ndarray, starts: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts records per class; the images of a record share a count of one.

  >>> _histogram(np.array([0, 1, 1, 1]), np.array([0, 2, 4]), 3)
  array([0.5, 1.5, 0. ])

  Returns:
    float64[num_classes], multiples of the grid's unit.
  """
  sizes = np.diff(starts)
  shares = np.repeat(1.0 / sizes, sizes)
  units = fixed_point.cut_on_host(shares, _UNIT)  # Their sum is exact.
  return np.bincount(labels, weights=units, minlength=num_classes) * _UNIT
