"""A class head: logistic regression on features of the released network.

A diffusion model knows more of the classes than its samples, or its errors
under each class, can show (arXiv 2303.09769 reads classes from the activations
of one). The features of an image (`evaluation.classifiers.head_features`) are
pooled activations of the network that was trained privately, so they cost
nothing, and scattering coefficients, which are not learned at all. A linear
classifier of them is trained on the sensitive images themselves, by
gradient descent on all records at once; each gradient is released with Gaussian
noise.

Features are first scaled, by the statistics of images that were sampled from
the same network, which is post-processing. Let S be their correlation matrix,
and x' a vector whose elements were divided by their standard deviations. It
becomes

  z = min(1 / r, 1 / |y|) y,  y = S^(-1/4) (x' - mean),

where r is the 90th percentile of |y| over those images, and then u = (a z, c)
with a^2 + c^2 = 1, whose last element is for the bias. The exponent lies
between 0, for which gradient descent is slow, and -1/2, for which features that
hardly vary are all noise. Of two kinds of features each is scaled by itself in
this way, with an r of its own; z is made of both, with an r of the whole.

Sensitivity. The term of a record in the gradient of the cross-entropy, divided
by sqrt(2), is the mean over its images of

  g(image) = (p - e) u^T / sqrt(2),

with the probabilities p of the classes and the unit vector e of the image's
class. Since |p - e|^2 <= 2 and |u| <= 1, |g| <= 1 in the Frobenius norm, and so
is the norm of a mean. Adding or removing a record changes the sum by its own
term, so the l2 sensitivity of each of the T gradients is 1. The T releases are
T Gaussian mechanisms, each of which may depend on the results of those before
it: one ledger entry with `count=T`.

Exact sums. u and (p - e) / sqrt(2) are rounded toward zero to multiples of
2^-12, which does not lengthen them. Their products are multiples of 2^-24, the
unit of `fixed_point` for terms of norm at most 1, and so is the mean of a
record of several images once it is rounded toward zero. Float64 adds them
exactly, in every order, and the noise is added to the exact sum. The matrix
products before that, of z and of the logits, are exact too (`_shortened`): a
library rounds a row of a product in a way that depends on the number of rows,
so one record would change the terms of others.

Guarantees:
  * One record, even a person with many images and labels, moves each gradient
    by at most `L2_SENSITIVITY`, whatever its features are.
    `class_head_test.py::test_neighbours_differ_by_at_most_the_sensitivity`,
    `::test_features_that_are_not_finite_add_nothing`,
    `::test_a_term_does_not_depend_on_the_number_of_records`,
    `::test_an_image_is_scaled_by_itself`.
  * A gradient has the noise of the mechanism, and each one noise of its own.
    `class_head_test.py::test_noise_std`,
    `::test_each_step_has_noise_of_its_own`.
  * Sums have the same bits in every order of the records.
    `class_head_test.py::test_order_of_records_does_not_matter`.
  * The head depends on the records through the noised gradients alone, which
    are divided by the declared number of records.
    `class_head_test.py::test_the_head_follows_from_the_noised_gradients`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax
import numpy as np
from scipy import linalg
from scipy import special

from dp_diffusion import config_keys
from dp_diffusion.data import batching
from dp_diffusion.models import class_head as head_lib
from dp_diffusion.privacy import entries as entries_lib
from dp_diffusion.privacy import fixed_point
from dp_diffusion.privacy import gaussian_calibration
from dp_diffusion.privacy import grid_limits
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import noise

L2_SENSITIVITY = 1.0
PURPOSE = 'gradients of the class head'
IMAGES_AT_A_TIME = 4000  # Whose features need to be in memory as numbers.
_BIAS = 0.2  # c; the element of the bias.
_UNIT = 2.0**-12  # Its square is the unit of the sum.
_ROWS = 4096  # Images that are multiplied at a time.
_MOMENTUM = 0.9
_LARGEST_SHARE = 0.9  # Of the scaling images, those that are not shortened.
_LEAST_VARIANCE = 0.05  # Added to variances, in units of their mean.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassHeadConfig:
  """A classifier on features of the network, after its private steps."""

  num_steps: int = config_keys.key(
    0,
    'Steps of gradient descent on all records, each of them noised; 0: no'
    ' head.',
    '>= 0',
  )
  noise_multiplier: float = config_keys.key(
    0.0,
    'Std of the noise on the sum of the gradients, divided by its sensitivity.',
    '>= 0',
  )
  learning_rate: float = config_keys.key(
    15.0,
    'Learning rate, with a momentum of 0.9; it falls over the second half of'
    ' the steps.',
    '(0, 1000]',
  )
  num_samples: int = config_keys.key(
    1000,
    'Images sampled from the network, by which the features are scaled.',
    '>= 2',
  )
  scattering: bool = config_keys.key(
    False,
    'Whether the head reads scattering coefficients (arXiv 1203.1513) beside'
    ' the activations of the network.',
    is_later=True,
  )

  def __post_init__(self) -> None:
    config_keys.check(self, 'finetune.class_head.')
    name = 'finetune.class_head.noise_multiplier'
    grid_limits.check_noise(name, self.noise_multiplier)
    if bool(self.num_steps) != bool(self.noise_multiplier):
      raise ValueError(
        f'Expected {name}={self.noise_multiplier:g} and'
        f' finetune.class_head.num_steps={self.num_steps} to be both 0 or both'
        ' > 0: without noise the head would not be private, without steps its'
        ' cost in vain.'
      )

  @property
  def is_used(self) -> bool:
    """Whether there is a head."""
    return self.num_steps > 0

  @property
  def mechanism(self) -> mechanism_lib.GaussianMechanism:
    """Mechanism of all gradients, if there is a head."""
    return mechanism_lib.GaussianMechanism(
      noise_multiplier=self.noise_multiplier,
      l2_sensitivity=L2_SENSITIVITY,
      purpose=PURPOSE,
      count=self.num_steps,
    )

  def entries(self) -> tuple[entries_lib.Entry, ...]:
    """Returns the ledger entries of the head; () if there is none."""
    if not self.is_used:
      return ()
    return (ledger_lib.GaussianEntry(mechanism=self.mechanism),)


def noise_of_share(
  epsilon: float, delta: float, num_steps: int, share: float
) -> float:
  """Returns the noise multiplier with which a head takes a share of a budget.

  The budget is measured by mu^2 of Gaussian differential privacy, which adds
  up: a head with this noise has `share` of the mu^2 of a Gaussian mechanism
  with the whole epsilon and delta.

  >>> round(noise_of_share(10.0, 1e-5, 60, 0.1), 1)
  12.2

  Args:
    epsilon: whole budget.
    delta: whole budget.
    num_steps: steps of the head.
    share: in (0, 1).
  """
  whole = gaussian_calibration.calibrate(
    epsilon,
    delta,
    l2_sensitivity=L2_SENSITIVITY,
    purpose=PURPOSE,
    count=num_steps,
  )
  return whole.noise_multiplier / math.sqrt(share)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
  """The linear part of the scaling of features.

  Attributes:
    mean: float64[F].
    matrix: float64[F, F], S^(-1/4) / r.
  """

  mean: np.ndarray
  matrix: np.ndarray

  def bounded(self, features: np.ndarray) -> np.ndarray:
    """Scales float32[N, F] to u, float64[N, F + 1] of norm at most 1.

    The elements are multiples of the grid. A row that is not finite is zero.
    """
    is_finite = np.isfinite(features).all(axis=1, keepdims=True)
    x = np.where(is_finite, features, 0.0).astype(np.float64, order='C')
    # Factors of one size: a small or dead feature is not lost beside a large
    # one, nor spoils it.
    sizes = np.linalg.norm(self.matrix, axis=1)
    matrix = self.matrix / np.where(sizes > 0, sizes, 1.0)[:, None]
    x = (x - self.mean) * sizes
    x = _shortened(x, np.linalg.norm(x, axis=1, keepdims=True))
    z = x @ _shortened(matrix, np.linalg.norm(matrix, axis=0).max())
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    z = z / np.maximum(norms, 1.0)
    a = math.sqrt(1 - _BIAS**2) * (1 - 2.0**-24)  # Float64 rounds z.
    u = np.concatenate([a * z, np.full((len(z), 1), _BIAS)], axis=1)
    return _cut(np.where(is_finite, u, 0.0), _UNIT)


def fit_scaling(
  features: np.ndarray, widths: Sequence[int] | None = None
) -> Scaling:
  """Computes the scaling from features of images that are not sensitive.

  Args:
    features: float32[M, F], of images sampled from the network. Rows that are
      not finite are left out.
    widths: how many features there are of each kind; None for one kind.
  """
  x = np.asarray(features, np.float64)
  x = x[np.isfinite(x).all(axis=1)]
  ends = np.cumsum(widths or (x.shape[1],))
  parts = [_fit_scaling(kind) for kind in np.split(x, ends[:-1], axis=1)]
  if len(parts) == 1:
    return parts[0]
  mean = np.concatenate([part.mean for part in parts])
  matrix = linalg.block_diag(*(part.matrix for part in parts))
  return Scaling(mean=mean, matrix=matrix / _radius((x - mean) @ matrix))


def _fit_scaling(x: np.ndarray) -> Scaling:
  """Computes the scaling of one kind of features, float64[M, F]."""
  if len(x) < 2:  # Every image is then scaled to zero.
    width = x.shape[1]
    return Scaling(mean=np.zeros(width), matrix=np.zeros((width, width)))
  mean, std = x.mean(axis=0), x.std(axis=0)
  std = np.where(std > 1e-6 * std.max(), std, np.inf)  # Dead features.
  y = (x - mean) / std
  variances, vectors = np.linalg.eigh(y.T @ y / len(y))
  variances = np.maximum(variances, 0.0)
  least = _LEAST_VARIANCE * (variances.mean() or 1.0)
  roots = (variances + least) ** -0.25
  matrix = vectors * roots / std[:, None]
  return Scaling(mean=mean, matrix=matrix / _radius((x - mean) @ matrix))


def _radius(vectors: np.ndarray) -> float:
  """Returns the norm that most vectors [M, F] do not exceed."""
  if not len(vectors):
    return 1.0
  norms = np.linalg.norm(vectors, axis=1)
  found = float(np.quantile(norms, _LARGEST_SHARE))
  return found or 1.0  # It is 0 if the images are equal.


def in_units(bounded: np.ndarray) -> np.ndarray:
  """Returns the result of `Scaling.bounded` in units of the grid, int16.

  It says the same in a quarter of the bytes.
  """
  return np.round(bounded / _UNIT).astype(np.int16)


class NoisedGradients:
  """The gradients of the cross-entropy on all records, with noise."""

  def __init__(
    self,
    units: np.ndarray,
    labels: np.ndarray,
    records: batching.Records,
    num_classes: int,
    config: ClassHeadConfig,
    streams: key_streams.KeyStreams,
  ) -> None:
    """Prepares them.

    Args:
      units: int16[N, F + 1], the result of `Scaling.bounded` and `in_units`.
      labels: int32[N].
      records: the images of each record.
      num_classes: K.
      config: gives the noise.
      streams: secret randomness of these gradients alone; equal streams give
        equal noise.
    """
    if units.dtype != np.int16:
      raise TypeError(f'Expected the units to be int16, not {units.dtype}.')
    self.shape = (num_classes, units.shape[1])
    self._units, self._labels, self._records = units, labels, records
    sizes = np.diff(records.starts)
    self._is_alone = np.repeat(sizes == 1, sizes)
    several = np.flatnonzero(sizes > 1)
    self._starts = records.starts[several]
    self._ends = records.starts[several + 1]
    self._mechanism, self._streams = config.mechanism, streams

  def exact(self, weights: np.ndarray) -> np.ndarray:
    """Returns the sum of the records' terms, float64[K, F + 1]. It is private.

    Args:
      weights: float64[K, F + 1].
    """
    weights = _shortened(weights, np.linalg.norm(weights))
    total, part = np.zeros(self.shape), np.zeros(self.shape)
    for start in range(0, len(self._records.images), _ROWS):
      rows = slice(start, start + _ROWS)
      residuals, u = self._factors(self._records.images[rows], weights)
      alone = self._is_alone[rows]
      if alone.all():
        total += residuals.T @ u
        continue
      total += residuals[alone].T @ u[alone]
      here = (self._starts < start + _ROWS) & (self._ends > start)
      for first, end in zip(self._starts[here], self._ends[here], strict=True):
        one = slice(max(first - start, 0), end - start)
        part = part + residuals[one].T @ u[one]
        if end <= start + _ROWS:  # Else the record goes on in the next rows.
          total += _cut(part / (end - first), _UNIT**2)
          part = np.zeros(self.shape)
    return total

  def _factors(
    self, images: np.ndarray, weights: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns (p - e) / sqrt(2), float64[N, K], and u of images of these rows.

    Args:
      images: int[N], rows.
      weights: float64[K, F + 1], shortened.
    """
    u = self._units[images] * _UNIT
    p = special.softmax(u @ weights.T, axis=1)
    one_hot = np.eye(len(weights))[self._labels[images]]
    scale = (1 - 2.0**-24) / math.sqrt(2)  # Float64 rounds p.
    return _cut((p - one_hot) * scale, _UNIT), u

  def noised(self, weights: np.ndarray, step: int) -> np.ndarray:
    """Returns the sum with the noise of a step, float64[K, F + 1]."""
    found = noise.add_noise(
      fixed_point.from_host(self.exact(weights), _UNIT**2),
      self._streams.statistic_keys(f'{PURPOSE}, {step}'),
      self._mechanism.noise_std,
    )
    return np.asarray(jax.device_get(found), np.float64)


def fit(
  gradients: NoisedGradients,
  scaling: Scaling,
  num_examples: int,
  config: ClassHeadConfig,
  num_activations: int,
  advance: Callable[[], None] = lambda: None,
) -> head_lib.ClassHead:
  """Trains a head by noised gradient descent.

  Args:
    gradients: of the sensitive images, with noise.
    scaling: that of their features.
    num_examples: declared number of records, which is public.
    config: gives the number of steps and the learning rate.
    num_activations: A; features after these are scattering coefficients.
    advance: called after every step.

  Returns:
    The head, for features as the network gives them.

  Raises:
    ValueError: there are more records than can be summed exactly.
  """
  weights = np.zeros(gradients.shape)
  velocity = np.zeros_like(weights)
  for step in range(config.num_steps):
    noised = math.sqrt(2) * gradients.noised(weights, step) / num_examples
    velocity = _MOMENTUM * velocity + noised
    weights = weights - _rate(config, step) * velocity
    advance()
  a = math.sqrt(1 - _BIAS**2)
  kernel = a * scaling.matrix @ weights[:, :-1].T
  bias = _BIAS * weights[:, -1] - scaling.mean @ kernel
  kernel = kernel.astype(np.float32)
  has_scattering = len(kernel) > num_activations
  return head_lib.ClassHead(
    kernel=kernel[:num_activations],
    bias=bias.astype(np.float32),
    scattering_kernel=kernel[num_activations:] if has_scattering else None,
  )


def _rate(config: ClassHeadConfig, step: int) -> float:
  """Learning rate of a step: constant, then a half cosine down to 0."""
  half = config.num_steps / 2
  done = max(0.0, (step - half) / half)
  return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _shortened(x: np.ndarray, norms: np.ndarray | np.floating) -> np.ndarray:
  """Rounds numbers toward zero to multiples of 2^-26 of a bound on their norms.

  Float64 multiplies two matrices of them exactly: no sum of products of a row
  and a column exceeds 2^52 of its units, by Cauchy-Schwarz.

  Args:
    x: float64[...].
    norms: of what is summed over, of a shape that broadcasts to x.
  """
  return _cut(x, np.ldexp(1.0, np.frexp(norms)[1] - 26))


def _cut(x: np.ndarray, unit: float | np.ndarray) -> np.ndarray:
  """Rounds toward zero to multiples of a unit."""
  return np.trunc(x / unit) * unit
