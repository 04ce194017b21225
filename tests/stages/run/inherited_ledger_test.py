"""Weights of a release bring its ledger with them, and it counts."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import key_streams
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.privacy import verify
from dp_diffusion.stages import finetune
from dp_diffusion.stages import plan
from dp_diffusion.stages import pretrain
from dp_diffusion.stages.run import assembly
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import private_loop
from tests.stages import command
from tests.stages import releases

pytestmark = pytest.mark.usefixtures('one_device')

PARAMS, SPENT = releases.PARAMS, releases.SPENT
ledger, make_release = releases.ledger, releases.make


def load(init_from: object = '', **changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(
    command.DIGITS_SMOKE,
    {
      'model.channel_multipliers': '(1,)',
      'pretrain.num_steps': '0',
      'pretrain.init_from': str(init_from),
      'privacy.solve_for': 'epsilon',
      'privacy.epsilon': 'none',
      'privacy.noise_multiplier': '1.25',
      **named,
    },
  )


def new_workdir(path: pathlib.Path) -> workdirs.Workdir:
  return workdirs.open_workdir(str(path))


@pytest.fixture
def released(tmp_path: pathlib.Path) -> pathlib.Path:
  return make_release(tmp_path / 'release')


@pytest.mark.parametrize('place', ['.', 'model', 'model/params.npz'])
def test_a_release_brings_its_ledger(released, tmp_path, place) -> None:
  workdir = new_workdir(tmp_path / 'run')
  config = load(released / place)
  before = inherited_ledger.find(config, workdir)
  (entry,) = before.entries
  assert entry.ledger == ledger() and not before.is_insecure
  assert 'shapes' in entry.source
  inherited_ledger.record(config, workdir)
  weights.save_npz(workdir.public_weights, PARAMS)
  elsewhere = load(tmp_path / 'gone')  # The record is asked from now on.
  assert inherited_ledger.find(elsewhere, workdir) == before


def test_released_weights_without_their_ledger_are_refused(
  released, tmp_path
) -> None:
  """Copied out of the folder, they would pass for public ones."""
  copy = tmp_path / 'elsewhere' / 'base.npz'
  copy.parent.mkdir()
  shutil.copyfile(released / 'model' / 'params.npz', copy)
  workdir = new_workdir(tmp_path / 'run')
  with pytest.raises(errors.UsageError, match='whole release folder'):
    inherited_ledger.find(load(copy), workdir)
  with pytest.raises(errors.UsageError, match='whole release folder'):
    inherited_ledger.record(load(copy), workdir)
  # The mark goes on with the weights that start from them.
  config = load(released)
  pretrain._write(config, workdir, PARAMS)
  assert inherited_ledger.find(config, workdir).entries
  (workdir.public_weights.parent / 'inherited.json').unlink()
  with pytest.raises(errors.UsageError, match='whole release folder'):
    inherited_ledger.find(config, workdir)
  kept = weights.flatten(weights.load_params(workdir.public_weights))
  assert set(kept) == set(weights.flatten(PARAMS))


def test_it_travels_through_another_run(released, tmp_path) -> None:
  first, second = new_workdir(tmp_path / 'a'), new_workdir(tmp_path / 'b')
  inherited_ledger.record(load(released), first)
  weights.save_npz(first.public_weights, PARAMS)
  config = load(first.root)
  expected = inherited_ledger.find(config, first)
  assert expected.entries
  assert inherited_ledger.find(config, second) == expected
  inherited_ledger.record(config, second)
  weights.save_npz(second.public_weights, PARAMS)
  assert inherited_ledger.find(config, second) == expected


def load_on(path: pathlib.Path, **changes: str) -> config_lib.Config:
  return load(
    **{
      'pretrain__num_steps': '3',
      'pretrain__data__name': 'folder',
      'pretrain__data__path': str(path),
      'pretrain__data__class_names': "('a', 'b')",
      **changes,
    }
  )


def test_released_images_bring_the_ledger(tmp_path) -> None:
  made = make_release(tmp_path / 'release', with_images=True)
  config = load_on(release.shard_path(made, 0, 1))
  workdir = new_workdir(tmp_path / 'run')
  before = inherited_ledger.find(config, workdir)
  (entry,) = before.entries
  assert entry.ledger == ledger()
  assert inherited_ledger.record(config, workdir)
  weights.save_npz(workdir.public_weights, PARAMS, is_released=True)
  shutil.rmtree(made)  # The record is asked from now on.
  assert inherited_ledger.find(config, workdir) == before
  other = new_workdir(tmp_path / 'other')
  assert inherited_ledger.find(load(workdir.root), other) == before


@pytest.mark.parametrize(
  'use',
  [
    {'finetune__warm_up__chosen_steps': '9'},
    {'finetune__warm_up__rows_from_votes': 'True'},
  ],
)
def test_released_images_to_choose_from_bring_the_ledger(tmp_path, use) -> None:
  """A warm-up on some of them, or a choice among their classes, is a use."""
  made = make_release(tmp_path / 'release', with_images=True)
  config = load_on(
    release.shard_path(made, 0, 1),
    pretrain__num_steps='0',
    pretrain__data__class_names='a,b,c,d,e,f,g,h,i,j',
    finetune__warm_up__votes_noise_multiplier='5',
    **use,
  )
  (entry,) = inherited_ledger.find(
    config, new_workdir(tmp_path / 'run')
  ).entries
  assert entry.ledger == ledger()


def test_released_images_count_beside_public_weights(tmp_path) -> None:
  """Pre-training that starts from somebody's weights sees the images too."""
  made = make_release(tmp_path / 'release', with_images=True)
  public = new_workdir(tmp_path / 'public')
  weights.save_npz(public.public_weights, PARAMS)
  config = load_on(
    release.shard_path(made, 0, 1), pretrain__init_from=str(public.root)
  )
  found = inherited_ledger.find(config, new_workdir(tmp_path / 'run'))
  assert [entry.ledger for entry in found.entries] == [ledger()]


def test_images_and_weights_of_one_release_count_once(tmp_path) -> None:
  made = make_release(tmp_path / 'release', with_images=True)
  config = load_on(
    release.shard_path(made, 0, 1), pretrain__init_from=str(made)
  )
  found = inherited_ledger.find(config, new_workdir(tmp_path / 'run'))
  assert len(found.entries) == 1


def test_marked_images_without_their_ledger_are_refused(tmp_path) -> None:
  made = make_release(tmp_path / 'release', with_images=True)
  copy = tmp_path / 'elsewhere' / 'images.npz'
  copy.parent.mkdir()
  shutil.copyfile(release.shard_path(made, 0, 1), copy)
  workdir = new_workdir(tmp_path / 'run')
  for call in (inherited_ledger.find, inherited_ledger.record):
    with pytest.raises(errors.UsageError, match='images released under'):
      call(load_on(copy), workdir)
  with pytest.raises(errors.UsageError, match='images released under'):
    pretrain.run(load_on(copy), workdir, interrupts.Stop(''))
  assert not (workdir.public / 'model').exists()


def test_weights_made_from_released_images(tmp_path) -> None:
  """By an earlier version of this code: its config alone says so."""
  made = make_release(tmp_path / 'release', with_images=True)
  first = new_workdir(tmp_path / 'first')
  first.begin('pretrain', load_on(release.shard_path(made, 0, 1)))
  weights.save_npz(first.public_weights, PARAMS)
  second = new_workdir(tmp_path / 'second')
  found = inherited_ledger.find(load(first.root), second)
  assert [entry.ledger for entry in found.entries] == [ledger()]


def test_public_weights_bring_nothing(tmp_path) -> None:
  run = new_workdir(tmp_path / 'run')
  weights.save_npz(run.public_weights, PARAMS)
  make_release(pathlib.Path(run.release))  # Of the same run, not asked for.
  other = new_workdir(tmp_path / 'other')
  for config in (load(), load(run.root), load(run.public_weights)):
    assert inherited_ledger.find(config, other) == inherited_ledger.Inherited()
    inherited_ledger.record(config, other)
  assert not (other.public / 'model').exists()


def _edit(path: pathlib.Path, **changes: object) -> None:
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
  ('damage', 'reason'),
  [
    (lambda r: _edit(r / 'privacy.json', events=[]), 'its checksum differs'),
    (lambda r: _edit(r / 'privacy.json', delta=2.0), 'delta=2.0'),
    (lambda r: _edit(r / 'privacy.json', insecure_secret='no'), 'insecure'),
    (lambda r: _edit(r / 'privacy.json', files=None), 'values'),
    (lambda r: (r / 'privacy.json').write_text('[]'), 'no JSON object'),
    (lambda r: (r / 'privacy.json').write_text('{"a": NaN}'), 'NaN'),
    (
      lambda r: files.write_npz(r / 'model/params.npz', x=np.ones(2)),
      'does not list',
    ),
  ],
)
def test_doubtful_statement_is_refused(
  released, tmp_path, damage, reason
) -> None:
  damage(released)
  workdir = new_workdir(tmp_path / 'run')
  for call in (inherited_ledger.find, inherited_ledger.record):
    with pytest.raises(errors.UsageError, match=reason) as raised:
      call(load(released), workdir)
    assert '\n' not in str(raised.value)
  assert not (workdir.public / 'model').exists()


def test_damaged_record_is_refused(released, tmp_path) -> None:
  workdir = new_workdir(tmp_path / 'run')
  inherited_ledger.record(load(released), workdir)
  weights.save_npz(workdir.public_weights, PARAMS)
  path = pathlib.Path(workdir.public_weights).with_name('inherited.json')
  _edit(path, is_insecure=None)
  with pytest.raises(errors.UsageError, match='is_insecure'):
    inherited_ledger.find(load(), workdir)


@pytest.mark.parametrize('insecure', [False, True])
def test_a_record_of_an_earlier_version_counts(tmp_path, insecure) -> None:
  """It held one entry; a planted secret stays one."""
  made = make_release(tmp_path / 'release', insecure=insecure)
  workdir = new_workdir(tmp_path / 'run')
  inherited_ledger.record(load(made), workdir)
  weights.save_npz(workdir.public_weights, PARAMS)
  before = inherited_ledger.find(load(), workdir)
  assert len(before.entries) == 1 and before.is_insecure == insecure
  path = pathlib.Path(workdir.public_weights).with_name('inherited.json')
  (entry,) = json.loads(path.read_text())['entries']
  path.write_text(json.dumps({'entry': entry, 'is_insecure': insecure}))
  assert inherited_ledger.find(load(), workdir) == before


def test_another_unit_is_refused(tmp_path) -> None:
  released = make_release(tmp_path / 'release', unit='person')
  with pytest.raises(errors.UsageError, match="'person', the unit"):
    inherited_ledger.find(load(released), new_workdir(tmp_path / 'run'))


def test_another_unit_of_images_beside_weights_is_refused(tmp_path) -> None:
  first = make_release(tmp_path / 'first')
  made = make_release(tmp_path / 'made', with_images=True, unit='person')
  config = load_on(
    release.shard_path(made, 0, 1), pretrain__init_from=str(first)
  )
  with pytest.raises(errors.UsageError, match="'person', the unit"):
    inherited_ledger.find(config, new_workdir(tmp_path / 'run'))


def test_what_is_inherited_counts(released, tmp_path) -> None:
  config, workdir = load(released), new_workdir(tmp_path / 'run')
  entries = inherited_ledger.find(config, workdir).entries
  found = budget.calibrate(config, entries)
  assert found.epsilon_pld == accounting.epsilon(
    [SPENT.dp_event(), found.mechanism.dp_event()], config.privacy.delta
  )
  assert found.epsilon_pld > budget.calibrate(config).epsilon_pld + 0.5


def test_all_that_was_spent_before_is_calibrated_for(monkeypatch) -> None:
  """Each event of each release, and what this run draws before its steps."""
  sums = [
    ledger_lib.GaussianEntry(
      mechanism=mechanism_lib.GaussianMechanism(
        noise_multiplier=noise, l2_sensitivity=1.0, purpose='a sum'
      )
    )
    for noise in (4.0, 5.0, 6.0)
  ]
  one, other = (
    ledger_lib.InheritedEntry(
      ledger=ledger_lib.Ledger(delta=1e-5, entries=entries), source='a release'
    )
    for entries in (sums[:2], sums[2:])
  )
  config = load(
    sample__labels='noised_histogram',
    privacy__label_histogram_noise_multiplier='7',
  )
  monkeypatch.setattr(
    accounting, 'calibrate', lambda privacy, spent: (privacy, list(spent))
  )
  (histogram,) = budget.entries(config)
  events = [e for entry in (*sums, histogram) for e in entry.dp_events()]
  assert len(events) == 4
  assert budget.calibrate(config, (one, other)) == (config.privacy, events)


def test_a_release_without_noise_leaves_no_budget(tmp_path) -> None:
  released = make_release(tmp_path / 'release', noise_multiplier=0.0)
  config = load(
    released,
    privacy__solve_for='noise_multiplier',
    privacy__epsilon='5',
    privacy__noise_multiplier='none',
  )
  with pytest.raises(errors.UsageError, match='above the inf'):
    plan.run(config, new_workdir(tmp_path / 'run'))


def test_fine_tuning_composes_the_ledger(tmp_path, monkeypatch, capsys) -> None:
  """From `init_from` to the published statement, the steps apart."""
  config = load()
  params = assembly.init_params(config, config.pretrain.data)
  monkeypatch.setattr(assembly, 'init_params', lambda *_: params)
  config = load(make_release(tmp_path / 'release', params, insecure=True))

  def train(steps, run, devices, state, ledger, start_step, stop):
    del steps, devices, start_step, stop
    return state, ledger.with_steps(run.num_steps), run.num_steps

  monkeypatch.setattr(private_loop, 'train_private', train)
  workdir = new_workdir(tmp_path / 'run')
  key_streams.Secret.create(workdir.private / 'secret')
  pretrain.run(config, workdir, interrupts.Stop(''))
  finetune.run(config, workdir, interrupts.Stop(''))
  statement = json.loads((workdir.release / 'privacy.json').read_text())
  first, second = statement['events']
  assert first['kind'] == 'inherited' and second['num_steps'] == 4
  assert first['ledger'] == ledger().to_json()
  total = accounting.epsilon(
    [
      SPENT.dp_event(),
      mechanism_lib.DpSgdMechanism.from_dict(second['mechanism']).dp_event(),
    ],
    statement['delta'],
  )
  assert statement['epsilon'] == total == statement['budget_epsilon']
  # A guarantee with a hole in it is not mended by what follows.
  assert statement['insecure_secret'] is True
  assert not verify.verify(workdir.release).mismatches
  assert f'epsilon {rounding.up(total)} by PLD' in capsys.readouterr().out
