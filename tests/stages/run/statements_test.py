"""Statement and card of a run: what they say of its config."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion import release
from dp_diffusion import release_card
from dp_diffusion import version
from dp_diffusion.privacy import ledger as ledger_lib
from dp_diffusion.privacy import mechanism as mechanism_lib
from dp_diffusion.privacy import statement_words
from dp_diffusion.privacy import verify
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from tests import tiny_release
from tests.stages import command

SUM = ledger_lib.GaussianEntry(
  mechanism=mechanism_lib.GaussianMechanism(
    noise_multiplier=8.0, l2_sensitivity=1.0, purpose='a sum'
  )
)
PUBLIC = statement_words.public_data(
  {'source': 'clip art', 'split': 'train', 'images_sha256': ''}, 'none_equal'
)


def test_what_images_decided_is_in_the_card_and_the_statement(tmp_path):
  """The statement is what other programs read; the card is for people."""
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  tiny_release.make(tmp_path / 'run' / 'release')
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  typed = config_lib.load(command.DIGITS_SMOKE, {})
  found = dataclasses.replace(typed, found=('data.channels',))
  name = 'decided_by_opening_images'
  for config, decided in ((typed, None), (found, ['data.channels'])):
    statements.seal(config, workdir)
    assert not verify.verify(workdir.release).mismatches
    statement = files.read_json(workdir.release / 'privacy.json')
    assert statement.get(name) == decided
    card = (workdir.release / 'README.md').read_text()
    assert ('grey or in colour: the answer' in card) == bool(decided)
    assert ('images showed that were opened' in card) == bool(decided)


@pytest.mark.parametrize('is_found', [True, False])
@pytest.mark.parametrize('unit', ledger_lib.UNITS)
def test_the_statement_has_every_fact_that_was_kept(
  unit, is_found, tmp_path, monkeypatch
):
  """Also those of the training, where the images are sampled by later code."""
  workdir = workdirs.open_workdir(str(tmp_path))
  config = config_lib.load(command.DIGITS_SMOKE)
  config = dataclasses.replace(
    config,
    found=('data.channels',) if is_found else (),
    data=dataclasses.replace(config.data, unit=unit),
  )
  ledger = ledger_lib.Ledger(delta=1e-5, unit=unit, entries=(SUM,))
  workdir.begin('finetune', config)
  statements.store(workdir, ledger, is_insecure=is_found, public_data=[PUBLIC])
  kept = statements.read(workdir)
  seen = {}
  monkeypatch.setattr(version, 'revision', lambda: 'of later code')
  monkeypatch.setattr(statements, 'versions', lambda: {'jax': 'later'})
  monkeypatch.setattr(
    release, 'write_card', lambda *given: seen.update(card=given)
  )
  monkeypatch.setattr(release, 'seal', lambda *given: seen.update(seal=given))
  statements.seal(config, workdir)
  folder, statement, card, channels = seen['card']
  assert seen['seal'] == (workdir.release, statement)
  assert (folder, card) == (workdir.release, config.card)
  assert channels == release_card.Channels(
    number=config.data.channels, is_found=is_found
  )
  assert statement['public_data'] == [PUBLIC]
  assert statement['insecure_secret'] == is_found
  assert statement['dataset'] == config.data.name
  assert statement['code_revision'] == kept['code_revision'] != 'of later code'
  assert statement['versions'] == kept['versions'] != {'jax': 'later'}
  for name, value in ledger.to_json().items():
    assert statement[name] == value


def test_a_ledger_of_another_unit_is_not_stated(tmp_path):
  workdir = workdirs.open_workdir(str(tmp_path))
  config = config_lib.load(command.DIGITS_SMOKE)
  ledger = ledger_lib.Ledger(delta=1e-5, unit='person', entries=(SUM,))
  statements.store(workdir, ledger, is_insecure=False)
  with pytest.raises(ValueError, match="unit='image'"):
    statements.seal(config, workdir)
  assert not workdir.release.exists()


def test_images_of_another_run_are_not_covered(tmp_path):
  """Copied here after the training began; the weights alone are of this run."""
  workdir = workdirs.open_workdir(str(tmp_path / 'run'))
  tiny_release.make(workdir.release)
  statements.store(workdir, tiny_release.LEDGER, is_insecure=False)
  config = config_lib.load(command.DIGITS_SMOKE)
  statements.seal(config, workdir)
  before = (workdir.release / 'privacy.json').read_bytes()
  images = np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int32)
  ours = statements.mark(workdir)
  release.write_shard(workdir.release, 0, 2, *images, ours)
  for other in (dataclasses.replace(ours, model_sha256='a' * 64), None):
    release.write_shard(workdir.release, 1, 2, *images, other)
    with pytest.raises(errors.UsageError, match='of this release') as raised:
      statements.seal(config, workdir)
    assert '\n' not in str(raised.value)
    assert (workdir.release / 'privacy.json').read_bytes() == before
  release.write_shard(workdir.release, 1, 2, *images, ours)
  statements.seal(config, workdir)
