"""What each test is checked for: a key that is used twice raises."""

from __future__ import annotations

import jax
import pytest


@jax.jit
def _draw(key: jax.Array) -> jax.Array:
  return jax.random.normal(key)


@jax.jit
def _draw_twice(key: jax.Array) -> jax.Array:
  return _draw(key) + _draw(key)


@jax.jit
def _pass_on(key: jax.Array) -> jax.Array:
  return key


def test_a_key_that_was_used_is_refused() -> None:
  for seed in (1, 2):  # Also by a program that was called before.
    key = jax.random.key(seed)
    _draw(key)
    for use in (_draw, jax.random.split, lambda key: _draw(_pass_on(key))):
      with pytest.raises(jax.errors.KeyReuseError):
        use(key)


def test_a_program_that_uses_a_key_twice_is_refused_each_time() -> None:
  for seed in (3, 4):
    with pytest.raises(jax.errors.KeyReuseError):
      _draw_twice(jax.random.key(seed))


def test_keys_of_a_program_that_was_called_before_are_told_apart() -> None:
  for seed in (5, 6):
    first, second = jax.random.split(jax.random.key(seed))
    assert _draw(first) != _draw(second)
