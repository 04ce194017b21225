"""The one thing that DP-MERF and DP-MEPF learn of the sensitive images.

Every image has features of norm at most 1; those of a record are averaged, put
in the row of their labels and summed over all records; Gaussian noise is added
once. A generator is then fitted to the noised sum, which costs nothing more
(Harder et al. 2021, arXiv 2002.11603; 2022, arXiv 2205.12900).

Deviation: neighbours differ by adding or removing one record, and the sum is
released, so that its sensitivity is 1. Harder et al. release the mean, of
sensitivity 2 / N under replace-one. Here the sum is divided by the declared
number of records, a constant, and no exact class count is used anywhere.

Guarantees:
  * One record, a person with all their images and labels too, moves the sum by
    at most `L2_SENSITIVITY`, whatever its features are and how many records
    there are: features are bounded in float64, cut to a grid, summed exactly.
    `mean_embedding_test.py::test_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_features_that_are_not_finite_add_zero`,
    `::test_order_of_records_does_not_matter`,
    `::test_features_are_bounded_in_float64`.
  * The noise has the std of the mechanism.
    `mean_embedding_test.py::test_noise_std`.
  * The mechanism that was calibrated is the one in the ledger and the one that
    adds the noise. `mean_embedding_test.py::test_one_mechanism_everywhere`.
  * What is divided by is the declared number of records.
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
from dp_diffusion.privacy import noise
from dp_diffusion.privacy import privacy_config

L2_SENSITIVITY = 1.0
_PURPOSE = 'mean embedding'
_UNIT = fixed_point.unit_of(L2_SENSITIVITY)
# Features end about this much below the bound in float32, where they are not
# yet summed, and at least so much below it in float64, for up to 2^28 of them.
_ROUNDING_MARGIN = 2.0**-18
_MARGIN_ON_HOST = 2.0**-24
_BATCH_SIZE = 256

# float32[B, H, W, C] in [-1, 1] -> float32[B, F] of norm at most 1.
FeatureFn = Callable[[types.Array], types.Array]


def start_ledger(
  config: privacy_config.PrivacyConfig, method: str, unit: str
) -> ledger_lib.Ledger:
  """Calibrates the only release of a method, and enters it.

  Args:
    config: epsilon, delta and the relation; all else is of DP-SGD.
    method: its name, for the statement.
    unit: 'image' or 'person'.

  Returns:
    A ledger with one entry, for `noised_mean`.

  Raises:
    UsageError: epsilon is not given.
  """
  if config.epsilon is None:
    raise errors.UsageError(
      'Expected privacy.epsilon to be given, as a mean embedding is calibrated'
      ' to it; set it, and solve_for=noise_multiplier.'
    )
  mechanism = gaussian_calibration.calibrate(
    config.epsilon,
    config.delta,
    l2_sensitivity=L2_SENSITIVITY,
    purpose=f'{_PURPOSE} of {method}',
  )
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
  """The noised sum over the records, over their declared number.

  Args:
    feature_fn: features of images; bounded here once more.
    source: the sensitive images.
    records: which image belongs to which record.
    num_examples: declared number of records; public.
    ledger: of `start_ledger`; its entry says how much noise there is.
    streams: of the run; the same streams give the same noise.

  Returns:
    float32[num_classes, F]: the only form in which the embedding exists
    outside this function.
  """
  (entry,) = ledger.entries
  exact = _record_sum(feature_fn, source, records)
  noised = noise.add_noise(
    fixed_point.from_host(exact, _UNIT),
    streams.statistic_keys(_PURPOSE),
    entry.noise_std,
  )
  return np.asarray(jax.device_get(noised)) / np.float32(num_examples)


def bound(features: types.Array) -> types.Array:
  """Scales rows of norm above 1 down to it; one that is not finite to zero.

  Args:
    features: float32[B, F].

  Returns:
    float32[B, F] of norm at most 1.
  """
  is_finite = jnp.isfinite(features).all(axis=1, keepdims=True)
  x = jnp.where(is_finite, features, 0.0)
  # Squares of huge features would overflow, and a division by the largest
  # could go through a reciprocal that is flushed to zero.
  is_huge = jnp.max(jnp.abs(x), axis=1, keepdims=True) > 2.0**40
  scale = jnp.where(is_huge, 2.0**-80, 1.0)
  x = x * scale
  norm = jnp.linalg.norm(x, axis=1, keepdims=True)
  return x * ((1 - _ROUNDING_MARGIN) / jnp.maximum(norm, scale))


def unit_norm(features: types.Array) -> types.Array:
  """Rows of norm 1; a row of zeros stays.

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
  """The embedding of generated images; differentiable.

  Args:
    features: float32[B, F].
    labels: int32[B], of which each class has its share.
    num_classes: rows of the result.

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
  """The sum without noise, float64[num_classes, F]. Private.

  Exact: of multiples of the grid's unit, of which float64 holds 2^53.
  """
  compute = jax.jit(lambda images: bound(feature_fn(images)))
  sizes = np.diff(records.starts)
  shares = np.repeat(1.0 / sizes, sizes)  # Images of a record share its one.
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
  if total is None:  # Nobody is there: the shape is all that is known.
    shape = (_BATCH_SIZE, *source.spec.image_shape)
    width = jax.eval_shape(compute, jnp.zeros(shape)).shape[1]
    total = np.zeros((source.spec.num_classes, width))
  return total * _UNIT


def _bound_on_host(features: np.ndarray) -> np.ndarray:
  """`bound` of float64[B, F], whose norms float32 rounded.

  Of F features the norm in float32 may be off by F 2^-25, in float64 F 2^-54.
  """
  norms = np.linalg.norm(features, axis=1, keepdims=True)
  return features * ((1 - _MARGIN_ON_HOST) / np.maximum(norms, 1.0))


def _to_float(images: np.ndarray) -> np.ndarray:
  """uint8[...] to float32[...] in [-1, 1]."""
  return images.astype(np.float32) / np.float32(127.5) - np.float32(1)
