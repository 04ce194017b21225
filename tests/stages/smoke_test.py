"""Every config's smoke variant goes the whole road."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib

import numpy as np
import pytest

from dp_diffusion import config as config_lib
from tests.stages import command

_CONFIGS = command.ROOT / 'configs'
_NAMES = sorted(
  p.stem for p in _CONFIGS.glob('*.py') if p.stem not in ('default', '__init__')
)


def _go(
  environment: Mapping[str, str],
  workdir: pathlib.Path,
  name: str,
  *arguments: str,
) -> str:
  return command.succeed(
    environment,
    f'--workdir={workdir}',
    *arguments,
    config=f'{_CONFIGS / name.partition(":")[0]}.py:{name.partition(":")[2]}',
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', _NAMES)
def test_smoke_goes_the_whole_road(
  name: str, subprocess_environment: Mapping[str, str], tmp_path: pathlib.Path
) -> None:
  config = config_lib.load(f'{_CONFIGS / name}.py:smoke')
  out = _go(subprocess_environment, tmp_path / 'run', f'{name}:smoke')
  assert out.strip().endswith('report.html')
  report = json.loads((tmp_path / 'run/evaluation/report.json').read_text())
  assert 0 <= report['accuracy']['synthetic']['cnn'] <= 1
  shard = next((tmp_path / 'run' / 'release' / 'dataset').glob('*.npz'))
  with np.load(shard) as arrays:
    side, channels = config.data.image_size, config.data.channels
    assert arrays['images'].shape[1:] == (side, side, channels)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mnist:smoke,letters', 'cifar10:smoke,jpeg'])
def test_smoke_goes_the_whole_road_on_real_images(
  name: str,
  shared_dir: pathlib.Path,
  subprocess_environment: Mapping[str, str],
  tmp_path: pathlib.Path,
) -> None:
  if not (shared_dir / 'tfds').is_dir():
    pytest.skip('needs prepared datasets in the folder of shared test data')
  out = _go(
    subprocess_environment,
    tmp_path / 'run',
    name,
    f'--config.data.tfds_dir={shared_dir / "tfds"}',
  )
  assert out.strip().endswith('report.html')
