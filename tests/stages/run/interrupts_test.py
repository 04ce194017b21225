"""Ctrl-C asks once; twice ends."""

from __future__ import annotations

import signal

import jax
import pytest

from dp_diffusion import errors
from dp_diffusion.stages.run import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize('number', SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number, capsys):
  before = [signal.getsignal(n) for n in SIGNALS]
  with pytest.raises(KeyboardInterrupt):
    with interrupts.catch('python again') as stop:
      assert not stop()
      stop.raise_if_asked()
      signal.raise_signal(number)
      assert stop()
      with pytest.raises(errors.Interrupted, match='python again'):
        stop.raise_if_asked()
      signal.raise_signal(number)
  said = capsys.readouterr().out
  assert said.startswith(signal.Signals(number).name)
  assert said.count('\n') == 1
  assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_compiler_that_the_signal_stopped_is_no_fault():
  error = jax.errors.JaxRuntimeError('ptxas exited with non-zero error code')
  with pytest.raises(errors.Interrupted, match='continue: python again'):
    with interrupts.catch('python again') as stop:
      stop.ask()
      raise error
  with pytest.raises(jax.errors.JaxRuntimeError):  # Nobody asked: a fault.
    with interrupts.catch('python again'):
      raise error
