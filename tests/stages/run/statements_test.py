"""Statement and card of a run: what they say of its config."""

from __future__ import annotations

import dataclasses

from dp_diffusion import config as config_lib
from dp_diffusion import files
from dp_diffusion.privacy import verify
from dp_diffusion.stages.run import statements
from dp_diffusion.stages.run import workdirs
from tests import tiny_release
from tests.stages import command


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
