"""A small run keeps the noise in the mean gradient, and can be started."""

from __future__ import annotations

import math
import shlex

import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.stages.planning import small_runs
from dp_diffusion.stages.run import budget
from tests.stages import command

_CONFIG = command.ROOT / 'configs' / 'digits.py'
# The noise is given, so that nothing has to be searched for.
_GIVEN = {'solve_for': 'epsilon', 'epsilon': 'none', 'noise_multiplier': 2.5}


def _mechanism(**privacy: object):
  overrides = {f'privacy.{key}': str(value) for key, value in privacy.items()}
  config = config_lib.load(f'{_CONFIG}', overrides)
  return budget.calibrate(config, ()).mechanism


def test_its_flags_start_a_run_with_the_same_noise_over_batch():
  large = _mechanism(**_GIVEN)
  _, _, small = small_runs.lines(large, has_rows_from_votes=False)
  flags = [w for w in shlex.split(small) if w.startswith('--config.')]
  pairs = dict(w.removeprefix('--config.privacy.').split('=') for w in flags)
  found = _mechanism(**pairs)
  assert found.expected_batch_size == 16
  assert found.num_steps == large.num_steps
  assert found.l2_clip_norm == large.l2_clip_norm
  assert math.isclose(
    found.noise_multiplier / found.expected_batch_size,
    large.noise_multiplier / large.expected_batch_size,
    rel_tol=1e-3,
  )


def test_it_says_what_it_costs():
  found = small_runs.lines(_mechanism(**_GIVEN), has_rows_from_votes=False)
  assert ' 3.3 % of the compute' in found[1]


@pytest.mark.parametrize(
  'privacy', [{'epsilon': 'inf'}, {**_GIVEN, 'expected_batch_size': 31}]
)
def test_none_without_noise_or_where_little_is_saved(privacy):
  found = small_runs.lines(_mechanism(**privacy), has_rows_from_votes=True)
  assert not found


def test_a_small_run_starts_no_embedding_from_votes():
  """Its data are the public images, whose embeddings are kept."""
  key = '--config.finetune.warm_up.rows_from_votes'
  for has_rows in (False, True):
    found = small_runs.lines(_mechanism(**_GIVEN), has_rows_from_votes=has_rows)
    assert (f'{key}=False' in found[2].split()) == has_rows
