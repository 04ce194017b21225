"""32x32 RGB with attention, guidance and a mixture; persons as the unit."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib

import pytest

from tests.stages import command

_CONFIG = str(command.ROOT / 'tests' / 'configs' / 'rgb32.py')
_QUICK = (  # The first variant trains the whole network.
  '--config.pretrain.num_steps=0',
  '--config.pretrain.optimizer.warmup_steps=0',
  '--config.model.channel_multipliers=(1,)',
  '--config.model.attention_resolutions=()',
)


@pytest.mark.parametrize(
  ('variant', 'unit', 'stages', 'overrides'),
  [
    pytest.param('', 'image', 'all', (), marks=pytest.mark.slow),
    # Persons without colour: finetune_test, inheritance_test, run_facts_test.
    pytest.param(
      *(':person', 'person', 'pretrain,finetune', _QUICK),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_the_road_at_32_pixels_in_colour(
  variant: str,
  unit: str,
  stages: str,
  overrides: tuple[str, ...],
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  command.succeed_stages(
    subprocess_environment,
    stages,
    f'--workdir={tmp_path / "run"}',
    '--config.sample.write_tfds=false',
    *overrides,
    config=_CONFIG + variant,
  )
  release = tmp_path / 'run' / 'release'
  statement = json.loads((release / 'privacy.json').read_text())
  assert unit in json.dumps(statement)
  assert (release / 'samples.png').exists() == (stages == 'all')
