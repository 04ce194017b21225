"""Selects the records of a step by exact Poisson sampling.

This is the first part of a private step. It runs on the host and yields
microbatches of fixed shape, from which `clipping` computes a clipped sum. Every
process computes the whole selection, which needs 8 bytes of SHAKE-256 per
record, and works on its share of it.

Guarantees:
  * Each record takes part in each step with probability
    floor(q 2^64) / 2^64 <= q, independently of other records and steps.
    `batch_selection_test.py::test_participation_is_binomial`,
    `::test_steps_and_records_are_independent`,
    `::test_threshold_is_exact`.
  * Neither the selection of a record nor its group, if groups take turns,
    depends on other records.
    `::test_appending_a_record_changes_its_own_coin_only`,
    `banded_sgd_test.py::test_a_record_more_changes_no_other`.
  * No selected record is dropped or repeated in the microbatches, and an empty
    batch has no microbatches and is not drawn again.
    `::test_microbatches_are_a_partition`, `::test_empty_batches_happen`.
  * Every process yields the same number of microbatches.
    `::test_every_process_yields_as_many`.
  * More records than an exact sum can hold are refused.
    `::test_too_many_records_are_refused`.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import fractions
import functools
import hashlib
import math
import struct

import numpy as np

from dp_diffusion import checks
from dp_diffusion.privacy import grid_limits

_DOMAIN = b'dp_diffusion/poisson/1'
_GROUP_DOMAIN = b'dp_diffusion/group/1'
_WORD_RANGE = 2**64
_RECORDS_PER_BLOCK = 1 << 20  # A block has 8 MiB of hash.


def selection_threshold(sampling_prob: float | fractions.Fraction) -> int:
  """Returns the number of 64-bit words that select a record.

  Args:
    sampling_prob: probability q in (0, 1]. A float means its exact binary
      value; pass `fractions.Fraction(B, N)` for a q that is no float.

  Returns:
    floor(q 2^64), an exact integer in [0, 2^64].

  >>> selection_threshold(0.5) == 2**63
  True
  >>> selection_threshold(fractions.Fraction(1, 3)) == 2**64 // 3
  True

  Raises:
    ValueError: q is not in (0, 1].
  """
  if not 0 < sampling_prob <= 1:
    raise ValueError(
      f'Expected sampling_prob={sampling_prob!r} to be in (0, 1].'
    )
  return math.floor(fractions.Fraction(sampling_prob) * _WORD_RANGE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSelector:
  """Selects the batch of each step.

  Attributes:
    secret: 256-bit secret of the run (`key_streams.Secret.value`).
    run_id: hex id of the run, `key_streams.run_id`.
    num_records: number N of records found. It does not affect q, which comes
      from the mechanism and its declared number.
    sampling_prob: probability q in (0, 1], a float or an exact fraction.
    num_groups: number of groups that take turns. The group of each record is
      drawn independently; at step t the records of group t mod num_groups are
      selected, each with probability q.
  """

  secret: bytes = dataclasses.field(repr=False)
  run_id: str
  num_records: int
  sampling_prob: float | fractions.Fraction
  num_groups: int = 1

  def __post_init__(self) -> None:
    checks.check_at_least('len(secret)', len(self.secret), 32)
    checks.check_at_least('num_records', self.num_records, 1)
    grid_limits.check_records('num_records', self.num_records)
    checks.check_at_least('num_groups', self.num_groups, 1)
    selection_threshold(self.sampling_prob)

  def select(self, step: int) -> np.ndarray:
    """Selects the records of one step; the same on every process.

    Args:
      step: number of the step, >= 0.

    Returns:
      int64[n], record indices in [0, N), rising; n varies and may be 0.

    Raises:
      ValueError: the step is negative.
    """
    checks.check_non_negative('step', step)
    if self.num_groups == 1:
      return self._select(step)
    selected = self._select(step)
    group = step % self.num_groups
    return selected[self._groups[selected] == group]

  @functools.cached_property
  def _groups(self) -> np.ndarray:
    """Returns the group of each record, uint64[N]."""
    return np.concatenate(
      [
        self._words(0, start, _GROUP_DOMAIN) % np.uint64(self.num_groups)
        for start in range(0, self.num_records, _RECORDS_PER_BLOCK)
      ]
    )

  def _select(self, step: int) -> np.ndarray:
    """Returns the records selected at a step, of all groups."""
    threshold = selection_threshold(self.sampling_prob)
    if threshold == _WORD_RANGE:  # q = 1; no word reaches it.
      return np.arange(self.num_records, dtype=np.int64)
    taking_part = [
      np.flatnonzero(self._words(step, start) < np.uint64(threshold)) + start
      for start in range(0, self.num_records, _RECORDS_PER_BLOCK)
    ]
    return np.concatenate(taking_part).astype(np.int64)

  def _words(
    self, step: int, start: int, domain: bytes = _DOMAIN
  ) -> np.ndarray:
    """Returns a uniform word per record of the block, uint64[n]."""
    run_id = self.run_id.encode()
    seed = b''.join(
      [
        struct.pack('<Q', len(domain)),
        domain,
        struct.pack('<Q', len(self.secret)),
        self.secret,
        struct.pack('<Q', len(run_id)),
        run_id,
        struct.pack('<QQ', step, start),
      ]
    )
    num_words = min(_RECORDS_PER_BLOCK, self.num_records - start)
    digest = hashlib.shake_256(seed).digest(8 * num_words)
    return np.frombuffer(digest, dtype='<u8')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
  """One microbatch of every device of one process.

  Attributes:
    indices: int32[D, M], record indices; 0 for padding.
    is_padding: bool[D, M], True where there is no record.
  """

  indices: np.ndarray
  is_padding: np.ndarray


def num_microbatches(
  num_selected: int, microbatch_size: int, global_device_count: int
) -> int:
  """Returns the microbatches that the fullest device needs.

  Every process yields this number.

  >>> num_microbatches(17, microbatch_size=4, global_device_count=2)
  3
  >>> num_microbatches(0, microbatch_size=4, global_device_count=2)
  0
  """
  return -(-num_selected // (microbatch_size * global_device_count))


def microbatches(
  indices: np.ndarray,
  microbatch_size: int,
  num_devices: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Slots]:
  """Divides a selection into microbatches of fixed shape.

  Process p works on `indices[p::P]`, and its device d on `[d::D]` of those.

  Args:
    indices: int64[n], the result of `PoissonSelector.select`.
    microbatch_size: number M of examples per device and microbatch.
    num_devices: number D of devices of each process, the same on all.
    process_index: number p of this process, in [0, P).
    process_count: number P of processes.

  Yields:
    `num_microbatches(n, M, D * P)` of `Slots`; none for an empty selection.

  Raises:
    ValueError: a size is not positive, or the process index is out of range.
  """
  checks.check_at_least('microbatch_size', microbatch_size, 1)
  checks.check_at_least('num_devices', num_devices, 1)
  if not 0 <= process_index < process_count:
    raise ValueError(
      f'Expected process_index={process_index!r} to be in'
      f' [0, {process_count!r}).'
    )
  count = num_microbatches(
    len(indices), microbatch_size, num_devices * process_count
  )
  shape = (num_devices, count * microbatch_size)
  slots = np.zeros(shape, np.int32)
  is_padding = np.ones(shape, np.bool_)
  share = indices[process_index::process_count]
  for device in range(num_devices):
    own = share[device::num_devices]
    slots[device, : len(own)] = own
    is_padding[device, : len(own)] = False
  for i in range(count):
    part = slice(i * microbatch_size, (i + 1) * microbatch_size)
    yield Slots(indices=slots[:, part], is_padding=is_padding[:, part])
