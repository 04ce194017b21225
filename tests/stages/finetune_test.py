"""Fine-tuning: one mechanism everywhere, what a resume refuses, bad disks."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import shutil
import stat

from flax import linen as nn
import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.models import unet
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import verify
from dp_diffusion.stages import finetune
from dp_diffusion.stages import pretrain
from dp_diffusion.stages import sample
from dp_diffusion.stages import warm_up
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import histograms
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import run_secret
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import parallel
from dp_diffusion.training import private_loop
from dp_diffusion.training import state as train_state
from tests.stages import command

pytestmark = pytest.mark.usefixtures('one_device')

# The noise is given, so that nothing has to be searched for.
OVERRIDES = {
  'model.channel_multipliers': '(1,)',
  'privacy.solve_for': 'epsilon',
  'privacy.epsilon': 'none',
  'privacy.noise_multiplier': '1.25',
  'privacy.num_examples': '1400',  # Declared; there are 1437.
}
NUM_IMAGES = 1437


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, {**OVERRIDES, **named})


@dataclasses.dataclass
class Seen:
  """What the stage gave to the loop, and to whom it told the numbers."""

  configs: dict = dataclasses.field(default_factory=dict)
  steps: private_loop.PrivateSteps | None = None
  run: private_loop.PrivateRun | None = None
  ledger: ledger_lib.Ledger | None = None
  start_step: int | None = None
  state: train_state.TrainState | None = None


@pytest.fixture(scope='module')
def public_weights():
  config = load()
  return assembly.init_params(config, config.pretrain.data)


@pytest.fixture
def seen(public_weights, monkeypatch: pytest.MonkeyPatch) -> Seen:
  """Replaces the loop: one step is charged and saved, nothing is computed."""
  monkeypatch.setattr(assembly, 'init_params', lambda *_: public_weights)
  seen = Seen()

  class Recorder(parallel.DataParallel):
    def pmap_zeros(self, config):
      seen.configs['zeros'] = config
      return super().pmap_zeros(config)

    def pmap_accumulate(self, loss_fn, config):
      seen.configs['accumulate'] = config
      return super().pmap_accumulate(loss_fn, config)

    def pmap_apply(self, optimizer, config):
      seen.configs['apply'] = config
      return super().pmap_apply(optimizer, config)

  def train(steps, run, devices, state, ledger, start_step, stop):
    del devices, stop
    seen.steps, seen.run = steps, run
    seen.ledger, seen.start_step, seen.state = ledger, start_step, state
    step, ledger = start_step + 1, ledger.with_steps(1)
    run.checkpoints.save(step, state, ledger.to_json(), run.meta)
    return state, ledger, step

  monkeypatch.setattr(parallel, 'DataParallel', Recorder)
  monkeypatch.setattr(private_loop, 'train_private', train)
  return seen


@pytest.fixture
def workdir(public_weights, tmp_path: pathlib.Path) -> workdirs.Workdir:
  """Public weights and a known secret; nothing private is done yet."""
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  weights.save_npz(pretrain.weights_path(workdir), public_weights)
  key_streams.Secret.insecure(0).save(workdir.private / 'secret')
  return workdir


def begin(config: config_lib.Config, workdir: workdirs.Workdir) -> None:
  """Runs the stage; it ends after the step that the loop took."""
  with pytest.raises(errors.Interrupted):
    finetune.run(config, workdir, interrupts.Stop(''))


class _Mixing(nn.Module):
  """A denoiser with a layer that looks at the whole batch."""

  config: unet.UNetConfig

  @nn.compact
  def __call__(self, x_t, timestep, label, is_training=False):
    return nn.BatchNorm(use_running_average=False, name='mixes')(x_t)


def test_a_model_that_mixes_examples_is_refused(workdir, monkeypatch) -> None:
  monkeypatch.setattr(unet, 'UNet', _Mixing)
  with pytest.raises(ValueError, match='batch_stats in mixes'):
    finetune.run(load(), workdir, interrupts.Stop(''))
  assert not (workdir.private / 'checkpoints').exists()
  assert not run_secret.has_begun(workdir)


def test_no_bound_is_rounded_down_on_the_terminal(capsys) -> None:
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=1000,
    expected_batch_size=10,
    num_steps=5,
    noise_multiplier=1.25,
    l2_clip_norm=1.0,
    delta=1.2345612e-5,
  )
  finetune.say_calibration(
    accounting.Calibration(
      mechanism=mechanism,
      epsilon_pld=1.23412,
      epsilon_rdp=2.00004,
      noise_multiplier_rdp=None,
    )
  )
  said = capsys.readouterr().out
  for bound in ('1.235 by PLD', 'RDP 2.001', 'delta 1.23457e-05'):
    assert bound in said


def test_mechanism_reaches_every_part(seen: Seen, workdir) -> None:
  config = load()
  begin(config, workdir)
  privacy = config.privacy
  mechanism = seen.ledger.entries[-1].mechanism
  assert mechanism == mechanism_lib.DpSgdMechanism(
    num_examples=1400,
    expected_batch_size=privacy.expected_batch_size,
    num_steps=privacy.num_steps,
    noise_multiplier=1.25,
    l2_clip_norm=privacy.l2_clip_norm,
    delta=privacy.delta,
  )
  selector = seen.steps.selector
  assert selector.sampling_prob == mechanism.sampling_prob
  assert selector.num_records == NUM_IMAGES  # q is of the declared number.
  for name in ('zeros', 'accumulate'):
    grad = seen.configs[name]
    assert grad.l2_clip_norm == mechanism.l2_clip_norm
    assert grad.num_draws == config.finetune.augmult
    assert grad.rescale_to_unit_norm == config.finetune.rescale_to_unit_norm
    assert not grad.batch_has_draw_axis
  apply = seen.configs['apply']
  assert apply.noise_multiplier == mechanism.noise_multiplier
  assert apply.expected_batch_size == mechanism.expected_batch_size
  assert seen.run.num_steps == mechanism.num_steps
  facts = seen.run.meta['facts']
  assert facts['mechanism'] == mechanism.to_dict()
  assert seen.ledger.delta == privacy.delta
  assert seen.ledger.unit == 'image'
  whole = seen.ledger.with_steps(mechanism.num_steps)
  assert seen.ledger.budget_epsilon == pytest.approx(whole.epsilon())


def show_persons(monkeypatch: pytest.MonkeyPatch) -> registry.ArraySource:
  """The digits as four images of each person, for whoever loads them."""
  source = registry.load(load().data)
  person = np.arange(NUM_IMAGES, dtype=np.int32) // 4
  spec = dataclasses.replace(source.spec, has_person=True)
  source = dataclasses.replace(source, spec=spec, person=person)
  monkeypatch.setattr(registry, 'load', lambda *_: source)
  return source


def test_a_person_is_one_record(
  seen: Seen, workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
  source = show_persons(monkeypatch)
  begin(load(data__unit='person', privacy__num_examples='350'), workdir)
  assert seen.steps.selector.num_records == 360
  assert seen.steps.selector.sampling_prob == 32 / 350
  assert seen.configs['accumulate'].batch_has_draw_axis
  assert seen.ledger.unit == 'person'
  batch = seen.steps.gather(np.array([7, 359, 7]), 0)
  assert batch['image'].shape == (3, 2, 8, 8, 1)  # One image for each draw.
  for leaf in batch.values():
    np.testing.assert_array_equal(leaf[0], leaf[2])
  np.testing.assert_array_equal(batch['image'][1, 0], source.images[1436])


def test_a_person_shows_other_images_at_other_steps(
  seen: Seen, workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
  show_persons(monkeypatch)
  begin(load(data__unit='person', privacy__num_examples='350'), workdir)
  first, second, again = (
    seen.steps.gather(np.arange(300), step)['image'] for step in (0, 1, 0)
  )
  np.testing.assert_array_equal(first, again)
  is_other = np.any(first != second, axis=(2, 3, 4))
  assert 0.6 < is_other.mean() < 0.9  # One of four.


def test_lost_steps_in_the_journal_are_charged(seen: Seen, workdir) -> None:
  """Of a run without a checkpoint, on other images or with another seed."""
  journal = workdir.private / 'begun_steps.json'
  journal.write_text('{"begun_steps": {"another run": [[0, 3]]}}')
  begin(load(), workdir)
  assert seen.ledger.entries[-1].num_replayed_steps == 3
  assert seen.ledger.dp_events()[0].count == 3


def test_checkpoints_are_closed_to_others(seen: Seen, workdir) -> None:
  begin(load(), workdir)
  mode = (workdir.private / 'checkpoints').stat().mode
  assert stat.S_IMODE(mode) == 0o700


WITH_HISTOGRAM = {
  'sample__labels': 'noised_histogram',
  'privacy__label_histogram_noise_multiplier': '5',
}


def test_histogram_is_paid_for(seen: Seen, workdir) -> None:
  begin(load(**WITH_HISTOGRAM), workdir)
  histogram, training = seen.ledger.entries
  assert histogram.kind == 'noised_histogram'
  assert histogram.mechanism.noise_multiplier == 5
  whole = seen.ledger.with_steps(training.mechanism.num_steps)
  assert whole.epsilon() == pytest.approx(seen.ledger.budget_epsilon)
  alone = accounting.epsilon(training.dp_events(4), training.mechanism.delta)
  assert alone < whole.epsilon() - 0.1
  begin(load(**WITH_HISTOGRAM), workdir)
  assert seen.ledger.entries[0] == histogram  # Once, also after a resume.
  assert len(seen.ledger.entries) == 2


def test_more_noise_makes_room_for_the_histogram() -> None:
  promised = {
    'privacy__solve_for': 'noise_multiplier',
    'privacy__epsilon': '1.5',
    'privacy__noise_multiplier': 'none',
  }
  without = budget.calibrate(load(**promised))
  beside = budget.calibrate(load(**promised, **WITH_HISTOGRAM))
  assert beside.mechanism.noise_multiplier > without.mechanism.noise_multiplier
  assert 1.49 < beside.epsilon_pld <= 1.5


WITH_WARM_UP = {
  'finetune__warm_up__mean_steps': '6',
  'finetune__warm_up__mean_noise_multiplier': '5',
  'finetune__warm_up__num_means': '2',
}


def test_statistics_of_a_warm_up_are_paid_for(
  seen: Seen, workdir, public_weights, monkeypatch: pytest.MonkeyPatch
) -> None:
  """And the private steps start from its weights, in a run of their own."""
  begin(load(), workdirs.open_workdir(str(_copy(workdir))))
  without = seen.run.meta['run_id']
  warmed = jax.tree.map(lambda x: x + 1, public_weights)
  monkeypatch.setattr(warm_up, 'run', lambda *_: warmed)
  begin(load(**WITH_WARM_UP), workdir)
  means, training = seen.ledger.entries
  assert means.noise_multiplier == 5 and means.mechanism.count == 2
  whole = seen.ledger.with_steps(training.mechanism.num_steps)
  assert whole.epsilon() == pytest.approx(seen.ledger.budget_epsilon)
  alone = accounting.epsilon(training.dp_events(4), training.mechanism.delta)
  assert alone < whole.epsilon() - 0.1
  assert seen.run.meta['run_id'] != without
  for found, wanted in zip(
    jax.tree.leaves(seen.state.all_params), jax.tree.leaves(warmed), strict=True
  ):
    np.testing.assert_array_equal(found, wanted)
  begin(load(**WITH_WARM_UP), workdir)
  assert seen.ledger.entries[0] == means  # Once, also after a resume.
  assert len(seen.ledger.entries) == 2


OTHER_CLASSES = {'pretrain__data__class_names': str(tuple('abcdefghij'))}


def test_rows_of_other_classes_are_new(
  seen: Seen, workdir, public_weights
) -> None:
  """Also of as many: a row of the public images means something else."""
  trained = jax.tree.map(lambda x: x + 1, public_weights)
  weights.save_npz(pretrain.weights_path(workdir), trained)
  for changes, is_other in (({}, False), (OTHER_CLASSES, True)):
    found, _ = finetune._first_params(load(**changes), workdir)
    for path, value in weights.flatten(found).items():
      is_new = is_other and path == weights.CLASS_ROWS
      source = public_weights if is_new else trained
      np.testing.assert_array_equal(value, weights.flatten(source)[path])


def test_new_rows_are_not_frozen(seen: Seen, workdir) -> None:
  """They would be released as they were drawn."""
  config = load(**OTHER_CLASSES, finetune__trainable="('out*',)")
  with pytest.raises(errors.UsageError, match=weights.CLASS_ROWS) as raised:
    finetune.run(config, workdir, interrupts.Stop(''))
  assert '\n' not in str(raised.value) and seen.steps is None


def _copy(workdir: workdirs.Workdir) -> pathlib.Path:
  """Copies a folder in which nothing private is done yet."""
  folder = pathlib.Path(workdir.root).with_name('copy')
  shutil.copytree(workdir.root, folder)
  return folder


def test_more_noise_makes_room_for_a_warm_up() -> None:
  promised = {
    'privacy__solve_for': 'noise_multiplier',
    'privacy__epsilon': '1.5',
    'privacy__noise_multiplier': 'none',
  }
  without = budget.calibrate(load(**promised))
  beside = budget.calibrate(load(**promised, **WITH_WARM_UP))
  assert beside.mechanism.noise_multiplier > without.mechanism.noise_multiplier
  assert 1.49 < beside.epsilon_pld <= 1.5


def test_averages_are_kept_beside_the_one_that_is_released(
  seen: Seen, workdir
) -> None:
  """And in the checkpoint, so that a resume goes on with them."""
  config = load(finetune__power_averages='(0.05, 0.1)')
  begin(config, workdir)
  exponents = config.finetune.power_exponents()
  assert seen.configs['apply'].power_exponents == exponents
  assert len(seen.state.power_params) == len(exponents) == 2
  begin(config, workdir)
  assert seen.start_step == 1 and len(seen.state.power_params) == 2
  with pytest.raises(errors.UsageError, match='power_params'):
    finetune.run(load(), workdir, interrupts.Stop(''))


def test_histogram_is_noised_once(seen: Seen, workdir) -> None:
  exact = np.bincount(registry.load(load().data).labels, minlength=10)
  begin(load(**WITH_HISTOGRAM), workdir)
  path = workdir.private / 'label_histogram.json'
  assert path.stat().mode & 0o777 == 0o600
  text = path.read_text()
  counts = json.loads(text)['noised']
  error = np.array(counts) - exact
  assert np.all(error != 0) and 1 < np.std(error) < 15
  path.write_text(text.replace('"noised"', '"noised" '))  # Left as it is.
  begin(load(**WITH_HISTOGRAM), workdir)
  assert '"noised" ' in path.read_text()
  shares = histograms.weights(workdir)
  np.testing.assert_array_equal(shares, np.maximum(counts, 0))
  labels = sample.labels_by_weight(shares, 100)
  np.testing.assert_allclose(
    np.bincount(labels, minlength=10), 100 * shares / shares.sum(), atol=2
  )


def test_negative_noised_counts_are_no_labels(workdir) -> None:
  path = workdir.private / 'label_histogram.json'
  for counts, expected in (
    ([3.0, -2.0, 1.0], [3.0, 0.0, 1.0]),
    ([-1.0, -2.0], [1.0, 1.0]),
  ):
    path.write_text(json.dumps({'noised': counts}))
    np.testing.assert_array_equal(histograms.weights(workdir), expected)


@pytest.mark.parametrize('name', WITH_HISTOGRAM)
def test_histogram_and_its_noise_go_together(name: str) -> None:
  with pytest.raises(errors.UsageError, match='to go together'):
    load(**{name: WITH_HISTOGRAM[name]})


def test_no_histogram_where_none_is_asked_for(seen: Seen, workdir) -> None:
  begin(load(), workdir)
  assert len(seen.ledger.entries) == 1
  assert not (workdir.private / 'label_histogram.json').exists()


def test_scales_reach_the_clip(seen: Seen, workdir) -> None:
  begin(load(finetune__gradient_scales='label/classes=50'), workdir)
  for name in ('zeros', 'accumulate'):
    (rule,) = seen.configs[name].gradient_scales
    assert (rule.patterns, rule.value) == (('label/classes',), 50)


def test_a_resume_continues_its_ledger(seen: Seen, workdir) -> None:
  begin(load(), workdir)
  run_id = seen.run.meta['run_id']
  begin(load(finetune__microbatch_size='8'), workdir)  # Moves work about.
  assert seen.start_step == 1
  assert seen.ledger.entries[-1].num_steps == 1
  assert seen.run.meta['run_id'] == run_id == seen.steps.streams.run_id


def test_a_resume_keeps_its_randomness(
  seen: Seen, workdir, public_weights, monkeypatch
) -> None:
  """Also where another machine rounds the first weights differently."""
  begin(load(), workdir)
  streams = seen.steps.streams
  moved = {
    name: np.asarray(value) * np.float32(1 + 1e-6)
    for name, value in weights.flatten(public_weights).items()
  }
  weights.save_npz(pretrain.weights_path(workdir), moved)
  begin(load(), workdir)
  assert seen.start_step == 1
  assert seen.steps.streams == streams
  assert seen.run.meta['run_id'] == streams.run_id


def test_a_run_without_a_whole_checkpoint_does_not_begin_anew(
  seen: Seen, workdir
) -> None:
  """What it has spent would be forgotten."""
  begin(load(), workdir)
  before = seen.run.meta
  for path in pathlib.Path(workdir.private / 'checkpoints').rglob('*'):
    if path.is_file():
      path.write_bytes(b'')
  with pytest.raises(errors.UsageError, match='all damaged') as raised:
    begin(load(), workdir)
  assert '\n' not in str(raised.value)
  assert seen.run.meta is before  # The loop was not called again.


def test_weights_that_do_not_train_name_the_run_too(
  seen: Seen, workdir, public_weights
) -> None:
  """Gradients depend on them, so their noise must be another one."""
  config = load(finetune__trainable="('out*',)")
  other = workdirs.open_workdir(str(_copy(workdir)))
  flat = dict(weights.flatten(public_weights))
  flat['time_1/bias'] = flat['time_1/bias'] + 1
  weights.save_npz(pretrain.weights_path(other), weights.unflatten(flat))
  run_ids = []
  for folder in (workdir, other):
    begin(config, folder)
    assert 'time_1/bias' not in weights.flatten(seen.state.params)
    run_ids.append(seen.run.meta['run_id'])
  assert run_ids[0] != run_ids[1]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'privacy__l2_clip_norm': '0.4'}, 'l2_clip_norm was 0.3 and is now 0.4'),
    (
      {'privacy__noise_multiplier': '1.2'},
      'noise_multiplier was 1.25 and is now 1.2',
    ),
    ({'finetune__augmult': '4'}, 'augmult was 2 and is now 4'),
    (
      {'finetune__gradient_scales': 'label/classes=2'},
      "gradient_scales was None and is now .'label/classes=2'.",
    ),
    ({'finetune__clip_groups': '*=1'}, "clip_groups was None and is now .'"),
    ({'diffusion__prediction': 'eps'}, "prediction was 'v' and is now 'eps'"),
    ({'data__flip': 'true'}, 'flip was False and is now True'),
  ],
)
def test_resume_refuses_what_changed(
  seen: Seen, workdir, change: dict[str, str], message: str
) -> None:
  begin(load(), workdir)
  with pytest.raises(errors.UsageError, match=message) as raised:
    begin(load(**change), workdir)
  assert '\n' not in str(raised.value)
  assert seen.start_step == 0  # The loop was not called again.


def test_resume_refuses_another_dataset(
  seen: Seen, workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
  begin(load(), workdir)
  source = registry.load(load().data)
  images = source.images.copy()
  images[17, 3, 3, 0] ^= 1
  changed = dataclasses.replace(source, images=images)
  with monkeypatch.context() as patch:
    patch.setattr(registry, 'load', lambda *_: changed)
    with pytest.raises(errors.UsageError, match='dataset .* it differs'):
      begin(load(), workdir)
  assert seen.start_step == 0
  begin(load(), workdir)
  assert seen.start_step == 1


def test_resume_refuses_another_secret(seen: Seen, workdir) -> None:
  begin(load(), workdir)
  secret = workdir.private / 'secret'
  secret.unlink()
  key_streams.Secret.insecure(1).save(secret)
  with pytest.raises(errors.UsageError, match='secret .* it differs'):
    begin(load(), workdir)
  assert seen.start_step == 0


def test_a_lost_secret_is_not_made_anew(seen: Seen, workdir) -> None:
  begin(load(), workdir)
  (workdir.private / 'begun_steps.json').write_text('{"begun_steps": {}}')
  (workdir.private / 'secret').unlink()
  with pytest.raises(errors.UsageError, match='cannot be resumed'):
    begin(load(), workdir)
  assert not (workdir.private / 'secret').exists()


def test_the_ledger_that_leaves_is_sealed(seen: Seen, workdir) -> None:
  """Else its training could go on, and a second trajectory leave."""
  finetune.run(load(privacy__num_steps='1'), workdir, interrupts.Stop(''))
  assert not seen.ledger.entries[-1].is_sealed
  stored = statements.read(workdir)
  ledger = ledger_lib.Ledger.from_json(stored['ledger'])
  assert ledger.entries[-1].is_sealed and ledger.entries[-1].num_steps == 1
  assert stored['is_insecure']  # The secret was planted.
  found = verify.verify(pathlib.Path(workdir.release))
  assert not found.mismatches


def test_leftovers_in_the_release_are_refused(seen: Seen, workdir) -> None:
  """The ledger of this run has not paid for them."""
  shard = workdir.release / 'dataset' / 'images-00000-of-00001.npz'
  shard.parent.mkdir(parents=True)
  shard.write_bytes(b'of another run')
  with pytest.raises(errors.UsageError, match='images-00000-of-00001'):
    finetune.run(load(), workdir, interrupts.Stop(''))
  assert seen.run is None and shard.read_bytes() == b'of another run'


def _unfinished(finetuned_run, workdir: pathlib.Path) -> pathlib.Path:
  """A copy of the run, back before its fine-tuning was complete.

  Returns:
    Its newest checkpoint.
  """
  shutil.copytree(finetuned_run.workdir, workdir)
  shutil.rmtree(workdir / 'release')
  (workdir / 'private' / 'ledger.json').unlink()
  record = json.loads((workdir / 'config.json').read_text())
  record = {name: record[name] for name in ('pretrain', 'finetune')}
  record['finetune']['complete'] = False
  (workdir / 'config.json').write_text(json.dumps(record))
  checkpoints = workdir / 'private' / 'checkpoints'
  newest = max(checkpoints.glob('[0-9]*'), key=lambda path: int(path.name))
  assert newest.name == '4' and (checkpoints / '2').exists()
  return newest


def _check_same_outcome(finetuned_run, workdir: pathlib.Path) -> None:
  """The same bits and the same epsilon as without any accident."""
  model = pathlib.Path('release', 'model', 'params.npz')
  assert (workdir / model).read_bytes() == (
    finetuned_run.workdir / model
  ).read_bytes()
  name = pathlib.Path('private', 'ledger.json')
  before, after = (
    json.loads((folder / name).read_text())['ledger']
    for folder in (finetuned_run.workdir, workdir)
  )
  assert after == before
  assert after['events'][-1]['num_steps'] == 4


def test_damaged_newest_checkpoint_costs_nothing_but_time(
  finetuned_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  workdir = tmp_path / 'run'
  newest = _unfinished(finetuned_run, workdir)
  for path in (newest / 'state').rglob('*'):
    if path.is_file():  # Half of each, as after a power cut.
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  done = command.run(
    subprocess_environment, *command.quick(workdir), '--stage=finetune'
  )
  assert done.returncode == 0, done.stderr
  assert 'step 4 is damaged' in done.stderr
  assert 'step 2 is used' in done.stderr
  _check_same_outcome(finetuned_run, workdir)


WITH_A_FULL_DISK = """
import errno
from dp_diffusion.training import checkpoint

def fill(self, directory, args):
  raise OSError(errno.ENOSPC, 'No space left on device')

checkpoint._MetaHandler.save = fill
"""


def test_full_disk_is_one_line_and_resumable(
  finetuned_run,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  workdir = tmp_path / 'run'
  shutil.rmtree(_unfinished(finetuned_run, workdir))
  arguments = (*command.quick(workdir), '--stage=finetune')
  done = command.run(subprocess_environment, *arguments, code=WITH_A_FULL_DISK)
  assert done.returncode == 2, done.stderr
  known_secret, error = done.stderr.splitlines()
  assert known_secret.startswith('warning: the secret is a known one')
  assert error.startswith('error: ') and done.stderr.count('\n') == 2
  assert 'the disk is full' in error and 'step 2' in error
  command.succeed(subprocess_environment, *arguments)
  _check_same_outcome(finetuned_run, workdir)


def test_curves_of_the_private_steps_lie_in_private_alone(finetuned_run):
  found = command.contents(finetuned_run.workdir)
  assert found['private/curves.png'].startswith(b'\x89PNG')
  outside = [path for path in found if not path.startswith('private/')]
  # Those of public steps are drawn from public/metrics.jsonl.
  assert not [p for p in outside if 'curves' in p and p != 'public/curves.png']
