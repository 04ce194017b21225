"""Which variant `plan` names where a run takes too long on this machine."""

from __future__ import annotations

import pytest

from dp_diffusion.stages.planning import cost_estimates

_DAY = 24 * 3600.0


@pytest.mark.parametrize(
  ('name', 'hours', 'machine', 'named'),
  [
    ('own_images', 15_400, 'cpu', 'configs/own_images.py:cpu'),
    ('own_images', 15_400, 'one_gpu', 'configs/own_images.py:one_gpu'),
    ('mnist-letters', 100, 'cpu', 'configs/mnist.py:cpu'),
    ('own_images', 23, 'cpu', ''),
    ('own_images-cpu', 100, 'cpu', ''),
    ('own_images-one_gpu', 100, 'cpu', 'configs/own_images.py:cpu'),
    ('imagenet32', 100, 'cpu', ''),
    ('of somebody', 100, 'cpu', ''),
  ],
)
def test_a_run_of_more_than_a_day_is_given_another_variant(
  name: str, hours: float, machine: str, named: str
) -> None:
  lines = cost_estimates.fitting_variant(name, 3600.0 * hours, machine)
  assert bool(lines) == bool(named)
  assert all(f'--config={named},' in line for line in lines)
