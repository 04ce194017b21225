"""Exact sums on a fixed grid, which do not depend on the order of terms.

A private step uses them from the clip to the noise. The term of each record is
rounded toward zero to multiples of a unit. From then on integers are added:
over the records of a microbatch, over microbatches, over devices, and with the
noise. A float32 sum would be rounded at every addition. One record could then
change a long sum by twice its own norm, or change the rounding of all terms
after it.

The unit is 2^-24 of the bound B on the norm of a record's term, so no element
of a term exceeds 2^24 units. A number is two int32 words, high 2^20 + low with
0 <= low < 2^20. They hold

  * the sum of MAX_GROUP = 64 terms in one word before the carry, since
    2^30 + 2^20 < 2^31;
  * the sum of MAX_DEVICES = 1024 low words before the carry, 2^30;
  * MAX_RECORDS = 2^26 records in a sum, and noise of a std of up to
    MAX_NOISE_MULTIPLIER = 2^18 B: 2^26 2^4 + 192 2^18 2^4 < 2^31. A sample of
    `noise` is at most 12 std, of correlated noise at most a few times that.

Rounding costs no privacy. A term is rounded toward zero, element by element, so
its norm does not grow. Noise z is rounded to the unit. Since the sum X is an
integer in this unit, X + round(z) = round(X + z), which is post-processing of
X + z, and so is the conversion to float32 afterwards.

Guarantees:
  * A sum has the same bits in every order and grouping.
    `fixed_point_test.py::test_sums_are_exact_in_any_order`,
    `::test_devices_are_summed_exactly`.
  * Rounding a term toward zero does not increase its norm.
    `fixed_point_test.py::test_cutting_never_lengthens`.
  * Rounding the noise equals rounding the noised sum.
    `fixed_point_test.py::test_noise_is_rounded_with_the_sum`.
  * Values that the words cannot hold are refused; there is no wrap-around.
    `fixed_point_test.py::test_largest_sums_fit`,
    `::test_too_many_devices_are_refused`,
    `::test_too_many_records_are_refused`,
    `noise_test.py::test_too_much_noise_is_refused`,
    `batch_selection_test.py::test_too_many_records_are_refused`.
"""

from __future__ import annotations

from typing import TypeAlias

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import types
from dp_diffusion.privacy import grid_limits

UNIT_BITS = 24
MAX_GROUP = 64
MAX_DEVICES = grid_limits.MAX_DEVICES
MAX_RECORDS = grid_limits.MAX_RECORDS
MAX_NOISE_MULTIPLIER = grid_limits.MAX_NOISE_MULTIPLIER
_LOW_BITS = 20
_LOW_MASK = 2**_LOW_BITS - 1

# The high and the low words, two trees of int32 of the same shapes.
Words: TypeAlias = tuple[types.PyTree, types.PyTree]


class FixedPointSum(struct.PyTreeNode):
  """An exact sum, unit (high 2^20 + low) element by element.

  Attributes:
    high: tree of int32.
    low: tree of int32 in [0, 2^20), of the same shapes.
    unit: value of one step of the grid; static.
  """

  high: types.PyTree
  low: types.PyTree
  unit: float = struct.field(pytree_node=False)

  def __add__(self, other: FixedPointSum) -> FixedPointSum:
    """Adds a sum of other terms, exactly.

    Raises:
      ValueError: the other sum has another unit.
    """
    if self.unit != other.unit:
      raise ValueError(
        f'Expected unit={other.unit!r} to be {self.unit!r}, as in the sum that'
        ' it is added to.'
      )
    high = jax.tree.map(jnp.add, self.high, other.high)
    return from_words(add_to_low((high, self.low), other.low), self.unit)

  def to_floats(self) -> types.PyTree:
    """Returns the sum, or the noised sum, as float32; about the nearest."""

    def value(high: types.Array, low: types.Array) -> jax.Array:
      large = high.astype(jnp.float32) * np.float32(self.unit * 2**_LOW_BITS)
      return large + low.astype(jnp.float32) * np.float32(self.unit)

    return jax.tree.map(value, self.high, self.low)


def unit_of(bound: float) -> float:
  """Returns the unit for terms whose norm is at most `bound`."""
  return bound * 2.0**-UNIT_BITS


def zeros(tree: types.PyTree, unit: float) -> FixedPointSum:
  """Returns the sum of no terms, in the shapes of a tree."""
  return from_words((_zeros(tree), _zeros(tree)), unit)


def from_words(words: Words, unit: float) -> FixedPointSum:
  """Returns the sum with these words and unit."""
  return FixedPointSum(high=words[0], low=words[1], unit=unit)


def from_units(tree: types.PyTree, unit: float) -> FixedPointSum:
  """Rounds float32 numbers in units, at most 2^51 each, to integers."""
  # Both words of an integer that float32 holds are float32 numbers too.
  whole = jax.tree.map(jnp.round, tree)
  high = jax.tree.map(lambda x: jnp.floor(x * 2.0**-_LOW_BITS), whole)
  low = jax.tree.map(lambda x, h: x - h * 2.0**_LOW_BITS, whole, high)
  return from_words(jax.tree.map(_to_int32, (high, low)), unit)


def from_host(exact: np.ndarray, unit: float) -> FixedPointSum:
  """Converts a sum that was computed on the host.

  Args:
    exact: float64[...], multiples of the unit, summed over at most MAX_RECORDS
      records.
    unit: unit of the grid, a power of two.

  Raises:
    ValueError: there are more records than the words can hold.
  """
  units = exact / unit
  if np.any(np.abs(units) > MAX_RECORDS * 2.0**UNIT_BITS):
    raise ValueError(f'Expected at most {MAX_RECORDS} records in a sum.')
  whole = units.astype(np.int64)
  high, low = whole >> _LOW_BITS, whole & _LOW_MASK
  return from_words((high.astype(np.int32), low.astype(np.int32)), unit)


def cut(units: types.Array) -> types.Array:
  """Rounds float32[...] in units toward zero, to int32[...]."""
  return _to_int32(units)


def cut_on_host(terms: np.ndarray, unit: float) -> np.ndarray:
  """Rounds float64[...] toward zero to multiples of the unit, float64[...]."""
  return np.trunc(terms / unit)


def add_to_low(words: Words, part: types.PyTree) -> Words:
  """Adds an int32 sum of at most 64 terms, or a low word, with the carry."""
  high, low = words
  total = jax.tree.map(jnp.add, low, part)
  high = jax.tree.map(lambda h, t: h + (t >> _LOW_BITS), high, total)
  return high, jax.tree.map(lambda t: t & _LOW_MASK, total)


def split(part: types.PyTree) -> Words:
  """Splits int32 sums of at most 64 terms into words."""
  high = jax.tree.map(lambda x: x >> _LOW_BITS, part)
  return high, jax.tree.map(lambda x: x & _LOW_MASK, part)


def psum(total: FixedPointSum, axis_name: str | None) -> FixedPointSum:
  """Returns the exact sum over devices; without an axis the sum itself.

  Raises:
    ValueError: there are more than MAX_DEVICES devices.
  """
  if axis_name is None:
    return total
  num_devices = jax.lax.axis_size(axis_name)
  if num_devices > MAX_DEVICES:
    raise ValueError(
      f'Expected at most {MAX_DEVICES} devices, found {num_devices}: their'
      ' sums would not fit the words; use fewer.'
    )
  high, low = jax.lax.psum((total.high, total.low), axis_name)
  return from_words(add_to_low((high, _zeros(low)), low), total.unit)


def _zeros(tree: types.PyTree) -> types.PyTree:
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), tree)


def _to_int32(x: types.Array) -> types.Array:
  return x.astype(jnp.int32)
