"""Programs are compiled beside other work, and as they would be alone."""

from __future__ import annotations

import threading

import pytest

from dp_diffusion import compiling

_SECS = 20.0  # Long enough for a thread on a busy machine.


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
