"""Maps stored values of any depth to 8 bits, by a public range of the set.

A range computed from each image would be a statistic of it, and would make dark
images as bright as others. Therefore the user states `data.value_range`.
Without it, integers deeper than 8 bits are mapped from the range 0 to the
largest value of their type, if the images of the set use that range. Otherwise
the set is refused, and the error proposes a range.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import math

import numpy as np

_MOST_EXACT = 1 << 52  # Larger bounds are computed in float64.
# A smaller share of an image's pixels, as of a burnt-in marker, is ignored.
_SHARE_OF_IMAGE = 0.01
_MOST_OF_MARKER = 0.05  # Largest share of an image that a marker covers.
# Images whose values span less than this share of the depth do not use it,
_NARROW = 1 / 8
_BLANK = 1 / 256  # and those that span less than this are blank.
_SHARE_OF_SET = 0.9  # Share of the images that must use the whole depth.


def to_bytes(array: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
  """Maps a range of values to 0 ... 255; values outside become 0 or 255.

  The result is (x - low) * 255 / (high - low), rounded to the nearest integer,
  halves up. It is computed exactly if values and range are integers, otherwise
  in float64.

  >>> to_bytes(np.array([-1, 0, 8, 4095, 65535]), (0, 4095))
  array([  0,   0,   0, 255, 255], dtype=uint8)

  Args:
    array: integers or floats of any shape.
    value_range: (low, high), low < high.

  Returns:
    uint8 of the same shape.

  Raises:
    ValueError: a value is not finite.
  """
  table = _table(array)
  if table is not None:
    return to_bytes(table, value_range)[_codes(array)]
  low, high = value_range
  if _is_exact(array, value_range):
    low, high = int(low), int(high)
    span = high - low
    values = _clipped(array, low, high) - low
    return ((values * 510 + span) // (2 * span)).astype(np.uint8)
  return np.floor(scale(array, value_range) + 0.5).astype(np.uint8)


def scale(array: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
  """Maps values as `to_bytes`, without rounding, to float64 in [0, 255].

  Raises:
    ValueError: a value is not finite.
  """
  table = _table(array)
  if table is not None:
    return scale(table, value_range)[_codes(array)]
  low, high = (float(bound) for bound in value_range)
  values = array.astype(np.float64)
  if not np.isfinite(values).all():
    raise ValueError('Expected pixels to be finite, found NaN or infinity.')
  return (np.clip(values, low, high) - low) * 255.0 / (high - low)


def _table(array: np.ndarray) -> np.ndarray | None:
  """Returns all values of a small integer type, if a table saves work."""
  if array.dtype.kind not in 'iu' or array.dtype.itemsize > 2:
    return None
  info = np.iinfo(array.dtype)
  if array.size <= info.max - info.min:
    return None
  return np.arange(info.min, info.max + 1, dtype=np.int64)


def _codes(array: np.ndarray) -> np.ndarray:
  """Returns the index in `_table` of each value of a small integer type."""
  if array.dtype.kind == 'u':
    return array
  return array.astype(np.int32) - int(np.iinfo(array.dtype).min)


def _is_exact(array: np.ndarray, value_range: tuple[float, float]) -> bool:
  return array.dtype.kind in 'iub' and all(
    float(bound).is_integer() and abs(bound) < _MOST_EXACT
    for bound in value_range
  )


def _clipped(array: np.ndarray, low: int, high: int) -> np.ndarray:
  """Clips to [low, high] as int64; uint64 may have values too large for it."""
  if array.dtype == np.uint64:
    array = np.minimum(array, np.uint64(max(high, 0)))
  return np.clip(array.astype(np.int64), low, high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth:
  """The part of its file's range of values that an image uses.

  Attributes:
    is_whole: whether the image uses values up to the largest; None if it is
      black or blank and does not tell.
    low: 0, or a negative power of two below nearly all pixels. For an image
      whose values lie in a narrow band far from 0, it is a multiple of the
      width of the band.
    high: a power of two minus one above nearly all pixels, or the end of such
      a band. For floats it is a power of two, at least 1.
    is_declared: whether the file states how large a value can be.
  """

  is_whole: bool | None
  low: float
  high: float
  is_declared: bool = True


def measure(pixels: np.ndarray, largest: int | None) -> Depth:
  """Measures how much of its depth an image uses, ignoring burnt-in markers.

  Args:
    pixels: integers or floats of any shape, without alpha.
    largest: largest value that the file can hold; None for signed integers and
      floats, which have no fixed range from 0.

  Returns:
    The depth. It is private, since it is computed from the image.
  """
  values = pixels[pixels != 0].ravel()
  if not values.size:
    is_whole = None if largest else False
    return Depth(
      is_whole=is_whole, low=0, high=1, is_declared=largest is not None
    )
  common, counts = np.unique(values, return_counts=True)
  bound = largest if largest is not None else common[-1]
  upper = common > bound / 2
  num_upper = counts[upper].sum()
  marker = counts[upper].max(initial=0)  # A marker has mostly one value.
  is_whole = (
    num_upper - marker > _SHARE_OF_IMAGE * values.size
    or num_upper > values.size / 2
  )
  if is_whole and _is_marker(common, counts, bound):
    is_whole, inner = False, common <= bound / 4
    common, counts = common[inner], counts[inner]
  elif not is_whole and upper.any():
    where = int(np.flatnonzero(upper)[counts[upper].argmax()])
    if counts[where] < values.size:
      common, counts = np.delete(common, where), np.delete(counts, where)
  shares = np.cumsum(counts) / counts.sum()
  first = common[np.searchsorted(shares, _SHARE_OF_IMAGE)]
  last_index = int(np.searchsorted(shares, 1 - _SHARE_OF_IMAGE))
  last = common[min(last_index, len(common) - 1)]
  is_integer = pixels.dtype.kind in 'iub'
  low = -_coarse(-float(first), is_integer, 0)
  high = _coarse(float(last), is_integer, 1)
  has_black = values.size < (1 - _SHARE_OF_IMAGE) * pixels.size
  span = float(last) - (0 if has_black else float(first))
  if is_whole and largest is not None and span < _NARROW * largest:
    is_whole = None if span < _BLANK * largest else False
    width = int(_coarse(span, True, 1)) + 1
    low = int(first) // width * width
    high = min(int(last) // width * width + width - 1, largest)
  return Depth(
    is_whole=is_whole if is_whole is None else bool(is_whole and largest),
    low=low,
    high=high,
    is_declared=largest is not None,
  )


def _is_marker(common: np.ndarray, counts: np.ndarray, bound: float) -> bool:
  """Whether the values in the upper half are only a marker and its soft edges.

  A marker has few pixels, and the values between a quarter and a half have
  fewer still. An image with some bright pixels has more of the latter.

  Args:
    common: stored values, each once, ascending.
    counts: number of pixels of each value.
    bound: the largest value that the file can hold.
  """
  upper = common > bound / 2
  num_upper = counts[upper].sum()
  num_between = counts[(common > bound / 4) & ~upper].sum()
  num_below = counts.sum() - num_upper - num_between
  most = _MOST_OF_MARKER * counts.sum()
  return num_below > 0 and num_between < num_upper <= most


def _coarse(value: float, is_integer: bool, less: int) -> float:
  """Rounds up to a power of two, minus `less` for integers; 0 below 0."""
  if value <= 0:
    return 0
  if not is_integer and value <= 1:
    return 1.0
  power = 1 << max(math.ceil(math.log2(value + less)), 0)
  return power - less if is_integer else float(power)


def is_whole(depths: Iterable[Depth]) -> bool:
  """Whether the images of a set, except black ones, use their whole depth."""
  depths = list(depths)
  if not all(depth.is_declared for depth in depths):
    return False
  telling = [d.is_whole for d in depths if d.is_whole is not None]
  return sum(telling) >= _SHARE_OF_SET * len(telling)


def refusal(depths: Iterable[Depth]) -> str:
  """Returns why a set needs `data.value_range`, with a proposed range.

  The text is for the curator: the proposal is computed from the images.
  """
  depths = list(depths)
  lows = sorted(-depth.low for depth in depths)
  highs = sorted(depth.high for depth in depths)
  index = math.ceil(_SHARE_OF_SET * len(depths)) - 1
  proposal = (-lows[index] if lows[index] else 0, highs[index])
  why = (
    'it does not use the whole depth that its file can hold'
    if all(depth.is_declared for depth in depths)
    else 'signed or floating pixels have no fixed range'
  )
  return (
    f'{why}: set data.value_range to the values of black and of white, which '
    f'are public and the same for all images, perhaps {proposal}'
  )
