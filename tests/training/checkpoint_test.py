"""Tests of dp_diffusion/training/checkpoint.py."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import stat
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.training import checkpoint
from dp_diffusion.training import processes
from tests.stages import command
from tests.stages import fork_server

LEDGER = {'version': 1, 'entries': [{'kind': 'dp_sgd', 'sigma': 1 / 3}]}
META = {'run_id': 'abc', 'shape': (8, 8, 1)}


def make_state(step: int) -> dict[str, Any]:
  rng = np.random.default_rng(step)
  params = {
    'conv/in': {'kernel': rng.normal(size=(3, 3, 1, 8)).astype(np.float32)},
    'scale': jnp.asarray(rng.normal(size=5), jnp.bfloat16),
  }
  return {
    'step': np.int32(step),
    'params': params,
    'opt_state': optax.adam(1e-3).init(params),
    'nothing': np.zeros((0, 3), np.float32),
  }


def save(checkpointer: checkpoint.Checkpointer, step: int) -> None:
  checkpointer.save(step, make_state(step), {**LEDGER, 'num': step}, META)


def assert_same(actual: Any, expected: Any) -> None:
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert isinstance(a, np.ndarray)
    assert (a.shape, a.dtype) == (np.shape(b), np.asarray(b).dtype)
    assert a.tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  return tmp_path / 'private' / 'checkpoints'


@pytest.fixture
def checkpointer(folder: pathlib.Path) -> checkpoint.Checkpointer:
  return checkpoint.Checkpointer(folder, is_private=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(checkpoint, '_SECS_FOR_OTHER_WRITES', 0.0)


def files_of(step_folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in step_folder.rglob('*') if p.is_file())


def test_processes_compare_what_they_restore(checkpointer, monkeypatch):
  """Steps of which only some are seen would be taken from other weights."""
  seen = []
  monkeypatch.setattr(processes, 'agree', seen.append)
  for step in range(3):
    checkpointer.restore()
    save(checkpointer, step)
  assert len({facts['checkpoint'] for facts in seen}) == 3


def test_restores_what_was_saved(checkpointer, folder, capfd):
  assert checkpointer.restore(make_state(0)) is None
  save(checkpointer, 7)
  restored = checkpoint.Checkpointer(folder, is_private=True).restore(
    jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_state(0)))
  )
  assert restored.step == 7
  assert_same(restored.state, make_state(7))
  assert restored.state['params']['scale'].dtype == ml_dtypes.bfloat16
  assert restored.ledger == {**LEDGER, 'num': 7}
  assert restored.meta == {'run_id': 'abc', 'shape': [8, 8, 1]}
  assert restored.lost_steps == ()
  captured = capfd.readouterr()
  assert captured.out == captured.err == ''


def test_takes_arrays_of_one_replica(checkpointer):
  on_devices = jax.pmap(lambda x: {'w': x * 2.0})(jnp.ones((8, 4)))
  state = jax.tree.map(lambda x: x[0], on_devices)
  checkpointer.save(1, state, LEDGER, META)
  restored = checkpointer.restore(state)
  np.testing.assert_array_equal(restored.state['w'], np.full(4, 2, np.float32))


def test_without_template_gives_names(checkpointer):
  save(checkpointer, 1)
  restored = checkpointer.restore()
  assert 'params/conv%2Fin/kernel' in restored.state
  assert 'opt_state/0/mu/scale' in restored.state
  assert restored.ledger['num'] == 1


def test_keeps_the_last_three(checkpointer):
  for step in (1, 2, 5, 10, 20):
    save(checkpointer, step)
  assert checkpointer.steps() == (5, 10, 20)


@pytest.mark.parametrize('step', [4, 5])
def test_refuses_to_go_back(checkpointer, step):
  save(checkpointer, 5)
  with pytest.raises(ValueError, match=f'step={step} to be above 5'):
    save(checkpointer, step)


def test_ledger_must_be_json(checkpointer):
  with pytest.raises(ValueError, match='not JSON compliant'):
    checkpointer.save(1, make_state(1), {'epsilon': float('inf')}, META)
  assert checkpointer.steps() == ()


def test_private_folder_is_for_its_owner(checkpointer, folder):
  folder.mkdir(parents=True, mode=0o755)
  save(checkpointer, 1)
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def truncate(step_folder: pathlib.Path) -> None:
  """The longest file ends early, as after a power cut."""
  path = max(files_of(step_folder), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_arrays(step_folder: pathlib.Path) -> None:
  for path in files_of(step_folder / 'state'):
    path.write_bytes(b'')


def change_ledger(step_folder: pathlib.Path) -> None:
  """Fewer steps spent than were: readable, and wrong."""
  path = step_folder / 'ledger' / 'metadata'
  path.write_text(path.read_text().replace('"num": 3', '"num": 1'))


def remove_meta(step_folder: pathlib.Path) -> None:
  (step_folder / 'meta' / 'meta.json').unlink()


def change_meta(step_folder: pathlib.Path) -> None:
  """Facts of another run: a resume would go on with its randomness."""
  path = step_folder / 'meta' / 'meta.json'
  path.write_text(path.read_text().replace('"abc"', '"abd"'))


def change_version(step_folder: pathlib.Path) -> None:
  path = step_folder / 'meta' / 'meta.json'
  path.write_text(path.read_text().replace('"version": 1', '"version": 2'))


@pytest.mark.parametrize(
  'damage',
  [
    truncate,
    empty_arrays,
    change_ledger,
    change_meta,
    remove_meta,
    change_version,
  ],
)
def test_damaged_steps_are_skipped_and_named(
  checkpointer, folder, damage, capfd
):
  for step in (1, 2, 3):
    save(checkpointer, step)
  damage(folder / '3')
  restored = checkpointer.restore(make_state(0))
  assert (restored.step, restored.lost_steps) == (2, (3,))
  assert restored.ledger['num'] == 2
  assert_same(restored.state, make_state(2))
  said = capfd.readouterr()
  assert 'step 3 is damaged' in said.err and 'step 2 is used' in said.err
  assert said.err.count('\n') == 1


def test_a_step_of_later_code_is_left_to_it(checkpointer, monkeypatch):
  """It is whole, so it is neither read in part nor passed over."""
  digest = checkpoint.Restored.digest
  with monkeypatch.context() as later:
    later.setattr(checkpoint, '_VERSION', 2)
    later.setattr(
      checkpoint.Restored,
      'digest',
      lambda self, version=2: digest(self, version),
    )
    save(checkpointer, 1)
  with pytest.raises(errors.UsageError, match='use the code that wrote it'):
    checkpointer.restore(make_state(0))


def test_a_step_under_the_number_of_another_is_damaged(
  checkpointer, folder, capfd
):
  """Its ledger would be that of fewer steps than are counted as done."""
  for step in (1, 2):
    save(checkpointer, step)
  (folder / '2').rename(folder / '7')
  restored = checkpointer.restore(make_state(0))
  assert (restored.step, restored.lost_steps) == (1, (7,))
  assert 'step 7 is damaged' in capfd.readouterr().err


def test_any_changed_byte_of_the_arrays_is_noticed(checkpointer, folder):
  """Restored bytes are the saved ones, or the step counts as damaged."""
  save(checkpointer, 1)
  save(checkpointer, 2)
  rng = np.random.default_rng(0)
  num_noticed = 0
  for path in files_of(folder / '2' / 'state'):
    data = path.read_bytes()
    if not data:
      continue
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(changed))
    restored = checkpointer.restore(make_state(0))
    assert_same(restored.state, make_state(restored.step))
    num_noticed += restored.step == 1
    path.write_bytes(data)
  assert num_noticed >= 2  # Not every file is read.
  assert checkpointer.restore(make_state(0)).step == 2


def test_lost_steps_stay_known_until_a_save(checkpointer, folder, monkeypatch):
  for step in (1, 2, 3):
    save(checkpointer, step)
  truncate(folder / '2')
  truncate(folder / '3')
  assert checkpointer.restore(make_state(0)).lost_steps == (2, 3)

  def die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'save', die)
    with pytest.raises(KeyboardInterrupt):
      save(checkpointer, 2)
  again = checkpoint.Checkpointer(folder, is_private=True)
  restored = again.restore(make_state(0))
  assert (restored.step, restored.lost_steps) == (1, (2, 3))
  save(again, 2)
  restored = again.restore(make_state(0))
  assert (restored.step, restored.lost_steps) == (2, ())


def test_lost_steps_stay_known_beside_those_lost_later(
  checkpointer, folder, monkeypatch
):
  for step in (1, 2, 3):
    save(checkpointer, step)

  def die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt

  for step, lost in ((3, (3,)), (2, (2, 3))):
    truncate(folder / str(step))
    again = checkpoint.Checkpointer(folder, is_private=True)
    assert again.restore(make_state(0)).lost_steps == lost
    with monkeypatch.context() as patch:
      patch.setattr(ocp.CheckpointManager, 'save', die)
      with pytest.raises(KeyboardInterrupt):
        save(again, step)
    assert not (folder / str(step)).exists()
  restored = checkpointer.restore(make_state(0))
  assert (restored.step, restored.lost_steps) == (1, (2, 3))


def test_damaged_steps_go_when_their_numbers_are_written(
  checkpointer, folder, monkeypatch
):
  """Otherwise a full disk would hide that they were ever reached."""
  for step in (1, 2, 3):
    save(checkpointer, step)
  truncate(folder / '3')
  assert checkpointer.restore(make_state(0)).lost_steps == (3,)

  def fill(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')

  with monkeypatch.context() as patch:
    patch.setattr(files, 'write_json', fill)
    with pytest.raises(errors.UsageError, match='continues from step 2'):
      save(checkpointer, 3)
  restored = checkpoint.Checkpointer(folder, is_private=True).restore()
  assert (restored.step, restored.lost_steps) == (2, (3,))


def test_a_saved_step_is_on_the_disk(checkpointer, folder, monkeypatch):
  """A power cut takes what the system has not written yet."""
  if not os.path.exists('/proc/self/fd'):
    pytest.skip('needs /proc')
  synced, fsync = set(), os.fsync

  def record(descriptor: int) -> None:
    synced.add(os.readlink(f'/proc/self/fd/{descriptor}'))
    fsync(descriptor)

  monkeypatch.setattr(os, 'fsync', record)
  save(checkpointer, 1)
  written = [folder, folder / '1', *files_of(folder / '1')]
  assert len(written) > 4 and {str(path) for path in written} <= synced


def test_nothing_begins_anew_when_all_is_lost(checkpointer, folder):
  save(checkpointer, 4)
  truncate(folder / '4')
  with pytest.raises(errors.UsageError, match='all damaged, up to step 4'):
    checkpointer.restore(make_state(0))
  assert checkpointer.restore(make_state(0), may_lose_all=True) is None
  save(checkpointer, 4)
  assert checkpointer.restore(make_state(0)).step == 4


def test_unreadable_is_not_damaged(checkpointer, monkeypatch):
  save(checkpointer, 1)

  def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setattr(ocp.CheckpointManager, 'restore', refuse)
  with pytest.raises(errors.UsageError, match='Permission denied'):
    checkpointer.restore(make_state(0))


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    ValueError('RESOURCE_EXHAUSTED: write: No space left on device'),
  ],
)
def test_full_disk_costs_nothing(checkpointer, folder, monkeypatch, error):
  save(checkpointer, 1)

  def fill(self: Any, directory: Any, args: Any) -> None:
    del self, args
    (directory / 'half').write_text('x')
    raise error

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint._MetaHandler, 'save', fill)
    with pytest.raises(errors.UsageError) as raised:
      save(checkpointer, 2)
  message = str(raised.value)
  assert 'the disk is full' in message and 'from step 1' in message
  assert '\n' not in message
  assert [p.name for p in folder.iterdir()] == ['1']
  assert checkpointer.restore(make_state(0)).step == 1
  save(checkpointer, 2)
  assert checkpointer.steps() == (1, 2)


def test_other_errors_are_not_hidden(checkpointer, monkeypatch):
  def fail(*_: Any, **__: Any) -> None:
    raise TypeError('a bug')

  monkeypatch.setattr(ocp.CheckpointManager, 'save', fail)
  with pytest.raises(TypeError, match='a bug'):
    save(checkpointer, 1)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda s: s['params'].update(more=np.ones(2)), 'the leaf params/more'),
    (lambda s: s.pop('step'), '1 other leaves, such as step'),
    (
      lambda s: s['params'].update(scale=np.ones(6, np.float32)),
      r'params/scale as float32\[6\], found bfloat16\[5\]',
    ),
  ],
)
def test_another_structure_is_refused(checkpointer, change, message):
  save(checkpointer, 1)
  template = make_state(1)
  change(template)
  with pytest.raises(errors.UsageError, match=message):
    checkpointer.restore(template)


SAVE_FOUR = """
import sys
import numpy as np
from dp_diffusion.training import checkpoint
checkpointer = checkpoint.Checkpointer(sys.argv[1], is_private=True)
for step in range(1, 5):
  state = {'w': np.full((50, 50), step, np.float32)}
  checkpointer.save(step, state, {'num': step}, {})
  print(step, flush=True)
"""


def test_kill_leaves_the_last_good_step(
  tmp_path, subprocess_environment, capfd
):
  """SIGKILL while the third step is being saved, at each named moment."""
  points = {'mid_save': 2, 'before_commit': 2, 'after_save': 3}
  for point, last_step in points.items():
    environment = command.process_environment(
      subprocess_environment, crash_at=f'{point}:3'
    )
    job = fork_server.run(
      fork_server.Job(
        argv=('-c', str(tmp_path / point)),
        code=SAVE_FOUR,
        environment=environment,
        folder=str(tmp_path),
      )
    )
    assert job.returncode == -signal.SIGKILL
    assert job.stdout == '1\n2\n'
    capfd.readouterr()
    checkpointer = checkpoint.Checkpointer(tmp_path / point, is_private=True)
    restored = checkpointer.restore({'w': np.zeros((50, 50), np.float32)})
    assert restored.step == restored.ledger['num'] == last_step
    np.testing.assert_array_equal(restored.state['w'], last_step)
    said = capfd.readouterr().err
    assert ('step 3 was interrupted' in said) == (last_step == 2)
    checkpointer.save(last_step + 1, restored.state, {'num': 0}, {})
    names = sorted(p.name for p in (tmp_path / point).iterdir())
    assert names == [str(n) for n in range(1, last_step + 2)][-3:]


TWO_PROCESSES = """
import sys
import jax
port, index, folder = sys.argv[1:]
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(f'localhost:{port}', 2, int(index))
import numpy as np
from dp_diffusion import errors
from dp_diffusion.training import checkpoint
checkpointer = checkpoint.Checkpointer(folder, is_private=True)
state = {'w': np.arange(4, dtype=np.float32)}
assert checkpointer.restore(state) is None
for step in (1, 2):
  checkpointer.save(step, state, {'num': step}, {})
  restored = checkpointer.restore(state)
  assert restored.step == step, restored
  np.testing.assert_array_equal(restored.state['w'], state['w'])
own = checkpoint.Checkpointer(folder + '_of_' + index, is_private=True)
try:
  own.save(1, state, {}, {})
  own.restore(state)
except errors.UsageError as error:
  print('refused', error, flush=True)
"""


def test_two_processes_share_steps(tmp_path, subprocess_environment, free_port):
  environment = command.process_environment(subprocess_environment)
  jobs = [
    subprocess.Popen(
      [sys.executable, '-c', TWO_PROCESSES]
      + [str(free_port), str(index), str(tmp_path / 'steps')],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in (0, 1)
  ]
  for job in jobs:
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert 'refused Expected checkpoint to be the same' in out
  assert sorted(p.name for p in (tmp_path / 'steps').iterdir()) == ['1', '2']
