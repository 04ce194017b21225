"""Features of a class head: their order, number and batches."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from dp_diffusion.data import augment
from dp_diffusion.diffusion import schedules
from dp_diffusion.evaluation.classifiers import head_features
from dp_diffusion.models import scattering
from dp_diffusion.models import weights
from tests import tiny_release

NETWORK = dataclasses.replace(tiny_release.NETWORK, image_channels=3)
DIFFUSION = schedules.DiffusionProcess(schedule='cosine')


@pytest.fixture(scope='module')
def params():
  return weights.unflatten(tiny_release.params(NETWORK))


def images(num):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (num, 8, 8, 3), np.uint8)


def read(params, has_scattering=True):
  return head_features.HeadFeatures(
    NETWORK, params, DIFFUSION, has_scattering=has_scattering
  )


def widths(params, has_scattering=True):
  return head_features.widths(
    NETWORK, params, DIFFUSION, 8, has_scattering=has_scattering
  )


def test_activations_come_first_and_then_scattering_coefficients(params):
  found = read(params).of(images(3))
  num, num_coefficients = widths(params)
  assert found.shape == (3, num + num_coefficients)
  alone = read(params, has_scattering=False).of(images(3))
  assert widths(params, has_scattering=False) == (num,)
  np.testing.assert_allclose(found[:, :num], alone, rtol=1e-5, atol=1e-6)
  pixels = augment.to_float(images(3))
  np.testing.assert_allclose(
    found[:, num:],
    jax.jit(scattering.features)(pixels),
    rtol=1e-5,
    atol=1e-5,
  )


def test_every_batch_is_read_and_counted(params, monkeypatch):
  counted = []
  whole = read(params).of(images(19))
  monkeypatch.setattr(head_features, '_BATCH_SIZE', 8)
  found = read(params).of(images(19), counted.append)
  assert counted == [8, 8, 3]
  np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
  assert len(read(params).of(images(0))) == 0
