"""Sums on a fixed grid, which are exact: no order of terms changes them.

From the clip to the noise of a private step: what a record adds is cut to
multiples of a unit, and from there on integers are added, over the records of
a microbatch, over microbatches, over devices, and the noise too. A float32 sum
would be rounded at every addition, so that one record could move a long sum by
twice its own norm, or move the rounding of all the others by standing before
them.

The unit is 2^-24 of the bound B on the norm of a record's term, so no element
of a term exceeds 2^24 units. A number is two int32 words, high 2^20 + low with
0 <= low < 2^20. That is enough for

  * MAX_GROUP = 64 terms in one word before the carry: 2^30 + 2^20 < 2^31;
  * MAX_DEVICES = 1024 low words before the carry: 2^30;
  * MAX_RECORDS = 2^26 records in a sum, and noise of a std of up to
    MAX_NOISE_MULTIPLIER = 2^18 B: 2^26 2^4 + 192 2^18 2^4 < 2^31. A sample of
    `noise` is at most 12 std, of correlated noise at most a few times that.

Why cutting and rounding cost no privacy: a term is cut toward zero, element by
element, so its norm does not grow. Noise z is rounded to the unit, and as the
sum X is an integer there, X + round(z) = round(X + z): a function of X + z, as
is what a float32 makes of it afterwards.

Guarantees:
  * A sum is the same to the bit in every order and grouping.
    `fixed_point_test.py::test_sums_are_exact_in_any_order`,
    `::test_devices_are_summed_exactly`.
  * A term that is cut is no longer than it was.
    `fixed_point_test.py::test_cutting_never_lengthens`.
  * Rounding the noise is rounding the noised sum.
    `fixed_point_test.py::test_noise_is_rounded_with_the_sum`.
  * What the words cannot hold is refused, never wrapped around.
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

UNIT_BITS = 24
MAX_GROUP = 64
MAX_DEVICES = 2**10
MAX_RECORDS = 2**26
MAX_NOISE_MULTIPLIER = 2.0**18
_LOW_BITS = 20
_LOW_MASK = 2**_LOW_BITS - 1

# The high and the low words: trees of int32, of the same shapes.
Words: TypeAlias = tuple[types.PyTree, types.PyTree]


class FixedPointSum(struct.PyTreeNode):
  """An exact sum: unit (high 2^20 + low), element by element.

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
      ValueError: it is on another grid.
    """
    if self.unit != other.unit:
      raise ValueError(
        f'Expected unit={other.unit!r} to be {self.unit!r}, as in the sum that'
        ' it is added to.'
      )
    high = jax.tree.map(jnp.add, self.high, other.high)
    return from_words(add_to_low((high, self.low), other.low), self.unit)

  def to_floats(self) -> types.PyTree:
    """The nearest float32, about: of the sum, or of what it became by noise."""

    def value(high: types.Array, low: types.Array) -> jax.Array:
      large = high.astype(jnp.float32) * np.float32(self.unit * 2**_LOW_BITS)
      return large + low.astype(jnp.float32) * np.float32(self.unit)

    return jax.tree.map(value, self.high, self.low)


def unit_of(bound: float) -> float:
  """The unit for terms of a norm of at most `bound`."""
  return bound * 2.0**-UNIT_BITS


def zeros(tree: types.PyTree, unit: float) -> FixedPointSum:
  """The sum of no terms, in the shapes of a tree."""
  return from_words((_zeros(tree), _zeros(tree)), unit)


def from_words(words: Words, unit: float) -> FixedPointSum:
  """Gives words their unit."""
  return FixedPointSum(high=words[0], low=words[1], unit=unit)


def from_units(tree: types.PyTree, unit: float) -> FixedPointSum:
  """Rounds float32 numbers of units, at most 2^51 each, to whole ones."""
  # Of an integer that float32 holds, both parts are float32 numbers as well.
  whole = jax.tree.map(jnp.round, tree)
  high = jax.tree.map(lambda x: jnp.floor(x * 2.0**-_LOW_BITS), whole)
  low = jax.tree.map(lambda x, h: x - h * 2.0**_LOW_BITS, whole, high)
  return from_words(jax.tree.map(_to_int32, (high, low)), unit)


def from_host(exact: np.ndarray, unit: float) -> FixedPointSum:
  """Takes a sum that was made on the host.

  Args:
    exact: float64[...], multiples of the unit, of at most MAX_RECORDS records.
    unit: of the grid, a power of two.

  Raises:
    ValueError: there are more records than the words hold.
  """
  units = exact / unit
  if np.any(np.abs(units) > MAX_RECORDS * 2.0**UNIT_BITS):
    raise ValueError(f'Expected at most {MAX_RECORDS} records in a sum.')
  whole = units.astype(np.int64)
  high, low = whole >> _LOW_BITS, whole & _LOW_MASK
  return from_words((high.astype(np.int32), low.astype(np.int32)), unit)


def cut(units: types.Array) -> types.Array:
  """Cuts float32 numbers of units toward zero: int32[...]."""
  return _to_int32(units)


def cut_on_host(terms: np.ndarray, unit: float) -> np.ndarray:
  """Cuts float64 terms toward zero: float64[...], whole numbers of units."""
  return np.trunc(terms / unit)


def add_to_low(words: Words, part: types.PyTree) -> Words:
  """Adds int32 of at most 64 terms, or of another low word, and carries."""
  high, low = words
  total = jax.tree.map(jnp.add, low, part)
  high = jax.tree.map(lambda h, t: h + (t >> _LOW_BITS), high, total)
  return high, jax.tree.map(lambda t: t & _LOW_MASK, total)


def split(part: types.PyTree) -> Words:
  """The words of int32 sums of at most 64 terms."""
  high = jax.tree.map(lambda x: x >> _LOW_BITS, part)
  return high, jax.tree.map(lambda x: x & _LOW_MASK, part)


def psum(total: FixedPointSum, axis_name: str | None) -> FixedPointSum:
  """The sum over devices, exactly; itself without an axis.

  Raises:
    ValueError: there are more devices than low words can be added of.
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
