"""The secret is kept, and keys of different purposes never meet."""

from __future__ import annotations

import hashlib
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import batch_selection
from dp_diffusion.privacy import key_streams

SECRET = key_streams.Secret.insecure(0)


def streams(secret=SECRET, run_id='run'):
  return key_streams.KeyStreams(secret=secret, run_id=run_id)


def test_create_is_private_and_exclusive(tmp_path):
  path = tmp_path / 'private' / 'secret'
  secret = key_streams.Secret.create(path)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
  assert path.read_bytes() == secret.value
  assert len(secret.value) == 32
  assert not secret.is_insecure
  with pytest.raises(errors.UsageError, match='never overwritten'):
    key_streams.Secret.create(path)
  assert key_streams.Secret.load(path) == secret
  assert os.listdir(path.parent) == ['secret']  # No temporary file is left.


def test_create_is_not_loosened_by_the_umask(tmp_path):
  old = os.umask(0)
  try:
    key_streams.Secret.create(tmp_path / 'a' / 'secret')
  finally:
    os.umask(old)
  assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == 0o700
  assert stat.S_IMODE((tmp_path / 'a' / 'secret').stat().st_mode) == 0o600


def test_secrets_come_from_the_operating_system(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'urandom', lambda n: bytes(range(n)))
  secret = key_streams.Secret.create(tmp_path / 'p' / 'secret')
  assert secret.value == bytes(range(32))


def test_a_failed_write_leaves_no_secret(tmp_path, monkeypatch):
  def fail(_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fail)
  with pytest.raises(OSError, match='No space left'):
    key_streams.Secret.create(tmp_path / 'p' / 'secret')
  assert not os.listdir(tmp_path / 'p')


def test_open_folder_is_refused(tmp_path):
  folder = tmp_path / 'open'
  folder.mkdir()
  folder.chmod(0o755)
  with pytest.raises(errors.UsageError, match='chmod 700'):
    key_streams.Secret.create(folder / 'secret')
  assert not os.listdir(folder)


def test_remote_path_is_refused():
  with pytest.raises(errors.UsageError, match='privacy.secret_dir'):
    key_streams.Secret.create('gs://bucket/secret')
  with pytest.raises(errors.UsageError, match='privacy.secret_dir'):
    key_streams.Secret.load('gs://bucket/secret')


@pytest.mark.parametrize('mode', [0o640, 0o604, 0o660, 0o601])
def test_load_refuses_loose_permissions(tmp_path, mode):
  path = tmp_path / 'p' / 'secret'
  key_streams.Secret.create(path)
  path.chmod(mode)
  with pytest.raises(errors.UsageError, match=f'mode {mode:o}'):
    key_streams.Secret.load(path)


@pytest.mark.parametrize('size', [0, 31, 33])
def test_load_refuses_wrong_size(tmp_path, size):
  path = tmp_path / 'secret'
  path.write_bytes(bytes(size))
  path.chmod(0o600)
  with pytest.raises(errors.UsageError, match=f'{size} bytes'):
    key_streams.Secret.load(path)


def test_load_refuses_a_missing_file(tmp_path):
  with pytest.raises(errors.UsageError, match='does not exist'):
    key_streams.Secret.load(tmp_path / 'secret')


def test_insecure_secret_stays_marked_on_disk(tmp_path):
  path = tmp_path / 'p' / 'secret'
  key_streams.Secret.insecure(12).save(path)
  loaded = key_streams.Secret.load(path)
  assert loaded == key_streams.Secret.insecure(12)
  assert loaded.is_insecure
  assert loaded != key_streams.Secret.insecure(13)


def test_repr_hides_the_secret():
  secret = key_streams.Secret(value=bytes(range(32)))
  for text in (repr(secret), repr(streams(secret)), str(secret)):
    assert secret.value.hex() not in text
    assert repr(secret.value) not in text


def test_secret_has_a_fixed_size():
  with pytest.raises(ValueError, match='31'):
    key_streams.Secret(value=bytes(31))


def all_keys(stream, num_steps=4):
  """Every 8-byte key that a stream gives, by name."""
  keys = {}
  for step in range(num_steps):
    for i, data in enumerate(jax.random.key_data(stream.noise_keys(step))):
      keys[f'noise {step} {i}'] = np.asarray(data).tobytes()
    draw = jax.random.key_data(stream.draw_key(step))
    keys[f'draw {step}'] = np.asarray(draw).tobytes()
    for purpose in ('poisson', 'noise', 'draw', 'person', ''):
      seed = stream.seed_bytes(purpose, step)
      assert len(seed) == 32
      keys[f'seed {purpose} {step}'] = seed[:8]
  for purpose in ('noise', 'draw', 'run id', 'seed/noise'):
    prints = key_streams.fingerprint(stream.secret, purpose, stream.run_id, 0)
    keys[f'fingerprint {purpose}'] = bytes.fromhex(prints)[:8]
  return keys


def test_purposes_never_collide():
  collected = {}
  for name, stream in {
    'a': streams(),
    'other run': streams(run_id='other'),
    'other secret': streams(key_streams.Secret.insecure(1)),
  }.items():
    keys = all_keys(stream)
    collected |= {f'{name}: {key}': value for key, value in keys.items()}
  # A run id has no part in fingerprints but the one it is passed as.
  assert len(set(collected.values())) == len(collected)


def test_purposes_differ_however_late():
  """Hashed whole: what BLAKE2b takes as a personalisation has 16 bytes."""
  stream, secret = streams(), key_streams.Secret.insecure(0)
  for length in (1, 15, 16, 17, 63, 64, 200):
    one, other = (length * 'a' + end for end in 'bc')
    assert stream.seed_bytes(one, 0) != stream.seed_bytes(other, 0)
    assert key_streams.fingerprint(secret, one) != key_streams.fingerprint(
      secret, other
    )
    keys = [
      np.asarray(jax.random.key_data(stream.statistic_keys(purpose)))
      for purpose in (one, other)
    ]
    assert not np.any(np.all(keys[0] == keys[1], axis=1))


@pytest.mark.parametrize('exponent', [8, 15, 16, 31, 32, 48])
def test_keys_do_not_come_back_after_many_steps(exponent):
  steps = (1, 1 + 2**exponent, 2**exponent)
  stream = streams()
  selector = stream.poisson_selector(64, 0.5)
  for keys in (stream.noise_keys, stream.draw_key):
    data = [np.asarray(jax.random.key_data(keys(step))) for step in steps]
    assert len({x.tobytes() for x in data}) == len(steps)
  assert len({stream.seed_bytes('x', step) for step in steps}) == len(steps)
  selected = {selector.select(step).tobytes() for step in steps}
  assert len(selected) == len(steps)


def test_streams_are_functions_of_secret_run_and_step():
  assert all_keys(streams()) == all_keys(streams())


def test_noise_keys_are_four_typed_keys():
  keys = streams().noise_keys(0)
  assert keys.shape == (4,)
  assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  assert streams().draw_key(0).shape == ()


def _hashed(purpose, *parts):
  """Eight bytes, as the first lines of the module say."""
  encoded = b''.join(
    tag + len(data).to_bytes(8, 'little') + data for tag, data in parts
  )
  person = hashlib.blake2b(purpose.encode(), digest_size=16).digest()
  return hashlib.blake2b(
    encoded, key=SECRET.value, person=person, digest_size=8
  ).digest()


def test_each_key_of_the_noise_is_a_hash_of_its_own():
  """So 256 bits must be guessed; keys split from one would have its 64."""
  run = (b's', b'run')
  for keys, expected in (
    (
      streams().noise_keys(70_000),
      [
        _hashed('noise', run, (b'i', b'70000'), (b'i', b'%d' % i))
        for i in range(4)
      ],
    ),
    (
      streams().statistic_keys('a sum'),
      [_hashed('statistic/a sum', run, (b'i', b'%d' % i)) for i in range(4)],
    ),
  ):
    found = np.asarray(jax.random.key_data(keys), '<u4')
    assert [key.tobytes() for key in found] == expected


def test_keys_do_not_follow_the_default_generator():
  with jax.default_prng_impl('rbg'):
    assert str(jax.random.key_impl(streams().draw_key(0))) == 'threefry2x32'


def test_parts_are_unambiguous():
  array = np.arange(6, dtype=np.int32)
  lists = [
    (),
    ('',),
    (b'',),
    ('', ''),
    ('ab', 'c'),
    ('a', 'bc'),
    ('abc',),
    (b'abc',),
    (1,),
    ('1',),
    (b'1',),
    (array,),
    (array.reshape(2, 3),),
    (array.astype(np.int64),),
    (array.astype(np.uint32),),
    (array[::-1],),
    (array[:3], array[3:]),
    (np.zeros(0, np.int32),),
    (np.zeros((0, 3), np.int32),),
  ]
  prints = [key_streams.fingerprint(SECRET, 'p', *parts) for parts in lists]
  assert len(set(prints)) == len(lists)
  assert prints == [key_streams.fingerprint(SECRET, 'p', *p) for p in lists]


def test_fingerprint_of_arrays_is_by_value(tmp_path, monkeypatch):
  images = np.arange(60, dtype=np.uint8).reshape(5, 3, 4)
  whole = key_streams.fingerprint(SECRET, 'images', images)
  monkeypatch.setattr(key_streams, '_HASH_BLOCK_BYTES', 13)
  np.save(tmp_path / 'images.npy', images)
  mapped = np.load(tmp_path / 'images.npy', mmap_mode='r')
  assert key_streams.fingerprint(SECRET, 'images', mapped) == whole
  strided = np.repeat(images, 2, axis=0)[::2]
  assert key_streams.fingerprint(SECRET, 'images', strided) == whole
  changed = images.copy()
  changed[4, 2, 3] += 1
  assert key_streams.fingerprint(SECRET, 'images', changed) != whole


def test_fingerprint_depends_on_purpose_and_secret():
  prints = {
    key_streams.fingerprint(secret, purpose, 'data')
    for secret in (SECRET, key_streams.Secret.insecure(1))
    for purpose in ('order', 'labels')
  }
  assert len(prints) == 4


def test_fingerprint_refuses_other_types():
  with pytest.raises(TypeError, match='float'):
    key_streams.fingerprint(SECRET, 'p', 1.0)


def test_run_id_is_a_function_of_the_facts():
  facts = {'mechanism': {'steps': 3, 'sigma': 1.5}, 'dataset': 'ab'}
  run_id = key_streams.run_id(SECRET, facts)
  turned = {'dataset': 'ab', 'mechanism': {'sigma': 1.5, 'steps': 3}}
  assert key_streams.run_id(SECRET, turned) == run_id
  assert len(bytes.fromhex(run_id)) == 16
  others = [
    key_streams.run_id(SECRET, facts | {'dataset': 'ac'}),
    key_streams.run_id(SECRET, facts | {'more': None}),
    key_streams.run_id(key_streams.Secret.insecure(1), facts),
  ]
  assert len({run_id, *others}) == 4


def test_draw_keys_follow_the_record():
  def data(indices, num_draws):
    keys = key_streams.draw_keys(
      streams().draw_key(5), jnp.array(indices, jnp.int32), num_draws
    )
    assert keys.shape == (len(indices), num_draws)
    return np.asarray(jax.random.key_data(keys))

  keys = data([4, 9, 0], 3)
  np.testing.assert_array_equal(data([9], 3)[0], keys[1])
  np.testing.assert_array_equal(data([0, 4], 2), keys[[2, 0], :2])
  assert len({key.tobytes() for key in keys.reshape(9, 2)}) == 9


def test_draw_keys_are_folded_by_record_then_draw():
  step_key = streams().draw_key(1)
  keys = key_streams.draw_keys(step_key, jnp.array([7], jnp.int32), 3)
  expected = jax.random.fold_in(jax.random.fold_in(step_key, 7), 2)
  np.testing.assert_array_equal(
    jax.random.key_data(keys)[0, 2], jax.random.key_data(expected)
  )


def test_rng_test_vector_is_stable_and_sensitive(monkeypatch):
  vector = key_streams.rng_test_vector()
  assert len(bytes.fromhex(vector)) == 32
  assert key_streams.rng_test_vector() == vector
  normal, bits = jax.random.normal, jax.random.bits
  fold_in, split = jax.random.fold_in, jax.random.split
  select = batch_selection.PoissonSelector.select
  for owner, name, changed in (
    (jax.random, 'normal', lambda *args: normal(*args) * (1 + 1e-6)),
    (jax.random, 'bits', lambda *args: bits(*args) + np.uint32(1)),
    (jax.random, 'fold_in', lambda key, number: fold_in(key, number + 1)),
    (jax.random, 'split', lambda key, number: split(key, number + 1)[1:]),
    (
      batch_selection.PoissonSelector,
      'select',
      lambda self, step: select(self, step + 1),
    ),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(owner, name, changed)
      assert key_streams.rng_test_vector() != vector, name


def test_selector_uses_the_secret_and_the_run():
  selector = streams().poisson_selector(10, 0.5)
  assert (selector.secret, selector.run_id) == (SECRET.value, 'run')
  assert (selector.num_records, selector.sampling_prob) == (10, 0.5)
