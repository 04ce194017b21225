"""Tests of dp_diffusion.data.augment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dp_diffusion.data import augment
from dp_diffusion.data import registry

_IMAGE = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


def _config(**changes):
  return registry.DataConfig(name='generated', **changes)


def _naive_crops(image, pad):
  """Every crop of the reflected image, by NumPy."""
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode='reflect')
  height, width, _ = image.shape
  return {
    padded[i : i + height, j : j + width].tobytes()
    for i in range(2 * pad + 1)
    for j in range(2 * pad + 1)
  }


def _draws(config, image, num_draws):
  keys = jax.random.split(jax.random.key(0), num_draws)
  draw = jax.jit(
    jax.vmap(lambda key: augment.augment(image, key, config)),
  )
  return np.asarray(draw(keys))


def test_no_augmentation_only_changes_the_range():
  out = augment.augment(_IMAGE, jax.random.key(0), _config())
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(out, _IMAGE / 127.5 - 1.0, atol=1e-6)


def test_crops_are_exactly_those_of_the_reflected_image():
  draws = _draws(_config(reflect_pad=2), _IMAGE, 400)
  seen = {augment.to_uint8(draw).tobytes() for draw in draws}
  assert seen == _naive_crops(_IMAGE, 2)


def test_crops_are_uniform():
  image = np.zeros((5, 5, 1), np.uint8)
  image[2, 2] = 255
  draws = _draws(_config(reflect_pad=1), image, 9000)
  counts = (draws[..., 0] > 0).sum(axis=0)[1:4, 1:4]
  assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_half_of_the_draws_are_flipped():
  draws = _draws(_config(flip=True), _IMAGE, 2000)
  straight, flipped = (
    np.all(np.isclose(draws, np.asarray(augment.to_float(i))), axis=(1, 2, 3))
    for i in (_IMAGE[None], _IMAGE[None, :, ::-1])
  )
  assert np.all(straight ^ flipped)
  assert abs(flipped.mean() - 0.5) < 0.06


def test_equal_keys_give_equal_draws_and_others_do_not():
  config = _config(reflect_pad=4)
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
  first, again, other = (
    np.asarray(augment.augment(image, jax.random.key(seed), config))
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_floats_pass_unchanged():
  image = jnp.linspace(-1, 1, 12).reshape(2, 2, 3)
  out = augment.augment(image, jax.random.key(0), _config())
  np.testing.assert_array_equal(out, image)


def test_padding_must_be_smaller_than_the_image():
  with pytest.raises(ValueError, match='reflect_pad=5'):
    augment.augment(_IMAGE, jax.random.key(0), _config(reflect_pad=5))


@settings(deadline=None, max_examples=20)
@given(strategies.binary(min_size=1, max_size=64))
def test_uint8_survives_the_way_there_and_back(data):
  image = np.frombuffer(data, np.uint8)
  np.testing.assert_array_equal(
    augment.to_uint8(augment.to_float(image)), image
  )
