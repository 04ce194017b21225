"""The noised mean embedding, all that DP-MERF and DP-MEPF learn from images.

Every image has features of norm at most 1. The features of a record's images
are averaged in the rows of their labels, the records are summed, and Gaussian
noise is added once. A generator is then fitted to the noised sum, which costs
no further privacy (Harder et al. 2021, arXiv 2002.11603; 2022, arXiv
2205.12900).

Deviation: neighbours differ by adding or removing one record, and the sum is
released, whose sensitivity is 1. Harder et al. release the mean, of
sensitivity 2 / N under replace-one. Here the sum is divided by the declared
number of records, a constant, and no exact class count is used.

Guarantees:
  * One record, even a person with many images and labels, moves the sum by at
    most `L2_SENSITIVITY`, whatever its features are and how many records there
    are: features are bounded in float64, rounded to a grid and summed exactly.
    `mean_embedding_test.py::test_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_features_that_are_not_finite_add_zero`,
    `::test_order_of_records_does_not_matter`,
    `::test_features_are_bounded_in_float64`.
  * The noise has the std of the mechanism.
    `mean_embedding_test.py::test_noise_std`.
  * The mechanism that was calibrated is the one in the ledger and the one that
    adds the noise. `mean_embedding_test.py::test_one_mechanism_everywhere`.
  * Sums that are released several times have independent noise.
    `class_means_test.py::test_each_release_has_noise_of_its_own`.
  * The sum is divided by the declared number of records.
    `mean_embedding_test.py::test_divides_by_the_declared_number`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.data import batching
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import gaussian_calibration
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise
from dp_diffusion.privacy import privacy_config

L2_SENSITIVITY = 1.0
_PURPOSE = 'mean embedding'
_UNIT = fixed_point.unit_of(L2_SENSITIVITY)
# Relative margin below the bound of 1 to which float32 features are scaled. It
# covers the rounding of float64 sums of up to 2^28 features.
_ROUNDING_MARGIN = 2.0**-18
_MARGIN_ON_HOST = 2.0**-24
_BATCH_SIZE = 256

# float32[B, H, W, C] in [-1, 1] -> float32[B, F] of norm at most 1.
FeatureFn = Callable[[types.Array], types.Array]


def start_ledger(
  config: privacy_config.PrivacyConfig,
  method: str,
  unit: str,
  *,
  purpose: str = _PURPOSE,
  count: int = 1,
) -> ledger_lib.Ledger:
  """Calibrates the noise of a method's statistic, and enters it.

  Args:
    config: gives epsilon, delta and the relation; its other fields concern
      DP-SGD.
    method: name of the method, for the statement.
    unit: 'image' or 'person'.
    purpose: what the statistic is; its sensitivity is 1.
    count: how many times it is released.

  Returns:
    A ledger with one entry, for `noised_mean` or for another statistic.

  Raises:
    UsageError: epsilon is not given, or needs more noise than is possible.
  """
  if config.epsilon is None:
    raise errors.UsageError(
      f'Expected privacy.epsilon to be given, as the noise of {method} is'
      ' calibrated to it; set it, and solve_for=noise_multiplier.'
    )
  try:
    mechanism = gaussian_calibration.calibrate(
      config.epsilon,
      config.delta,
      l2_sensitivity=L2_SENSITIVITY,
      purpose=f'{purpose} of {method}',
      count=count,
    )
  except ValueError as error:
    raise errors.UsageError(str(error)) from error
  ledger = ledger_lib.Ledger(
    delta=config.delta,
    budget_epsilon=config.epsilon,
    unit=unit,
    relation=config.relation,
  )
  return ledger.add(ledger_lib.GaussianEntry(mechanism=mechanism))


def noised_mean(
  feature_fn: FeatureFn,
  source: types.DataSource,
  records: batching.Records,
  num_examples: int,
  ledger: ledger_lib.Ledger,
  streams: key_streams.KeyStreams,
) -> np.ndarray:
  """Computes the noised sum over the records, divided by their declared number.

  Args:
    feature_fn: features of images; this function bounds them once more.
    source: the sensitive images.
    records: the images of each record.
    num_examples: declared number of records, which is public.
    ledger: the result of `start_ledger`; its entry states the noise.
    streams: the run's secret randomness; equal streams give equal noise.

  Returns:
    float32[num_classes, F]. The embedding does not leave this function without
    noise.
  """
  (entry,) = ledger.entries
  exact = _record_sum(feature_fn, source, records)
  noised = _add_noise(exact, entry.noise_std, streams, _PURPOSE)
  return noised / np.float32(num_examples)


def noised_sums(
  feature_fn: FeatureFn,
  source: types.DataSource,
  records: batching.Records,
  mechanism: mechanism_lib.GaussianMechanism,
  streams: key_streams.KeyStreams,
  purpose: str,
) -> np.ndarray:
  """Computes the sum over the records, with noise, once or several times.

  Args:
    feature_fn: features of images; this function bounds them once more.
    source: the sensitive images.
    records: the images of each record.
    mechanism: that of the ledger's entry, with the noise and the number of
      releases.
    streams: secret randomness; equal streams give equal noise.
    purpose: name of the sum, which no other sum of these streams has.

  Returns:
    float32[count, num_classes, F]: the sum once for each release, each with
    independent noise.

  Raises:
    ValueError: the mechanism has another sensitivity than the sum.
  """
  if mechanism.l2_sensitivity != L2_SENSITIVITY:
    raise ValueError(
      f'Expected l2_sensitivity={mechanism.l2_sensitivity!r} to be'
      f' {L2_SENSITIVITY!r}, that of a sum of bounded features.'
    )
  exact = _record_sum(feature_fn, source, records)
  purposes = (purpose, *(f'{purpose}, {i}' for i in range(1, mechanism.count)))
  return np.stack(
    [_add_noise(exact, mechanism.noise_std, streams, p) for p in purposes]
  )


def _add_noise(
  exact: np.ndarray,
  noise_std: float,
  streams: key_streams.KeyStreams,
  purpose: str,
) -> np.ndarray:
  """Returns an exact sum with noise, float32 in its shape."""
  noised = noise.add_noise(
    fixed_point.from_host(exact, _UNIT),
    streams.statistic_keys(purpose),
    noise_std,
  )
  return np.asarray(jax.device_get(noised))


def bound(features: types.Array) -> types.Array:
  """Scales rows of norm above 1 to norm 1; rows that are not finite to zero.

  Args:
    features: float32[B, F].

  Returns:
    float32[B, F] of norm at most 1.
  """
  is_finite = jnp.isfinite(features).all(axis=1, keepdims=True)
  x = jnp.where(is_finite, features, 0.0)
  # The squares of huge features would overflow, and the reciprocal of the
  # largest one could be flushed to zero.
  is_huge = jnp.max(jnp.abs(x), axis=1, keepdims=True) > 2.0**40
  scale = jnp.where(is_huge, 2.0**-80, 1.0)
  x = x * scale
  norm = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x * ((1 - _ROUNDING_MARGIN) / jnp.maximum(norm, scale))


def unit_norm(features: types.Array) -> types.Array:
  """Scales rows to norm 1; a row of zeros stays zero.

  Args:
    features: float32[B, F].

  Returns:
    float32[B, F].
  """
  squares = jnp.sum(jnp.square(features), axis=1, keepdims=True)
  return features * jax.lax.rsqrt(squares + 1e-12)


def generated_mean(
  features: types.Array, labels: types.Array, num_classes: int
) -> types.Array:
  """Computes the embedding of generated images, differentiably.

  Args:
    features: float32[B, F], features of the generated images.
    labels: int32[B], labels in the public proportions of the classes.
    num_classes: number of rows of the result.

  Returns:
    float32[num_classes, F].
  """
  one_hot = jax.nn.one_hot(labels, num_classes)
  return one_hot.T @ features / len(labels)


def _record_sum(
  feature_fn: FeatureFn,
  source: types.DataSource,
  records: batching.Records,
) -> np.ndarray:
  """Returns the sum without noise, float64[num_classes, F]. It is private.

  The sum is exact: its terms are multiples of the grid's unit, and float64
  represents up to 2^53 of them.
  """
  compute = jax.jit(lambda images: bound(feature_fn(images)))
  sizes = np.diff(records.starts)
  shares = np.repeat(1.0 / sizes, sizes)  # Weights of a record's images.
  total = None
  for start in range(0, len(records.images), _BATCH_SIZE):
    chosen = records.images[start : start + _BATCH_SIZE]
    batch = batching.gather(source, np.resize(chosen, _BATCH_SIZE))
    found = np.asarray(compute(_to_float(batch['image'])), np.float64)
    weights = np.zeros(_BATCH_SIZE)
    weights[: len(chosen)] = shares[start : start + _BATCH_SIZE]
    one_hot = np.eye(source.spec.num_classes)[batch['label']]
    found = _bound_on_host(found) * weights[:, None]
    part = one_hot.T @ fixed_point.cut_on_host(found, _UNIT)
    total = part if total is None else total + part
  if total is None:  # Without records only the shape is known.
    shape = (_BATCH_SIZE, *source.spec.image_shape)
    width = jax.eval_shape(compute, jnp.zeros(shape)).shape[1]
    total = np.zeros((source.spec.num_classes, width))
  return total * _UNIT


def _bound_on_host(features: np.ndarray) -> np.ndarray:
  """Bounds float64[B, F] as `bound` does, with norms computed in float64.

  The relative error of a norm of F features is up to F 2^-25 in float32, and up
  to F 2^-54 in float64.
  """
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  return features * ((1 - _MARGIN_ON_HOST) / np.maximum(norms, 1.0))


def _to_float(images: np.ndarray) -> np.ndarray:
  """Converts uint8[...] to float32[...] in [-1, 1]."""
  return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
