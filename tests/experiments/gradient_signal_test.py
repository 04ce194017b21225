"""The share of a clipped gradient that all records agree in."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import pytest

from dp_diffusion import config as config_lib
from dp_diffusion.data import registry
from dp_diffusion.stages.run import assembly
from experiments.gradient_signal import run
from tests.stages import command


@pytest.fixture(scope='module')
def config() -> config_lib.Config:
  return config_lib.load(command.DIGITS_SMOKE, {})


def test_what_halves_disagree_in_is_no_signal():
  halves = {'w': jnp.array([3.0, 4.0])}, {'w': jnp.array([3.0, -4.0])}
  assert run.share_of_signal(halves, 1) == 0.0
  halves = {'w': jnp.array([3.0, 4.0])}, {'w': jnp.array([3.0, 0.0])}
  assert run.share_of_signal(halves, 2) == 1.5


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
