"""The working directory: modes, records, and the config it belongs to."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion.stages import runner
from dp_diffusion.stages.run import workdirs
from tests.stages import command


def load(**changes: str) -> config_lib.Config:
  named = {key.replace('__', '.'): text for key, text in changes.items()}
  return config_lib.load(command.DIGITS_SMOKE, named)


@pytest.fixture
def workdir(tmp_path) -> workdirs.Workdir:
  return workdirs.open_workdir(str(tmp_path / 'a' / 'run'))


def test_private_folders_are_closed_to_others(workdir):
  for folder in (workdir.private, workdir.evaluation):
    assert stat.S_IMODE(folder.stat().mode) == 0o700
    folder.chmod(0o755) if hasattr(folder, 'chmod') else None
  workdirs.open_workdir(str(workdir.root))
  assert stat.S_IMODE(workdir.private.stat().mode) == 0o700
  assert sorted(p.name for p in workdir.root.iterdir()) == [
    'evaluation',
    'private',
  ]


FOUND = 'data.channels'


@pytest.mark.parametrize('stages', [('found', 'typed'), ('typed', 'found')])
def test_a_key_that_images_decided_stays_one_that_they_decided(workdir, stages):
  typed = load()
  found = dataclasses.replace(typed, found=(FOUND,))
  assert workdir.has_found(FOUND, typed) is False
  for name in stages:
    workdir.begin('finetune', {'found': found, 'typed': typed}[name])
  workdir.complete('finetune', 1.0)
  assert workdir.is_complete('finetune')
  workdir.begin('sample', typed)
  assert workdir.has_found(FOUND, typed) is True
  assert workdir.has_found('data.image_size', typed) is False


def test_earlier_versions_did_not_record_what_images_decided(workdir):
  config = load()
  workdir.begin('finetune', config)
  record = json.loads(workdir.config_path.read_text())
  assert record['finetune'].pop('found') == []
  workdir.config_path.write_text(json.dumps(record))
  for stage in ('finetune', 'sample'):
    workdir.begin(stage, config)
    assert workdir.has_found(FOUND, config) is None
  found = dataclasses.replace(config, found=(FOUND,))
  assert workdir.has_found(FOUND, found) is True


@pytest.mark.parametrize(
  'name', ['release', 'release/model', 'release/dataset', 'public']
)
def test_a_folder_that_cannot_be_written_is_found_first(
  workdir, name, monkeypatch
):
  folder = workdir.root / name
  folder.mkdir(parents=True, exist_ok=True)
  os.chmod(folder, 0o555)
  if os.geteuid() == 0:  # Whom no mode stops.
    monkeypatch.setattr(
      os, 'access', lambda path, mode: os.fspath(path) != os.fspath(folder)
    )
  with pytest.raises(errors.UsageError, match=f'{name} to be a') as error:
    runner.run(load(), str(workdir.root), 'all', 'command')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['public/model', 'private/checkpoints'])
def test_a_folder_that_weights_go_to_is_tried_at_the_start(
  workdir, name, monkeypatch
):
  """Not when the first of them are there, after hours."""
  (workdir.root / name).mkdir(parents=True)
  monkeypatch.setattr(
    os, 'access', lambda path, _: not os.fspath(path).endswith(name)
  )
  with pytest.raises(errors.UsageError, match=f'{name} to be a folder'):
    workdirs.open_workdir(str(workdir.root))


@pytest.mark.parametrize('is_link', [False, True])
def test_a_release_that_is_no_folder_is_found_first(workdir, is_link):
  release = workdir.root / 'release'
  os.symlink('/absent', release) if is_link else release.write_text('')
  with pytest.raises(errors.UsageError, match='release to be a folder'):
    workdirs.open_workdir(str(workdir.root))


def test_a_file_is_no_workdir(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.UsageError, match='Give another --workdir'):
    workdirs.open_workdir(str(tmp_path / 'file'))


@pytest.mark.parametrize(
  ('before', 'after', 'expected'),
  [
    ({'a': 1}, {'a': 1}, None),
    ({'a': {'b': [1, 2]}}, {'a': {'b': [1, 3]}}, ('a.b', [1, 2], [1, 3])),
    ({'a': 1}, {'a': 1, 'b': None}, None),
    ({'a': 1}, {'a': 1, 'b': 2}, ('b', None, 2)),
    ({'a': 1, 'b': 2}, {'b': 3}, ('a', 1, None)),
    ({'a': {'b': 1}}, {'a': 2}, ('a', {'b': 1}, 2)),
    ({'data': {'cache_dir': 'x'}}, {'data': {'cache_dir': 'y'}}, None),
  ],
)
def test_first_difference(before, after, expected):
  assert workdirs.first_difference(before, after) == expected


def test_keys_that_move_work_about_exist():
  """A key that is renamed must be renamed in the list too."""
  config = config_lib.to_dict(load())
  for key in workdirs._OPERATIONAL:
    node = config
    for part in key.split('.'):
      node = node[part]


def test_a_stage_belongs_to_its_config(workdir):
  workdir.begin('pretrain', load())
  workdir.begin('pretrain', load(pretrain__checkpoint_every_steps='7'))
  workdir.check(load(sample__num_samples='7'))  # Not begun yet.
  changed = load(model__channels='16')
  for refuse in (
    lambda: workdir.begin('pretrain', changed),
    lambda: workdir.check(changed),
  ):
    with pytest.raises(errors.UsageError) as raised:
      refuse()
    message = str(raised.value)
    assert 'model.channels=8' in message and 'model.channels=16' in message
    assert '\n' not in message


@pytest.mark.parametrize(
  ('changes', 'key', 'default', 'value'),
  [
    (
      {
        'finetune__class_head__num_steps': '3',
        'finetune__class_head__noise_multiplier': '20',
      },
      *('finetune.class_head.num_steps', 0, 3),
    ),
    (
      {'finetune__gradient_scales': 'label/classes=2'},
      *('finetune.gradient_scales', [], ['label/classes=2']),
    ),
  ],
)
def test_a_key_that_earlier_versions_lack_had_its_default(
  workdir, changes, key, default, value
):
  """Not None, which nobody can give."""
  workdir.begin('finetune', load())
  with pytest.raises(errors.UsageError) as raised:
    workdir.check(load(**changes))
  message = str(raised.value)
  assert f'has {key}={default!r} (the default; earlier versions ' in message
  assert f'this run has {key}={value!r}.' in message
  assert '\n' not in message
  # The other way round nothing is missing in the record.
  workdir.forget('finetune')
  workdir.begin('finetune', load(**changes))
  with pytest.raises(errors.UsageError) as raised:
    workdir.check(load())
  message = str(raised.value)
  assert f'has {key}={value!r}, this run has {key}={default!r}.' in message


def test_a_default_that_was_recorded_is_no_difference(workdir):
  workdir.begin('finetune', load())
  record = json.loads(workdir.config_path.read_text())
  record['finetune']['config']['finetune']['antithetic_noise'] = False
  workdir.config_path.write_text(json.dumps(record))
  workdir.check(load())
  assert not workdir.differs('finetune', load())
  assert workdir.differs('finetune', load(finetune__antithetic_noise='true'))


def test_a_key_that_no_version_may_lack_has_no_default(workdir):
  """As in a record that somebody has edited."""
  workdir.begin('finetune', load())
  record = json.loads(workdir.config_path.read_text())
  del record['finetune']['config']['finetune']['augmult']
  workdir.config_path.write_text(json.dumps(record))
  with pytest.raises(errors.UsageError, match='augmult=None, this run has'):
    workdir.check(load())


def test_sampling_goes_on_with_the_shards_that_it_began_with(workdir):
  workdir.begin('sample', load())
  workdir.begin('sample', load(sample__batch_size='7'))
  with pytest.raises(errors.UsageError, match='sample.shard_size'):
    workdir.begin('sample', load(sample__shard_size='7'))


def test_an_evaluation_may_be_asked_for_anew(workdir):
  workdir.begin('evaluate', load())
  changed = load(evaluate__num_seeds='3')
  assert workdir.differs('evaluate', changed)
  assert not workdir.differs('evaluate', load())
  workdir.check(changed)


def test_complete_and_seconds(workdir):
  assert not workdir.is_complete('pretrain') and not workdir.secs()
  workdir.begin('pretrain', load())
  workdir.add_secs('pretrain', 1.5)
  assert not workdir.is_complete('pretrain')
  workdir.complete('pretrain', 2.0)
  assert workdir.is_complete('pretrain')
  assert workdir.secs() == {'pretrain': 3.5}
  workdir.begin('pretrain', load())  # Does not undo it.
  assert workdir.is_complete('pretrain')
  mode = (workdir.private / 'seconds.json').stat().mode
  assert stat.S_IMODE(mode) == 0o600  # Times of private steps are private.
  record = json.loads(workdir.config_path.read_text())
  assert set(record['pretrain']) == {'config', 'complete', 'found'}


def test_a_damaged_record_is_named(workdir):
  workdir.config_path.write_text('{')
  with pytest.raises(errors.UsageError, match='config.json is damaged'):
    workdir.check(load())


def test_a_workdir_of_an_earlier_version_has_the_default_card(tmp_path):
  config = config_lib.load(command.DIGITS_SMOKE)
  workdir = workdirs.open_workdir(str(tmp_path))
  assert not workdir.has_other_card(config)
  workdir.begin('sample', config)
  record = json.loads(workdir.config_path.read_text())
  assert record['sample']['config'].pop('card') == {}
  workdir.config_path.write_text(json.dumps(record))
  assert not workdir.has_other_card(config)
  changed = config_lib.load(command.DIGITS_SMOKE, {'card.contact': 'the lab'})
  assert workdir.has_other_card(changed)
  workdir.check(changed)  # It is no other run.
