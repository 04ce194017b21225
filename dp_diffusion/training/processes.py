"""Several processes that are one run: joining, comparing, going in step.

Process 0 writes the files and speaks; `parallel` drives the devices. Every
function here is called by all processes, in the same order, and does next to
nothing where there is only one.

Guarantees:
  * Processes that disagree refuse to go on.
    `parallel_test.py::test_processes_that_disagree_refuse`.
  * What ends one process ends all, instead of leaving them waiting.
    `parallel_test.py::test_a_failure_on_one_process_ends_all`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
_SECRET_MESSAGE = struct.Struct('<32s?q')  # Value, is insecure, seed.
_ENVIRONMENT = (
  'JAX_COORDINATOR_ADDRESS',
  'JAX_NUM_PROCESSES',
  'JAX_PROCESS_ID',
)


def initialize_from_environment() -> None:
  """Joins the other processes of the job, if the environment names them.

  Reads JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES
  and JAX_PROCESS_ID; call it before anything asks jax for devices. Without
  them the job has one process.

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
  """Joins the other processes of the job, before jax is asked for devices.

  Args:
    enable: whether there are others. If not, the environment decides, see
      `initialize_from_environment`.
    coordinator_address: 'host:port' of process 0; '' where jax detects it
      (SLURM, TPU pods, ...).
    num_processes: in all; 0 where jax detects it.
    process_id: of this one; -1 where jax detects it.

  Raises:
    UsageError: jax detects no job here, or cannot join it.
  """
  if not enable:
    initialize_from_environment()
    return
  _join(
    coordinator_address or None,
    num_processes or None,
    process_id if process_id >= 0 else None,
  )


def _join(
  address: str | None, num_processes: int | None, process_id: int | None
) -> None:
  # Without it several processes on CPU cannot talk; accelerators ignore it.
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
  """Refuses to go on when processes hold different values.

  Args:
    facts: value by name. Pass keyed hashes (`key_streams.fingerprint`) of
      what is private; only hashes of the values travel.

  Raises:
    UsageError: a value, or the list of names, is not the same everywhere.
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
  """Whether a string is not the same on every process."""
  digest = hashlib.sha256(value.encode()).digest()
  own = np.frombuffer(digest, np.uint8)
  gathered = np.asarray(multihost_utils.process_allgather(own))
  return bool(np.any(gathered != own[None]))


def broadcast_secret(
  secret: key_streams.Secret | None,
) -> key_streams.Secret:
  """Gives every process the secret of process 0.

  Args:
    secret: what process 0 made or loaded; ignored on the others (None).
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
  """Whether any process raises the flag; the same answer on all.

  For stopping together: a process that stops alone leaves the others waiting
  in the next collective.
  """
  return smallest(int(not flag)) == 0


def smallest(number: int) -> int:
  """The smallest of the numbers that the processes give."""
  if jax.process_count() == 1:
    return number
  own = np.array(number, np.int32)
  return int(np.min(multihost_utils.process_allgather(own)))


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def is_main() -> bool:
  """Whether this process writes the files and speaks."""
  return jax.process_index() == 0


def together(fn: Callable[[], T]) -> T:
  """Does each process's part of some work, and ends all where one fails.

  Args:
    fn: without collectives.

  Returns:
    What `fn` returned here.

  Raises:
    Exception: what `fn` raised here.
    Interrupted: `fn` raised on another process.
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
  """Calls `fn` on process 0, then on the others: they find its caches."""
  result = on_main(fn)
  others = together(lambda: None if is_main() else fn())
  return result if is_main() else others  # type: ignore[return-value]
