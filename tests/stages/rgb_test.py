"""32x32 RGB with attention, guidance and a mixture; persons as the unit."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib

import pytest

from tests.stages import command

_CONFIG = str(command.ROOT / 'tests' / 'configs' / 'rgb32.py')


@pytest.mark.parametrize(
  ('variant', 'unit', 'stages'),
  [
    ('', 'image', 'all'),
    (':person', 'person', 'pretrain,finetune'),
  ],
)
def test_the_road_at_32_pixels_in_colour(
  variant: str,
  unit: str,
  stages: str,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  done = command.run_stages(
    subprocess_environment,
    stages,
    f'--workdir={tmp_path / "run"}',
    '--config.sample.write_tfds=false',
    config=_CONFIG + variant,
  )
  assert done.returncode == 0, f'{done.stdout}\n{done.stderr}'
  release = tmp_path / 'run' / 'release'
  statement = json.loads((release / 'privacy.json').read_text())
  assert unit in json.dumps(statement)
  assert (release / 'samples.png').exists() == (stages == 'all')
