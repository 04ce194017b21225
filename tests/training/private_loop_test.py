"""The host loops: resume, ledger, journal, budget, stopping."""

from __future__ import annotations

import dataclasses
import logging
import math
import types

from etils import epath
import jax
import numpy as np
import pytest

from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.training import checkpoint
from dp_diffusion.training import journal
from dp_diffusion.training import microbatch
from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from dp_diffusion.training import public_loop
from dp_diffusion.training import state as train_state
from tests.training import private_problem

NUM_STEPS = 6
EVERY = 2
MECHANISM = mechanism_lib.DpSgdMechanism(
  num_examples=private_problem.NUM_RECORDS,
  expected_batch_size=private_problem.APPLY.expected_batch_size,
  num_steps=NUM_STEPS,
  noise_multiplier=private_problem.APPLY.noise_multiplier,
  l2_clip_norm=private_problem.GRAD.l2_clip_norm,
  delta=1e-3,
)


class Killed(BaseException):
  """Stands for SIGKILL: nothing of the loop runs after it."""


def never() -> bool:
  return False


@pytest.fixture(scope='module')
def trainer():
  devices = parallel.DataParallel(jax.local_devices()[:2])
  return private_problem.Trainer(devices, size=20)


class Job:
  """A private run in a folder; each `go` is one start of the program."""

  def __init__(self, trainer, folder, budget=math.inf):
    self.trainer = trainer
    self.devices = trainer.data_parallel
    self.folder = epath.Path(folder)
    self.budget = budget
    self.stats = {}
    self.scale = 1
    self.steps_gathered = []
    self.is_compiled = False
    self.kill_at_step = None
    self.kill_at_save = None
    self.run_id = 'problem'

  def checkpoints(self):
    return checkpoint.Checkpointer(
      self.folder / 'checkpoints', is_private=True, keep=10
    )

  def restore(self, step=None):
    template = self.devices.unreplicate(self.trainer.initial_state())
    restored = self.checkpoints().restore(template)
    assert step is None or restored.step == step
    return restored

  def gather(self, indices, step):
    if self.is_compiled:
      self.steps_gathered.append(step)
    else:  # The first call is for what is compiled: padding alone.
      assert not indices.any()
      self.is_compiled = True
      return {'x': private_problem.DATA[indices]}
    if step == self.kill_at_step:
      raise Killed
    return {'x': self.scale * private_problem.DATA[indices]}

  def go(self, stop=never):
    """Restores, charges and trains, as the stage does."""
    state = self.devices.unreplicate(self.trainer.initial_state())
    restored = self.checkpoints().restore(state)
    step = 0
    ledger = ledger_lib.Ledger(
      delta=MECHANISM.delta,
      budget_epsilon=self.budget,
      entries=(ledger_lib.DpSgdEntry(mechanism=MECHANISM),),
    )
    if restored:
      step, state = restored.step, restored.state
      ledger = ledger_lib.Ledger.from_json(restored.ledger)
    self.is_compiled = False
    run = self.run()
    ledger = journal.charge_lost_steps(
      run.journal, run.meta['run_id'], ledger, step
    )
    return private_loop.train_private(
      self.steps(), run, self.devices, state, ledger, step, stop
    )

  def steps(self):
    trainer = self.trainer
    return private_loop.PrivateSteps(
      selector=trainer.streams.poisson_selector(
        private_problem.NUM_RECORDS, MECHANISM.sampling_prob
      ),
      streams=trainer.streams,
      gather=self.gather,
      microbatch_size=2,
      zeros=trainer.zeros,
      accumulate=trainer.accumulate,
      apply=trainer.apply,
      private_stats=trainer.stats,
    )

  def run(self):
    checkpoints = self.checkpoints()
    if self.kill_at_save is not None:
      save = checkpoints.save

      def save_or_die(step, *arguments):
        if step == self.kill_at_save:
          raise Killed
        save(step, *arguments)

      checkpoints.save = save_or_die
    return private_loop.PrivateRun(
      checkpoints=checkpoints,
      journal=self.folder / 'begun_steps.json',
      meta={'run_id': self.run_id},
      num_steps=NUM_STEPS,
      checkpoint_every_steps=EVERY,
      record_stats=lambda step, s: self.stats.update({step: s}),
    )

  def go_and_die(self, at_step=None, at_save=None):
    self.kill_at_step, self.kill_at_save = at_step, at_save
    with pytest.raises(Killed):
      self.go()
    self.kill_at_step = self.kill_at_save = None


@pytest.fixture
def job(trainer, tmp_path):
  return Job(trainer, tmp_path)


@pytest.fixture(scope='module')
def uninterrupted(trainer, tmp_path_factory):
  job = Job(trainer, tmp_path_factory.mktemp('uninterrupted'))
  return job.go(), job.stats


def assert_same_bits(one, other):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(
  'death',
  [{'at_step': 0}, {'at_step': 3}, {'at_save': 2}, {'at_save': NUM_STEPS}],
)
def test_resumed_equals_uninterrupted(job, uninterrupted, death):
  job.go_and_die(**death)
  state, ledger, step = job.go()
  (expected_state, expected_ledger, _), expected_stats = uninterrupted
  assert step == NUM_STEPS
  assert_same_bits(state, expected_state)
  assert_same_bits(job.restore(NUM_STEPS).state, expected_state)
  assert ledger == expected_ledger
  assert job.restore().ledger == expected_ledger.to_json()
  assert job.stats.keys() == expected_stats.keys()
  for number, stats in job.stats.items():
    assert_same_bits(stats, expected_stats[number])


def test_steps_are_those_of_the_mechanism(uninterrupted, trainer):
  """Selection, draws and noise of each step are its own, and no other's."""
  (state, _, _), all_stats = uninterrupted
  expected, expected_stats = trainer.train(NUM_STEPS)
  assert_same_bits(state, trainer.data_parallel.unreplicate(expected))
  for step, stats in enumerate(expected_stats):
    assert_same_bits(all_stats[step], stats)


def test_terminal_shows_nothing_of_the_records(job, trainer, tmp_path, capfd):
  job.go()
  said = capfd.readouterr()
  other = Job(trainer, tmp_path / 'other')
  other.scale = 3
  other.go()
  assert capfd.readouterr() == said
  assert other.stats[0].loss_sum != job.stats[0].loss_sum
  assert '6/6' in said.out and 's left' not in said.out  # Nor how long it took.


def test_a_finished_run_trains_no_more(job):
  job.go()
  job.steps_gathered.clear()
  _, ledger, step = job.go()
  assert step == NUM_STEPS and not job.steps_gathered
  assert ledger.entries[-1].num_steps == NUM_STEPS


def test_ledger_is_in_step_with_the_weights(job, monkeypatch):
  saved = []
  save = checkpoint.Checkpointer.save

  def record(self, step, state, ledger, meta):
    saved.append((step, int(state.step), ledger['events'][-1]['num_steps']))
    save(self, step, state, ledger, meta)

  monkeypatch.setattr(checkpoint.Checkpointer, 'save', record)
  job.go_and_die(at_step=3)
  job.go()
  assert saved == [(2, 2, 2), (4, 4, 4), (6, 6, 6)]
  restored = job.restore()
  assert restored.ledger['events'][-1]['num_steps'] == restored.state.step


def test_stop_saves_at_the_step_boundary(job, uninterrupted):
  answers = iter([False, False, True])
  _, ledger, step = job.go(stop=lambda: next(answers))
  assert step == 3 == ledger.entries[-1].num_steps
  restored = job.restore(3)
  assert restored.ledger == ledger.to_json()
  assert sorted(job.stats) == [0, 1, 2]  # Written before it stopped.
  state, ledger, step = job.go()
  (expected_state, expected_ledger, _), _ = uninterrupted
  assert_same_bits(state, expected_state)
  assert (ledger, step) == (expected_ledger, NUM_STEPS)


def test_no_step_past_the_budget(job, trainer, tmp_path):
  whole = Job(trainer, tmp_path / 'whole')
  _, ledger, _ = whole.go()
  job.budget = 0.99 * ledger.epsilon()
  with pytest.raises(errors.UsageError, match='6 more steps'):
    job.go()
  assert not job.steps_gathered and not job.checkpoints().steps()
  job.budget = 1.0001 * ledger.epsilon()
  assert job.go()[2] == NUM_STEPS


def use_generator(monkeypatch, name):
  monkeypatch.setattr(key_streams, 'rng_test_vector', lambda: name)


def num_replayed(ledger):
  return ledger.entries[-1].num_replayed_steps


def begun(job):
  return files.read_json(job.folder / 'begun_steps.json')['begun_steps']


def test_journal_is_written_before_the_steps(job, monkeypatch):
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=0)
  assert begun(job) == {'problem old': [[0, 2]]}
  job.go_and_die(at_step=2)
  assert begun(job) == {'problem old': [[0, 4]]}
  assert (job.folder / 'begun_steps.json').stat().mode & 0o777 == 0o600


class Refused(Exception):
  """Stands for what JAX raises."""


def refuse(*arguments):
  raise Refused


@pytest.mark.parametrize(
  'part', ['zeros', 'accumulate', 'apply', 'private_stats']
)
def test_what_does_not_compile_is_not_charged(job, monkeypatch, part):
  use_generator(monkeypatch, 'old')
  steps = job.steps
  program = jax.jit(refuse)
  monkeypatch.setattr(
    job, 'steps', lambda: dataclasses.replace(steps(), **{part: program})
  )
  with pytest.raises(Refused):
    job.go()
  assert not (job.folder / 'begun_steps.json').exists()
  monkeypatch.setattr(job, 'steps', steps)
  use_generator(monkeypatch, 'new')
  assert num_replayed(job.go()[1]) == 0


def test_records_that_cannot_be_read_are_not_charged(job, monkeypatch):
  monkeypatch.setattr(job, 'gather', refuse)
  with pytest.raises(Refused):
    job.go()
  assert not (job.folder / 'begun_steps.json').exists()


@pytest.mark.parametrize('at_step', [0, 2, 4])
def test_a_failure_charges_the_steps_that_ran(job, monkeypatch, at_step):
  """A step counts from its first program on, and no step after it does."""
  use_generator(monkeypatch, 'old')
  gather = job.gather
  monkeypatch.setattr(
    job,
    'gather',
    lambda indices, step: (
      refuse() if job.is_compiled and step == at_step else gather(indices, step)
    ),
  )
  with pytest.raises(Refused):
    job.go()
  assert begun(job) == {'problem old': [[0, at_step + 1]]}
  monkeypatch.setattr(job, 'gather', gather)
  use_generator(monkeypatch, 'new')
  assert num_replayed(job.go()[1]) == 1


def test_after_a_stop_the_steps_that_are_left_cost_once(job, monkeypatch):
  use_generator(monkeypatch, 'old')
  answers = iter([False, False, True])
  assert job.go(stop=lambda: next(answers))[2] == 3
  assert begun(job) == {'problem old': [[0, 3]]}
  use_generator(monkeypatch, 'new')
  assert num_replayed(job.go()[1]) == 0


def test_compiled_once(job):
  job.trainer.loss.num_traces = 0
  job.go()
  assert job.trainer.loss.num_traces <= 1


@pytest.mark.parametrize('at_step', [0, 3])
def test_same_randomness_is_not_charged_again(job, monkeypatch, at_step):
  use_generator(monkeypatch, 'old')
  for _ in range(3):
    job.go_and_die(at_step=at_step)
  assert num_replayed(job.go()[1]) == 0


@pytest.mark.parametrize(
  ('died_at', 'num_charged'),
  [(0, 2), (1, 2), (2, 2), (3, 2)],  # Two steps were begun past the save.
)
def test_changed_randomness_charges_replayed_steps(
  job, monkeypatch, capfd, died_at, num_charged
):
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=died_at)
  use_generator(monkeypatch, 'new')
  _, ledger, _ = job.go()
  assert num_replayed(ledger) == num_charged
  assert f'{num_charged} steps' in capfd.readouterr().err
  event = ledger.dp_events()[0]
  assert event.count == NUM_STEPS + num_charged
  assert job.restore().ledger == ledger.to_json()


def test_another_run_charges_the_steps_of_the_one_before(job, capfd):
  """Without a checkpoint nothing but the journal remembers the first run."""
  job.go_and_die(at_step=1)
  job.run_id = 'on another dataset'
  _, ledger, _ = job.go()
  assert num_replayed(ledger) == 2
  assert '2 steps' in capfd.readouterr().err


@pytest.mark.parametrize('second_death', [{'at_step': 2}, {'at_save': 4}])
def test_charge_is_not_lost_by_a_kill(job, monkeypatch, second_death):
  """The kill comes after the charge and before a checkpoint holds it."""
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=3)
  use_generator(monkeypatch, 'new')
  job.go_and_die(**second_death)
  assert job.restore(2).ledger['events'][-1]['num_replayed_steps'] == 0
  assert num_replayed(job.go()[1]) == 2
  assert num_replayed(job.go()[1]) == 2  # Once is enough.


def test_charge_is_made_once(job, monkeypatch):
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=1)
  use_generator(monkeypatch, 'new')
  for step in (3, 3, 5, 5):
    job.go_and_die(at_step=step)
  assert num_replayed(job.go()[1]) == 2


def test_charge_outlives_the_checkpoint_that_held_it(job, monkeypatch):
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=3)  # Saved 2; began 2 and 3.
  use_generator(monkeypatch, 'new')
  job.go_and_die(at_step=5)  # Saved 4, with the charge; began 4 and 5.
  (job.folder / 'checkpoints' / '4').rmtree()
  _, ledger, _ = job.go()
  assert num_replayed(ledger) == 2


def test_going_back_beyond_a_change_of_randomness_is_charged(job, monkeypatch):
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_save=6)  # Saved 2 and 4; began all six.
  use_generator(monkeypatch, 'new')
  (job.folder / 'checkpoints' / '4').rmtree()
  _, ledger, _ = job.go()  # Steps 2 to 5 are other draws now.
  assert num_replayed(ledger) == 4


def test_a_charge_may_leave_too_little(job, trainer, monkeypatch, tmp_path):
  _, ledger, _ = Job(trainer, tmp_path / 'whole').go()
  job.budget = 1.0001 * ledger.epsilon()
  use_generator(monkeypatch, 'old')
  job.go_and_die(at_step=3)
  use_generator(monkeypatch, 'new')
  with pytest.raises(errors.UsageError, match='4 more steps'):
    job.go()


@pytest.fixture(scope='module')
def public_step(trainer):
  return trainer.data_parallel.pmap_public_step(
    trainer.loss, trainer.optimizer, 0.9
  )


class PublicJob:
  """A public run in a folder."""

  def __init__(self, trainer, step, folder, batch_size=4):
    self.trainer, self.step = trainer, step
    self.checkpoints = checkpoint.Checkpointer(folder, is_private=False)
    self.batch_size = batch_size
    self.losses = {}

  def go(self, stop=never, die_at=None):
    trainer = self.trainer
    devices = trainer.data_parallel
    state = devices.unreplicate(trainer.initial_state())
    restored = self.checkpoints.restore(state)
    start = 0
    if restored:
      start, state = restored.step, restored.state

    def batch(step):
      if step == die_at:
        raise Killed
      rows = np.arange(self.batch_size) + step
      return {'x': private_problem.DATA[rows]}

    run = public_loop.PublicRun(
      step=self.step,
      batch=batch,
      batch_size=self.batch_size,
      key=jax.random.key(0),
      checkpoints=self.checkpoints,
      meta={},
      num_steps=5,
      checkpoint_every_steps=2,
      record_loss=lambda step, loss: self.losses.update({step: loss}),
    )
    return public_loop.train_public(run, devices, state, start, stop)


def test_public_run_resumed_equals_uninterrupted(
  trainer, public_step, tmp_path
):
  whole = PublicJob(trainer, public_step, tmp_path / 'whole')
  expected, step = whole.go()
  assert step == 5 and sorted(whole.losses) == [0, 1, 2, 3, 4]
  job = PublicJob(trainer, public_step, tmp_path / 'job')
  with pytest.raises(Killed):
    job.go(die_at=3)
  answers = iter([False, True])
  assert job.go(stop=lambda: next(answers))[1] == 4
  state, step = job.go()
  assert step == 5
  assert isinstance(state, train_state.TrainState)
  assert_same_bits(state, expected)
  assert job.losses == whole.losses


def test_a_public_step_compiled_from_shapes_is_the_step(
  trainer, public_step, tmp_path, caplog
):
  """To the same bits, and it is not compiled again when data are there."""
  devices = trainer.data_parallel
  expected, _ = PublicJob(trainer, public_step, tmp_path / 'plain').go()
  step = devices.pmap_public_step(trainer.loss, trainer.optimizer, 0.9)
  rows = private_problem.DATA[:4]
  public_loop.compile_public_step(
    step,
    devices,
    microbatch.shapes_of(devices.unreplicate(trainer.initial_state())),
    {'x': jax.ShapeDtypeStruct(rows.shape, rows.dtype)},
    jax.random.key(0),
  )
  with caplog.at_level(logging.DEBUG), jax.log_compiles():
    state, _ = PublicJob(trainer, step, tmp_path / 'early').go()
  messages = [record.getMessage() for record in caplog.records]
  assert not [m for m in messages if 'ompil' in m]
  assert_same_bits(state, expected)


def test_public_batch_must_be_shared_out(trainer, public_step, tmp_path):
  job = PublicJob(trainer, public_step, tmp_path, batch_size=5)
  with pytest.raises(errors.UsageError, match='batch_size=5 .* 2 devices'):
    job.go()


def test_an_empty_batch_is_a_step(job, trainer, monkeypatch):
  """Its noise is part of what is accounted, and it hides that none came."""
  steps = job.steps()
  nobody = dataclasses.replace(
    steps, selector=types.SimpleNamespace(select=lambda step: np.zeros(0, int))
  )
  state = trainer.initial_state()
  before = job.devices.unreplicate(state)
  state, stats = private_loop.private_step(nobody, job.devices, state, 0)
  after = job.devices.unreplicate(state)
  assert after.step == before.step + 1
  assert np.std(after.params['noise'] - before.params['noise']) > 0
  assert job.devices.unreplicate(stats).num_examples == 0


def test_gradients_that_are_not_finite_end_no_run(
  job, trainer, tmp_path, capfd
):
  """A stop at one would tell the terminal of a record."""
  job.go()
  said = capfd.readouterr()
  other = Job(trainer, tmp_path / 'other')
  other.scale = np.float32(np.nan)
  _, ledger, step = other.go()
  assert step == NUM_STEPS == ledger.entries[-1].num_steps
  assert capfd.readouterr() == said
  assert sum(s.num_non_finite for s in other.stats.values()) > 0


def test_the_terminal_does_not_tell_how_many_were_selected(
  job, trainer, tmp_path, monkeypatch, capfd
):
  job.go()
  said = capfd.readouterr()
  other = Job(trainer, tmp_path / 'other')
  steps = other.steps()
  selected = np.arange(0, private_problem.NUM_RECORDS, 2)
  monkeypatch.setattr(
    other,
    'steps',
    lambda: dataclasses.replace(
      steps, selector=types.SimpleNamespace(select=lambda step: selected)
    ),
  )
  other.go()
  assert other.stats[0].num_examples != job.stats[0].num_examples
  assert capfd.readouterr() == said


@pytest.mark.parametrize('is_cpu', [True, False])
def test_the_next_microbatch_is_ready_when_the_device_is(monkeypatch, is_cpu):
  events: list[str] = []

  def record(name, result=None):
    return lambda *args: events.append(name) or result

  monkeypatch.setattr(private_loop.jax, 'block_until_ready', record('wait'))
  devices = types.SimpleNamespace(
    num_devices=1,
    process_index=0,
    process_count=1,
    is_cpu=is_cpu,
    shard=record('shard'),
  )
  steps = types.SimpleNamespace(
    selector=types.SimpleNamespace(select=lambda step: np.arange(5)),
    streams=types.SimpleNamespace(draw_key=lambda s: 0, noise_keys=lambda s: 0),
    gather=lambda indices, step: np.zeros((len(indices), 1)),
    microbatch_size=2,
    zeros=lambda params: 0,
    accumulate=record('accumulate', 0),
    apply=record('apply', 'state'),
    private_stats=record('stats'),
    past_noise=lambda params, step: (),
  )
  state = types.SimpleNamespace(params={}, frozen_params={})
  private_loop.private_step(steps, devices, state, 0)
  text = ' '.join(events)
  assert text.count('accumulate') == 3 and 'wait shard' not in text
  assert text.count('wait accumulate') == (3 if is_cpu else 0)


def test_the_host_is_one_step_ahead_of_the_devices(
  monkeypatch, trainer, tmp_path
):
  events: list[str] = []

  def step(steps, devices, state, number):
    events.append(f'begun {number}')
    return state, number

  monkeypatch.setattr(private_loop, 'private_step', step)
  monkeypatch.setattr(
    private_loop, '_flush', lambda run, devices, pending: None
  )
  monkeypatch.setattr(
    private_loop.jax, 'block_until_ready', lambda x: events.append(f'done {x}')
  )
  Job(trainer, tmp_path).go()
  assert events[:5] == ['begun 0', 'begun 1', 'done 0', 'begun 2', 'done 1']
