"""Joins, compares and synchronises the processes of a run.

Process 0 writes the files and prints messages; `parallel` uses the devices. All
processes call the functions of this module, in the same order. With a single
process they do almost nothing.

Guarantees:
  * Processes with different values refuse to go on.
    `parallel_test.py::test_processes_that_disagree_refuse`.
  * An error on one process ends all, so that none waits forever.
    `parallel_test.py::test_a_failure_on_one_process_ends_all`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
import os
import struct
from typing import TypeVar

import jax
from jax.experimental import multihost_utils
import numpy as np

from dp_diffusion import errors
from dp_diffusion.privacy import key_streams

T = TypeVar('T')
_SECRET_MESSAGE = struct.Struct('<32s?q')  # (value, is_insecure, seed).
_ENVIRONMENT = (
  'JAX_COORDINATOR_ADDRESS',
  'JAX_NUM_PROCESSES',
  'JAX_PROCESS_ID',
)


def initialize_from_environment() -> None:
  """Joins the other processes of the job, if the environment names them.

  It reads JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES
  and JAX_PROCESS_ID. Without them the job has one process. Call the function
  before any code asks JAX for devices.

  Raises:
    UsageError: some of the three are set, but not all.
  """
  values = {name: os.environ.get(name, '') for name in _ENVIRONMENT}
  if not any(values.values()):
    return
  missing = [name for name, value in values.items() if not value]
  if missing:
    raise errors.UsageError(
      f'Expected {", ".join(missing)} to be set too, for several processes.'
    )
  address, *numbers = values.values()
  if not all(number.isdecimal() for number in numbers):
    raise errors.UsageError(
      f'Expected {" and ".join(_ENVIRONMENT[1:])} to be numbers, found'
      f' {" and ".join(map(repr, numbers))}.'
    )
  _join(address, *map(int, numbers))


def initialize(
  *,
  enable: bool,
  coordinator_address: str = '',
  num_processes: int = 0,
  process_id: int = -1,
) -> None:
  """Joins the other processes of the job, before JAX is asked for devices.

  Args:
    enable: whether there are other processes. If False, the environment
      decides, see `initialize_from_environment`.
    coordinator_address: 'host:port' of process 0; '' lets JAX detect it
      (SLURM, TPU pods, ...).
    num_processes: number of processes; 0 lets JAX detect it.
    process_id: number of this process; -1 lets JAX detect it.

  Raises:
    UsageError: JAX detects no job, or cannot join it.
  """
  if not enable:
    initialize_from_environment()
    return
  _join(
    coordinator_address or None,
    num_processes or None,
    process_id if process_id >= 0 else None,
  )


def expected_count(*, enable: bool, num_processes: int) -> int:
  """Returns the number of processes that `initialize` would join.

  It contacts none of them. Where JAX would have to detect them it is 1.

  Args:
    enable: see `initialize`.
    num_processes: see `initialize`.
  """
  if enable:
    return max(1, num_processes)
  number = os.environ.get('JAX_NUM_PROCESSES', '')
  return max(1, int(number)) if number.isdecimal() else 1


def _join(
  address: str | None, num_processes: int | None, process_id: int | None
) -> None:
  # CPU processes need it to communicate; accelerators ignore it.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  try:
    jax.distributed.initialize(address, num_processes, process_id)
  except (ValueError, RuntimeError) as error:
    raise errors.UsageError(
      f'Cannot join the other processes ({error}): where jax detects no SLURM,'
      ' Open MPI or TPU pod, set distributed.coordinator_address (host:port of'
      ' process 0), distributed.num_processes and distributed.process_id (0,'
      ' 1, ...); for a single process leave distributed.enable=false.'
    ) from error


def agree(facts: Mapping[str, str]) -> None:
  """Raises an error if processes have different values.

  Args:
    facts: values by name. For private values pass keyed hashes
      (`key_streams.fingerprint`). Only hashes of the values are exchanged.

  Raises:
    UsageError: a value, or the list of names, differs between processes.
  """
  if jax.process_count() == 1:
    return
  names = sorted(facts)
  if _differs('\n'.join(names)):
    different = ['the list of facts to compare']
  else:
    different = [name for name in names if _differs(facts[name])]
  if different:
    raise errors.UsageError(
      f'Expected {", ".join(different)} to be the same on all'
      f' {jax.process_count()} processes: start them with the same code,'
      ' config and data.'
    )


def _differs(value: str) -> bool:
  """Whether a string differs between processes."""
  digest = hashlib.sha256(value.encode()).digest()
  own = np.frombuffer(digest, np.uint8)
  gathered = np.asarray(multihost_utils.process_allgather(own))
  return bool(np.any(gathered != own[None]))


def broadcast_secret(
  secret: key_streams.Secret | None,
) -> key_streams.Secret:
  """Gives every process the secret of process 0.

  Args:
    secret: the secret that process 0 made or loaded; None on the others.
  """
  if jax.process_count() == 1:
    assert secret is not None
    return secret
  message = bytes(_SECRET_MESSAGE.size)
  if jax.process_index() == 0:
    assert secret is not None
    message = _SECRET_MESSAGE.pack(
      secret.value, secret.is_insecure, secret.insecure_seed or 0
    )
  received = multihost_utils.broadcast_one_to_all(
    np.frombuffer(message, np.uint8)
  )
  value, is_insecure, seed = _SECRET_MESSAGE.unpack(
    np.asarray(received, np.uint8).tobytes()
  )
  return key_streams.Secret(
    value=value, insecure_seed=seed if is_insecure else None
  )


def any_process(flag: bool) -> bool:
  """Whether the flag is set on any process; all get the same answer.

  Processes use it to stop together: if one stopped alone, the others would wait
  for it in the next collective.
  """
  return smallest(int(not flag)) == 0


def smallest(number: int) -> int:
  """Returns the smallest number that a process passes, on all processes."""
  if jax.process_count() == 1:
    return number
  own = np.array(number, np.int32)
  return int(np.min(multihost_utils.process_allgather(own)))


def gather(array: np.ndarray) -> np.ndarray:
  """Returns the arrays [...] of all P processes as [P, ...], on each of them.

  Args:
    array: of the same shape and dtype on all processes.
  """
  if jax.process_count() == 1:
    return array[None]
  own = np.frombuffer(array.tobytes(), np.uint8)  # JAX would round float64.
  gathered = np.asarray(multihost_utils.process_allgather(own), np.uint8)
  found = np.frombuffer(gathered.tobytes(), array.dtype)
  return found.reshape(-1, *array.shape)


def barrier(name: str) -> None:
  """Waits until every process has called it."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def is_main() -> bool:
  """Whether this process writes files and prints messages."""
  return jax.process_index() == 0


@dataclasses.dataclass(frozen=True)
class Share:
  """The part of divided work that one process does.

  >>> Share(index=1, count=3).of(range(7))
  range(1, 7, 3)

  Attributes:
    index: number of the process, from 0.
    count: number of processes.
  """

  index: int = 0
  count: int = 1

  def of(self, items: Sequence[T]) -> Sequence[T]:
    """Returns the items of the process; processes take turns, item by item."""
    return items[self.index :: self.count]


def own_share() -> Share:
  """Returns the share of this process."""
  return Share(jax.process_index(), jax.process_count())


def together(fn: Callable[[], T]) -> T:
  """Calls a function on each process; an error on one ends all.

  Args:
    fn: the work of this process, without collectives.

  Returns:
    The result of `fn` on this process.

  Raises:
    Exception: the error of `fn` on this process.
    Interrupted: `fn` raised an error on another process.
  """
  result, failure = None, None
  try:
    result = fn()
  except Exception as error:
    failure = error
  if any_process(failure is not None):
    raise failure or errors.Interrupted(
      'Stopped, since another process cannot go on; its message says why.'
    )
  return result  # type: ignore[return-value]


def on_main(fn: Callable[[], T]) -> T | None:
  """Calls `fn` on process 0 while the others wait; see `together`."""
  return together(fn if is_main() else lambda: None)


def main_first(fn: Callable[[], T]) -> T:
  """Calls `fn` on process 0, then on the others, which can use its caches."""
  result = on_main(fn)
  others = together(lambda: None if is_main() else fn())
  return result if is_main() else others  # type: ignore[return-value]
