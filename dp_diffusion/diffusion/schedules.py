"""The forward process: how much signal and noise x_t holds at each timestep.

Training (`losses`) and sampling (`samplers`) must use the same
`DiffusionProcess`. Timesteps are int32 in [0, T). At timestep t the noisy image
is x_t = signal_scale[t] x0 + noise_scale[t] noise. Clean data has no timestep.

Every table is computed on the host in float64, with NumPy, and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import itertools
import math

import numpy as np

from dp_diffusion import config_keys

SCHEDULES = ('linear', 'cosine')
PREDICTIONS = ('eps', 'x0', 'v')
LOSS_WEIGHTINGS = ('none', 'min_snr')

# Avoids a singularity at t = T (arXiv 2102.09672 section 3.2).
_MAX_BETA = 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
  """What pre-training, fine-tuning and sampling share."""

  schedule: str = config_keys.key(
    'linear',
    "'linear': beta from 1e-4 to 0.02 at T = 1000 (arXiv 2006.11239 section 4),"
    " times 1000 / T for another T; 'cosine': arXiv 2102.09672 eq. 17. Beta"
    ' never exceeds 0.999.',
    SCHEDULES,
    mark='R',
  )
  num_timesteps: int = config_keys.key(1000, 'T.', '>= 2', mark='R')
  prediction: str = config_keys.key(
    'eps',
    "What the network's output estimates: the noise (eps), the image (x0) or v"
    ' (arXiv 2202.00512 section 4).',
    PREDICTIONS,
    mark='R',
  )
  loss_weighting: str = config_keys.key(
    'none',
    "'none' is the simple loss (arXiv 2006.11239 eq. 14); 'min_snr' multiplies"
    ' by the weights of arXiv 2303.09556 with gamma = 5.',
    LOSS_WEIGHTINGS,
    mark='R',
  )
  label_drop_prob: float = config_keys.key(
    0.0,
    'Probability that a training draw sees the null label, for classifier-free'
    ' guidance.',
    '[0, 1)',
  )

  def __post_init__(self) -> None:
    check_integer('num_timesteps', self.num_timesteps)
    config_keys.check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionProcess(DiffusionConfig):
  """The forward process, what the network predicts, and how it is trained.

  Attributes:
    mixture_boundaries: edges 0 = b_0 < b_1 < ... < b_n = T of the half-open
      intervals [b_i, b_{i+1}) that training timesteps are drawn from. Empty:
      uniform over [0, T).
    mixture_weights: probability of each interval, adding up to 1. Within an
      interval, every timestep is equally likely.
    antithetic_noise: whether a training draw is the mean of two losses, at one
      timestep, for a noise and its negative.

  Raises:
    ValueError: at construction, for a value that a key does not allow.
  """

  mixture_boundaries: tuple[int, ...] = ()
  mixture_weights: tuple[float, ...] = ()
  antithetic_noise: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    # Lists (from JSON) become tuples: the config is hashed as a cache key.
    for name in ('mixture_boundaries', 'mixture_weights'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if self.mixture_boundaries or self.mixture_weights:
      _check_mixture(
        self.mixture_boundaries, self.mixture_weights, self.num_timesteps
      )


def check_integer(name: str, value: object) -> None:
  """Raises ValueError unless `value` is an integer; 3.0 and True are not."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise ValueError(f'Expected {name}={value!r} to be an integer.')


def _check_mixture(
  boundaries: Sequence[int], weights: Sequence[float], num_timesteps: int
) -> None:
  """Raises ValueError unless the intervals tile [0, T) and weights sum to 1."""
  for boundary in boundaries:
    check_integer('mixture_boundaries', boundary)
  increasing = all(a < b for a, b in itertools.pairwise(boundaries))
  ends = (*boundaries[:1], *boundaries[-1:])
  if ends != (0, num_timesteps) or not increasing:
    raise ValueError(
      f'Expected mixture_boundaries={boundaries!r} to increase from 0 to '
      f'num_timesteps={num_timesteps}.'
    )
  if len(weights) != len(boundaries) - 1:
    raise ValueError(
      f'Expected mixture_weights={weights!r} to have '
      f'{len(boundaries) - 1} values, one per interval.'
    )
  if not all(w >= 0 for w in weights) or not math.isclose(
    sum(weights), 1.0, abs_tol=1e-6
  ):
    raise ValueError(
      f'Expected mixture_weights={weights!r} to be >= 0 and add up to 1.'
    )


def betas(config: DiffusionProcess) -> np.ndarray:
  """Returns the variance that each timestep adds, float64[T] in (0, 0.999].

  beta[t] = 1 - alpha_bar[t] / alpha_bar[t - 1], where alpha_bar[-1] = 1.
  """
  num = config.num_timesteps
  if config.schedule == 'linear':
    # arXiv 2006.11239 section 4. The scale makes the total noise that of
    # T = 1000.
    scale = 1000 / num
    raw = np.linspace(scale * 1e-4, scale * 0.02, num, dtype=np.float64)
  else:
    # arXiv 2102.09672 eq. 17, with their offset s = 0.008.
    edges = np.arange(num + 1, dtype=np.float64) / num
    angles = (edges + 0.008) / 1.008 * (np.pi / 2)
    raw = 1 - (np.cos(angles[1:]) / np.cos(angles[:-1])) ** 2
  return np.minimum(raw, _MAX_BETA)


@functools.lru_cache(maxsize=32)
def alpha_bar_float64(config: DiffusionProcess) -> np.ndarray:
  """Returns the share of signal in the variance of x_t, float64[T] in (0, 1).

  It decreases strictly (arXiv 2006.11239 eq. 4). The array is cached and
  read-only.
  """
  result = np.cumprod(1 - betas(config))
  result.flags.writeable = False
  return result


def alpha_bar(config: DiffusionProcess) -> np.ndarray:
  """Returns `alpha_bar_float64` rounded to float32[T].

  Do not compute 1 - alpha_bar from it: near t = 0 the difference has a
  large relative error in float32. Square `noise_scale` instead.
  """
  return alpha_bar_float64(config).astype(np.float32)


def signal_scale(config: DiffusionProcess) -> np.ndarray:
  """Returns the factor of x0 in x_t, sqrt(alpha_bar), float32[T]."""
  return np.sqrt(alpha_bar_float64(config)).astype(np.float32)


def noise_scale(config: DiffusionProcess) -> np.ndarray:
  """Returns the factor of the noise in x_t, sqrt(1 - alpha_bar), float32[T]."""
  return np.sqrt(1 - alpha_bar_float64(config)).astype(np.float32)


def snr(config: DiffusionProcess) -> np.ndarray:
  """Returns the signal-to-noise ratio alpha_bar / (1 - alpha_bar), float64[T].

  It is the ratio of variances, not of standard deviations.
  """
  a = alpha_bar_float64(config)
  return a / (1 - a)
