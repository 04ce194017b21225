"""Averages that a run keeps, and the one that it releases."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import optax
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.models import weights
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import averages
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import power_averages
from dp_diffusion.training import state as train_state
from tests.stages import command

LENGTHS = (0.05, 0.1)


def load(length: str = '0', lengths: str = str(LENGTHS)) -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE,
    {'finetune.power_averages': lengths, 'sample.average_length': length},
  )


def make_state() -> train_state.TrainState:
  rng = np.random.default_rng(0)
  state = train_state.create(
    {'a': {'w': rng.normal(size=3).astype(np.float32)}},
    optax.sgd(0.1),
    {'b': np.ones(2, np.float32)},
    num_power_averages=2,
  )
  return state.replace(
    power_params=tuple(
      jax.tree.map(lambda x, i=i: x + i, state.params) for i in (1, 2)
    )
  )


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> workdirs.Workdir:
  """A folder after fine-tuning, with a release of other weights."""
  workdir = workdirs.open_workdir(str(tmp_path))
  config, state = load(), make_state()
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=100,
    expected_batch_size=10,
    num_steps=2,
    noise_multiplier=3.0,
    l2_clip_norm=0.5,
    delta=1e-3,
  )
  ledger = ledger_lib.Ledger(delta=1e-3).add(ledger_lib.begin(mechanism))
  averages.store(config, workdir, state)
  assert files.list_files(workdir.root) == ['private/averages.npz']
  statements.store(workdir, ledger.with_steps(2).seal(), is_insecure=False)
  release.write_model(
    workdir.release,
    weights.flatten(state.all_params),
    assembly.model_description(config),
  )
  statements.seal(config, workdir)
  return workdir


def test_a_length_is_chosen_after_training(workdir: workdirs.Workdir) -> None:
  path = workdir.private / 'averages.npz'
  assert path.stat().mode & 0o777 == 0o600
  before, state = release.read_model(workdir.release)[0], make_state()
  averages.choose(load('0'), workdir)
  np.testing.assert_array_equal(
    release.read_model(workdir.release)[0]['a/w'], before['a/w']
  )
  for length in ('0.1', '0.07'):
    averages.choose(load(length), workdir)
    release.check_model(workdir.release)
    found, _ = release.read_model(workdir.release)
    parts = power_averages.combination(LENGTHS, float(length))
    wanted = sum(
      p * np.float64(t['a']['w']) for p, t in zip(parts, state.power_params)
    )
    np.testing.assert_allclose(found['a/w'], wanted, rtol=1e-5)
    np.testing.assert_allclose(found['b'], 1, rtol=1e-6)
    assert weights.is_released(workdir.release / 'model' / 'params.npz')


def test_a_choice_that_was_killed_can_be_repeated(
  workdir: workdirs.Workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Between the weights and the statement that covers them."""
  seal = statements.seal

  def die(*_: object) -> None:
    raise KeyboardInterrupt

  monkeypatch.setattr(statements, 'seal', die)
  with pytest.raises(KeyboardInterrupt):
    averages.choose(load('0.1'), workdir)
  with pytest.raises(errors.UsageError):
    release.check_model(workdir.release)
  monkeypatch.setattr(statements, 'seal', seal)
  averages.choose(load('0.1'), workdir)
  release.check_model(workdir.release)


def test_lost_averages_are_named(workdir: workdirs.Workdir) -> None:
  (workdir.private / 'averages.npz').unlink()
  with pytest.raises(errors.UsageError, match='averages') as raised:
    averages.choose(load('0.1'), workdir)
  assert '\n' not in str(raised.value)
  release.check_model(workdir.release)


def test_without_averages_nothing_changes(tmp_path: pathlib.Path) -> None:
  workdir = workdirs.open_workdir(str(tmp_path))
  config = config_lib.load(command.DIGITS_SMOKE)
  averages.store(config, workdir, make_state().replace(power_params=()))
  averages.choose(config, workdir)
  assert not (workdir.private / 'averages.npz').exists()
  assert not workdir.release.exists()
  assert 'power_averages' not in config_lib.to_dict(config)['finetune']
  assert 'average_length' not in config_lib.to_dict(config)['sample']


@pytest.mark.parametrize(
  ('length', 'lengths', 'words'),
  [
    ('0.1', '()', 'power_averages to be set'),
    ('0.3', str(LENGTHS), 'average_length=0.3'),
    ('0.1', '(0.5,)', 'power_averages=0.5'),
    ('0.1', '(0.1, 0.1)', 'different lengths'),
  ],
)
def test_impossible_lengths_are_refused(
  length: str, lengths: str, words: str
) -> None:
  with pytest.raises(errors.UsageError, match=words) as raised:
    load(length, lengths)
  assert '\n' not in str(raised.value)
