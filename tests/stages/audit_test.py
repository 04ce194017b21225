"""`--stage=audit` on the real step, whole and broken.

Faults are put into the step from outside, by monkeypatching: no config key
weakens it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import shutil
import stat
import types

import jax
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import leaf_patterns
from dp_diffusion import main
from dp_diffusion.data import registry
from dp_diffusion.privacy import audit as audit_lib
from dp_diffusion.privacy import audit_steps
from dp_diffusion.privacy import audit_tradeoff
from dp_diffusion.privacy import clipping
from dp_diffusion.privacy import key_streams
from dp_diffusion.stages import audit
from dp_diffusion.stages import runner
from dp_diffusion.stages.evaluation import audit_records
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import private_step
from tests.privacy import simulated_audit
from tests.stages import command
from tests.training import private_problem

pytestmark = pytest.mark.usefixtures('one_device')

OVERRIDES = {
  'pretrain.num_steps': '0',  # Fresh weights do.
  'pretrain.optimizer.warmup_steps': '0',
  'model.channel_multipliers': '(1,)',
  'finetune.augmult': '1',
  'finetune.microbatch_size': '8',
  'finetune.checkpoint_every_steps': '100',
}


@pytest.fixture(scope='module')
def config() -> config_lib.Config:
  return audit.on_public_images(
    config_lib.load(command.DIGITS_SMOKE, OVERRIDES)
  )


def run_main(workdir: pathlib.Path, stage: str) -> int:
  flags = [f'--config.{key}={value}' for key, value in OVERRIDES.items()]
  return main.main(
    [
      f'--config={command.DIGITS_SMOKE}',
      f'--workdir={workdir}',
      f'--stage={stage}',
      *flags,
    ]
  )


@pytest.fixture(scope='module')
def pretrained(one_device, tmp_path_factory) -> pathlib.Path:
  """A workdir with public weights; not to be changed."""
  folder = tmp_path_factory.mktemp('pretrained')
  assert run_main(folder, 'pretrain') == 0
  return folder


@pytest.fixture
def workdir(pretrained, tmp_path) -> pathlib.Path:
  """Public weights, and a known secret for the audit."""
  shutil.copytree(pretrained, tmp_path, dirs_exist_ok=True)
  plant_secret(tmp_path, 0)
  return tmp_path


def plant_secret(workdir: pathlib.Path, seed: int) -> None:
  path = workdir / 'private' / 'audit' / 'secret'
  key_streams.Secret.insecure(seed).save(path)


def read(workdir: pathlib.Path) -> dict:
  return json.loads((workdir / 'evaluation' / 'audit.json').read_text())


def test_audit_needs_public_weights(tmp_path, capsys):
  assert run_main(tmp_path, 'audit') == 2
  assert '--stage=pretrain' in capsys.readouterr().err


def test_right_mechanism_passes(workdir, config, capsys):
  assert run_main(workdir, 'audit') == 0
  result = read(workdir)
  assert result['is_passed'] and result['earlier_runs'] == []
  found, claim = result['white_box'], result['claim']
  assert found['epsilon_lower_bound'] < claim['epsilon'] < found['ceiling']
  assert (found['num_canaries'], found['num_guesses']) == (400, 50)
  assert found['epsilon_of_any_mechanism'] <= found['epsilon_lower_bound'] + 0.1
  # Some hundred times a canary was selected: nearly all of the claim is seen.
  steps = result['steps']
  assert 0.2 < steps['epsilon_lower_bound'] <= claim['epsilon']
  assert claim['epsilon'] < steps['ceiling']
  assert 120 < steps['num_with'] < 280
  assert steps['num_with'] + steps['num_without'] == 400 * claim['num_steps']
  assert 1 / steps['mu'] == pytest.approx(steps['largest_noise'])
  assert 150 < result['num_gradient_canaries_in'] < 250
  assert result['black_box']['num_canaries'] == 40
  # The noise is what the mechanism says, the network's own parameters apart.
  assert result['measured_noise_multiplier'] == pytest.approx(
    claim['noise_multiplier'], rel=0.1
  )
  out = capsys.readouterr().out
  assert 'at least' in out and 'most that this audit can show' in out
  for name in ('audit.json', 'audit.png'):
    mode = (workdir / 'evaluation' / name).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
  assert 'Step by step' in out and 'From the whole run' in out
  (section,) = audit.sections(workdirs.open_workdir(str(workdir)))
  assert section.data['audit'] == result
  assert not (workdir / 'release').exists()
  record = json.loads((workdir / 'config.json').read_text())
  assert set(record) == {'pretrain'}  # Never complete, so never skipped.


@pytest.fixture
def quick_filler(monkeypatch):
  """Filler and image canaries without the network, which takes long to compile.

  What is broken, the clip and the noise, comes after the loss.
  """

  def loss_fn(params, example, draw_key):
    del draw_key
    leaves = jax.tree.leaves(params)
    brightness = example['image'].astype('float32').mean() / 255
    return brightness * sum(x.sum() for x in leaves) / len(leaves) ** 2

  monkeypatch.setattr(
    assembly, 'make_loss_fn', lambda *args, **keywords: loss_fn
  )


# In the default run: test_noise_that_is_missing_ends_with_exit_code_1 for what
# the stage concludes, and test_right_mechanism_passes, which measures the noise
# of the real step.
@pytest.mark.slow
@pytest.mark.parametrize('fault', ['noise off', 'noise at a third', 'clip off'])
def test_faults_end_with_exit_code_1(
  fault, workdir, quick_filler, monkeypatch, capsys
):
  std = private_step.noise_std
  if fault == 'noise off':
    monkeypatch.setattr(private_step, 'noise_std', lambda *_: 0.0)
  elif fault == 'noise at a third':
    monkeypatch.setattr(private_step, 'noise_std', lambda m, s: std(m, s) / 3)
  else:
    broken = functools.partial(
      private_problem.without_clip, clipping.clipped_grad_sum
    )
    monkeypatch.setattr(clipping, 'clipped_grad_sum', broken)
  check_refuted(workdir, capsys)


def check_refuted(workdir: pathlib.Path, capsys) -> None:
  assert run_main(workdir, 'audit') == 1
  result = read(workdir)
  assert not result['is_passed']
  claimed = result['claim']['epsilon']
  assert result['white_box']['epsilon_lower_bound'] > claimed
  assert result['steps']['epsilon_lower_bound'] > claimed
  error = capsys.readouterr().err
  assert 'failed: ' in error and 'REFUTES' in error


@pytest.fixture
def no_training(monkeypatch):
  """The stage without its steps: what lies around them is tested."""

  def untrained(config, workdir, stop, devices, mechanism, steps, state, *_):
    del config, workdir, stop, devices, mechanism, steps
    return state

  monkeypatch.setattr(audit, '_train', untrained)
  monkeypatch.setattr(
    audit_records.ImageLosses, '__call__', lambda self, params: np.zeros(40)
  )


def test_noise_that_is_missing_ends_with_exit_code_1(
  workdir, no_training, monkeypatch, capsys
):
  """What a training without noise would show: each canary at its steps."""
  seen = audit._Seen

  def without_noise(*, is_selected, **others):
    rest = np.random.default_rng(0).normal(0, 0.01, is_selected.shape)
    others['observed'] = is_selected + rest  # The rest of a batch adds little.
    return seen(is_selected=is_selected, **others)

  monkeypatch.setattr(audit, '_Seen', without_noise)
  check_refuted(workdir, capsys)


def test_both_tests_share_the_significance(monkeypatch):
  """Either may refute: together they are wrong as often as one may be."""
  spent = []

  def by_guesses(mechanism, guesses, significance):
    del mechanism, guesses
    spent.append(significance)
    return audit_tradeoff.Bound(
      largest_noise=None, epsilon_lower_bound=0.0, ceiling=0.0
    )

  def by_steps(observed, is_selected, significance):
    del observed, is_selected
    spent.append(significance)
    return audit_steps.Steps(
      num_with=0, num_missed=0, num_without=0, num_false=0, mu=0.0
    )

  monkeypatch.setattr(audit_tradeoff, 'bound', by_guesses)
  monkeypatch.setattr(audit_steps, 'bound', by_steps)
  settings = audit_lib.AuditConfig(epsilon=4.0)
  size = settings.num_canaries
  dataset = types.SimpleNamespace(gradient_coins=np.zeros(size, np.bool_))
  seen = audit._Seen(
    observed=np.zeros((4, size)),
    is_selected=np.zeros((4, size), np.bool_),
    drop=np.zeros(0),
    seconds=0.0,
  )
  mechanism = simulated_audit.mechanism(4.0)
  scores = np.zeros(size)
  found = audit._tests(settings, mechanism, dataset, seen, scores)
  assert found['is_passed'] and len(spent) == 2 and min(spent) > 0
  assert sum(spent) == pytest.approx(1 - settings.confidence)


def test_every_audit_has_its_own_secret(workdir, no_training):
  """And earlier results stay: trying until it passes would be seen."""
  secrets = []
  for count in range(3):
    run_main(workdir, 'audit')
    path = workdir / 'private' / 'audit' / 'secret'
    secrets.append(key_streams.Secret.load(path).value)
    assert len(read(workdir)['earlier_runs']) == count
  assert len(set(secrets)) == 3


@pytest.mark.parametrize('is_passed', [True, False])
def test_no_earlier_audit_is_forgotten(is_passed):
  before = {
    'is_passed': is_passed,
    'claim': {'epsilon': 1.0},
    'white_box': {'epsilon_lower_bound': 3.0},
    'steps': {'epsilon_lower_bound': 2.0},
    'earlier_runs': ['an earlier one'],
  }
  assert audit._earlier_runs(None) == []
  assert audit._earlier_runs(before) == [
    'an earlier one',
    {
      'is_passed': is_passed,
      'epsilon': 1.0,
      'epsilon_lower_bound': 3.0,
      'epsilon_lower_bound_by_steps': 2.0,
    },
  ]


@pytest.mark.parametrize(
  'scales', [(), ('out*=0.1', 'mid*=8'), ('out*=20', 'mid*=50')]
)
def test_a_canary_stands_out_without_the_clip(config, scales):
  """In each leaf: otherwise no audit could find that the clip is off."""
  mechanism = simulated_audit.mechanism(4.0)
  finetune = dataclasses.replace(config.finetune, gradient_scales=scales)
  norm = audit._canary_norm(finetune, mechanism)
  leaves = dict.fromkeys(('in', 'mid', 'out'), np.zeros(3))
  applied = leaf_patterns.values(
    'gradient_scales', leaves, finetune.scale_rules(), 1.0
  )
  for scale in applied.values():
    assert norm * scale >= 5 * mechanism.l2_clip_norm


@pytest.mark.parametrize('is_rescaled', [True, False])
def test_observations_are_in_units_of_the_sensitivity(config, is_rescaled):
  """So that the noise in them has the std of its multiplier."""
  mechanism = dataclasses.replace(
    simulated_audit.mechanism(4.0), l2_clip_norm=1e-3
  )
  finetune = dataclasses.replace(
    config.finetune, rescale_to_unit_norm=is_rescaled
  )
  sensitivity = assembly.grad_config(
    finetune, mechanism.l2_clip_norm, batch_has_draw_axis=False
  ).l2_sensitivity
  means = np.array([[0.5, 2.0]]) * sensitivity / mechanism.expected_batch_size
  state = types.SimpleNamespace(opt_state=[types.SimpleNamespace(rows=means)])
  found = audit._observed(
    dataclasses.replace(config, finetune=finetune), mechanism, state
  )
  np.testing.assert_allclose(found, [[0.5, 2.0]], rtol=1e-6)


def test_interrupted_audit_keeps_its_secret(workdir, config):
  place = workdirs.Workdir(workdirs.epath.Path(workdir))
  facts = {'a': 1}
  first = audit._begin_job(config, place, facts)
  assert audit._begin_job(config, place, facts) == first
  assert audit._begin_job(config, place, {'a': 2}) != first


def test_an_audit_never_goes_on_under_another_secret(workdir, config):
  """Its canaries followed the coins of the old one."""
  place = workdirs.Workdir(workdirs.epath.Path(workdir))
  facts = {'a': 1}
  folder = place.private / 'audit'
  first = audit._begin_job(config, place, facts)
  (folder / 'checkpoints').mkdir()
  assert audit._begin_job(config, place, facts) == first
  assert (folder / 'checkpoints').exists()
  (folder / 'secret').unlink()
  plant_secret(workdir, 5)
  other = audit._begin_job(config, place, facts)
  assert other not in (first, key_streams.Secret.insecure(5))
  assert not (folder / 'checkpoints').exists()
  # As after a kill while an earlier audit was cleared away.
  (folder / 'checkpoints').mkdir()
  (folder / 'job.json').unlink()
  audit._begin_job(config, place, facts)
  assert not (folder / 'checkpoints').exists()


def test_no_sensitive_image_is_read(workdir, config, no_training, monkeypatch):
  load, loaded = registry.load, []

  def spy(data, *arguments):
    loaded.append(data.name)
    return load(data, *arguments)

  monkeypatch.setattr(registry, 'load', spy)
  run_main(workdir, 'audit')
  sensitive = config_lib.load(command.DIGITS_SMOKE).data.name
  assert loaded == [config.pretrain.data.name] and sensitive not in loaded


def test_the_sensitive_images_are_no_public_ones(tmp_path, monkeypatch):
  """Although nothing is pre-trained on them: the audit itself reads them."""
  config = config_lib.load(command.DIGITS_SMOKE, OVERRIDES)
  same = dataclasses.replace(config.pretrain, data=config.data)
  config = dataclasses.replace(config, pretrain=same)
  monkeypatch.setattr(registry, 'load', lambda *_: pytest.fail('It is read.'))
  with pytest.raises(errors.UsageError, match='to be other images than data'):
    runner.run(config, str(tmp_path), 'audit', 'command')


def test_participation_is_that_of_the_dataset(config):
  """A canary counts at the steps that gather its coordinate, at no other."""
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(3), run_id='x'
  )
  coordinates = np.arange(400, dtype=np.int32)[::-1] + 7
  dataset = audit_records.make_dataset(config, coordinates, streams)
  selector = streams.poisson_selector(len(dataset.labels), 0.3)
  found = dataset.participation(selector, 5)
  assert found.shape == (5, 400) and found.any()
  for step in range(5):
    batch = dataset.gather(selector.select(step), step)
    seen = batch['coordinate'][batch['coordinate'] >= 0]
    assert sorted(coordinates[found[step]]) == sorted(seen)


def test_both_kinds_of_canaries_have_coins_of_their_own(config):
  """One kind would tell of the other, and the tests would not be apart."""
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(3), run_id='x'
  )
  coordinates = np.arange(400, dtype=np.int32)
  dataset = audit_records.make_dataset(config, coordinates, streams)
  others = dataset.gradient_coins[: len(dataset.image_coins)]
  assert 0.2 < np.mean(dataset.image_coins != others) < 0.8


def test_an_image_whose_loss_fell_is_guessed_to_be_included(
  workdir, no_training, monkeypatch
):
  """The attack on the model takes the images that it has learned best."""
  drops = []

  def losses(self, params):
    del self
    return np.full(40, sum(np.abs(x).sum() for x in jax.tree.leaves(params)))

  def learned(config, workdir, stop, devices, mechanism, steps, state, *_):
    del config, workdir, stop, devices, mechanism, steps
    zeros = jax.tree.map(np.zeros_like, state.params)
    return state.replace(params=zeros, ema_params=zeros)

  def record(*, drop, **others):
    del others
    drops.append(drop)
    raise errors.Interrupted('Enough was seen.')

  monkeypatch.setattr(audit_records.ImageLosses, '__call__', losses)
  monkeypatch.setattr(audit, '_train', learned)
  monkeypatch.setattr(audit, '_Seen', record)
  assert run_main(workdir, 'audit') == 130
  assert np.all(drops[0] > 0) and drops[0].shape == (40,)


def test_canaries_left_out_are_not_in_the_dataset(config):
  streams = key_streams.KeyStreams(
    secret=key_streams.Secret.insecure(3), run_id='x'
  )
  coordinates = np.arange(400, dtype=np.int32) + 7
  dataset = audit_records.make_dataset(config, coordinates, streams)
  is_canary = dataset.coordinates >= 0
  np.testing.assert_array_equal(
    dataset.coordinates[is_canary], coordinates[dataset.gradient_coins]
  )
  assert len(dataset.labels) == (
    60 + dataset.gradient_coins.sum() + dataset.image_coins.sum()
  )
  count = int(dataset.image_coins.sum())
  np.testing.assert_array_equal(
    dataset.images[-count:], dataset.image_canaries[dataset.image_coins]
  )
  other = audit_records.make_dataset(
    config,
    coordinates,
    key_streams.KeyStreams(secret=key_streams.Secret.insecure(4), run_id='x'),
  )
  assert np.any(other.gradient_coins != dataset.gradient_coins)
  np.testing.assert_array_equal(other.images[:60], dataset.images[:60])
