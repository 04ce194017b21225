"""Devices do not change a step, replicas stay equal, noise enters once."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion.privacy import fixed_point
from dp_diffusion.training import optimizers
from dp_diffusion.training import parallel
from dp_diffusion.training import private_step
from dp_diffusion.training import processes
from tests import conftest

PROBLEM = pathlib.Path(__file__).with_name('private_problem.py')
_spec = importlib.util.spec_from_file_location('private_problem', PROBLEM)
problem = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problem)

SELECTED = np.array([3, 7, 20, 21, 41], np.int64)


def make_place(num_devices):
  devices = None if num_devices == 8 else jax.devices()[:num_devices]
  return parallel.DataParallel(devices)


@pytest.fixture(scope='module')
def trainers():
  return {d: problem.Trainer(make_place(d)) for d in (1, 8)}


@pytest.fixture(scope='module')
def trained(trainers):
  """State on the host, and private statistics, by number of devices."""
  results = {}
  for num_devices, trainer in trainers.items():
    state, stats = trainer.train()
    assert trainer.data_parallel.replicas_are_equal(state)
    results[num_devices] = trainer.data_parallel.unreplicate(state), stats
  return results


def assert_close(actual, expected, tolerance=1e-5):
  def check(x, y):
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)

  jax.tree.map(check, actual, expected)


def noise_of(params):
  """Noise on the SUM of one step, from parameters that began at zero."""
  rate = problem.OPTIMIZER.learning_rate
  return -params['noise'] / rate * problem.APPLY.expected_batch_size


@pytest.mark.parametrize('num_devices', [1, 8])
def test_noise_std_on_devices(trainers, num_devices, std_is_accepted):
  trainer = trainers[num_devices]
  state, _ = trainer.step(trainer.initial_state(), 0, SELECTED)
  samples = noise_of(trainer.data_parallel.unreplicate(state).params)
  std = 1.5  # Noise multiplier times a sensitivity of 1.
  assert std_is_accepted(samples, std)
  assert not std_is_accepted(samples, 0.9 * std)
  assert not std_is_accepted(samples, 1.1 * std)


def test_one_device_equals_eight(trained):
  assert_close(trained[1][0], trained[8][0])
  assert_close(trained[1][1], trained[8][1])
  assert np.abs(trained[1][0].params['w']).min() > 1e-3


def test_replicas_are_identical(trainers):
  trainer = trainers[8]
  state, _ = trainer.train(2)
  for leaf in jax.tree.leaves(state):
    replicas = [np.asarray(s.data) for s in leaf.addressable_shards]
    assert len(replicas) == 8
    for replica in replicas:
      np.testing.assert_array_equal(replica, replicas[0])


def test_replicas_are_equal_sees_one_bit():
  place = make_place(8)
  x = np.ones((8, 5), np.float32)
  assert place.replicas_are_equal({'x': place.shard(x)})
  x[6, 3] = np.nextafter(x[6, 3], np.float32(2))
  assert not place.replicas_are_equal({'x': place.shard(x)})


def test_batch_on_one_device_only(trainers, trained):
  """One record: seven devices have padding alone."""
  results = []
  for trainer in trainers.values():
    state, stats = trainer.step(trainer.initial_state(), 0, SELECTED[:1])
    results.append(trainer.data_parallel.unreplicate(state))
    assert stats.num_examples == 1
  assert_close(results[0], results[1])


def test_microbatch_size_does_not_matter(trainers, trained):
  trainer = trainers[1]
  state, _ = trainer.train(microbatch_size=20)
  assert_close(trainer.data_parallel.unreplicate(state), trained[1][0])


def linear_loss(params, example, draw_key):
  """Its gradient is the example: the same number in any program."""
  del draw_key
  return jnp.sum(params['w'] * example['x'])


def test_sum_is_the_same_to_the_bit():
  """However many devices there are, and examples in a microbatch."""
  found = []
  for num_devices, size in ((1, 40), (1, 3), (2, 7), (8, 2)):
    place = make_place(num_devices)
    trainer = problem.Trainer(place)
    trainer.accumulate = place.pmap_accumulate(linear_loss, problem.GRAD)
    total = trainer.total(
      trainer.initial_state(), 0, np.arange(60)[::-1], microbatch_size=size
    )
    add = place.pmap(lambda exact: fixed_point.psum(exact, parallel.AXIS_NAME))
    found.append(place.unreplicate(add(total.exact)))
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, found[0])
  factors = np.minimum(1, 0.5 / np.linalg.norm(problem.DATA, axis=1)) / 0.5
  expected = np.sum(problem.DATA * factors[:, None], axis=0)
  assert_close(found[0].to_floats()['w'], expected)


@pytest.mark.parametrize('num_devices', [1, 8])
def test_empty_batch_still_steps(trainers, num_devices, std_is_accepted):
  trainer = trainers[num_devices]
  empty = np.zeros(0, np.int64)
  state, stats = trainer.step(trainer.initial_state(), 0, empty)
  state = trainer.data_parallel.unreplicate(state)
  assert stats.num_examples == 0
  assert state.step == 1
  assert std_is_accepted(noise_of(state.params), 1.5)
  assert np.all(state.params['w'] != 0)


def test_masking_a_record_changes_its_term_only(trainers):
  """Every other record moves to another slot and device."""
  trainer = trainers[8]
  place = trainer.data_parallel

  def grad_sum(selected):
    total = trainer.total(trainer.initial_state(), 0, np.array(selected))
    # Shards on the host: the sum over devices, without noise.
    return np.sum(jax.device_get(total.grad_sum['w']), axis=0)

  difference = grad_sum(SELECTED) - grad_sum(SELECTED[1:])
  assert_close(difference, grad_sum(SELECTED[:1]))
  assert place.num_devices == 8
  assert 0.1 < np.linalg.norm(difference) <= 1 + 1e-5


def compilations(caplog, run):
  """What jax compiled while `run` ran."""
  caplog.clear()
  with caplog.at_level(logging.DEBUG), jax.log_compiles():
    run()
  messages = [record.getMessage() for record in caplog.records]
  return [m for m in messages if 'ompil' in m]


def test_no_recompilation_after_the_first_step(trainers, trained, caplog):
  for trainer in trainers.values():
    before = trainer.loss.num_traces
    assert not compilations(caplog, lambda trainer=trainer: trainer.train(2))
    assert trainer.loss.num_traces == before
  fresh = jax.jit(lambda x: x + 41)
  assert compilations(caplog, lambda: fresh(1))  # The count can count.


def test_private_statistics_are_sums_over_devices(trainers, trained):
  sizes = [stats.num_examples for stats in trained[8][1]]
  selector = trainers[8].streams.poisson_selector(problem.NUM_RECORDS, 1 / 3)
  assert sizes == [len(selector.select(i)) for i in range(problem.NUM_STEPS)]


def test_training_is_reproducible_to_the_bit(trainers, trained):
  state, _ = trainers[8].train()
  again = trainers[8].data_parallel.unreplicate(state)
  jax.tree.map(np.testing.assert_array_equal, again, trained[8][0])


def test_donated_accumulator_is_released(trainers):
  trainer = trainers[8]
  state = trainer.initial_state()
  total = trainer.zeros(state.params)
  place = trainer.data_parallel
  indices = np.zeros((8, 2), np.int32)
  trainer.accumulate(
    state.params,
    state.frozen_params,
    total,
    place.shard(
      private_step.Microbatch(
        examples={'x': problem.DATA[indices]},
        indices=indices,
        is_padding=np.zeros((8, 2), bool),
      )
    ),
    trainer.streams.draw_key(0),
  )
  assert total.exact.high['noise'].is_deleted()
  assert not state.params['noise'].is_deleted()


def test_devices_are_summed_once_a_step(trainers):
  """`apply` reduces over devices; `accumulate`, a microbatch, never does."""
  trainer = trainers[8]
  place, state = trainer.data_parallel, trainer.initial_state()
  total = trainer.zeros(state.params)
  indices = np.zeros((8, 2), np.int32)
  accumulate = trainer.accumulate.lower(
    state.params,
    state.frozen_params,
    total,
    place.shard(
      private_step.Microbatch(
        examples={'x': problem.DATA[indices]},
        indices=indices,
        is_padding=np.zeros((8, 2), bool),
      )
    ),
    trainer.streams.draw_key(0),
  ).as_text()
  keys = trainer.streams.noise_keys(0)
  apply = trainer.apply.lower(state, total, keys).as_text()
  for word in ('all_reduce', 'all_gather', 'collective_permute', 'all_to_all'):
    assert word not in accumulate
  # For both words of each trained leaf; the compiler joins them. None for
  # statistics.
  assert apply.count('stablehlo.all_reduce') == 2 * len(total.grad_sum)


def test_public_step_does_not_depend_on_devices():
  states, losses = [], []
  for num_devices in (1, 8):
    place = make_place(num_devices)
    trainer = problem.Trainer(place)
    run = place.pmap_public_step(trainer.loss, trainer.optimizer, 0.9)
    state = trainer.initial_state()
    for i in range(10):
      indices = np.arange(16, dtype=np.int32).reshape(num_devices, -1)
      state, loss = run(
        state,
        place.shard({'x': problem.DATA[indices]}),
        trainer.streams.draw_key(i),
        place.shard(indices),
      )
    assert trainer.loss.num_traces == 1
    assert place.replicas_are_equal((state, loss))
    states.append(place.unreplicate(state))
    losses.append(place.unreplicate(loss))
  assert_close(states[0], states[1])
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  # Public and without noise: it goes to the optimum, targets included.
  optimum = problem.DATA[:16].mean(axis=0) + 0.5
  w = states[0].params['w'] * states[0].frozen_params['scale']
  np.testing.assert_allclose(w, optimum, atol=0.3)


def test_replicate_and_unreplicate():
  place = make_place(8)
  tree = {'a': np.arange(3), 'b': jnp.float32(2.5)}
  replicated = place.replicate(tree)
  assert replicated['a'].shape == (8, 3)
  assert place.replicas_are_equal(replicated)
  jax.tree.map(
    np.testing.assert_array_equal, place.unreplicate(replicated), tree
  )


def test_replicate_takes_typed_keys():
  place = make_place(8)
  keys = place.replicate(jax.random.key(3))
  data = place.pmap(jax.random.key_data)(keys)
  np.testing.assert_array_equal(
    data, np.tile(jax.random.key_data(jax.random.key(3)), (8, 1))
  )


@pytest.mark.parametrize('num_rows', [1, 8, 11])
def test_pmap_map_keeps_rows(num_rows):
  place = make_place(8)
  weights = place.replicate({'w': np.float32([1, 10])})
  x = np.arange(2 * num_rows, dtype=np.float32).reshape(num_rows, 2)
  keys = jax.random.split(jax.random.key(0), num_rows)

  def run(params, rows, row_keys):
    data = jax.random.key_data(row_keys)
    return {'sum': rows @ params['w'], 'key': data}

  result = place.pmap_map(run)(weights, x, keys)
  np.testing.assert_array_equal(result['sum'], x @ np.float32([1, 10]))
  np.testing.assert_array_equal(result['key'], jax.random.key_data(keys))


def test_one_process_agrees_with_itself():
  processes.agree({'data': 'a'})
  assert processes.any_process(True)
  assert not processes.any_process(False)
  assert processes.broadcast_secret(problem.SECRET) is problem.SECRET
  processes.barrier('test')
  assert processes.smallest(3) == 3
  assert processes.gather(np.ones((2, 3))).shape == (1, 2, 3)
  assert processes.on_main(lambda: 4) == 4
  with pytest.raises(ValueError, match='as it was raised'):
    processes.main_first(lambda: int('as it was raised'))
  place = make_place(8)
  assert place.is_main
  assert (place.process_count, place.num_global_devices) == (1, 8)


def test_incomplete_environment_is_refused(monkeypatch):
  monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
  with pytest.raises(
    errors.UsageError, match='JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID'
  ):
    processes.initialize_from_environment()


def test_wrong_mechanism_is_refused_before_compiling():
  config = private_step.ApplyConfig(
    noise_multiplier=1.0, expected_batch_size=1, ema_decay=0.0
  )
  place = make_place(1)
  run = place.pmap_apply(optimizers.make(problem.OPTIMIZER, 100), config)
  trainer = problem.Trainer(place)
  state = trainer.initial_state()
  total = trainer.zeros(state.params).replace(l2_sensitivity=float('inf'))
  with pytest.raises(ValueError, match='l2_sensitivity=inf'):
    run(state, total, trainer.streams.noise_keys(0))


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory, repository):
  """Results of 2 real processes of 2 devices each."""
  folder = tmp_path_factory.mktemp('processes')
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  processes = []
  for i in range(2):
    environment = os.environ | {
      'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
      'JAX_NUM_PROCESSES': '2',
      'JAX_PROCESS_ID': str(i),
      'PYTHONPATH': str(repository),
      'XLA_FLAGS': (
        f'--xla_force_host_platform_device_count=2 {conftest.QUICK_COMPILATION}'
      ),
    }
    command = [sys.executable, '-W', 'error', str(PROBLEM), str(folder)]
    processes.append(
      subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  try:
    outputs = [p.communicate(timeout=300)[0] for p in processes]
  finally:
    for p in processes:
      p.kill()
  assert [p.returncode for p in processes] == [0, 0], '\n'.join(outputs)
  facts = [
    json.loads((folder / f'process{i}.json').read_text()) for i in (0, 1)
  ]
  arrays = []
  for i in (0, 1):
    with np.load(folder / f'process{i}.npz') as f:
      arrays.append(dict(f))
  return facts, arrays


def test_two_processes_equal_one(two_processes, trained):
  facts, arrays = two_processes
  for name, array in arrays[0].items():  # To the bit.
    np.testing.assert_array_equal(array, arrays[1][name])
  expected = trained[1][0].params | {'ema': trained[1][0].ema_params['w']}
  assert_close(arrays[0], expected)
  for fact in facts:
    assert fact['devices'] == [2, 4]
    assert fact['replicas_are_equal']
    assert fact['is_insecure']  # The mark travels with the secret.
    assert fact['num_traces'] == 1
    sizes = [int(s.num_examples) for s in trained[1][1]]
    assert fact['num_examples'] == sizes


def test_noise_std_on_two_processes(two_processes, std_is_accepted):
  """Noise of three steps, independent: std times sqrt(3)."""
  for array in two_processes[1]:
    samples = noise_of(array)
    std = 1.5 * np.sqrt(problem.NUM_STEPS)
    assert std_is_accepted(samples, std)
    assert not std_is_accepted(samples, 0.9 * std)
    assert not std_is_accepted(samples, 1.1 * std)


def test_processes_that_disagree_refuse(two_processes):
  for fact in two_processes[0]:
    by_value, by_name = fact['refusals']
    assert by_value.startswith('Expected secret to be the same on all 2')
    assert 'list of facts' in by_name


def test_a_failure_on_one_process_ends_all(two_processes):
  first, second = (fact['failure'] for fact in two_processes[0])
  assert first.startswith('Interrupted: Stopped, since another process')
  assert second == 'ValueError: only here'


def test_main_goes_first_and_the_smallest_number_counts(two_processes):
  assert [fact['order'] for fact in two_processes[0]] == ['0', '01']
  assert [fact['smallest'] for fact in two_processes[0]] == [7, 7]


def test_processes_gather_float64(two_processes):
  expected = [[1 / 3, 0.0], [1 / 3, 1.0]]
  assert [fact['gathered'] for fact in two_processes[0]] == [expected] * 2


def test_processes_take_turns(two_processes):
  assert [fact['share'] for fact in two_processes[0]] == [[0, 2, 4], [1, 3]]


def test_processes_stop_together(two_processes):
  assert [fact['stops'] for fact in two_processes[0]] == [[False, True]] * 2
