"""The numbers of every sampling step, computed on the host in float64.

Each method of `samplers` is one linear step; here are its coefficients, with
the equation that each comes from.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dp_diffusion import array_types
from dp_diffusion.diffusion import schedules

SAMPLERS = ('ancestral', 'ddim', 'dpm_solver_pp_2m')
SPACINGS = ('uniform', 'quadratic')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
  """How to sample. It costs no privacy, and may differ from run to run.

  Attributes:
    name: 'ancestral' (arXiv 2006.11239 algorithm 2, the posterior's variance),
      'ddim' (arXiv 2010.02502 eq. 12) or 'dpm_solver_pp_2m' (arXiv 2211.01095
      algorithm 2).
    num_steps: steps from noise to image, in [1, T].
    spacing: which timesteps are visited. 'quadratic' (arXiv 2010.02502
      appendix D.2) is denser near the image, where the noise falls fastest;
      'uniform' is the plain stride. The same when num_steps = T. On Gaussian
      data the quadratic error is the smaller one for each sampler, for the
      variance of 100 ancestral steps by half.
    guidance_weight: w of classifier-free guidance (arXiv 2207.12598 eq. 6),
      (1 + w) conditional - w unconditional. 0 is none, at half the cost.
    eta: 'ddim' only: 0 is deterministic, 1 is 'ancestral'.
    clip_x0: whether each step clips its estimate of the image to [-1, 1].

  Raises:
    ValueError: at construction, for a value outside what is said above.
  """

  name: str = 'ancestral'
  num_steps: int = 1000
  spacing: str = 'quadratic'
  guidance_weight: float = 0.0
  eta: float = 0.0
  clip_x0: bool = True

  def __post_init__(self) -> None:
    array_types.check_one_of('name', self.name, SAMPLERS)
    array_types.check_one_of('spacing', self.spacing, SPACINGS)
    schedules.check_integer('num_steps', self.num_steps)
    array_types.check_at_least('num_steps', self.num_steps, 1)
    array_types.check_non_negative('guidance_weight', self.guidance_weight)
    array_types.check_finite('guidance_weight', self.guidance_weight)
    if not 0 <= self.eta <= 1:
      raise ValueError(f'Expected eta={self.eta!r} to be in [0, 1].')
    if self.eta and self.name != 'ddim':
      raise ValueError(
        f"Expected eta={self.eta!r} to be 0: name={self.name!r} is not 'ddim'."
      )


def num_evaluations(config: SamplerConfig) -> int:
  """Network evaluations per image.

  >>> num_evaluations(SamplerConfig(num_steps=50))
  50
  >>> num_evaluations(SamplerConfig(num_steps=50, guidance_weight=1.5))
  100
  """
  return config.num_steps * (2 if config.guidance_weight else 1)


def timestep_sequence(config: SamplerConfig, num_timesteps: int) -> np.ndarray:
  """Timesteps at which the network is evaluated, in order.

  The step after the last one reaches clean data, which has no timestep.

  >>> timestep_sequence(SamplerConfig(num_steps=5), 1000)
  array([999, 562, 250,  62,   0], dtype=int32)

  Args:
    config: num_steps = S and the spacing.
    num_timesteps: T of the process.

  Returns:
    int32[S], strictly decreasing from T - 1 to 0 (only T - 1 for S = 1).

  Raises:
    ValueError: if S > T.
  """
  if config.num_steps > num_timesteps:
    raise ValueError(
      f'Expected num_steps={config.num_steps} to be at most '
      f'num_timesteps={num_timesteps}.'
    )
  if config.num_steps == 1:
    return np.array([num_timesteps - 1], np.int32)
  power = {'uniform': 1, 'quadratic': 2}[config.spacing]
  index = np.arange(config.num_steps)
  last = config.num_steps - 1
  ascending = np.rint((num_timesteps - 1) * (index / last) ** power)
  # Neighbours that round to one timestep are pushed up until all differ.
  ascending = np.maximum.accumulate(ascending.astype(np.int64) - index) + index
  return ascending[::-1].astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coefficients:
  """The numbers of each of S steps. Step i goes from timestep[i] on.

  Attributes:
    timestep: int32[S].
    x: float32[S], of the current noisy image.
    x0: float32[S], of the estimate of the clean image.
    previous_x0: float32[S], of the estimate made one step earlier.
    noise: float32[S], std of the noise added.
  """

  timestep: np.ndarray
  x: np.ndarray
  x0: np.ndarray
  previous_x0: np.ndarray
  noise: np.ndarray


@functools.lru_cache(maxsize=32)
def coefficients(
  config: SamplerConfig, diffusion: schedules.DiffusionConfig
) -> Coefficients:
  """Computes the numbers of every step in float64 and rounds them once.

  Args:
    config: the method.
    diffusion: the process.

  Returns:
    The coefficients. The last step's are x0 = 1 and 0 otherwise: it returns
    the estimate of the clean image.

  Raises:
    ValueError: if there are more steps than timesteps.
  """
  timestep = timestep_sequence(config, diffusion.num_timesteps)
  alpha_bar = schedules.alpha_bar_float64(diffusion)[timestep]
  now = alpha_bar
  after = np.append(alpha_bar[1:], 1.0)
  zeros = np.zeros_like(now)
  if config.name == 'ancestral':
    x, x0, noise = _ancestral(now, after)
    previous_x0 = zeros
  elif config.name == 'ddim':
    x, x0, noise = _ddim(now, after, config.eta)
    previous_x0 = zeros
  else:
    x, x0, previous_x0 = _dpm_solver_pp_2m(now, after)
    noise = zeros
  return Coefficients(
    timestep=timestep,
    x=x.astype(np.float32),
    x0=x0.astype(np.float32),
    previous_x0=previous_x0.astype(np.float32),
    noise=noise.astype(np.float32),
  )


def _posterior_variance(now: np.ndarray, after: np.ndarray) -> np.ndarray:
  """Variance of x_after given x_now and x0: arXiv 2006.11239 eq. 7."""
  return (1 - after) / (1 - now) * (1 - now / after)


def _ancestral(
  now: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws from the posterior of arXiv 2006.11239 eq. 6 and 7.

  Args:
    now: float64[S], alpha_bar before each step.
    after: float64[S], alpha_bar after it; 1 at the last.

  Returns:
    float64[S] coefficients of x, of x0 and of the noise.
  """
  alpha = now / after  # 1 - beta of the stride.
  x = np.sqrt(alpha) * (1 - after) / (1 - now)
  x0 = np.sqrt(after) * (1 - alpha) / (1 - now)
  return x, x0, np.sqrt(_posterior_variance(now, after))


def _ddim(
  now: np.ndarray, after: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """ArXiv 2010.02502 eq. 12 and 16, the noise written in x and x0.

  Args:
    now: float64[S], alpha_bar before each step.
    after: float64[S], alpha_bar after it; 1 at the last.
    eta: in [0, 1].

  Returns:
    float64[S] coefficients of x, of x0 and of the noise.
  """
  noise = eta * np.sqrt(_posterior_variance(now, after))
  x = np.sqrt((1 - after - noise**2) / (1 - now))
  x0 = np.sqrt(after) - x * np.sqrt(now)
  return x, x0, noise


def _dpm_solver_pp_2m(
  now: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """ArXiv 2211.01095 algorithm 2, with first-order steps at both ends.

  The first step has no earlier estimate. The last one ends at an infinite
  log-SNR. The one before it spans most of the remaining log-SNR: extrapolating
  over it is worse than not, so it is of first order too, which leaves the
  whole of second order.

  Args:
    now: float64[S], alpha_bar before each step.
    after: float64[S], alpha_bar after it; 1 at the last.

  Returns:
    float64[S] coefficients of x, of x0 and of the x0 one step earlier.
  """
  x, first_order, _ = _ddim(now, after, eta=0.0)
  half_log_snr = 0.5 * (np.log(now) - np.log1p(-now))  # lambda, section 2.2.
  extrapolation = np.zeros_like(now)  # 1 / (2 r) of the paper.
  step = np.diff(half_log_snr)  # The step to clean data is not among these.
  extrapolation[1:-2] = step[1:-1] / (2 * step[:-2])
  return x, first_order * (1 + extrapolation), -first_order * extrapolation
