"""The secret of a run, and the keys derived from it.

`batch_selection` and `noise` take their randomness from here, and processes
compare data by the keyed hashes of this module. Public randomness (initial
weights, sampling) comes from `config.seed` instead.

Every key is the BLAKE2b hash, keyed by the secret, of (purpose, run id, step,
...). The purpose is the personalisation of the hash, and each part is prefixed
by its type and length, so that different purposes or arguments are never hashed
as the same message.

Guarantees:
  * The secret is 256 bits of `os.urandom`, readable by its owner alone, and
    never overwritten.
    `key_streams_test.py::test_create_is_private_and_exclusive`,
    `::test_load_refuses_loose_permissions`, `::test_load_refuses_wrong_size`.
  * `repr` does not show it. `::test_repr_hides_the_secret`.
  * Keys of different purposes, steps, runs and secrets differ.
    `::test_purposes_never_collide`, `::test_parts_are_unambiguous`.
  * Each of the four keys of a step's noise is a hash of its own, so that all
    256 bits must be guessed.
    `::test_each_key_of_the_noise_is_a_hash_of_its_own`.
  * A draw key belongs to (step, record, draw), not to a slot, a device or a
    microbatch. `::test_draw_keys_follow_the_record`.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import fractions
import hashlib
import json
import os
import pathlib
import stat
from typing import Any
import uuid

import jax
import jax.numpy as jnp
import numpy as np

from dp_diffusion import errors
from dp_diffusion import types
from dp_diffusion.privacy import batch_selection

NUM_NOISE_KEYS = 4
SECRET_BYTES = 32
_KEY_IMPL = 'threefry2x32'  # 64 bits of key; noise uses four of them.
_INSECURE_PREFIX = b'INSECURE secret for tests, seed '
_HASH_BLOCK_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Secret:
  """A secret of 256 bits, which must stay in `private/`.

  Attributes:
    value: the 32 bytes.
    insecure_seed: None for a true secret. If a test plants a known secret, its
      seed; a release that was made with it is not private, and says so.
  """

  value: bytes = dataclasses.field(repr=False)
  insecure_seed: int | None = None

  def __post_init__(self) -> None:
    if len(self.value) != SECRET_BYTES:
      raise ValueError(
        f'Expected len(secret)={len(self.value)} to be {SECRET_BYTES}.'
      )

  @property
  def is_insecure(self) -> bool:
    """Whether the secret can be guessed, because a test planted it."""
    return self.insecure_seed is not None

  @classmethod
  def insecure(cls, seed: int) -> Secret:
    """Returns a known secret for tests, marked as insecure, also on disk."""
    value = hashlib.sha256(_INSECURE_PREFIX + b'%d' % seed).digest()
    return cls(value=value, insecure_seed=int(seed))

  @classmethod
  def create(cls, path: str | os.PathLike[str]) -> Secret:
    """Draws a new secret from the OS and stores it.

    Args:
      path: local file that does not exist; its folder is made with mode 700.

    Raises:
      UsageError: the file exists, the path is remote, or the folder can be
        read by others.
    """
    secret = cls(value=os.urandom(SECRET_BYTES))
    secret.save(path)
    return secret

  def save(self, path: str | os.PathLike[str]) -> None:
    """Stores the secret with mode 600, whole or not at all, never overwriting.

    Args:
      path: local file that does not exist.

    Raises:
      UsageError: as for `create`.
    """
    _check_local(path)
    file = pathlib.Path(path)
    _make_private_folder(file.parent)
    try:
      _write_once(file, self._file_content())
    except FileExistsError:
      raise errors.UsageError(
        f'Expected no secret at {file}: it is never overwritten; load it, or'
        ' start in another folder.'
      ) from None

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> Secret:
    """Reads a stored secret.

    Args:
      path: local file.

    Raises:
      UsageError: the file is missing, can be read by others, or does not hold
        a secret.
    """
    _check_local(path)
    file = pathlib.Path(path)
    if not file.is_file():
      raise errors.UsageError(
        f'Expected a secret at {file}, which does not exist: restore it'
        ' (a run cannot be resumed without its secret).'
      )
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
      raise errors.UsageError(
        f'Expected {file} with mode {mode:o} to be readable by its owner'
        ' alone: if nobody else can have read it, run chmod 600 on it.'
      )
    content = file.read_bytes()
    if content.startswith(_INSECURE_PREFIX):
      return cls.insecure(int(content[len(_INSECURE_PREFIX) :]))
    if len(content) != SECRET_BYTES:
      raise errors.UsageError(
        f'Expected {file} with {len(content)} bytes to hold {SECRET_BYTES}:'
        ' it is damaged; restore it from a copy.'
      )
    return cls(value=content)

  def _file_content(self) -> bytes:
    if self.insecure_seed is None:
      return self.value
    return _INSECURE_PREFIX + b'%d\n' % self.insecure_seed


def claim(folder: str | os.PathLike[str], owner: str) -> None:
  """Reserves a folder of secrets for one run, permanently.

  Args:
    folder: local folder; it is made with mode 700.
    owner: a string that identifies the run.

  Raises:
    UsageError: the folder is remote, can be read by other users, or belongs to
      another run.
  """
  _check_local(folder)
  file = pathlib.Path(folder) / 'owner'
  _make_private_folder(file.parent)
  try:
    _write_once(file, owner.encode())
  except FileExistsError:
    if file.read_text().strip() != owner:
      raise errors.UsageError(
        f'Expected {folder} to be a folder of secrets that no other workdir'
        ' uses: two runs with one secret would add the same noise. Give another'
        ' privacy.secret_dir.'
      ) from None


def _write_once(file: pathlib.Path, content: bytes) -> None:
  """Writes a file with mode 600, whole or not at all.

  Raises:
    FileExistsError: the file exists.
  """
  temporary = file.with_name(f'.{file.name}.{uuid.uuid4().hex}.tmp')
  descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
  try:
    with os.fdopen(descriptor, 'wb') as f:
      f.write(content)
      f.flush()
      os.fsync(f.fileno())
    os.link(temporary, file)  # Unlike a rename it fails if the file exists.
  finally:
    temporary.unlink(missing_ok=True)


def _check_local(path: str | os.PathLike[str]) -> None:
  if '://' in os.fspath(path):
    raise errors.UsageError(
      f'Expected the secret at {path} to be in a local folder: set'
      ' privacy.secret_dir to one.'
    )


def _make_private_folder(folder: pathlib.Path) -> None:
  """Makes a folder of mode 700; refuses one that other users may enter."""
  if not folder.exists():
    folder.mkdir(mode=0o700, parents=True)
  mode = stat.S_IMODE(folder.stat().st_mode)
  if mode & 0o077:
    raise errors.UsageError(
      f'Expected folder {folder} with mode {mode:o} to be closed to others:'
      ' run chmod 700 on it.'
    )


def _encode(part: Any) -> bytes:
  """Encodes a part with type and length, so that lists are unambiguous."""
  if isinstance(part, bytes):
    tag, data = b'b', part
  elif isinstance(part, str):
    tag, data = b's', part.encode()
  elif isinstance(part, (int, np.integer)) and not isinstance(part, bool):
    tag, data = b'i', b'%d' % int(part)
  else:
    raise TypeError(f'Expected bytes, str, int or array, not {type(part)}.')
  return tag + len(data).to_bytes(8, 'little') + data


def _update_with_array(digest: Any, array: np.ndarray) -> None:
  """Hashes dtype, shape and values in blocks of rows, even memory-mapped."""
  digest.update(_encode(f'array {array.dtype.str} {array.shape}'))
  if not array.size:
    return
  rows = np.atleast_1d(array)
  row_bytes = max(1, rows.nbytes // len(rows))
  block = max(1, _HASH_BLOCK_BYTES // row_bytes)
  for start in range(0, len(rows), block):
    digest.update(np.ascontiguousarray(rows[start : start + block]).tobytes())


def _keyed_hash(
  secret: Secret, purpose: str, parts: tuple[Any, ...], size: int
) -> bytes:
  """Returns `size` bytes of BLAKE2b, keyed by the secret."""
  person = hashlib.blake2b(purpose.encode(), digest_size=16).digest()
  digest = hashlib.blake2b(key=secret.value, person=person, digest_size=size)
  for part in parts:
    if isinstance(part, np.ndarray):
      _update_with_array(digest, part)
    else:
      digest.update(_encode(part))
  return digest.digest()


def fingerprint(secret: Secret, purpose: str, *parts: Any) -> str:
  """Returns a keyed hash, to compare data without showing them.

  Args:
    secret: key of the hash. Without it nobody can test a guess of the data.
    purpose: name of what is compared, such as 'dataset order'.
    *parts: bytes, str, int or arrays (read in blocks).

  Returns:
    32 hex characters. They do not depend on the run id and may be part of it.
  """
  return _keyed_hash(secret, f'fingerprint/{purpose}', parts, 16).hex()


def run_id(secret: Secret, facts: Mapping[str, Any]) -> str:
  """Returns the id of a run, which depends on its facts.

  Facts that must not change the keys, such as the number of devices or the size
  of microbatches, must be left out.

  Args:
    secret: key of the hash, so that the id reveals nothing about the facts.
    facts: JSON values: mechanism, dataset fingerprint, training config,
      `rng_test_vector()`.

  Returns:
    32 hex characters.
  """
  text = json.dumps(
    facts, sort_keys=True, separators=(',', ':'), allow_nan=False
  )
  return _keyed_hash(secret, 'run id', (text,), 16).hex()


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyStreams:
  """All secret randomness of one run.

  Attributes:
    secret: secret of the run.
    run_id: hex id of the run, the result of `run_id`.
  """

  secret: Secret
  run_id: str

  def noise_keys(self, step: int) -> types.Key:
    """Returns the keys of the noise of a step, typed keys[4] of 256 bits."""
    return _typed_keys(
      [self._hash('noise', 8, step, i) for i in range(NUM_NOISE_KEYS)]
    )

  def draw_key(self, step: int) -> types.Key:
    """Returns the key of a step for `draw_keys`, a typed key[]."""
    return _typed_keys([self._hash('draw', 8, step)])[0]

  def statistic_keys(self, purpose: str) -> types.Key:
    """Returns the keys of the noise of a statistic, typed keys[4]."""
    name = f'statistic/{purpose}'
    return _typed_keys([self._hash(name, 8, i) for i in range(NUM_NOISE_KEYS)])

  def seed_bytes(self, purpose: str, step: int) -> bytes:
    """Returns 32 secret bytes for randomness on the host."""
    return self._hash(f'seed/{purpose}', 32, step)

  def poisson_selector(
    self,
    num_records: int,
    sampling_prob: float | fractions.Fraction,
    num_groups: int = 1,
  ) -> batch_selection.PoissonSelector:
    """Returns the selector of this run's batches."""
    return batch_selection.PoissonSelector(
      secret=self.secret.value,
      run_id=self.run_id,
      num_records=num_records,
      sampling_prob=sampling_prob,
      num_groups=num_groups,
    )

  def _hash(self, purpose: str, size: int, *parts: int) -> bytes:
    return _keyed_hash(self.secret, purpose, (self.run_id, *parts), size)


def _typed_keys(digests: list[bytes]) -> types.Key:
  data = np.frombuffer(b''.join(digests), '<u4').reshape(-1, 2)
  return jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32), impl=_KEY_IMPL)


def draw_keys(
  step_key: types.Key, indices: types.Array, num_draws: int
) -> types.Key:
  """Derives the keys of the K draws of each record, on the device.

  Args:
    step_key: typed key[], the result of `KeyStreams.draw_key`.
    indices: int32[B], record indices (not slots).
    num_draws: number of draws K.

  Returns:
    Typed keys[B, K]: fold_in(fold_in(step_key, index), k).
  """
  fold_many = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  record_keys = fold_many(step_key, indices)
  draws = np.arange(num_draws, dtype=np.int32)
  return jax.vmap(fold_many, in_axes=(0, None))(record_keys, draws)


def rng_test_vector() -> str:
  """Returns a hash of fixed draws, which shows if the generator has changed.

  A resumed run whose stored hash differs would draw other noise for a repeated
  step, so such a step must be charged again.

  Returns:
    64 hex characters, a hash of bits, normals, splits and selections from a
    known key.
  """
  secret = Secret.insecure(0)
  streams = KeyStreams(secret=secret, run_id='rng test vector')
  noise_keys = streams.noise_keys(0)
  draws = draw_keys(streams.draw_key(0), jnp.arange(3, dtype=jnp.int32), 2)
  selected = streams.poisson_selector(100, 0.5).select(0)
  digest = hashlib.sha256()
  for array in (
    jax.vmap(lambda key: jax.random.normal(key, (64,)))(noise_keys),
    jax.random.key_data(draws),
    jax.random.bits(draws[0, 0], (8,)),
    jax.random.key_data(jax.random.split(draws[1, 1], 3)),
    selected,
  ):
    digest.update(np.asarray(array).tobytes())
  return digest.hexdigest()
