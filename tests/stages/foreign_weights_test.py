"""Weights of another project, from the file to those of a run."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion import errors
from dp_diffusion import files
from dp_diffusion.models import weights
from dp_diffusion.stages import pretrain
from dp_diffusion.stages.run import first_weights
from dp_diffusion.stages.run import inherited_ledger
from dp_diffusion.stages.run import interrupts
from dp_diffusion.stages.run import workdirs
from tests.stages import command

FILE = (
  pathlib.Path(__file__).parent.parent
  / 'models/formats/data/tiny_improved/weights.pt'
)
GIVEN = {
  'pretrain.init_from': str(FILE),
  'pretrain.init_format': 'improved_diffusion',
  'pretrain.init_as_configured': 'true',
  'data.channels': '3',
  'pretrain.data.channels': '3',
  'model.num_heads': '2',
  'model.num_groups': '4',
  'model.time_offset': '0.75',
  'diffusion.schedule': 'cosine',
  'diffusion.prediction': 'eps',
}


def load(**more):
  changes = {k.replace('__', '.'): v for k, v in more.items()}
  return config_lib.load(command.DIGITS_SMOKE, {**GIVEN, **changes})


def test_public_weights_are_those_of_the_file(tmp_path, capsys):
  """Without a step, whatever the config file says."""
  config = load(pretrain__init_sha256=files.sha256(FILE))
  workdir = workdirs.open_workdir(str(tmp_path))
  pretrain.run(config, workdir, interrupts.Stop(''))
  found = weights.flatten(weights.load_params(pretrain.weights_path(workdir)))
  assert found['stem/kernel'].shape == (3, 3, 3, 8)
  assert not found['label/classes'].any() and not found['label/null'].any()
  assert np.abs(found['out/kernel']).max() > 0
  said = capsys.readouterr().out
  for words in ('num_heads=2', 'variance', 'zeros, since the file has none'):
    assert words in said
  assert 'has sha256' not in said  # It is the given one.
  # Whoever starts from this run is held to its keys.
  again = config_lib.load(
    command.DIGITS_SMOKE,
    {
      'pretrain.init_from': str(tmp_path),
      'data.channels': '3',
      'pretrain.data.channels': '3',
    },
  )
  workdir.begin('pretrain', config)
  with pytest.raises(errors.UsageError, match='Expected diffusion.prediction='):
    first_weights.check(again, inherited_ledger.init_path(again.pretrain))


def test_steps_that_are_typed_are_made():
  assert load().pretrain.num_steps == 0
  assert load(pretrain__num_steps='5').pretrain.num_steps == 5


def test_another_file_is_refused_before_any_compute(monkeypatch):
  monkeypatch.setattr(pretrain.assembly, 'init_params', None)
  with pytest.raises(errors.UsageError, match='to have sha256 00'):
    pretrain.initial_params(load(pretrain__init_sha256='00'))


def test_keys_changed_after_reading_are_refused():
  config = load()
  model = dataclasses.replace(config.model, attention_resolutions=(8,))
  changed = dataclasses.replace(config, model=model)
  with pytest.raises(errors.UsageError, match='attention_resolutions='):
    pretrain.initial_params(changed)
