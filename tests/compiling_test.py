"""Programs are compiled beside other work, and as they would be alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from dp_diffusion import compiling

_SECS = 20.0  # Long enough for a thread on a busy machine.


_FIRST_WEIGHTS = """
from flax import linen as nn
import jax
from dp_diffusion import compiling

def first_weights(key):
  draw = nn.initializers.lecun_normal()
  keys = jax.random.split(key)
  return [draw(keys[0], (3, 3, 16, 32)), draw(keys[1], (7, 5))]

found = compiling.jit_for_one_call(first_weights)(jax.random.key(0))
expected = jax.jit(first_weights)(jax.random.key(0))
assert [x.tobytes() for x in found] == [x.tobytes() for x in expected]
"""


def test_first_weights_have_the_same_bits() -> None:
  """In a process without the XLA_FLAGS of the tests, which win."""
  environment = {**os.environ, 'XLA_FLAGS': ''}
  subprocess.run(
    [sys.executable, '-c', _FIRST_WEIGHTS], env=environment, check=True
  )


@pytest.mark.parametrize(
  ('backend', 'flags', 'options'),
  [
    ('cpu', '', {'xla_backend_optimization_level': 1}),
    ('cpu', '--xla_backend_optimization_level=0', None),
    ('gpu', '', None),
  ],
)
def test_a_cpu_alone_optimises_less(
  monkeypatch: pytest.MonkeyPatch,
  backend: str,
  flags: str,
  options: dict[str, int] | None,
) -> None:
  found = []
  monkeypatch.setenv('XLA_FLAGS', flags)
  monkeypatch.setattr(compiling.jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(
    compiling.jax,
    'jit',
    lambda _, compiler_options: found.append(compiler_options),
  )
  compiling.jit_for_one_call(abs)
  assert found == [options]


def test_calls_are_made_beside_the_block_which_waits_for_them() -> None:
  is_inside, done = threading.Event(), []

  def call() -> None:
    assert is_inside.wait(_SECS)
    done.append(threading.current_thread())

  with compiling.beside(call, call):
    is_inside.set()
  assert len(done) == len(set(done) - {threading.current_thread()}) == 2


def test_an_error_of_the_block_does_not_wait() -> None:
  goes_on, ended = threading.Event(), []
  try:
    with (
      pytest.raises(ValueError, match='no images'),
      compiling.beside(lambda: ended.append(goes_on.wait(_SECS))),
    ):
      raise ValueError('no images')
    assert not ended
  finally:
    goes_on.set()


def test_an_error_of_a_call_is_raised_after_the_block() -> None:
  seen = []
  with (
    pytest.raises(ZeroDivisionError),
    compiling.beside(lambda: 1 // 0, lambda: None),
  ):
    seen.append('block')
  assert seen


@pytest.mark.parametrize(('backend', 'num_processes'), [('gpu', 1), ('cpu', 2)])
def test_nothing_is_called_elsewhere(
  monkeypatch: pytest.MonkeyPatch, backend: str, num_processes: int
) -> None:
  monkeypatch.setattr(compiling.jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(compiling.jax, 'process_count', lambda: num_processes)
  with compiling.beside(lambda: 1 // 0):
    pass
