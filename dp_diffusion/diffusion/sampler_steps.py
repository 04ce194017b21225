"""The sampling methods by name: their config, timesteps and coefficients.

Every sampler of `samplers` takes linear steps that differ in their coefficients
only. This module computes them on the host, in float64, and cites the equation
of each.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dp_diffusion import config_keys
from dp_diffusion.diffusion import schedules

SAMPLERS = ('ancestral', 'ddim', 'dpm_solver_pp_2m')
SPACINGS = ('uniform', 'quadratic', 'log_snr')
OWN_CLASS_LEVELS = 12  # Noise levels at which a model classifies its images.
_MIN_HALF_LOG_SNR = -5.0  # Below this, x_t holds no visible image.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerConfig:
  """Method, number and spacing of the sampling steps.

  Sampling costs no privacy, so these values may differ from run to run.

  Raises:
    ValueError: at construction, for a value that a key does not allow.
  """

  name: str = config_keys.key(
    'ancestral',
    "'ancestral' is arXiv 2006.11239 algorithm 2 with the variance of the"
    " posterior, 'ddim' arXiv 2010.02502 eq. 12, 'dpm_solver_pp_2m' arXiv"
    ' 2211.01095 algorithm 2.',
    SAMPLERS,
  )
  num_steps: int = config_keys.key(
    1000, 'Network steps from noise to image, at most T.', '>= 1'
  )
  spacing: str = config_keys.key(
    'quadratic',
    "Which timesteps are visited; all of them if num_steps = T. 'uniform'"
    " takes equal strides. 'quadratic' (arXiv 2010.02502 appendix D.2) takes"
    ' shorter strides near the image, where the noise falls fastest.'
    " 'log_snr' takes equal steps of the log-SNR (arXiv 2206.00927 section"
    " 5.1). With the linear schedule, 'quadratic' is as good as 'log_snr'. With"
    " the cosine schedule, 'quadratic' leaves the pure noise in a few long"
    ' steps, which decide the brightness and the layout of a large image: 20'
    ' quadratic steps lose more than half of its contrast, and 20 steps of'
    " 'log_snr' keep it.",
    SPACINGS,
  )
  guidance_weight: float = config_keys.key(
    0.0,
    'w of classifier-free guidance (arXiv 2207.12598 eq. 6): the output is'
    ' (1 + w) conditional - w unconditional. At 0 there is no guidance, and a'
    ' step needs one network evaluation instead of two.',
    '>= 0',
  )
  eta: float = config_keys.key(
    0.0, "For 'ddim' only: 0 is deterministic, 1 equals 'ancestral'.", '[0, 1]'
  )
  max_tries: int = config_keys.key(
    1,
    'How often an image is drawn, at most, until the model itself takes it for'
    ' its class (`evaluation.classifiers.diffusion_classifier`), which is'
    ' rejection sampling. The last draw is kept as it is; 1 asks for no class.'
    f' Asking costs {OWN_CLASS_LEVELS} network evaluations per class and draw.',
    '>= 1',
    is_later=True,
  )
  clip_x0: bool = config_keys.key(
    True, 'Whether each step clips its estimate of the image to [-1, 1].'
  )
  first_timestep: int = config_keys.key(
    0,
    'Timestep at which sampling starts, from noised images of the Gaussians of'
    ' `finetune.class_gaussians`; 0 starts from pure noise, at T - 1.',
    '>= 0',
    is_later=True,
  )

  def __post_init__(self) -> None:
    schedules.check_integer('num_steps', self.num_steps)
    schedules.check_integer('first_timestep', self.first_timestep)
    config_keys.check(self)
    if self.eta and self.name != 'ddim':
      raise ValueError(
        f"Expected eta={self.eta!r} to be 0: name={self.name!r} is not 'ddim'."
      )

  def check_classes(self, num_classes: int) -> None:
    """Refuses tries where there is no other class to take an image for.

    Args:
      num_classes: number of classes of the network.

    Raises:
      ValueError: there is one class, and more than one try.
    """
    if self.max_tries > 1 and num_classes < 2:
      raise ValueError(
        f'Expected max_tries={self.max_tries} to be 1: there is one class, and'
        ' nothing to take an image for instead.'
      )


def num_evaluations(config: SamplerConfig, num_classes: int = 1) -> int:
  """Returns the number of network evaluations per image, at most.

  >>> num_evaluations(SamplerConfig(num_steps=50))
  50
  >>> num_evaluations(SamplerConfig(num_steps=50, guidance_weight=1.5))
  100
  >>> num_evaluations(SamplerConfig(num_steps=50, max_tries=2), num_classes=3)
  136

  Args:
    config: gives steps, guidance and tries.
    num_classes: classes between which the model decides after each draw but
      the last.
  """
  of_a_draw = config.num_steps * (2 if config.guidance_weight else 1)
  of_a_check = OWN_CLASS_LEVELS * num_classes
  return config.max_tries * of_a_draw + (config.max_tries - 1) * of_a_check


def timestep_sequence(
  config: SamplerConfig, diffusion: schedules.DiffusionProcess
) -> np.ndarray:
  """Returns the timesteps at which the network is evaluated, in order.

  The last step leads to clean data, which has no timestep.

  >>> linear = schedules.DiffusionProcess()
  >>> timestep_sequence(SamplerConfig(num_steps=5), linear)
  array([999, 562, 250,  62,   0], dtype=int32)
  >>> timestep_sequence(SamplerConfig(num_steps=5, spacing='log_snr'), linear)
  array([999, 716, 296,  30,   0], dtype=int32)
  >>> timestep_sequence(SamplerConfig(num_steps=3, first_timestep=100), linear)
  array([100,  25,   0], dtype=int32)

  Args:
    config: gives the number of steps S, their spacing, and where they start.
    diffusion: the process, which has T timesteps.

  Returns:
    int32[S], strictly decreasing from T - 1, or from `first_timestep`, to 0;
    the first of them if S = 1.

  Raises:
    ValueError: if S > T, or there are fewer timesteps up to the first one.
  """
  first = config.first_timestep or diffusion.num_timesteps - 1
  if first >= diffusion.num_timesteps:
    raise ValueError(
      f'Expected first_timestep={first} to be below '
      f'num_timesteps={diffusion.num_timesteps}.'
    )
  num_timesteps = first + 1
  if config.num_steps > num_timesteps:
    known = f'num_timesteps={num_timesteps}'
    if config.first_timestep:
      known = f'first_timestep + 1 = {num_timesteps}'
    raise ValueError(
      f'Expected num_steps={config.num_steps} to be at most {known}.'
    )
  if config.num_steps == 1:
    return np.array([num_timesteps - 1], np.int32)
  index = np.arange(config.num_steps)
  if config.spacing == 'log_snr':
    alpha_bar = schedules.alpha_bar_float64(diffusion)[:num_timesteps]
    ascending = _even_in_log_snr(config.num_steps, alpha_bar)
  else:
    share = index / index[-1]
    power = {'uniform': 1, 'quadratic': 2}[config.spacing]
    ascending = np.rint((num_timesteps - 1) * share**power).astype(np.int64)
  # Neighbours that round to the same timestep are moved up until all differ,
  # then down where that went past T - 1.
  ascending = np.maximum.accumulate(ascending - index) + index
  ascending = np.minimum(ascending, num_timesteps - 1 - index[::-1])
  return ascending[::-1].astype(np.int32)


def _even_in_log_snr(num_steps: int, alpha_bar: np.ndarray) -> np.ndarray:
  """Returns the timesteps closest to even steps of the log-SNR, int64[S].

  They ascend from 0 to the last of alpha_bar. The end of the cosine schedule,
  where x_t holds almost no signal, is covered by one step.
  """
  falling = _half_log_snr(alpha_bar)
  lowest = max(falling[-1], _MIN_HALF_LOG_SNR)
  wanted = np.linspace(falling[0], lowest, num_steps)
  distance = np.abs(falling[None] - wanted[:, None])
  ascending = np.argmin(distance, axis=1)
  ascending[-1] = len(alpha_bar) - 1
  return ascending


def _half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
  """Returns lambda of arXiv 2211.01095 section 2.2, half the log of the SNR."""
  return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coefficients:
  """Coefficients of the S sampling steps; step i starts at timestep[i].

  Attributes:
    timestep: int32[S] in [0, T).
    x: float32[S], factor of the current noisy image.
    x0: float32[S], factor of the estimate of the clean image.
    previous_x0: float32[S], factor of the estimate made one step earlier.
    noise: float32[S], std of the noise that the step adds.
  """

  timestep: np.ndarray
  x: np.ndarray
  x0: np.ndarray
  previous_x0: np.ndarray
  noise: np.ndarray


@functools.lru_cache(maxsize=32)
def coefficients(
  config: SamplerConfig, diffusion: schedules.DiffusionProcess
) -> Coefficients:
  """Computes the coefficients of every step in float64 and rounds them once.

  Args:
    config: the method, the number of steps and their spacing.
    diffusion: the process that the network was trained on.

  Returns:
    The coefficients. In the last step that of x0 is 1 and the others are 0, so
    the step returns the estimate of the clean image.

  Raises:
    ValueError: if there are more steps than timesteps.
  """
  timestep = timestep_sequence(config, diffusion)
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
  """Returns the variance of x_after given x_now, x0: arXiv 2006.11239 eq. 7."""
  return (1 - after) / (1 - now) * (1 - now / after)


def _ancestral(
  now: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Steps that draw from the posterior of arXiv 2006.11239 eq. 6 and 7.

  Args:
    now: float64[S], alpha_bar before each step.
    after: float64[S], alpha_bar after it; 1 at the last.

  Returns:
    float64[S] coefficients of x, of x0 and of the noise.
  """
  alpha = now / after  # 1 - beta of one step over the whole stride.
  x = np.sqrt(alpha) * (1 - after) / (1 - now)
  x0 = np.sqrt(after) * (1 - alpha) / (1 - now)
  return x, x0, np.sqrt(_posterior_variance(now, after))


def _ddim(
  now: np.ndarray, after: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Steps of arXiv 2010.02502 eq. 12 and 16, with eps written in x and x0.

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
  """Steps of arXiv 2211.01095 algorithm 2, of first order at both ends.

  The first step is of first order because no earlier estimate exists, the last
  one because it ends at an infinite log-SNR. The step before the last spans
  most of the remaining log-SNR, where an extrapolation makes the error larger;
  it is of first order too. The method as a whole remains of second order.

  Args:
    now: float64[S], alpha_bar before each step.
    after: float64[S], alpha_bar after it; 1 at the last.

  Returns:
    float64[S] coefficients of x, of x0 and of the x0 one step earlier.
  """
  x, first_order, _ = _ddim(now, after, eta=0.0)
  extrapolation = np.zeros_like(now)  # 1 / (2 r) of the paper.
  # `step` leaves out the step to clean data, whose log-SNR is infinite.
  step = np.diff(_half_log_snr(now))
  extrapolation[1:-2] = step[1:-1] / (2 * step[:-2])
  return x, first_order * (1 + extrapolation), -first_order * extrapolation
