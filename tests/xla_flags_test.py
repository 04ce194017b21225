"""XLA is told to keep barriers on a CPU, and only there."""

from __future__ import annotations

import pytest

from dp_diffusion import xla_flags


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
  """The flags as a user without an accelerator has them."""
  monkeypatch.setenv('XLA_FLAGS', '')
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setattr('importlib.metadata.entry_points', lambda group: ())
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  return monkeypatch


def test_nothing_is_said_beside_an_accelerator(no_accelerator):
  no_accelerator.setenv('JAX_PLATFORMS', 'cuda')
  assert not xla_flags.keep_barriers()
  no_accelerator.setenv('JAX_PLATFORMS', '')
  no_accelerator.setattr('importlib.metadata.entry_points', lambda group: (1,))
  assert not xla_flags.keep_barriers()


def test_flags_of_the_user_stay(no_accelerator):
  no_accelerator.setenv('XLA_FLAGS', '--xla_disable_hlo_passes=dce')
  assert not xla_flags.keep_barriers()
  no_accelerator.setenv('XLA_FLAGS', '--xla_dump_to=x')
  assert xla_flags.keep_barriers()
  assert not xla_flags.keep_barriers()  # Once is enough.
