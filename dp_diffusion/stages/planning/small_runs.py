"""Suggests a small run on public images, to compare settings of this run.

Total amount of noise (TAN, arXiv 2210.03403): with the same number of
steps, training is governed by the noise in the mean gradient, noise multiplier
over batch size. A run whose batch and noise multiplier are both a hundredth
keeps it, and costs a hundredth. It has hardly any privacy, so it must be on
public images; whether K, a clip norm or a learning rate is the better one on
these, at this noise, is often true of the large run too. Such small batches
vary more than large ones, so its accuracy is not that of the large run.
"""

from __future__ import annotations

import math

from dp_diffusion.privacy import mechanism as mechanism_lib

_LARGEST_RATIO = 100
_SMALLEST_BATCH = 16  # Gradients of fewer records tell little of a mean.


def batch_size(expected_batch_size: int) -> int:
  """Returns the expected batch size of the small run.

  >>> batch_size(16_384), batch_size(480), batch_size(20)
  (164, 16, 16)
  """
  return max(_SMALLEST_BATCH, math.ceil(expected_batch_size / _LARGEST_RATIO))


def lines(
  mechanism: mechanism_lib.TrainingMechanism, *, has_rows_from_votes: bool
) -> list[str]:
  """Returns the lines of `plan`; none without noise, or for a small batch.

  Args:
    mechanism: of the large run.
    has_rows_from_votes: whether its embeddings start from those of public
      classes, which a run whose data are the public ones refuses.
  """
  small = batch_size(mechanism.expected_batch_size)
  if not mechanism.is_private or 2 * small > mechanism.expected_batch_size:
    return []
  ratio = mechanism.expected_batch_size / small
  noise = mechanism.noise_multiplier / ratio
  keys = {
    'expected_batch_size': small,
    'noise_multiplier': f'{noise:.4g}',
    'num_steps': mechanism.num_steps,
    'solve_for': 'epsilon',
    'epsilon': 'none',
  }
  flags = ' '.join(f'--config.privacy.{k}={v}' for k, v in keys.items())
  if has_rows_from_votes:
    flags += ' --config.finetune.warm_up.rows_from_votes=False'
  return [
    'which settings?',
    '  ask beforehand      K, clip norm and learning rate can be compared on'
    f' public images, at the same noise over batch and {100 / ratio:.2g} % of'
    ' the compute',
    f'  small run           this one with public images as data and {flags}',
  ]
