"""Limits of records, devices, noise and clip norm of exact sums on a grid.

`fixed_point` derives the numbers of records, devices and of the noise from its
words, `clipping` those of the clip norm from float32. They stand here, where no
jax is needed, so that a config beyond them is refused before its plan.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

MAX_DEVICES = 2**10
MAX_RECORDS = 2**26
MAX_NOISE_MULTIPLIER = 2.0**18
# Squares of smaller gradients underflow; a sum of longer ones is infinite.
MIN_CLIP_NORM = 1e-9
MAX_CLIP_NORM = 1e30
# Scales of gradients, and the largest one in units of the clip norm; see
# `clipping`.
MIN_SCALE = 1e-3
MAX_SCALE = 1e6
MAX_SCALE_OVER_CLIP = 2.0**36
MIN_SHARE = 1e-6
_SHARES_TOLERANCE = 1e-6  # Shares are divided by their sum.


def check_noise(name: str, noise_multiplier: float) -> None:
  """Raises ValueError for noise that the words do not hold."""
  if noise_multiplier > MAX_NOISE_MULTIPLIER:
    raise ValueError(
      f'Expected {name}={noise_multiplier!r} to be <= 2^18, the most noise that'
      ' an exact sum holds; choose a larger epsilon, or less noise.'
    )


def check_records(name: str, count: int) -> None:
  """Raises ValueError for more records than the words hold."""
  if count > MAX_RECORDS:
    raise ValueError(
      f'Expected {name}={count} to be <= {MAX_RECORDS}, the most that an'
      ' exact sum holds; take a part of them.'
    )


def check_clip_norm(l2_clip_norm: float) -> None:
  """Raises ValueError for a clip norm that float32 cannot keep to."""
  if not MIN_CLIP_NORM <= l2_clip_norm <= MAX_CLIP_NORM:
    raise ValueError(
      f'Expected l2_clip_norm={l2_clip_norm!r} to be in [{MIN_CLIP_NORM!r},'
      f' {MAX_CLIP_NORM!r}], beyond which float32 holds no gradient or no sum.'
    )


def check_leaves(
  scales: Sequence[float], shares: Sequence[float], l2_clip_norm: float
) -> None:
  """Raises ValueError for leaves with which float32 cannot keep to a norm.

  Args:
    scales: by which leaves of the gradient are multiplied before the clip.
    shares: of the squared clip norm, of groups that are clipped by themselves.
    l2_clip_norm: norm to which the whole gradient is clipped.
  """
  smallest = l2_clip_norm * _smallest_bound(shares)
  if smallest < MIN_CLIP_NORM:
    raise ValueError(
      f'Expected the smallest group of clip_groups to be clipped to'
      f' {MIN_CLIP_NORM!r} at least, not {smallest!r}; choose a larger clip'
      ' norm or share.'
    )
  for scale in scales:
    if not MIN_SCALE <= scale <= MAX_SCALE:
      raise ValueError(
        f'Expected gradient_scales={scale!r} to be in [{MIN_SCALE!r},'
        f' {MAX_SCALE!r}].'
      )
    if scale > MAX_SCALE_OVER_CLIP * smallest:
      raise ValueError(
        f'Expected gradient_scales={scale!r} to be <='
        f' {MAX_SCALE_OVER_CLIP * smallest!r}, 2^36 times the clip norm'
        f' {smallest!r}; choose a larger clip norm.'
      )


def _smallest_bound(shares: Sequence[float]) -> float:
  """Returns the smallest bound of a group, in units of the clip norm."""
  if not shares:
    return 1.0
  for share in shares:
    if not MIN_SHARE <= share <= 1:
      raise ValueError(
        f'Expected a share of clip_groups={share!r} to be in [{MIN_SHARE!r},'
        ' 1].'
      )
  total = math.fsum(shares)
  if not math.isclose(total, 1, rel_tol=_SHARES_TOLERANCE):
    raise ValueError(
      f'Expected the shares of clip_groups={list(shares)} to sum to 1, not to'
      f' {total:g}: a larger sum would need more noise.'
    )
  return math.sqrt(min(shares))
