"""What a plan says that a run reads, beside its numbers."""

from __future__ import annotations

import dataclasses
import pathlib
import types

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.data import registry
from dp_diffusion.models import weights
from dp_diffusion.privacy import accounting
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import rounding
from dp_diffusion.stages import plan
from dp_diffusion.stages.planning import cost_estimates
from dp_diffusion.stages.planning import data_checks
from dp_diffusion.stages.planning import flop_counts
from dp_diffusion.stages.run import budget
from dp_diffusion.stages.run import workdirs
from dp_diffusion.training import checkpoint
from tests.stages import command


@pytest.fixture(autouse=True)
def _no_arithmetic(monkeypatch) -> None:
  """Its numbers are tested elsewhere."""
  monkeypatch.setattr(flop_counts, 'forward_flop', lambda _: 1e9)
  monkeypatch.setattr(flop_counts, 'activation_bytes', lambda _: 1000)
  monkeypatch.setattr(flop_counts, 'classifier_flop', lambda *_: 1e6)
  monkeypatch.setattr(cost_estimates, 'convolution_speed', lambda _: 1e9)


def _reads(tmp_path: pathlib.Path, capsys, **changed: str) -> dict[str, str]:
  """What each stage reads, as printed."""
  config = config_lib.load(
    command.DIGITS_SMOKE, {k.replace('__', '.'): v for k, v in changed.items()}
  )
  plan.run(config, workdirs.Workdir(workdirs.epath.Path(tmp_path / 'run')))
  assert not (tmp_path / 'run').exists()
  lines = capsys.readouterr().out.splitlines()
  found = {}
  for line in lines[lines.index('stages') + 1 : lines.index('data')]:
    stage, reads, what = (line[2:22], line[22:28], line[29:])
    if reads == 'reads ':
      found[stage.strip()] = what
    else:
      assert reads == 'writes' and what.startswith(str(tmp_path))
  assert set(found) == {'pretrain', 'finetune', 'sample', 'evaluate'}
  return found


_GIVEN = {
  'privacy__solve_for': 'epsilon',
  'privacy__epsilon': 'none',
  'privacy__noise_multiplier': '2',
}


def _write_scans(folder: pathlib.Path) -> pathlib.Path:
  """Files with the names of images, and no image in them."""
  for name in ('benign', 'malignant'):
    (folder / 'scans' / name).mkdir(parents=True)
    (folder / 'scans' / name / 'a.png').write_bytes(b'never opened')
  return folder / 'scans'


def test_sensitive_and_public_images_are_named(tmp_path, capsys) -> None:
  found = _reads(tmp_path, capsys, **_GIVEN)
  assert found['pretrain'] == 'glyphs (public)'
  assert found['finetune'].endswith('digits split train (sensitive)')
  assert '(sensitive)' not in found['sample']
  assert found['evaluate'].endswith(
    'digits splits train and test (sensitive), glyphs (public)'
  )


def test_public_images_of_other_classes_are_not_evaluated(
  tmp_path, capsys
) -> None:
  scans = _write_scans(tmp_path)
  found = _reads(
    tmp_path,
    capsys,
    **_GIVEN,
    data__name='folder',
    data__path=str(scans),
    data__class_names="('benign', 'malignant')",
    pretrain__num_steps='0',
    pretrain__init_from='/runs/public',
    evaluate__features='pixels',
  )
  assert found['pretrain'] == '/runs/public'
  assert found['finetune'].endswith(f'folder {scans} split train (sensitive)')
  assert found['evaluate'].endswith('train and test (sensitive)')


def test_first_weights_that_are_not_there_have_an_unknown_cost(
  tmp_path, capsys
) -> None:
  """Nothing is understated: they may turn out to be a release."""
  given = {k.replace('__', '.'): v for k, v in _GIVEN.items()}
  later = tmp_path / 'later' / 'params.npz'
  config = config_lib.load(
    command.DIGITS_SMOKE, {**given, 'pretrain.init_from': str(later)}
  )
  workdir = workdirs.Workdir(workdirs.epath.Path(tmp_path / 'run'))
  plan.run(config, workdir)
  unknown = f'inherited           unknown: {later} is not there yet'
  assert unknown in capsys.readouterr().out
  weights.save_npz(workdirs.epath.Path(later), {'w': np.zeros(2, np.float32)})
  plan.run(config, workdir)
  assert 'inherited' not in capsys.readouterr().out


def test_the_steps_of_a_warm_up_are_part_of_the_costs() -> None:
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'model.channel_multipliers': '(1,)',
      'pretrain.batch_size': '4',
      'pretrain.optimizer.warmup_steps': '0',
      'finetune.warm_up.mean_steps': '3',
      'finetune.warm_up.mean_noise_multiplier': '3',
    },
  )
  found = plan.costs(config, 5)
  first, pretrain = found['warm-up'], found['pretrain']
  assert first.examples == first.passes == 3 * 4
  assert pretrain.examples == 4 * config.pretrain.num_steps
  assert first.flop / 12 == pytest.approx(pretrain.flop / pretrain.examples)
  used = config.finetune
  records = 5 * config.privacy.expected_batch_size
  assert found['finetune'].examples == records
  assert found['finetune'].passes == records * used.augmult


def test_a_run_that_was_interrupted_shows_what_is_spent_and_left(
  tmp_path, capsys
) -> None:
  config = config_lib.load(
    command.DIGITS_SMOKE,
    {k.replace('__', '.'): v for k, v in _GIVEN.items()},
  )
  mechanism = budget.calibrate(config).mechanism
  ledger = ledger_lib.start(mechanism, config.privacy).with_steps(3)
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  plan.run(config, workdir)
  assert 'spent               nothing yet' in capsys.readouterr().out
  # Of a run that has no checkpoint yet.
  for name in (workdirs.BEGUN_WARM_UP, workdirs.JOURNAL):
    (workdir.private / name).write_text('{}')
    plan.run(config, workdir)
    assert 'spent               not nothing' in capsys.readouterr().out
    (workdir.private / name).unlink()
  checkpoint.Checkpointer(
    workdir.private / 'checkpoints', is_private=True
  ).save(3, {'w': np.zeros(2, np.float32)}, ledger.to_json(), {})
  plan.run(config, workdir)
  out = capsys.readouterr().out
  spent, whole = ledger.epsilon(), ledger.with_steps(1).epsilon()
  assert 0 < spent < whole == ledger.budget_epsilon
  assert f'spent               epsilon {rounding.up(spent, 6)} by PLD' in out
  left = rounding.down(whole - spent, 6)
  assert f'left                epsilon {left} of {whole:g}' in out
  assert 'DP-SGD, 3 of 4 steps' in out


def test_no_bound_is_rounded_down() -> None:
  mechanism = mechanism_lib.DpSgdMechanism(
    num_examples=1000,
    expected_batch_size=10,
    num_steps=5,
    noise_multiplier=1.25,
    l2_clip_norm=1.0,
    delta=1.2345612e-5,
  )
  found = accounting.Calibration(
    mechanism=mechanism,
    epsilon_pld=1.23412,
    epsilon_rdp=2.00004,
    noise_multiplier_rdp=None,
  )
  said = plan.privacy_lines(found)[-1]
  for bound in ('1.235 by PLD', '2.001 by RDP', 'delta 1.23457e-05'):
    assert bound in said
  entry = types.SimpleNamespace(
    ledger=types.SimpleNamespace(epsilon=lambda: 1.23412), source='x'
  )
  inherited = types.SimpleNamespace(entries=(entry,))
  assert plan._inherited_lines(inherited)[0].endswith('epsilon 1.235 of x')


@pytest.mark.parametrize(
  ('wrong', 'words'),
  [
    ({'data__path': '/absent/scans'}, "data.path='/absent/scans'"),
    ({'data__path': '{}/empty'}, '{}/empty'),
    ({'data__class_names': "('benign', 'other')"}, 'malignant'),
    ({'data__test_split': 'val'}, "split='val'"),
    ({'data__person_csv': '/absent.csv'}, "data.person_csv='/absent.csv'"),
  ],
)
def test_a_plan_says_alone_what_is_wrong_with_the_path(
  wrong, words, tmp_path, capsys
) -> None:
  """In one line and nothing of the plan, which none may follow."""
  (tmp_path / 'empty').mkdir()
  changed = {
    'data__name': 'folder',
    'data__path': str(_write_scans(tmp_path)),
    'data__class_names': "('benign', 'malignant')",
    'evaluate__features': 'pixels',
    **_GIVEN,
  }
  changed |= {key: text.format(tmp_path) for key, text in wrong.items()}
  config = config_lib.load(
    command.DIGITS_SMOKE, {k.replace('__', '.'): v for k, v in changed.items()}
  )
  workdir = workdirs.Workdir(workdirs.epath.Path(tmp_path / 'run'))
  with pytest.raises(errors.UsageError) as error:
    plan.run(config, workdir)
  assert words.format(tmp_path) in str(error.value)
  assert '\n' not in str(error.value)
  assert not capsys.readouterr().out


def test_a_plan_says_what_is_there_and_what_is_to_be_fetched(
  tmp_path, capsys, monkeypatch
) -> None:
  """Nothing of a place was said, so nothing of it can be wrong."""

  def refuse(data, splits):
    is_public = data.name == 'glyphs'
    assert splits == (('train',) if is_public else ('train', 'test'))
    if is_public:
      raise errors.UsageError('It is not prepared: get it.')

  monkeypatch.setattr(registry, 'check_available', refuse)
  _reads(tmp_path, capsys, **_GIVEN)
  config = config_lib.load(
    command.DIGITS_SMOKE, {k.replace('__', '.'): v for k, v in _GIVEN.items()}
  )
  assert data_checks.names_found(config) == [
    'data',
    '  sensitive           there, by name; no image was read',
    '  public              not there yet: It is not prepared: get it.',
  ]
  opened = dataclasses.replace(config, found=('data.channels',))
  assert data_checks.names_found(opened)[1].endswith(
    'there, by name; images were opened for data.channels alone'
  )
