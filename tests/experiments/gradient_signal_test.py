"""The share of a clipped gradient that all records agree in."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.data import registry
from dp_diffusion.stages.run import assembly
from experiments.gradient_signal import run
from tests.stages import command


@pytest.fixture(scope='module')
def config() -> config_lib.Config:
  return config_lib.load(
    command.DIGITS_SMOKE, {'model.channel_multipliers': '(1,)'}
  )


def test_what_records_disagree_in_is_no_signal():
  sums = [{'w': jnp.array([3.0, x])} for x in (4.0, -4.0)]
  assert run.share_of_signal(sums, 1) == 0.0
  sums = [{'w': jnp.array([6.0, 0.0])}, {'w': jnp.array([6.0, 5.0])}]
  assert run.share_of_signal(sums, 2) == 3.0
  rng = np.random.default_rng(0)
  sums = [{'w': rng.normal([0.5, 0, 0], 1.0)} for _ in range(4000)]
  assert run.share_of_signal(sums, 1) == pytest.approx(0.5, abs=0.05)


def test_parts_cover_all_timesteps_once(config):
  _, *parts = run.settings(config).values()
  covered = []
  for keys in parts:
    assert math.isclose(sum(keys['mixture_weights']), 1.0)
    edges = keys['mixture_boundaries']
    place = keys['mixture_weights'].index(1.0)
    covered.append((edges[place], edges[place + 1]))
    finetune = dataclasses.replace(config.finetune, **keys)
    dataclasses.replace(config, finetune=finetune).finetune_diffusion()
  assert len(covered) == run.NUM_PARTS and covered[0][0] == 0
  assert covered[-1][1] == config.diffusion.num_timesteps
  assert all(a[1] == b[0] for a, b in zip(covered, covered[1:]))


def test_a_share_of_the_clip_norm_is_measured(config):
  source = registry.load(config.data)
  params = assembly.init_params(config, config.data)
  shares = [run.measure(config, params, source, 16, seed) for seed in (0, 0)]
  assert 0.0 < shares[0] <= 1.0 and shares[0] == shares[1]
